"""Reading from the hub, against one on the loopback: what is fetched, what is kept, what is said where it fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from interop.hub_server import TOKEN, Hub, Repo, loopback
from interop.looks import LOOKS, Weights, inputs

import unmix
from unmix.errors import UserError
from unmix.interop import releases
from unmix.interop.hub import folder_of, kept_of, named_on_the_hub
from unmix.interop.load import read
from unmix.interop.pull import pull

D, F = 6, 40
QUIET: list[str] = []


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub."""
    with loopback(tmp_path, monkeypatch) as server:
        yield server


def put(hub: Hub, repo: str, looks: dict[str, str], tmp_path: Path) -> None:
    """A repository with a dictionary of a look in each folder."""
    files = {}
    for within, name in looks.items():
        at = tmp_path / "made" / repo / within
        look = LOOKS[name](Weights(D, F))
        src = look.put(at)
        root = src if src.is_dir() else src.parent
        files |= {f"{within}/{p.relative_to(root)}".lstrip("/"): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    hub.repos[repo] = Repo(files | {"README.md": b"# a card"})


def test_only_the_files_of_the_folder_are_fetched_and_it_computes_what_it_should(hub, tmp_path):
    put(hub, "lab/saes", {"layer_3": "saelens 5", "layer_4": "saelens 5", "deep/er": "saelens topk"}, tmp_path)
    sae = unmix.load_sae("lab/saes", "layer_3")
    _, y = LOOKS["saelens 5"](Weights(D, F)).function(inputs(D))
    with torch.no_grad():
        torch.testing.assert_close(sae(inputs(D)).double(), y, rtol=2e-5, atol=2e-5)
    assert hub.downloaded() == {"layer_3/cfg.json", "layer_3/sae_weights.safetensors"}
    assert any(path.startswith("/objects/") for _, path in hub.asked)  # by the redirect
    hub.asked.clear()
    unmix.load_sae("lab/saes/layer_3")  # the same, in one word
    assert not any(how == "GET" and "/resolve/" in path for how, path in hub.asked)
    assert unmix.load_sae("lab/saes@v1/deep/er").features == F
    assert unmix.load_sae("hf://lab/saes", "deep/er", revision="v1").features == F


def test_what_is_cached_opens_when_the_hub_is_gone(hub, tmp_path, monkeypatch):
    put(hub, "lab/saes", {"a": "saelens 5", "b": "saelens 5"}, tmp_path)
    online = unmix.load_sae("lab/saes/a")
    hub.refuse = lambda method, path: 503
    with pytest.warns(UserWarning, match="answers 503.*read from its cache, commit"):
        assert torch.equal(unmix.load_sae("lab/saes/a").W_enc, online.W_enc)
    said = []
    hub.close()
    assert folder_of("lab/saes/a", say=said.append).is_dir()
    assert len(said) == 1
    with pytest.raises(UserError, match="lab/saes/b is not whole in the hub's cache, and the hub cannot be reached"):
        folder_of("lab/saes/b")
    with pytest.raises(UserError, match="lab/other is not in the hub's cache, and the hub cannot be reached"):
        folder_of("lab/other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        folder_of("lab/saes/b")
    assert folder_of("lab/saes/a", say=said.append).is_dir()


def test_weights_that_did_not_come_are_no_dictionary_in_the_cache(hub, tmp_path):
    put(hub, "lab/saes", {"a": "saelens 5"}, tmp_path)
    hub.refuse = lambda method, path: 500 if path.startswith("/objects/") else None
    with pytest.raises(UserError, match="not whole in the hub's cache"):
        folder_of("lab/saes/a", say=QUIET.append)
    hub.refuse = lambda method, path: None
    assert unmix.load_sae("lab/saes/a").features == F


def test_a_repository_that_changes_while_it_is_read_is_not_read_in_parts(hub, tmp_path):
    put(hub, "lab/saes", {"a": "saelens 5"}, tmp_path)

    def meanwhile(method: str, path: str) -> None:
        if path.endswith("/a/cfg.json"):
            hub.repos["lab/saes"].files["a/activation_scaler.json"] = b"{}"

    hub.refuse = meanwhile
    with pytest.raises(UserError, match="lab/saes was changed on the hub while it was read; give the same words again"):
        unmix.load_sae("lab/saes/a")
    assert unmix.load_sae("lab/saes/a").features == F


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lab/none", "the hub shows no lab/none here.*mend the name, or log in with `hf auth login`"),
        ("lab/gated/a", "lab/gated is gated: ask for access"),
        ("lab/private/a", "the hub shows no lab/private here"),
        ("lab/saes@v9/a", "lab/saes has no revision v9; give one of its branches"),
        ("lab/saes", "no dictionary at its root; it has a, b/c, layer_12.safetensors: give one|it has a, b/c"),
        ("lab/saes/b", "no dictionary in b; it has b/c, and 1 more"),
        ("lab/saes/bc", "no dictionary in bc; it has b/c, a: give one"),
        ("lab/text", "has no dictionary at its root, nor anywhere else"),
        ("hf://lab", "hf:/{1,2}lab names nothing on the hub; write hf://OWNER/REPO"),
        ("lab/pickled", "is a pickle \\(ae.pt\\).*`unmix convert lab/pickled/ae.pt FOLDER`"),
        ("lab/set", "holds 2 files of weights; give one, such as lab/set/layer_0.safetensors"),
    ],
)
def test_what_cannot_be_had_is_one_line_with_the_remedy(name, says, hub, tmp_path):
    put(hub, "lab/saes", {"a": "saelens 5", "b/c": "saelens 5"}, tmp_path)
    hub.repos |= {
        "lab/gated": Repo({"a/cfg.json": b"{}"}, gated=True),
        "lab/private": Repo({"a/cfg.json": b"{}"}, private=True),
        "lab/text": Repo({"README.md": b"# nothing"}),
        "lab/pickled": Repo({"config.json": b"{}", "ae.pt": b"not read"}),
        "lab/set": Repo({"config.yaml": b"", "layer_0.safetensors": b"", "layer_1.safetensors": b""}),
    }
    with pytest.raises(UserError, match=says) as caught:
        unmix.load_sae(name)
    assert "\n" not in str(caught.value)
    assert not hub.downloaded()


