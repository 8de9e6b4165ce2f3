"""Bad and hostile input: what cannot be read is one line, what is read is not run, nothing is written elsewhere."""

import json
import pickle
import string
import subprocess
from pathlib import Path
from shutil import which

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model_folder
from tiny_run import make

from unmix import config
from unmix.activations.store import Store, harvest
from unmix.cli import main
from unmix.config import CorpusConfig
from unmix.corpus.documents import documents
from unmix.corpus.tokens import load_tokens
from unmix.disk import sha256
from unmix.errors import UserError
from unmix.interop.keys import read_keys
from unmix.interop.load import load_sae
from unmix.lm.model import load_language_model
from unmix.runlog import read_manifest
from unmix.training import chosen, extension, run
from unmix.training.inputs import open_model, open_stream, store_facts


class Trap:
    """A pickle that writes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_no_pickle_is_read_wherever_it_lies(overrides, tmp_path):
    mark = tmp_path / "sprung"
    trap = pickle.dumps(Trap(mark))
    recipe = make(overrides, training__l1=[3.0], training__steps=10)

    model = tmp_path / "model"
    model.mkdir()
    for path in tiny_model_folder("gpt2").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(trap)
    with pytest.raises(UserError, match=r"only pickled weights \(pytorch_model\.bin\), which are not read"):
        run.sweep(make(overrides, model__name=str(model)), tmp_path / "run")

    language_model, tokens = open_model(recipe, lambda text: None)
    facts, stream = store_facts(recipe, language_model, tokens), open_stream(recipe, language_model, tokens)
    harvest(stream, tmp_path / "store", tokens=500, dtype="float32", shard_tokens=500, facts=facts)
    shard, manifest = tmp_path / "store/shard-000000.safetensors", tmp_path / "store/manifest.json"
    shard.write_bytes(trap)
    said = json.loads(manifest.read_text())
    said["shards"][0]["sha256"] = sha256(shard)
    manifest.write_text(json.dumps(said))
    with pytest.raises(UserError, match=r"shard-000000\.safetensors is damaged"):
        list(Store(tmp_path / "store", ["resid_post.0"], batch_tokens=7).batches(0, 1))

    run.sweep(recipe, tmp_path / "run")
    newest = tmp_path / "run/members/l1-3/step-000000010"
    for name in ("training_state.safetensors", "sae_weights.safetensors"):
        (newest / name).write_bytes(trap)
    sums = json.loads((newest / "checksums.json").read_text())
    sums["sha256"] = {name: sha256(newest / name) for name in sums["sha256"]}
    (newest / "checksums.json").write_text(json.dumps(sums))  # the checksums agree: the format alone must hold
    with pytest.raises(UserError, match=r"training_state\.safetensors is damaged"):
        extension.extend(tmp_path / "run", "l1-3", 20)
    with pytest.raises(UserError, match="is damaged"):
        load_sae(newest)
    assert not mark.exists()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "stands for more than 100,000 values"),
        ("training: &t {l1: *t}", ""),
        ("a: &a [*a]", "more than 100,000 values"),
        ("a: " + "[" * 5000, ""),
        ("a: " + "{b: " * 5000, "nested too deeply"),
        ("name: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("training: {l1: [" + "9, " * 90_000 + "]}", ""),
    ],
)
def test_yaml_that_is_more_than_it_looks_is_refused_at_once(tmp_path, text, says):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        config.load(path)
    assert says in str(caught.value)
    assert len(str(caught.value)) < 1000
    path.write_text("recipe: {}\n" + text)
    if says:
        with pytest.raises(UserError, match="is damaged"):
            read_manifest(path)


def test_so_is_that_of_another_library_and_of_any_command(tmp_path, capsys):
    """A configuration that came with a dictionary, and a run that somebody sent."""
    (tmp_path / "config.yaml").write_text(BOMB)
    with pytest.raises(UserError, match=r"config\.yaml is damaged .*stands for more than 100,000 values"):
        read_keys(tmp_path / "config.yaml")
    folder = tmp_path / "run"
    (folder / "members").mkdir(parents=True)
    (folder / "run.yaml").write_text("recipe: {}\n" + BOMB)
    for words in (["report"], ["choose"], ["extend", "--steps", "9"], ["evaluate"], ["explore", "--build"], ["verify"]):
        assert main([words[0], str(folder), *words[1:]]) != 0, words
        said = capsys.readouterr()
        assert "stands for more than 100,000 values" in said.out + said.err, words
        assert len(said.out + said.err) < 1000, words


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "..", ".", "a/b", "a\\b", "a\0b", "", "-rf", ".hidden"])
def test_no_name_leads_out_of_the_runs(overrides, tmp_path, name):
    with pytest.raises(UserError, match="name = "):
        make(overrides, name=name)
    with pytest.raises(UserError, match="variants"):
        make(overrides, variants={name: {}})


def test_an_extension_or_choice_that_names_a_path_moves_nothing(overrides, tmp_path, capsys):
    folder = tmp_path / "runs" / "tiny"
    run.sweep(make(overrides, training__l1=[3.0], training__steps=10), folder)
    victim = tmp_path / "victim-extended" / "step-000000010"
    victim.mkdir(parents=True)
    plan = {"member": "../../../victim", "from_step": 10, "to_step": 12, "decay_fraction": 0.0}
    (folder / "extension.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"extension\.json is damaged: it plans for .*, no member of this run"):
        extension.extend(folder, "l1-3", 20)
    (folder / "choice.json").write_text(json.dumps({"member": "../../../victim"}))
    assert main(["extend", str(folder), "--steps", "20"]) == 2
    assert "has no member '../../../victim'" in capsys.readouterr().err
    assert victim.is_dir()


def test_one_gigantic_line(overrides, tmp_path):
    """It is one document: all of it is trained on, and nothing is left to hold out, which is said."""
    path = tmp_path / "line.txt"
    path.write_text(" ".join(string.ascii_lowercase[n % 26] * 5 for n in range(500_000)))  # 3 MB
    recipe = make(overrides, corpus__source=str(path), training__steps=2)
    run.sweep(recipe, tmp_path / "run")
    assert read_manifest(tmp_path / "run" / "run.yaml")["corpus"]["train_documents"] == 1
    with pytest.raises(UserError, match=r"the held_out split .* give more or smaller documents"):
        load_tokens(recipe.corpus, load_language_model(recipe.model).tokenizer, 16, "held_out")


def test_noise_is_no_corpus(overrides, tmp_path):
    path = tmp_path / "noise"
    path.write_bytes(bytes((n * n * 31 + n) % 251 for n in range(100_000)))
    with pytest.raises(UserError, match=r"noise is not UTF-8 text \(byte \d+\); convert it first"):
        run.sweep(make(overrides, corpus__source=str(path)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_empty_corpus(overrides, tmp_path):
    for name, content in (("a.txt", b""), ("a.jsonl", b"\n\n"), ("b.jsonl", b'{"text": ""}\n')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=r"no document in corpus\.source"):
            run.sweep(make(overrides, corpus__source=str(tmp_path / name)), tmp_path / "run")


LINES = st.lists(
    st.binary(max_size=30)
    | st.text(max_size=20).map(lambda text: json.dumps({"text": text}).encode())
    | st.just(b'{"text": "\\ud800 half"}')
    | st.just(b"[" * 3000)
    | st.just(b'{"text": 1' + b"0" * 5000 + b"}"),
    max_size=6,
)


@given(LINES, st.sampled_from([".jsonl", ".txt", ".parquet", ""]))
def test_whatever_the_bytes_a_reader_gives_text_or_one_line(tmp_path_factory, lines, suffix):
    path = tmp_path_factory.mktemp("fuzz") / f"corpus{suffix}"
    path.write_bytes(b"\n".join(lines))
    try:
        for document in documents(CorpusConfig(source=str(path))):
            document.content.encode("utf-8")
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017


def test_nothing_listens_and_nothing_is_fetched(overrides, tmp_path, monkeypatch):
    import socket

    def refused(*args, **kwargs):
        raise AssertionError(f"a network was asked for: {args}")

    for name in ("bind", "listen", "connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)
    with socket.socket() as asked, pytest.raises(AssertionError, match="a network was asked for"):
        asked.connect(("127.0.0.1", 9))
    folder = tmp_path / "run"
    run.sweep(make(overrides, training__l1=[3.0], training__steps=10), folder)
    assert main(["report", str(folder)]) == 0
    assert main(["verify", str(folder)]) == 0


SPRING = "document.documentElement.setAttribute('sprung', 'yes')"
HOSTILE = f'"\'></script><script>{SPRING}</script><img src=x onerror="{SPRING}"><svg onload="{SPRING}">'


def shown(page, tmp_path):
    """The page as a browser has it after running whatever runs."""
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := which(name))), None
    )
    if browser is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    words += ["--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    return subprocess.run([browser, *words], capture_output=True, text=True, check=True, timeout=120).stdout


def hostile(value):
    """Every text in plain data with something to run behind it."""
    if isinstance(value, dict):
        return {key: hostile(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner) for inner in value]
    return value + HOSTILE if isinstance(value, str) else value


@pytest.mark.browser
def test_nothing_hostile_runs_in_a_browser(overrides, tmp_path):
    bait = tmp_path / "bait.html"
    bait.write_text(f'<html><body title="{HOSTILE}</body></html>')
    assert 'sprung="yes"' in shown(bait, tmp_path)  # where it is not escaped, it runs

    folder = tmp_path / "run"
    run.sweep(make(overrides, training__l1=[1.0, 3.0], training__steps=30), folder)
    chosen.make_choices(folder, 40)
    assert main(["evaluate", str(folder), "--tokens", "300", "--ce-tokens", "100"]) == 0
    for name in ("norms.json", "choice.json", "evaluation.json"):
        path = folder / name
        data = json.loads(path.read_text())
        keep = {key: data[key] for key in ("member",) if key in data}
        path.write_text(json.dumps(hostile(data) | keep))
    manifest = yaml.safe_load((folder / "run.yaml").read_text())
    (folder / "run.yaml").write_text(yaml.safe_dump(hostile(manifest)))
    assert main(["report", str(folder)]) == 0
    page = shown(folder / "report.html", tmp_path)
    assert "sprung" in page  # it is there, as text
    assert 'sprung="yes"' not in page
