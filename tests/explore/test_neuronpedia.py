"""A built site as pages for Neuronpedia, from the command line: its columns, and the values of the site."""

import gzip
import json
import shutil

import pytest
from explore.tiny_explored import TOKENS

from unmix.cli import main
from unmix.explore.pack import script
from unmix.explore.server_files import read_manifest
from unmix.explore.site_records import Records
from unmix.interop.load import load_sae
from unmix.interop.neuronpedia import FEATURES
from unmix.runlog import newest_checkpoints

FEATURE = (
    "modelId layer index creatorId createdAt maxActApprox hasVector vector vectorLabel vectorDefaultSteerStrength "
    "hookName topkCosSimIndices topkCosSimValues neuron_alignment_indices neuron_alignment_values neuron_alignment_l1 "
    "correlated_neurons_indices correlated_neurons_pearson correlated_neurons_l1 correlated_features_indices "
    "correlated_features_pearson correlated_features_l1 neg_str neg_values pos_str pos_values frac_nonzero "
    "freq_hist_data_bar_heights freq_hist_data_bar_values logits_hist_data_bar_heights logits_hist_data_bar_values "
    "decoder_weights_dist sourceSetName"
)
ACTIVATION = (
    "id tokens index layer modelId maxValue maxValueTokenIndex minValue values creatorId createdAt dataSource "
    "dataIndex dfaValues dfaTargetIndex dfaMaxValue lossValues logitContributions binMin binMax binContains "
    "qualifyingTokenIndex"
)
"""The columns of its tables, as its own export script fills them."""
WORDS = ["--to", "neuronpedia", "--model", "Tiny-GPT2", "--set", "res-48"]


@pytest.fixture
def run(explored, tmp_path):
    """A copy of the run with its explorer where the command line looks for it."""
    shutil.copytree(explored / "run", tmp_path / "run")
    shutil.copytree(explored / "out", tmp_path / "run/explore", dirs_exist_ok=True)
    return tmp_path / "run"


def lines(path):
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def converted(src, dst, *words):
    return main(["convert", str(src), str(dst), *(words or WORDS)])