def test_a_token_opens_what_is_private(hub, tmp_path, monkeypatch):
    put(hub, "lab/saes", {"a": "saelens 5"}, tmp_path)
    hub.repos["lab/saes"].private = True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert unmix.load_sae("lab/saes/a").features == F


def test_a_folder_on_this_disk_comes_first_and_that_is_said(hub, tmp_path):
    put(hub, "lab/saes", {"a": "saelens 5"}, tmp_path)
    unmix.load_sae("lab/saes/a")
    hub.asked.clear()
    LOOKS["saelens topk"](Weights(D, 2 * F)).put(Path("lab/saes/a"))
    with pytest.warns(UserWarning, match="lab/saes/a on this disk is read; hf://lab/saes is"):
        assert unmix.load_sae("lab/saes", "a").features == 2 * F
    with pytest.warns(UserWarning, match="lab/saes/a on this disk is read; hf://lab/saes/a is"):
        assert unmix.load_sae("lab/saes/a").features == 2 * F
    assert unmix.load_sae("lab/saes/a").features == 2 * F  # said once
    assert not hub.asked
    assert unmix.load_sae("hf://lab/saes/a").features == F
    with pytest.raises(UserError, match="which has no revision v1; leave the revision out, or write hf://lab/saes"):
        unmix.load_sae("lab/saes", "a", revision="v1")
    with pytest.raises(UserError, match="lab/saes is on this disk and has no b"):
        unmix.load_sae("lab/saes", "b")


