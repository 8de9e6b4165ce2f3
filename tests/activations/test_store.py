import json

import numpy as np
import pytest
import safetensors.torch
import torch
from echo_model import Echo

from unmix.activations.store import Store, harvest
from unmix.activations.stream import Stream
from unmix.disk import sha256
from unmix.errors import UserError

FACTS = {"model": {"name": "m"}, "corpus": {"source": "c"}, "chunk_sequences": 3, "sequence_length": 6}


def stream():
    ids = np.arange(60, dtype=np.uint16).reshape(10, 6)
    return Stream(Echo(), ids, ["h"], batch_tokens=7, chunk_sequences=3, seed=0)


def write(folder, tokens=40, dtype="float32", **more):
    harvest(stream(), folder, tokens=tokens, dtype=dtype, facts=FACTS | more, shard_tokens=20)
    return folder


def test_the_store_gives_the_batches_of_the_stream(tmp_path):
    store = Store(write(tmp_path / "s"), ["h"], batch_tokens=7)
    for mine, theirs in zip(store.batches(0, 5), stream().batches(0, 5), strict=True):
        assert torch.equal(mine.activations["h"], theirs.activations["h"])
        assert torch.equal(mine.token_ids_B, theirs.token_ids_B)
        assert torch.equal(mine.positions_B, theirs.positions_B)
    assert torch.equal(store.head().activations["h"], stream().head().activations["h"])
    assert torch.equal(store.head().token_ids_B, stream().head().token_ids_B)


def test_a_second_epoch_has_the_same_rows_in_another_order_and_is_pure(tmp_path):
    store = Store(write(tmp_path / "s"), ["h"], batch_tokens=40)
    first, second = (b.token_ids_B for b in store.batches(0, 2))
    assert sorted(first.tolist()) == sorted(second.tolist())
    assert first.tolist() != second.tolist()
    again = next(Store(tmp_path / "s", ["h"], batch_tokens=40).batches(1, 2)).token_ids_B
    assert torch.equal(second, again)


def test_a_stopped_harvest_goes_on_and_ends_with_the_same_bytes(tmp_path):
    write(tmp_path / "whole", tokens=80)
    write(tmp_path / "cut", tokens=40)
    write(tmp_path / "cut", tokens=80)
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes()


def test_rows_that_are_there_twice_are_counted_once(tmp_path):
    """The corpus has 60 rows: of 80, some are read again."""
    store = Store(write(tmp_path / "s", tokens=80), ["h"], batch_tokens=7)
    assert (store.rows, store.size, store.manifest["distinct_rows"]) == (80, 60, 60)
    assert Store(write(tmp_path / "few"), ["h"], batch_tokens=7).size == 40
    manifest = json.loads((tmp_path / "s/manifest.json").read_text())
    del manifest["distinct_rows"]
    (tmp_path / "s/manifest.json").write_text(json.dumps(manifest))
    assert Store(tmp_path / "s", ["h"], batch_tokens=7).size == 80  # one from before does not say


def test_bfloat16_rounds(tmp_path):
    store = Store(write(tmp_path / "s", dtype="bfloat16"), ["h"], batch_tokens=7)
    batch, exact = next(store.batches(0, 1)).activations["h"], next(stream().batches(0, 1)).activations["h"]
    assert batch.dtype == torch.float32
    assert torch.equal(batch, exact.bfloat16().float())


def test_what_does_not_fit_the_dtype_is_an_error(tmp_path):
    huge = stream()
    huge.model.activations = lambda ids, hooks: {"h": torch.full((*ids.shape, 2), 1e6)}
    with pytest.raises(UserError, match="does not fit float16; try --dtype float32"):
        harvest(huge, tmp_path / "s", tokens=20, dtype="float16", facts=FACTS, shard_tokens=20)


def test_mistakes_are_named(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(UserError, match="has no activations of g; it has h"):
        Store(tmp_path / "s", ["g"], batch_tokens=7)
    with pytest.raises(UserError, match=r"no manifest\.json; write one with `unmix harvest`"):
        Store(tmp_path, ["h"], batch_tokens=7)
    with pytest.raises(UserError, match="give another --out"):
        write(tmp_path / "s", dtype="bfloat16")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        write(tmp_path / "other")


def test_a_shard_that_is_gone_or_damaged_is_named(tmp_path):
    shard = write(tmp_path / "s") / "shard-000001.safetensors"
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    batches = Store(tmp_path / "s", ["h"], batch_tokens=7).batches(0, 5)
    assert len([next(batches), next(batches)]) == 2  # of shard 0, which is whole
    with pytest.raises(UserError, match=r"shard-000001\.safetensors is damaged"):
        next(batches)
    shard.unlink()
    with pytest.raises(UserError, match=r"shard-000001\.safetensors is missing"):
        Store(tmp_path / "s", ["h"], batch_tokens=7)


def test_a_shard_whose_checksum_holds_but_not_its_shape_is_named(tmp_path):
    shard, manifest = write(tmp_path / "s") / "shard-000001.safetensors", tmp_path / "s" / "manifest.json"
    tensors = safetensors.torch.load_file(shard)
    safetensors.torch.save_file(tensors | {"h": tensors["h"][:5].clone()}, shard)
    said = json.loads(manifest.read_text())
    said["shards"][1]["sha256"] = sha256(shard)
    manifest.write_text(json.dumps(said))
    batches = Store(tmp_path / "s", ["h"], batch_tokens=20).batches(1, 2)
    with pytest.raises(UserError, match=r"shard-000001\.safetensors is damaged: h has the shape \[5, 2\]"):
        next(batches)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_shuffled_epoch_gives_the_rows_as_they_were_rounded(tmp_path, dtype):
    store = Store(write(tmp_path / "s", dtype=dtype), ["h"], batch_tokens=40)
    first, second = store.batches(0, 2)
    order, again = first.token_ids_B.argsort(), second.token_ids_B.argsort()
    assert torch.equal(first.token_ids_B[order], second.token_ids_B[again])
    assert torch.equal(first.activations["h"][order], second.activations["h"][again])
    assert torch.equal(first.positions_B[order], second.positions_B[again])


def test_shards_that_are_let_go_are_mapped_again(tmp_path, monkeypatch):
    write(tmp_path / "s", tokens=140)  # 7 shards
    kept = Store(tmp_path / "s", ["h"], batch_tokens=10)
    monkeypatch.setattr("unmix.activations.store._KEPT_BYTES", 0)
    few = Store(tmp_path / "s", ["h"], batch_tokens=10)
    checked = []
    monkeypatch.setattr("unmix.activations.store.sha256", lambda path: checked.append(path.name) or sha256(path))
    for mine, theirs in zip(few.batches(0, 42), kept.batches(0, 42), strict=True):  # three epochs
        assert torch.equal(mine.activations["h"], theirs.activations["h"])
        assert len(few._shards) <= 3
    assert len(kept._shards) == 7
    assert len(checked) == 14  # each shard once a store


@pytest.mark.parametrize("content", ["{", "[]", '"words"', "[" * 100_000])
def test_a_manifest_that_is_none_is_one_line(tmp_path, content):
    (write(tmp_path / "s") / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"manifest\.json is damaged"):
        Store(tmp_path / "s", ["h"], batch_tokens=7)


def test_a_newer_format_is_refused(tmp_path):
    path = write(tmp_path / "s") / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(UserError, match="format 2; this unmix reads 1"):
        Store(tmp_path / "s", ["h"], batch_tokens=7)
