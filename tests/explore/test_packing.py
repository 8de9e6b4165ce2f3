"""Numbers, scripts, tokens and labels as the page reads them."""

import base64
import json
import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from unmix.explore.labels import label
from unmix.explore.marks import shown
from unmix.explore.pack import read_script, script
from unmix.explore.rounding import rounded, short
from unmix.explore.token_bytes import bytes_of, vocabulary


@given(st.lists(st.floats(width=32), max_size=60))
def test_many_numbers_are_rounded_as_one(values):
    for x, many in zip(values, rounded(np.array(values, dtype=np.float32)), strict=True):
        one = short(x)
        if one is None:
            assert many is None
            continue
        assert many == pytest.approx(one, rel=1.1e-3)  # a tie may go the other way
        assert len(repr(many).replace("-", "").replace(".", "").partition("e")[0].strip("0")) <= 4
    assert json.dumps(rounded(values), allow_nan=False)


def test_four_digits():
    assert rounded([0.0, 1.23456, 12345.678, 1e-30, -0.00012345678, math.nan, math.inf]) == [
        0.0, 1.235, 12350.0, 1e-30, -0.0001235, None, None,
    ]  # fmt: skip


def test_a_script_hands_over_what_was_put():
    value = {"text": "</script><b>\u2028 🙂", "numbers": [1, 2.5, None]}
    for packed in (True, False):
        data = script("a/f/00000", value, packed=packed)
        assert data.isascii()
        assert b"<" not in data
        assert read_script(data) == value
    body = script("k", value).split(b'"')[3]
    assert json.loads(zlib.decompressobj(wbits=-15).decompress(base64.b64decode(body))) == value
    with pytest.raises(ValueError, match="JSON"):
        script("k", math.nan)
    with pytest.raises(ValueError, match="no script"):
        read_script(b"alert(1)")


TEXTS = ["def of(self):\n\treturn", "中文 and 🙂🏽", "\u202eabc \u00a0 x\x00", "a  b   c", "naïve", "a\n\n  中"]


def sentencepiece(added=()):
    """A tokenizer with ▁ for spaces and <0xNN> for what it lacks."""
    pieces = ["<unk>", "<s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b"]
    letters = {piece: n for n, piece in enumerate(pieces)}
    bpe = Tokenizer(models.BPE(vocab=letters, merges=[], unk_token="<unk>", byte_fallback=True))
    bpe.normalizer = normalizers.Replace(" ", "▁")
    bpe.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    bpe.add_tokens(list(added))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", unk_token="<unk>")


def gemma():
    """The same with runs of spaces and of line breaks as added tokens, as Gemma has them."""
    return sentencepiece([AddedToken(run, normalized=True) for run in ("▁▁", "▁▁▁", "\n\n")])


@pytest.mark.parametrize("make", [tiny_tokenizer, sentencepiece, gemma])
def test_the_bytes_of_tokens_are_those_of_the_text(make):
    tokenizer = make()
    of = bytes_of(tokenizer)
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert b"".join(map(of, ids)) == text.encode()
    found = vocabulary(tokenizer, {tokenizer.bos_token_id, *tokenizer.encode("🙂", add_special_tokens=False), 10**6})
    assert found["special"] == {str(tokenizer.bos_token_id): tokenizer.bos_token}
    assert found["bytes"].pop(str(10**6)) == ""
    assert all(len(text) == 1 for text in found["bytes"].values())  # the emoji is four bytes, a token each
    assert {text.encode("latin-1") for text in found["bytes"].values()} == {bytes([b]) for b in "🙂".encode()}


def test_what_cannot_be_seen_is_shown():
    assert shown(b" def") == " def"
    assert shown(b"\n\t") == "↵→"
    assert shown("中🙂".encode()) == "中🙂"
    assert shown(b"\xf0\x9f") == "\\xf0\\x9f"
    assert shown("a\u202eb\x00".encode()) == "a\\u{202e}b\\u{0}"


def test_a_label_follows_its_rule():
    entries = {1: b" def", 2: b"def", 3: b"DEF", 4: b" import", 5: b"from", 6: b" x", 7: b"\n"}
    of = entries.__getitem__

    def of_mass(masses, promoted=(), first=0.0):
        return label(list(masses), list(masses.values()), list(promoted), first, of)

    assert of_mass({1: 0.3, 4: 0.25, 3: 0.2}) == "“def”"
    assert of_mass({4: 0.3, 5: 0.25, 1: 0.1}) == "“import” “from”"
    assert of_mass({4: 0.1, 5: 0.1, 1: 0.1, 6: 0.1}) == "mixed: “import” “from” “def”"
    assert of_mass({7: 0.9}, [1, 2, 4, 5]) == "“↵” → “def” “import”"
    assert of_mass({7: 0.9}, first=0.6) == "position 0; “↵”"
    assert of_mass({}, first=0.9) == "position 0"
    assert of_mass({}, first=math.nan) == of_mass({}) == "never fired"