def test_a_folder_that_is_no_id_is_not_confused_with_one(tmp_path, recwarn):
    put_here = tmp_path / "run"
    LOOKS["saelens topk"](Weights(D, F)).put(put_here / "a")
    assert unmix.load_sae(put_here, "a").features == F
    assert not recwarn
    for more, says in (({"revision": "v1"}, "leave the revision out$"), ({"subfolder": "b"}, "has no b; mend that$")):
        with pytest.raises(UserError, match=says):
            unmix.load_sae(put_here, **more)


def test_what_may_be_a_release_says_so_where_no_table_tells(hub, monkeypatch):
    monkeypatch.setattr(releases, "_table", lambda: None)
    remedy = "if it is a release of SAELens, `pip install sae-lens` brings the table that knows it"
    with pytest.raises(UserError, match=f"mend the name, .*{remedy}"):
        unmix.load_sae("gpt2-small-res-jb/blocks.8.hook_resid_pre")
    hub.close()
    with pytest.raises(UserError, match=f"the same words download it; {remedy}"):
        unmix.load_sae("gpt2-small-res-jb/blocks.8.hook_resid_pre")


def test_a_slip_in_a_path_asks_no_one(hub):
    Path("runs").mkdir()
    with pytest.raises(UserError, match="there is no folder runs/dmeo/members"):
        unmix.load_sae("runs/dmeo/members")
    with pytest.raises(UserError, match=r"there is no folder \.\./lab/saes"):
        unmix.load_sae("../lab/saes")
    assert not hub.asked


@pytest.mark.parametrize("name", LOOKS)
def test_every_layout_reads_from_the_hub_as_from_a_folder(name, hub, tmp_path):
    look = LOOKS[name](Weights(D, F))
    src = look.put(tmp_path / "made")
    files = [path for path in (tmp_path / "made").rglob("*") if path.is_file()]
    hub.repos["lab/saes"] = Repo({p.relative_to(tmp_path / "made").as_posix(): p.read_bytes() for p in files})
    here, there = read(src, pickles=True), read("hf://lab/saes/" + look.at, pickles=True)
    with torch.no_grad():
        assert torch.equal(here.dictionary(inputs(D)), there.dictionary(inputs(D)))
    assert here.origin == there.origin


def test_pull_makes_a_plain_folder(hub, tmp_path):
    put(hub, "lab/saes", {"": "saelens 5", "b": "saelens 5"}, tmp_path)
    folder_of("lab/saes/b")  # in the cache too, and no part of what is pulled
    pull("lab/saes", None, tmp_path / "mine", say=QUIET.append)
    names = sorted(path.relative_to(tmp_path / "mine").as_posix() for path in (tmp_path / "mine").rglob("*"))
    assert names == ["cfg.json", "sae_weights.safetensors"]
    assert not any(path.is_symlink() for path in (tmp_path / "mine").rglob("*"))
    assert unmix.load_sae(tmp_path / "mine").features == F
    hub.close()
    with pytest.raises(UserError, match=r"the hub's cache may hold a part only, and the hub cannot be reached"):
        pull("lab/saes", "b", tmp_path / "yours", say=QUIET.append)
    with pytest.raises(UserError, match="mine exists; give a folder that does not"):
        pull("lab/saes", "b", tmp_path / "mine", say=QUIET.append)


def test_pull_takes_a_whole_set_and_pickles(hub, tmp_path):
    hub.repos["lab/set"] = Repo(
        {"s/config.yaml": b"a: 1", "s/layer_0.safetensors": b"0", "s/layer_1.safetensors": b"1"}
    )
    hub.repos["lab/pickled"] = Repo({"config.json": b"{}", "ae.pt": b"x"})
    assert len(pull("lab/set", "s", tmp_path / "set", say=QUIET.append)) == 3
    files = pull("lab/pickled", None, tmp_path / "pickled", say=QUIET.append)
    assert sorted(path.name for path in files) == ["ae.pt", "config.json"]


