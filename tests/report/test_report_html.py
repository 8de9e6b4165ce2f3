"""The report: its numbers, its pictures, its safety, and every state a run can be in."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import yaml

from unmix.errors import UserError
from unmix.report import trained_on, words, write_report
from unmix.report.data import read

Make = Callable[..., Path]
F = 4096
HOSTILE = "<script>alert(1)</script>\"'&${x}$_{{ 7*7 }}"
BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def report(folder: Path) -> str:
    path = write_report(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def change(folder: Path, mend: object) -> None:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        mend(row)  # type: ignore[operator]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_holds_the_numbers(make: Make) -> None:
    folder = make(steps=6000, extend_to=20_000, chosen=5.0)
    page, run = report(folder), read(folder)
    assert "Proportion and active features at step 6,000" in page
    for member in run.members:
        row = member.sweep.at(6000)
        for said in (
            words.number(row["nonzero_proportion"]),
            words.number(row["l0"]),
            words.fixed(row["explained_variance"]),
        ):
            assert f"<td>{said}</td>" in page
    assert "Means over 102,400 tokens of the training stream" in page
    assert "explained variance of 0" in page
    assert "inside the band" in page
    assert "40,960,000 by the extended one" in page
    assert "6.61 times over the corpus" in page
    assert "the stream trained on; what is of held-out documents says so" in page
    assert "x̂" in page
    assert "λ = 5 is the smallest coefficient" in page
    assert page.count('<tr class="chosen">') == 2


def test_is_one_file_without_scripts_or_requests(make: Make) -> None:
    page = report(make(steps=400, extend_to=1000, chosen=5.0))
    tags = Tags(page).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "form", "base"}
    for tag, attributes in tags:
        for name in ("src", "href", "srcset", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", page)
    policy = next(a["content"] for _, a in tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "script-src" not in policy
    assert len(page) < 2_000_000


def test_pictures_are_on_disk_and_described(make: Make) -> None:
    folder = make(steps=6000, extend_to=20_000, chosen=5.0)
    images = [attributes for tag, attributes in Tags(report(folder)).tags if tag == "img"]
    files = sorted((folder / "plots").glob("*.png"))
    assert len(images) == len(files) == 8
    assert all(len(image["alt"] or "") > 60 for image in images)
    for file in files:
        pixels = matplotlib.image.imread(file)
        assert pixels.shape[1] > 700
        assert 0.001 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.5, f"{file.name} is blank or full"
    assert not list(folder.rglob("*.tmp"))


def test_hostile_names_are_only_text(make: Make) -> None:
    folder = make(hooks=(HOSTILE, "resid_post.1"), steps=200, model=HOSTILE, source=HOSTILE, chosen=5.0)
    choice = json.loads((folder / "choice.json").read_text())
    choice |= {"rule": HOSTILE, "reason": HOSTILE}
    choice["candidates"][0]["why"] = HOSTILE
    (folder / "choice.json").write_text(json.dumps(choice))
    page = report(folder)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7*7 }}" in page
    assert "script" not in {tag for tag, _ in Tags(page).tags}


def test_an_unfinished_run(make: Make) -> None:
    folder = make(steps=35_000, reached=300)
    page = report(folder)
    assert "300 of 35,000 steps are done" in page
    assert "No member has been chosen yet" in page
    assert "The choice</h2>" not in page
    assert "<td>–</td>" in page  # dead features: too few tokens to say


def test_the_very_first_row(make: Make) -> None:
    assert "at step 20" in report(make(l1=(0.0,), steps=1000, reached=20))


def test_a_choice_without_an_extension_claims_no_prediction(make: Make) -> None:
    page = report(make(steps=400, chosen=5.0))
    assert "predicted at step" not in page
    assert "The choice is λ = 5." in page


def test_a_prediction_that_is_not_known_yet(make: Make) -> None:
    page = report(make(steps=1000, extend_to=3000, chosen=5.0, came_true=False))
    assert "It has not been measured yet" in page


def test_no_admissible_member(make: Make) -> None:
    folder = make(steps=400, chosen=5.0)
    choice = json.loads((folder / "choice.json").read_text())
    choice |= {"member": None, "reason": "No member comes under 300. Add a larger coefficient."}
    (folder / "choice.json").write_text(json.dumps(choice))
    page = report(folder)
    assert "No member was chosen. No member comes under 300." in page


def test_several_hooks(make: Make) -> None:
    page = report(make(hooks=("resid_post.3", "mlp_out.2"), l1=(0.0, 5.0), steps=400, chosen=5.0))
    assert page.count('<td class="text hook">mlp_out.2</td>') == 4
    assert "λ = 5 on resid_post.3" in page


def choose(folder: Path, *choices: dict[str, Any]) -> None:
    """Choices in the place of the one made up: each with some of its keys, and the candidates named."""
    made = json.loads((folder / "choice.json").read_text())
    several = [
        {**made, **c, "candidates": [k for k in made["candidates"] if k["member"] in c["candidates"]]} for c in choices
    ]
    (folder / "choice.json").write_text(json.dumps({"hooks": several}))


HOOKS = ("resid_post.3", "mlp_out.2")


def test_choices_of_variants_have_a_heading_and_a_line_each(make: Make) -> None:
    folder = make(hooks=HOOKS, l1=(0.0, 5.0), steps=400, chosen=5.0)
    for hook, variant in ((HOOKS[0], "plain"), (HOOKS[1], "wide")):
        change(folder, lambda row, h=hook, v=variant: row.update(variant=v) if row["hook"] == h else None)
    own = [[f"{hook}-l1-0", f"{hook}-l1-5"] for hook in HOOKS]
    choose(
        folder,
        {"member": f"{HOOKS[0]}-l1-5", "variant": "plain", "candidates": own[0]},
        {"member": None, "variant": "wide", "candidates": own[1]},
    )
    page = report(folder)
    assert "<h2>The choice: resid_post.3, plain</h2>" in page
    assert "<h2>The choice: mlp_out.2, wide</h2>" in page
    assert "<li>The choice is λ = 5 on resid_post.3, plain. After 819,200 tokens it uses" in page
    assert "<li>No member was chosen of mlp_out.2, wide.</li>" in page
    assert page.count('<td class="text hook">') == 4  # candidates of one group do not name it


def test_every_extension_is_drawn_and_their_times_and_tokens_are_summed(make: Make) -> None:
    folder = make(hooks=HOOKS, l1=(0.0, 5.0), steps=1000, extend_to=2000, chosen=5.0)
    one = trained_on.trained_on(read(folder))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    other = [{**row, "member": f"{HOOKS[1]}-l1-5", "hook": HOOKS[1]} for row in rows if row["phase"] == "extend"]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows + other))
    plan = {"from_step": 800, "to_step": 2000, "decay_fraction": 0.0}
    plans = {f"{hook}-l1-5": plan for hook in HOOKS}
    (folder / "extension.json").write_text(json.dumps(plans))
    page = report(folder)
    two = trained_on.trained_on(read(folder))
    assert "extension 98 s, 25,000 tokens/s" in dict(one)["Time"]
    assert "extension 3 min, 25,000 tokens/s" in dict(two)["Time"]
    assert "by the extended ones" in dict(two)["Tokens seen"]
    assert sorted(path.stem for path in (folder / "plots").glob("whole*")) == ["whole_length", "whole_length_1"]
    assert page.count("The path that led to the last checkpoint of") == 2


def test_many_members(make: Make) -> None:
    report(make(l1=tuple(float(i) for i in range(20)), steps=200))


@pytest.mark.parametrize("value", [None, math.nan, 0.0, -1.0, 1e30])
@pytest.mark.parametrize("column", ["l0", "l1_penalty", "explained_variance", "tokens", "seconds", "over_tokens"])
def test_odd_values(make: Make, column: str, value: float | None) -> None:
    folder = make(l1=(0.0, 5.0), steps=100, chosen=5.0)

    def mend(row: dict[str, object]) -> None:
        if row["l1"] == 5.0 or column in ("tokens", "seconds"):
            row[column] = value
            row["nonzero_proportion"] = value if column == "l0" else row["nonzero_proportion"]

    change(folder, mend)
    report(folder)


def test_a_description_with_holes(make: Make) -> None:
    folder = make(steps=100)
    (folder / "run.yaml").write_text("recipe: {name: bare}\n")
    page = report(folder)
    assert "<h1>bare</h1>" in page


def test_written_again_it_is_the_same(make: Make) -> None:
    folder = make(steps=200, extend_to=500, chosen=5.0)
    assert report(folder) == report(folder)


def test_a_folder_that_cannot_be_written(make: Make) -> None:
    folder = make(l1=(1.0,), steps=60)
    (folder / "plots").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_report(folder)


def test_features_are_counted(make: Make) -> None:
    assert f"Active features divided by all {F:,} features" in report(make(l1=(1.0,), steps=60))


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1200])
def test_fits_the_screen(make: Make, tmp_path: Path, width: int) -> None:
    """The page in a frame `width` wide: a copy whose policy lets it measure itself tells how wide it became."""
    if not BROWSER:
        pytest.skip("no Chromium here: apt-get install chromium")
    long = "model.layers.3." + "a_very_long_module_path" * 6
    folder = make(hooks=(long, "resid_post.1"), steps=400, extend_to=900, chosen=5.0, source="/data/" + "deep/" * 40)
    page = report(folder)
    measure = (
        "<script>addEventListener('load', () => parent.postMessage([document.documentElement.scrollWidth, innerWidth,"
        " [...document.images].filter(i => !i.complete || !i.naturalWidth).length].join(' '), '*'))</script>"
    )
    copy = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page)
    copy = copy.replace("</body>", measure + "</body>").replace("<details>", "<details open>")
    (folder / "copy.html").write_text(copy, encoding="utf-8")
    frame = "<body style='margin:0'><p id=said></p>{}<iframe src={} style='border:0;width:{}px;height:2400px'></iframe>"
    listen = (
        "<script>addEventListener('message', e => { document.getElementById('said').textContent = e.data })</script>"
    )
    (folder / "measured.html").write_text(frame.format(listen, "copy.html", width))
    (folder / "shown.html").write_text(frame.format("", "report.html", width))
    dom = _chromium(tmp_path, folder / "measured.html", "--virtual-time-budget=8000", "--dump-dom")
    said = re.search(r'id="said">(\d+) (\d+) (\d+)<', dom)
    assert said, dom[:500]
    wide, inner, broken = (int(group) for group in said.groups())
    assert inner == width
    assert wide <= width
    assert broken == 0
    shot = tmp_path / "shot.png"
    _chromium(tmp_path, folder / "shown.html", f"--window-size={max(width, 500)},2400", f"--screenshot={shot}")
    pixels = matplotlib.image.imread(shot)[:2300, :width, :3]
    assert 0.005 < (pixels.mean(axis=2) < 0.5).mean() < 0.5  # ink on paper


def _chromium(tmp_path: Path, page: Path, *flags: str) -> str:
    quiet = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--hide-scrollbars"]
    quiet += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'browser'}"]
    done = subprocess.run(
        [BROWSER, "--headless", *quiet, *flags, page.as_uri()], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-800:]
    return done.stdout.decode("utf-8", errors="replace")


def test_epochs_are_counted_over_what_becomes_activations(make: Make) -> None:
    """Of chats with roles a part; three epochs of a third of the tokens were called one."""
    folder = make(l1=(1.0,), steps=100)
    about = yaml.safe_load((folder / "run.yaml").read_text())
    read_in_all = 100 * about["recipe"]["training"]["batch_tokens"]
    about["corpus"]["train_tokens"] = read_in_all
    (folder / "run.yaml").write_text(yaml.safe_dump(about))
    said = dict(trained_on.trained_on(read(folder)))["Epochs"]
    assert said == f"1.00 times over the corpus ({read_in_all:,} training tokens)"
    about["corpus"]["activations"] = read_in_all // 4
    (folder / "run.yaml").write_text(yaml.safe_dump(about))
    said = dict(trained_on.trained_on(read(folder)))["Epochs"]
    assert said == f"4.00 times over the corpus ({read_in_all // 4:,} activations)"


def test_narrow_numbers_are_said_with_what_they_change(make: Make) -> None:
    folder = make(l1=(1.0,), steps=100)
    assert "Arithmetic" not in dict(trained_on.trained_on(read(folder)))
    about = yaml.safe_load((folder / "run.yaml").read_text())
    about["model"] |= {"dtype": "float32", "bf16_change": {"resid_post.3": 0.0071}}
    about["recipe"]["training"]["selection"] = "int8"
    (folder / "run.yaml").write_text(yaml.safe_dump(about))
    said = dict(trained_on.trained_on(read(folder)))
    assert said["Activations"].startswith(
        "from the running model, which computes in float32; its matrix products are in"
    )
    assert "resid_post.3 by 0.7 %" in said["Activations"].replace("\u2009", " ").replace("\u00a0", " ")
    assert said["Arithmetic"] == "once few features are active, a product in int8 finds which; all else in float32"
    about["recipe"]["training"]["dense"], about["recipe"]["sae"]["nonlinearity"] = "bf16", "relu"
    (folder / "run.yaml").write_text(yaml.safe_dump(about))
    assert dict(trained_on.trained_on(read(folder)))["Arithmetic"].startswith(
        "while many features are active, the matrix"
    )
    about["recipe"]["sae"]["nonlinearity"] = "tanh_relu"
    (folder / "run.yaml").write_text(yaml.safe_dump(about))
    assert "bf16" not in dict(trained_on.trained_on(read(folder)))["Arithmetic"]
    about["recipe"]["variants"] = {"plain": {"sae": {"nonlinearity": "relu"}}, "noisy": {"sae": {"noise": 1.0}}}
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    both = [{**row, "member": f"{name}-l1-1", "variant": name} for row in rows for name in ("plain", "noisy")]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in both))
    (folder / "run.yaml").write_text(yaml.safe_dump(about))
    said = dict(trained_on.trained_on(read(folder)))["Arithmetic"]
    assert "plain (relu): while many" in said
    assert "noisy (tanh_relu): all in float32" in said


def test_outliers_are_given_apart(make: Make, held: Any) -> None:
    folder = make(l1=(1.0, 5.0))
    about = yaml.safe_load((folder / "run.yaml").read_text())
    found = {"times": 10.0, "longer_than": 1660.0, "tokens": 5, "of_tokens": 1000, "norm": 98.0, "of_norm": 100.0}
    found |= {"square": 986.0, "of_square": 1000.0}
    about["hooks"]["resid_post.3"]["outliers"] = found
    about["recipe"]["training"]["mask"] = {"special": False, "norm_above": 10.0}
    (folder / "run.yaml").write_text(yaml.safe_dump(about))
    said = dict(trained_on.trained_on(read(folder)))
    share = "98.6 % of Σ||x||² is on 0.5 % of the tokens, whose norms are above 10 times the median"
    assert share in said["Hook resid_post.3"]
    assert said["Tokens masked"] == "tokens with norms above 10 times the median are not trained on"
    result = held.result("resid_post.3", ["l1-1", "l1-5"])
    held.write(folder, result)
    assert "<h3>Outliers</h3>" not in report(folder)
    apart = {"l0": 3.0, "cosine": 0.9, "norm_ratio": 0.5, "normalised_mse": 0.4}
    result["outliers"] = found
    result["saes"]["l1-1"]["outliers"] = apart | {
        "delta_ce_everywhere": 2.2958,
        "delta_ce_standard_error_everywhere": 0.1,
    }
    result["saes"]["l1-5"]["outliers"] = apart
    held.write(folder, result)
    page = report(folder)
    assert f"{share}." in page
    assert "2.2958 ± 0.1000" in page
