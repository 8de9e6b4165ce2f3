"""Ten short texts that come with unmix, every token of which shows all its features in the folder too.

    MEMBER/prompts.js   [{name, text, ids, norm, err, m, f, more, truncated}, …], as `/api/prompt` answers the text

`m` are the tokens that are left out, `f` is [[feature, value] …] of each token, the largest |value| first, and `more`
counts those beyond KEPT. They are code, prose, a chat, numbers and other scripts, so that any dictionary meets
something that it knows and something that it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from unmix.activations.mask import Mask
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.explore.prompt import Read, prompt_ids, reading
from unmix.explore.rounding import rounded
from unmix.lm.model import LanguageModel

KEPT = 512  # features of a token, or some members that are hardly sparse would take most of a site
Say = Callable[[str], None]


class Builtin(NamedTuple):
    """One of them."""

    name: str
    text: str


TEXTS = (
    Builtin(
        "Python",
        "def mean(values):\n    if not values:\n        raise ValueError('no values')\n"
        "    return sum(values) / len(values)\n",
    ),
    Builtin(
        "HTML",
        '<ul class="menu">\n  <li><a href="/about?page=2#top">About us</a></li>\n</ul>\n<script>run();</script>',
    ),
    Builtin(
        "JSON",
        '{"id": 4711, "name": "Ada", "tags": ["x", "y"], "ok": true, "size": null, "at": "2024-02-29T23:59:00Z"}',
    ),
    Builtin(
        "prose",
        "The old lighthouse keeper had not spoken to anyone since October. When the boat came at last, he found that "
        "he had forgotten the word for bread.",
    ),
    Builtin(
        "facts",
        "The capital of France is Paris, the capital of Japan is Tokyo, and the capital of Kenya is Nairobi.",
    ),
    Builtin(
        "chat",
        "User: I can't log in, and I'm getting really annoyed!\n"
        "Assistant: I'm sorry about that. Could you tell me which error you see?\n"
        'User: It says "403 Forbidden".\n',
    ),
    Builtin(
        "numbers",
        "3 + 4 = 7, 12 * 12 = 144, 1/3 = 0.333, 50% of $1,299.99 is $650.00; call 555-0123 before 9:30.",
    ),
    Builtin("letters", "naïve café, Straße, señor, Ærø; Привет, мир! Καλημέρα κόσμε. 🙂👍🏽"),
    Builtin("Chinese, Japanese", "今天天气很好，我们去公园吧。 吾輩は猫である。名前はまだ無い。"),
    Builtin("Arabic, Hindi", "مرحبا بالعالم، كيف حالك اليوم؟ नमस्ते दुनिया, आप कैसे हैं?"),
)


def key(member: str) -> str:
    """Of its script."""
    return f"{member}/prompts"


def read_texts(
    lm: LanguageModel,
    saes: Mapping[str, Mapping[str, Dictionary]],
    masks: Mapping[str, Mapping[str, Mask]],
    say: Say,
    *,
    outs: Mapping[str, str] | None = None,
    bos: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """member -> what the page shows of each text; each goes through the model once for all hooks.

    `saes` and `masks`: hook -> member; `outs`: hook -> where the y of its transcoders is read. A text that the model
    has no tokens for is left out, which is said.
    """
    outs = outs or {}
    found: dict[str, list[dict[str, Any]]] = {name: [] for members in saes.values() for name in members}
    for called, text in TEXTS:
        try:
            prompt = prompt_ids(lm, text, bos=bos)
        except UserError as error:
            say(f"the text “{called}” is left out of the prompts: {error}")
            continue
        x = lm.activations(prompt.ids_T[None], list(dict.fromkeys([*saes, *outs.values()])))
        for hook, members in saes.items():
            for name, sae in members.items():
                y_TE = x[outs.get(hook, hook)][0]
                read = reading(prompt, x[hook][0], y_TE, sae, masks[hook][name], bos=bos)
                found[name].append({"name": called, "text": text, **_record(read)})
    return found


def _record(read: Read) -> dict[str, Any]:
    return {
        "ids": read.ids_T.tolist(),
        "norm": rounded(read.norm_T.tolist()),
        "err": rounded(read.error_T.tolist()),
        "m": read.masked_T.nonzero().flatten().tolist(),
        "f": [_pairs(active[:KEPT]) for active in read.features],
        "more": [max(0, len(active) - KEPT) for active in read.features],
        "truncated": read.truncated,
    }


def _pairs(active: list[tuple[int, float]]) -> list[list[Any]]:
    values = rounded([value for _, value in active])
    return [[feature, value] for (feature, _), value in zip(active, values, strict=True)]