TABLE = """\
some-release:
  repo_id: lab/saes
  model: gpt2
  saes:
  - id: blocks.8.hook_resid_pre
    path: a
other-release:
  config_overrides:
    normalize_activations: constant_norm_rescale
  repo_id: lab/saes
  model: gpt2
  saes:
  - id: blocks.8.hook_resid_pre
    path: a
centred-release:
  config_overrides:
    dataset_path: texts
    model_from_pretrained_kwargs:
      center_writing_weights: true
  repo_id: lab/centred
  model: gpt2
  saes:
  - id: blocks.8.hook_resid_pre
    path: a
last-release:
  repo_id: lab/saes
  saes:
  - id: x
    path: b
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SAELens as far as it matters: a package that must not be imported, with its table."""
    package = tmp_path / "site" / "sae_lens"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "pretrained_saes.yaml").write_text(TABLE)
    monkeypatch.syspath_prepend(str(package.parent))
    releases._table.cache_clear()
    yield
    releases._table.cache_clear()


@pytest.mark.usefixtures("table")
def test_the_releases_of_saelens_are_known_by_its_table(hub, tmp_path):
    put(hub, "lab/saes", {"a": "saelens 5"}, tmp_path)
    assert unmix.load_sae("some-release", "blocks.8.hook_resid_pre").features == F
    assert unmix.load_sae("some-release/blocks.8.hook_resid_pre").features == F
    with pytest.raises(UserError, match=r"has no SAE blocks\.9; it has 1, such as blocks\.8\.hook_resid_pre"):
        unmix.load_sae("some-release", "blocks.9")
    with pytest.raises(UserError, match="opens other-release with normalize_activations = constant_norm_rescale"):
        unmix.load_sae("other-release", "blocks.8.hook_resid_pre")
    with pytest.raises(UserError, match="called sone-release; near are some-release"):
        unmix.load_sae("sone-release", "blocks.8.hook_resid_pre")


@pytest.mark.usefixtures("table")
@pytest.mark.filterwarnings("ignore:SAELens' table says")
def test_what_the_table_says_of_the_training_is_known_by_any_name(hub, tmp_path):
    put(hub, "lab/centred", {"a": "saelens 5", "b": "saelens 5"}, tmp_path)
    put(hub, "lab/saes", {"a": "saelens 5"}, tmp_path)
    centred = ("center_writing_weights",)
    assert unmix.load_sae("centred-release/blocks.8.hook_resid_pre").cfg.processed == centred
    assert unmix.load_sae("lab/centred", "a").cfg.processed == centred
    assert read(folder_of("lab/centred/a")).origin.processed == centred  # as every command opens it
    assert unmix.load_sae("lab/centred", "b").cfg.processed == ()
    assert unmix.load_sae("lab/saes", "a").cfg.processed == ()


def test_a_release_without_the_table_is_one_line(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(releases, "_table", lambda: None)
    with pytest.raises(UserError, match="if it is a release of SAELens, `pip install sae-lens`"):
        unmix.load_sae("gpt2-small-res-jb", "blocks.8.hook_resid_pre")


def test_what_is_made_of_a_dictionary_of_the_hub_is_kept_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert kept_of(Path("lab/saes/a/b")) == Path("runs/lab--saes--a--b")
    assert kept_of(Path("hf://lab/saes@v1")) == Path("runs/lab--saes@v1")
    Path("lab/saes/a/b").mkdir(parents=True)
    assert kept_of(Path("lab/saes/a/b")) == Path("lab/saes/a/b")
    assert kept_of(tmp_path / "none") == tmp_path / "none"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("cache/models--lab--saes/snapshots/0123", "saes"),
        ("cache/models--lab--saes/snapshots/0123/layer_3", "layer_3"),
        ("cache/models--lab--saes/snapshots/0123/a/layer_3.safetensors", "layer_3.safetensors"),
        ("runs/demo", None),
    ],
)
def test_a_dictionary_in_the_cache_is_called_by_its_name_there(path, name):
    assert named_on_the_hub(Path(path)) == name
