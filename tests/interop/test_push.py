"""Sending to the hub, against one on the loopback: what is sent, what the card says, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from interop.hub_server import TOKEN, Hub, Repo, loopback
from interop.looks import LOOKS, Weights, inputs

import unmix
from unmix.dictionary.files import save_sae
from unmix.dictionary.model import Dictionary
from unmix.errors import UserError
from unmix.interop.convert import convert
from unmix.interop.hub import folder_of
from unmix.interop.push import prepare, push
from unmix.verify import verify

D, F = 6, 60
SENT = {"cfg.json", "sae_weights.safetensors", "samples.safetensors", "README.md"}
QUIET: list[str] = []
pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # the hub's client, of its own client


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, at which someone is logged in."""
    with loopback(tmp_path, monkeypatch) as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def step(tmp_path: Path) -> Path:
    """A checkpoint in a run that has been evaluated, with what must not leave this disk beside it."""
    run = tmp_path / "runs" / "demo"
    folder = run / "members" / "l1-3" / "step-000000060"
    draw = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,)}
    sae = Dictionary({name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()})
    more = {
        "l1": 3.0,
        "training_tokens": 2880,
        "dataset_path": "/home/ada/texts",
        "unmix_recipe": {"corpus": {"source": "/home/ada/texts"}, "model": {"name": "gpt2"}},
    }
    save_sae(sae, folder, model="gpt2", hook="resid_post.3", context=128, more=more)
    (folder / "training_state.safetensors").write_bytes(b"secret")
    (run / "run.yaml").write_text("recipe: secret")
    row = {"l0": 23.46, "explained_variance": 0.81234, "delta_ce": 0.0512, "delta_ce_standard_error": 0.002, "dead": 0}
    hook = {"hook": "resid_post.3", "split": "held_out", "mask": "position 0", "fidelity_tokens": 1_000_000,
            "ce_tokens": 100_000, "ce_untouched": 3.1, "saes": {"l1-3": row, "l1-1": row | {"l0": 99}}}  # fmt: skip
    checkpoints = {"l1-1": "members/l1-1/step-000000060", "l1-3": "members/l1-3/step-000000060"}
    found = {"corpus": "/home/ada/texts", "model": "gpt2", "checkpoints": checkpoints, "hooks": [hook]}
    (run / "evaluation.json").write_text(json.dumps(found))
    return folder


def test_three_files_are_sent_and_come_back_as_they_were(hub, step):
    at = push(prepare(step, "ada/saes", "mit"), private=False, replace=False, say=QUIET.append)
    [commit] = hub.repos["ada/saes"].commits
    assert commit.keys() == SENT
    assert at.startswith(f"{hub.url}/ada/saes/commit/")
    assert any(
        how == "PUT" and path.startswith("/objects/") for how, path in hub.asked
    )  # the weights, as a large object
    sae, again = unmix.load_sae(step), unmix.load_sae("ada/saes")
    assert verify(folder_of("ada/saes")).problems == []  # by the sample activations that came along
    assert all(torch.equal(weight, again.weights[name]) for name, weight in sae.weights.items())


def test_the_card_has_the_figures_of_this_checkpoint(step):
    text = prepare(step, "ada/saes", "cc-by-4.0", "layer_3").card
    front = yaml.safe_load(text.split("---")[1])
    assert (front["license"], front["base_model"], front["library_name"]) == ("cc-by-4.0", "gpt2", "unmix")
    rows = dict(
        line.strip("| ").split(" | ") for line in text.splitlines() if line.count(" | ") == 1 and line != "| | |"
    )
    assert rows["L0 (active features a token)"] == "23.5"
    assert rows["explained variance (0: predict the mean)"] == "0.8123"
    assert rows["ΔCE when spliced in, nats"] == "+0.0512 ± 0.0020 (standard error)"
    assert rows["hook"] == "`resid_post.3` (TransformerLens: `blocks.3.hook_resid_post`)"
    assert rows["features"] == "60 of activations 6 wide"
    assert rows["trained on"] == "`texts`"
    assert (rows["tokens"], rows["sparsity"]) == ("2,880", "L1 coefficient 3")
    assert 'unmix.load_sae("ada/saes", "layer_3")' in text
    assert "fidelity over 1,000,000 tokens, CE over 100,000" in text


