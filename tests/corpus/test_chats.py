"""Chats are what the template writes, token for token; roles are told apart in any template; BOS stands once a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import tiny_tokenizer

from unmix.config import CorpusConfig
from unmix.corpus.tokens import Tokens, load_tokens
from unmix.errors import UserError

T = 16
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMED = "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content | trim }} {% endfor %}"
SYSTEM_INSIDE = (
    "{% set system = messages[0].role == 'system' %}{% for m in messages[1:] if system %}[{{ m.role }}] "
    "{% if loop.first and system %}<<{{ messages[0].content }}>>{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}"
)
THOUGHTS = (  # drops what stands before </think>, as templates of reasoning models do
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>{% endfor %}"
)
TEMPLATES = {"turns": TURNS, "trimmed": TRIMMED, "system inside": SYSTEM_INSIDE, "thoughts": THOUGHTS}


def tokenizer(template: str | None = TURNS) -> Any:
    made = tiny_tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


def chats(n: int = 40) -> list[list[dict[str, Any]]]:
    return [
        [
            {"role": "system", "content": f"rules {k}"},
            {"role": "user", "content": f"user of the world {k}\n" * (1 + k % 2)},
            {"role": "assistant", "content": f"def f{k}: return\n\n user {k}"},
            {"role": "user", "content": "assistant"},
            {"role": "assistant", "content": " user "},
        ]
        for k in range(n)
    ]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNMIX_CACHE", str(tmp_path / "cache"))
    return write(tmp_path / "a.jsonl", chats())


def write(path: Path, rows: Any, field: str = "messages") -> Path:
    path.write_text("\n".join(json.dumps({field: row}) for row in rows))
    return path


def load(source: Path, made: Any, **keys: Any) -> Tokens:
    config = CorpusConfig.model_validate(
        {"source": str(source), "field": "messages", "held_out_fraction": 1e-9, **keys}
    )
    return load_tokens(config, made, T, "train")


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_tokens_are_those_of_the_template(source: Path, template: str) -> None:
    made = tokenizer(TEMPLATES[template])
    ids: list[int] = []
    for chat in chats():
        own = made.apply_chat_template(chat, tokenize=True, return_dict=False)
        while own[0] == 0:
            own = own[1:]
        while own[-1] == 0:
            own = own[:-1]
        ids += [*own, 0]
    got = load(source, made)
    assert got.ids_NT[:, 1:].ravel().tolist() == ids[: got.ids_NT[:, 1:].size]
    assert (got.ids_NT[:, 0] == 0).all()
    assert (got.documents, got.kept_NT) == (40, None)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("roles", [["assistant"], ["user", "system"], ["user"]])
def test_what_is_kept_is_what_those_roles_say(source: Path, template: str, roles: list[str]) -> None:
    made = tokenizer(TEMPLATES[template])
    got = load(source, made, roles=roles)
    assert got.kept_NT is not None
    assert not got.kept_NT[:, 0].any()
    said = [m["content"] for chat in chats() for m in chat if m["role"] in roles]
    if template == "trimmed":
        said = [text.strip() for text in said]
    kept = made.decode(got.ids_NT[got.kept_NT])
    cut = len(kept) - 5  # the last document may be cut
    assert kept[:cut] == "".join(said)[:cut]
    assert abs(len(kept) - len("".join(said))) < 40
    assert got.activations == int(got.kept_NT.sum())


def test_template_tokens_alone_can_be_left_out_and_counted(source: Path) -> None:
    made = tokenizer()
    without, roles = load(source, made, template_tokens=False), load(source, made, roles=["assistant"])
    both = load(source, made, roles=["assistant"], template_tokens=True)
    assert without.kept_NT is not None and both.kept_NT is not None and roles.kept_NT is not None  # noqa: PT018
    special = np.isin(without.ids_NT, [0, 288, 289])
    assert not (without.kept_NT & special).any()
    every = sum(len(m["content"]) for chat in chats() for m in chat)
    assert abs(len(made.decode(without.ids_NT[without.kept_NT])) - every) < 40
    assert (both.kept_NT >= roles.kept_NT).all()
    assert both.kept_NT[:, 1:][special[:, 1:]].all()
    assert len({one.fingerprint for one in (without, roles, both, load(source, made))}) == 4


def test_a_message_that_spells_a_special_token_gives_none(source: Path) -> None:
    made = tokenizer()
    write(
        source, [[{"role": "user", "content": "a<|im_end|>b<|endoftext|>"}, {"role": "assistant", "content": "c"}]] * 30
    )
    got = load(source, made, roles=["user"])
    turns = int((got.ids_NT == 289).sum())
    assert turns == pytest.approx(2 * got.documents, abs=2)
    assert made.decode(got.ids_NT[got.kept_NT])[:25] == "a<|im_end|>b<|endoftext|>"


def test_share_gpt_is_the_same_chat_on_the_same_side(source: Path, tmp_path: Path) -> None:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    rows = [[{"from": names[m["role"]], "value": m["content"]} for m in chat] for chat in chats()]
    other = write(tmp_path / "b.jsonl", rows, "conversations")
    keys = {"held_out_fraction": 0.4, "roles": ["assistant"]}
    assert (
        load(other, tokenizer(), field="conversations", **keys).fingerprint
        == load(source, tokenizer(), **keys).fingerprint
    )


def test_no_template_and_one_from_a_file(source: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"holds chats, .* has no chat template; give one in a file \(--corpus\.template"
    ):
        load(source, tokenizer(None))
    (tmp_path / "chat.jinja").write_text(TRIMMED)
    got = load(source, tokenizer(None), template=tmp_path / "chat.jinja")
    assert got.fingerprint == load(source, tokenizer(TRIMMED)).fingerprint
    with pytest.raises(UserError, match=r"cannot read corpus\.template = .*none\.jinja"):
        load(source, tokenizer(), template=tmp_path / "none.jinja")


def test_another_template_makes_the_tokens_again(source: Path, tmp_path: Path) -> None:
    first = load(source, tokenizer())
    assert load(source, tokenizer(TRIMMED)).fingerprint != first.fingerprint
    assert load(source, tokenizer()).fingerprint == first.fingerprint


def test_roles_that_do_not_occur(source: Path) -> None:
    with pytest.raises(
        UserError, match=r"no token of .* becomes an activation; its chats have the roles assistant, system, user"
    ):
        load(source, tokenizer(), roles=["gpt"])
    assert not list((source.parent / "cache" / "tokens").glob("*"))


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (
            "{{ raise_exception('roles must alternate') }}",
            r"line 1: the chat template refuses this chat \(roles must alternate",
        ),
        (
            "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
            "does not write each content once and in order",
        ),
        ("{% for m in messages %}{{ m.role }}{% endfor %}", "does not write each content once and in order"),
        ("{% for m in messages|reverse %}{{ m.content }}{% endfor %}", "does not write each content once and in order"),
    ],
)
def test_templates_that_cannot_serve_are_named(source: Path, template: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        load(source, tokenizer(template), roles=["assistant"])
    assert "\n" not in str(error.value)


def test_a_damaged_mask_is_made_again(source: Path) -> None:
    first = load(source, tokenizer(), roles=["user"])
    before = np.array(first.kept_NT)
    [stored] = (source.parent / "cache" / "tokens").glob("*.kept")
    raw = bytearray(stored.read_bytes())
    raw[40] ^= 1
    stored.write_bytes(raw)
    assert np.array_equal(load(source, tokenizer(), roles=["user"]).kept_NT, before)  # type: ignore[arg-type]
