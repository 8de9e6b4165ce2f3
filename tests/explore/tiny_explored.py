"""A run of two hooks and two members each, trained in a second, and what its builds are made of."""

from pathlib import Path

from tiny_models import tiny_model_folder
from tiny_run import make, write_texts

from unmix.training import run

HOOKS = ["mlp_out.1", "resid_post.0"]
TOKENS = 16 * 23  # 23 sequences of 16: with shards of 80 tokens, four of 5 sequences and one of 3


def train(folder: Path, hooks: list[str] = HOOKS, **more: object) -> Path:
    """The run's folder; UNMIX_CACHE has to be set. `more`: other keys of the recipe."""
    recipe = {
        "name": "tiny",
        "model.name": str(tiny_model_folder("gpt2")),
        "model.matmul": "fp32",
        "corpus.source": str(write_texts(folder / "texts")),
        "activations.hooks": hooks,
        "activations.sequence_length": 16,
        "activations.chunk_sequences": 8,
        "sae.features": 48,
        "training.l1": [1.0, 3.0],
        "training.selection": "fp32",
        "training.dense": "fp32",
        "training.border": 0.1,
        "training.steps": 20,
        "training.batch_tokens": 48,
        "training.lr": 3e-3,
        "training.lr_warmup_steps": 5,
        "training.decay_fraction": 0.0,
        "training.log_every": 10,
        "training.checkpoint_every": 1000,
        "training.dead_after_tokens": 500,
    }
    run.sweep(make(recipe | more), folder / "run")
    return folder / "run"


def write_page(folder: Path) -> Path:
    """A page of one line in place of the real one, which is another matter."""
    folder.mkdir()
    (folder / "index.html").write_text("<!doctype html><title>unmix</title>")
    return folder


def files_of(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}