def test_a_model_folder_of_this_disk_is_no_model_of_the_hub(step, tmp_path, monkeypatch):
    """The card named somebody else's repository of that name as the base model."""
    sae, folder = unmix.load_sae(step), tmp_path / "own"
    save_sae(sae, folder, model="models/mine", hook="resid_post.3", context=128, more={})
    monkeypatch.chdir(tmp_path)
    assert yaml.safe_load(prepare(folder, "ada/saes", "mit").card.split("---")[1])["base_model"] == "models/mine"
    (tmp_path / "models/mine").mkdir(parents=True)
    assert "base_model" not in yaml.safe_load(prepare(folder, "ada/saes", "mit").card.split("---")[1])


def test_the_evaluation_of_the_folder_itself_comes_first(step):
    found = json.loads((step.parents[2] / "evaluation.json").read_text())
    found["checkpoints"] = {"step-000000060": "."}
    found["hooks"][0]["saes"] = {"step-000000060": {"l0": 7.0}}
    (step / "evaluation.json").write_text(json.dumps(found))
    assert "| L0 (active features a token) | 7.0 |" in prepare(step, "ada/saes", "mit").card
    (step / "evaluation.json").unlink()
    (step.parents[2] / "evaluation.json").unlink()
    assert "Not evaluated" in prepare(step, "ada/saes", "mit").card


def test_paths_of_this_machine_are_cut(hub, step):
    parcel = prepare(step, "ada/saes", "mit")
    assert parcel.cut == ["/home/ada/texts"]
    push(parcel, private=False, replace=False, say=QUIET.append)
    sent = hub.repos["ada/saes"].files
    assert not any(b"/home/ada" in content for content in sent.values())
    config = json.loads(sent["cfg.json"])
    kept = json.loads((step / "cfg.json").read_text())
    kept["metadata"]["dataset_path"] = kept["metadata"]["unmix_recipe"]["corpus"]["source"] = "texts"
    assert config == kept


def test_what_is_there_is_not_overwritten(hub, step):
    hub.repos["ada/saes"] = Repo({"README.md": b"mine", "other": b"mine too"})
    with pytest.raises(UserError, match=r"ada/saes has README\.md already, so nothing was sent; give --into"):
        push(prepare(step, "ada/saes", "mit"), private=False, replace=False, say=QUIET.append)
    assert not hub.repos["ada/saes"].commits
    push(prepare(step, "ada/saes", "mit", "a/b"), private=False, replace=False, say=QUIET.append)
    assert hub.repos["ada/saes"].files.keys() == {"README.md", "other", *(f"a/b/{name}" for name in SENT)}
    assert hub.repos["ada/saes"].files["README.md"] == b"mine"
    said: list[str] = []
    push(prepare(step, "ada/saes", "mit"), private=False, replace=True, say=said.append)
    assert said == ["replacing README.md; the hub's history keeps the earlier ones"]
    assert b"license: mit" in hub.repos["ada/saes"].files["README.md"]


def test_a_commit_in_between_is_not_overwritten(hub, step):
    hub.repos["ada/saes"] = Repo({"other": b""})

    def meanwhile(method: str, path: str) -> None:
        if "preupload" in path:
            hub.repos["ada/saes"].files["cfg.json"] = b"of someone else"

    hub.refuse = meanwhile
    with pytest.raises(UserError, match="the hub refuses ada/saes: the branch has moved"):
        push(prepare(step, "ada/saes", "mit"), private=False, replace=False, say=QUIET.append)
    assert hub.repos["ada/saes"].files["cfg.json"] == b"of someone else"


