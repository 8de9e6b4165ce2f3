"""The precisions of unmix that are compared, as keys of a recipe."""

from __future__ import annotations

PRECISIONS = {
    "default": {},
    "fp32": {"training.selection": "fp32", "training.dense": "fp32", "model.matmul": "fp32"},
    "bf16": {"training.selection": "bf16", "training.dense": "bf16", "model.matmul": "bf16"},
    "int8": {"training.selection": "int8", "training.dense": "bf16", "model.matmul": "bf16"},
}