def test_every_member_is_a_source_with_the_values_of_its_site(run, tmp_path, capsys):
    assert converted(run, tmp_path / "np") == 0
    bulks = sorted((tmp_path / "np/bulk/tiny-gpt2").iterdir())
    assert sorted(capsys.readouterr().out.split()) == [str(path) for path in bulks]
    manifest = json.loads((run / "explore/site/manifest.js").read_text().partition(", ")[2].rstrip(");\n"))
    rows = {f"{row['hook'].partition('.')[2]}-res-48-{row['name']}": row for row in manifest["members"]}
    assert {path.name for path in bulks} == rows.keys()
    for bulk in bulks:
        row = rows[bulk.name]
        sae = load_sae(newest_checkpoints(run)[row["name"]])
        record_of = Records(run / "explore/site", manifest, row["name"])
        [source] = map(json.loads, (bulk / "source.jsonl").read_text().splitlines())
        assert (source["id"], source["modelId"]) == (bulk.name, "tiny-gpt2")
        assert (source["num_prompts"], source["num_tokens_in_prompt"]) == (TOKENS // 16, 16)
        assert source["saelensConfig"]["d_sae"] == 48
        for name in ("release", "model", "sourceset"):
            [about] = map(json.loads, (bulk / f"{name}.jsonl").read_text().splitlines())
            assert about["creatorId"] == source["creatorId"]
        features, examples = lines(bulk / "features/batch-0.jsonl.gz"), lines(bulk / "activations/batch-0.jsonl.gz")
        assert [feature["index"] for feature in features] == [str(i) for i in range(48)]
        assert all(sorted(feature) == sorted(FEATURE.split()) for feature in features)
        assert all(sorted(example) == sorted(ACTIVATION.split()) for example in examples)
        assert len({example["id"] for example in examples}) == len(examples)
        for feature in features:
            i = int(feature["index"])
            record = record_of(i)
            assert (feature["frac_nonzero"], feature["maxActApprox"]) == (record["density"], record["max"])
            assert feature["vector"] == pytest.approx(sae.W_dec[i].tolist(), rel=1e-4)
            assert feature["freq_hist_data_bar_heights"] == record["hist"]["counts"]
            assert len(feature["freq_hist_data_bar_values"]) == len(record["hist"]["counts"])
            assert feature["pos_values"] == sorted(feature["pos_values"], reverse=True)
            assert feature["neg_values"] == sorted(feature["neg_values"])
            assert feature["topkCosSimIndices"][0] == record["decoder"][0][0]
            own = [example for example in examples if example["index"] == feature["index"]]
            assert bool(own) == bool(record["firings"])
            for example in own:
                assert len(example["tokens"]) == len(example["values"])
                assert example["values"][example["maxValueTokenIndex"]] == example["maxValue"]
                assert example["values"][example["qualifyingTokenIndex"]] > 0
            if own:
                assert own[0]["maxValue"] == own[0]["values"][own[0]["qualifyingTokenIndex"]] == record["max"]
                assert max(example["maxValue"] for example in own) == feature["maxActApprox"]
                top = [example for example in own if example["binContains"] == -1]
                assert len(top) == len(record["groups"]["top"])


def test_features_with_negative_values_are_refused(run, tmp_path, capsys):
    """An example's largest value would be another token's than the one that it was chosen for."""
    path = run / "explore/site/manifest.js"
    manifest = read_manifest(path.parent)
    manifest["members"][1]["architecture"] = "abstopk"
    path.write_bytes(script("manifest", manifest, packed=False))
    assert converted(run, tmp_path / "np") == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"features of an abstopk ({manifest['members'][1]['name']}) may be negative" in line
    assert not (tmp_path / "np").exists()


def test_an_upload_is_what_its_api_takes(run, tmp_path):
    assert converted(run, tmp_path / "np") == 0
    folders = sorted((tmp_path / "np/upload").iterdir())
    assert len(folders) == 4
    for folder in folders:
        [asked] = [json.loads(path.read_text()) for path in folder.iterdir()]
        assert (asked["modelId"], asked["source"]) == ("tiny-gpt2", folder.name.lower())
        assert 0 < len(asked["features"]) <= FEATURES == 128
        assert len({feature["index"] for feature in asked["features"]}) == len(asked["features"])
        for feature in asked["features"]:
            assert feature.keys() <= {"index", "density", "topLogits", "bottomLogits", "explanations", "activations"}
            assert 0 <= feature["density"] <= 1
            assert all(len(feature.get(side, ())) <= 20 for side in ("topLogits", "bottomLogits"))
            assert feature["activations"]
            for example in feature["activations"]:
                assert 1 <= len(example["tokens"]) == len(example["values"]) <= 1024
                assert 0 <= example.get("quantileFraction", 0) <= 1


def test_a_description_goes_along(run, tmp_path):
    explored = run / "explore"
    fingerprint = json.loads((explored / "manifest.json").read_text())["fingerprint"]
    from unmix.explore.descriptions import show

    [first, *_] = json.loads((explored / "manifest.json").read_text())["inputs"]["members"]
    path = explored / "descriptions" / f"{first}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"member": first, "site": fingerprint, "i": 0, "text": "x" * 600, "model": "m"}) + "\n")
    assert show(explored, first) == 1
    assert converted(run, tmp_path / "np") == 0
    sent = [json.loads(path.read_text()) for path in (tmp_path / "np/upload").glob(f"*-{first}/batch-0.json")]
    said = [feature["explanations"] for asked in sent for feature in asked["features"] if "explanations" in feature]
    assert said in ([], [[{"text": "x" * 512}]])
    assert bool(said) == any(feature["index"] == 0 for asked in sent for feature in asked["features"])


def test_the_explorers_folder_alone_will_do_and_says_what_is_missing(run, tmp_path, capsys):
    explored = shutil.move(run / "explore", tmp_path / "alone")
    store = json.loads((explored / "manifest.json").read_text())
    store["about"]["folder"] = str(tmp_path / "gone")
    (explored / "manifest.json").write_text(json.dumps(store))
    assert converted(explored, tmp_path / "np") == 0
    assert capsys.readouterr().err.count("have no decoder rows, which steering needs") == 4
    for path in (tmp_path / "np/bulk").rglob("features/batch-0.jsonl.gz"):
        assert all((one["hasVector"], one["vector"], one["hookName"]) == (False, [], None) for one in lines(path))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--to", "neuronpedia", "--set", "a b"], "--set 'a b' is no id of Neuronpedia's"),
        (["--to", "neuronpedia", "--model", "a/b"], "--model 'a/b' is no id of Neuronpedia's"),
        (["--to", "neuronpedia", "--hook", "resid_post.0"], "a site has its hooks"),
    ],
)
def test_what_cannot_be_is_one_line(words, says, run, tmp_path, capsys):
    assert converted(run, tmp_path / "np", *words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert says in line
    assert not (tmp_path / "np").exists()


def test_without_a_site_it_is_said_how_to_build_one(explored, tmp_path, capsys):
    assert converted(explored / "run", tmp_path / "np") == 2
    assert "build it with `unmix explore" in capsys.readouterr().err
