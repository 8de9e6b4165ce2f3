"""The names of places in a block of a language model, ours and TransformerLens'.

resid_post.3    blocks.3.hook_resid_post
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from unmix.errors import UserError

KINDS = ("resid_pre", "resid_post", "attn_out", "mlp_out")
WILD = frozenset("*?")
_THEIRS = re.compile(rf"blocks\.([\d*?]+)\.hook_({'|'.join(KINDS)})")
_OURS = re.compile(rf"({'|'.join(KINDS)})\.(\d+)")


def canonical(hook: str) -> str:
    """`blocks.3.hook_resid_post` -> `resid_post.3`; other names as they are."""
    found = _THEIRS.fullmatch(hook)
    return f"{found[2]}.{found[1]}" if found else hook


def transformer_lens(hook: str) -> str:
    """`resid_post.3` -> `blocks.3.hook_resid_post`, the name that other SAE tools use; module paths stay."""
    found = _OURS.fullmatch(hook)
    return f"blocks.{found[2]}.hook_{found[1]}" if found else hook


def of_layers(layers: int) -> list[str]:
    """Every name of a model of so many blocks."""
    return [f"{kind}.{layer}" for kind in KINDS for layer in range(layers)]


def ranges(layers: int) -> str:
    """The same for people."""
    return ", ".join(f"{kind}.0 … {kind}.{layers - 1}" for kind in KINDS)


def expand(hooks: Sequence[str], there: Sequence[str]) -> list[str]:
    """Names with `*` or `?` as those of `there` that they match, in its order. Raises `UserError` if there are none."""
    found: list[str] = []
    for hook in map(canonical, hooks):
        matched = [name for name in there if fnmatch.fnmatchcase(name, hook)] if WILD & set(hook) else [hook]
        if not matched:
            raise UserError(f"hook {hook} matches none of {', '.join(there)}; give another pattern, or names")
        found += [name for name in matched if name not in found]
    return found
