"""A `.pt` file runs nothing, whatever it holds."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import Counter, OrderedDict

import pytest
import torch

from unmix.errors import UserError
from unmix.interop.load import read
from unmix.interop.pickles import read_pickle


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark) -> None:
        self.mark = str(mark)

    def __reduce__(self):
        return (exec, (f"open({self.mark!r}, 'w').close()",))


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_pickle(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("form", ["zip", "legacy", "plain pickle", "protocol 4"])
@pytest.mark.parametrize("where", ["alone", "beside tensors", "deep"])
def test_a_payload_does_not_run(form, where, tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "ae.pt"
    payload = Payload(mark)
    content = {
        "alone": payload,
        "beside tensors": {"bias": torch.ones(3), "x": payload},
        "deep": {"bias": torch.ones(3), "x": [{"y": (payload,)}]},
    }[where]
    if form == "zip":
        torch.save(content, path)
    elif form == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path.write_bytes(pickle.dumps(content, protocol=4 if form == "protocol 4" else 2))
    refused = refusal(path)
    assert "not opened" in refused or "damaged" in refused
    assert not mark.exists()


def test_the_payload_would_run_in_a_reader_without_limits(tmp_path):
    mark = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()


def test_what_a_program_declared_safe_is_not_safe_here(tmp_path):
    mark, path = tmp_path / "ran", tmp_path / "ae.pt"
    torch.save({"x": Payload(mark)}, path)
    before = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([exec]):
        refusal(path)
        assert exec in torch.serialization.get_safe_globals()
    assert set(map(str, torch.serialization.get_safe_globals())) == set(map(str, before))
    assert not mark.exists()


def test_a_payload_in_the_place_of_a_tensor_of_the_archive(tmp_path):
    """The pickle of a torch archive, replaced by one of its own."""
    mark, good, bad = tmp_path / "ran", tmp_path / "good.pt", tmp_path / "bad.pt"
    torch.save({"bias": torch.ones(3)}, good)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w", zipfile.ZIP_STORED) as new:
        for entry in old.namelist():
            content = (
                pickle.dumps({"bias": Payload(mark)}, protocol=2) if entry.endswith("data.pkl") else old.read(entry)
            )
            new.writestr(entry, content)
    refusal(bad)
    assert not mark.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_tensors_and_plain_values_are_read(legacy, tmp_path):
    path = tmp_path / "ae.pt"
    content = OrderedDict(
        W=torch.arange(6.0).view(2, 3).T, k=torch.tensor(3), half=torch.ones(2, dtype=torch.bfloat16), name="TopK",
        more={"a": [1, 2.5, None, True, (1, 2)]}, dtype=torch.float32, size=torch.Size([2]),
        parameter=torch.nn.Parameter(torch.ones(2)),
    )  # fmt: skip
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    found = read_pickle(path)
    assert list(found) == list(content)
    assert torch.equal(found["W"], content["W"])
    assert found["more"] == content["more"]


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(2), 3, None, {1: torch.ones(1)}])
def test_what_is_no_dictionary_of_names_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    assert "holds no tensors by name" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [{"x": Counter("aab")}, {"x": {1, 2}}, {"x": bytearray(b"a")}])
def test_containers_that_are_not_plain_are_refused(content, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    assert "no plain value" in refusal(tmp_path / "x.pt") or "not opened" in refusal(tmp_path / "x.pt")


def test_what_is_nested_without_end_is_refused(tmp_path):
    content: object = 1
    for _ in range(40):
        content = [content]
    torch.save({"x": content}, tmp_path / "x.pt")
    assert "nested" in refusal(tmp_path / "x.pt")


def test_a_list_that_holds_itself_is_refused(tmp_path):
    content: list[object] = []
    content.append(content)
    torch.save({"x": content}, tmp_path / "x.pt")
    assert "nested" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("size", [0, 1, 10, 100, 400, 900])
def test_a_file_that_is_cut_short_is_refused(size, tmp_path):
    buffer = io.BytesIO()
    torch.save({"W": torch.ones(40)}, buffer)
    (tmp_path / "x.pt").write_bytes(buffer.getvalue()[:size])
    refusal(tmp_path / "x.pt")


def test_a_payload_in_a_folder_of_a_library_does_not_run(tmp_path):
    mark = tmp_path / "ran"
    torch.save({"bias": Payload(mark)}, tmp_path / "ae.pt")
    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "AutoEncoder"}, "buffer": {}}')
    with pytest.raises(UserError, match="looks like an SAE of dictionary_learning"):
        read(tmp_path, pickles=True)
    assert not mark.exists()