def test_an_upload_that_fails_is_one_line_and_commits_nothing(hub, step):
    hub.refuse = lambda method, path: 403 if method == "PUT" else None
    with pytest.raises(UserError, match=r"an upload to ada/saes failed \(.*403.*\); nothing was committed: try again"):
        push(prepare(step, "ada/saes", "mit"), private=False, replace=False, say=QUIET.append)
    assert not hub.repos["ada/saes"].commits


def test_private_means_private(hub, step):
    push(prepare(step, "ada/secret", "mit"), private=True, replace=False, say=QUIET.append)
    assert hub.repos["ada/secret"].private
    hub.repos["ada/open"] = Repo()
    with pytest.raises(UserError, match="ada/open is there and public, so nothing was sent"):
        push(prepare(step, "ada/open", "mit"), private=True, replace=False, say=QUIET.append)
    assert not hub.repos["ada/open"].commits


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"licence": None}, "others may not use what has no licence; give --license apache-2.0"),
        ({"licence": "MY OWN\n"}, "--license 'MY OWN.n' is no id of a licence"),
        ({"repo": "saes"}, "saes is no id of the hub; write OWNER/REPO"),
        ({"within": "../up"}, "--into ../up is no folder of a repository"),
        ({"folder": "nowhere"}, "has no cfg.json: what is sent is a folder of unmix or SAELens"),
    ],
)
def test_what_cannot_be_sent_is_one_line(words, says, step, tmp_path):
    given: dict[str, Any] = {"folder": step, "repo": "ada/saes", "licence": "mit", "within": ""} | words
    with pytest.raises(UserError, match=says) as caught:
        prepare(Path(given["folder"]), given["repo"], given["licence"], given["within"])
    assert "\n" not in str(caught.value)


def test_what_acts_on_scaled_activations_is_not_sent_without_its_scale(hub, tmp_path):
    folder = LOOKS["saelens checkpoint batchtopk"](Weights(D, F)).put(tmp_path / "checkpoint")
    with pytest.raises(UserError, match=r"activation_scaler\.json, which is not sent; `unmix convert .* brings it"):
        prepare(folder, "ada/saes", "mit")
    convert(folder, tmp_path / "whole")
    push(prepare(tmp_path / "whole", "ada/saes", "mit"), private=False, replace=False, say=QUIET.append)
    x = inputs(D)
    assert torch.equal(unmix.load_sae("ada/saes")(x), unmix.load_sae(folder)(x))


def test_a_scaler_that_scales_nothing_is_no_hindrance(step):
    (step / "activation_scaler.json").write_text('{"scaling_factor": null}')
    assert prepare(step, "ada/saes", "mit").files.keys() == SENT


def test_a_folder_without_samples_is_sent_without(step):
    (step / "samples.safetensors").unlink()
    assert prepare(step, "ada/saes", "mit").files.keys() == SENT - {"samples.safetensors"}


def test_a_run_is_its_choice(step):
    run = step.parents[2]
    (run / "choice.json").write_text(json.dumps({"member": "l1-3"}))
    assert prepare(run, "ada/saes", "mit").folder == step
    (run / "choice.json").write_text(json.dumps({"hooks": [{"member": "l1-3"}, {"member": "l1-1"}]}))
    with pytest.raises(
        UserError, match=r"is a run with 2 choices; give one checkpoint of it, such as .*step-000000060"
    ):
        prepare(run, "ada/saes", "mit")
    (run / "choice.json").write_text(json.dumps({"member": "l1-9"}))
    with pytest.raises(UserError, match="has no checkpoint of its choice, l1-9"):
        prepare(run, "ada/saes", "mit")


def test_who_is_not_logged_in_is_told_how(hub, step, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="`hf auth login`, or set HF_TOKEN"):
        push(prepare(step, "ada/saes", "mit"), private=False, replace=False, say=QUIET.append)
    hub.close()
    with pytest.raises(UserError, match=r"the hub cannot be reached .* nothing was committed"):
        push(prepare(step, "ada/saes", "mit"), private=False, replace=False, say=QUIET.append)
