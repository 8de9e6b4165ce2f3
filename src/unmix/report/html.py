"""A run folder as one HTML file that opens offline: no request, pictures inside; and the pictures as PNG.

Every string that comes from outside (hooks, paths, model names) is escaped by the template engine; the page's own
content policy forbids requests, and scripts but for the page's own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from unmix.activations.outliers import from_facts
from unmix.report import by_norm, facts, features, formulas, hook_norms, l1, plots, words
from unmix.report.data import RunData, read
from unmix.report.heldout import behind, command, draw_evaluation, elsewhere, heading, of_split, read_evaluation
from unmix.report.panels import panels
from unmix.report.picture import Picture
from unmix.report.trained_on import trained_on
from unmix.runlog import write_whole


def write_report(run: Path) -> Path:
    """Writes `RUN/report.html` and `RUN/plots/*.png`, each whole or not at all, and returns the former's path."""
    data, evaluation, norms = read(run), read_evaluation(run), hook_norms.read_norms(run)
    pictures = plots.draw(data)
    held_out = draw_evaluation(evaluation, data) if evaluation else []
    lengths = by_norm.sections(evaluation) if evaluation else []
    hooks = hook_norms.section(norms, data.hooks()) if norms else None
    page = render(data, pictures, evaluation, held_out, lengths, hooks, features.section(run))
    drawn = [*pictures, *chain.from_iterable([*held_out, *(part.pictures for part in lengths)])]
    for picture in [*drawn, *([hooks.picture] if hooks else [])]:
        write_whole(run / "plots" / f"{picture.name}.png", picture.png)
    write_whole(run / "report.html", page)
    return run / "report.html"


def render(
    run: RunData,
    pictures: list[Picture],
    evaluation: dict[str, Any] | None = None,
    held_out: Sequence[Sequence[Picture]] = (),
    lengths: Sequence[by_norm.Section] = (),
    hook_lengths: hook_norms.Section | None = None,
    learned: features.Section | None = None,
) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        number=words.number,
        whole=words.whole,
        fixed=words.fixed,
        percent=words.percent,
        coefficient=words.coefficient,
        data_uri=_data_uri,
        outliers=from_facts,
        verdict=facts.verdict,
        group_of=run.group_of,
        heading=heading,
        of_split=of_split,
    )
    own, shared = formulas.formulas(run)
    # the one script, which sorts a table, is allowed by its hash; any other is refused
    script = _packaged("sort.js") if evaluation else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.from_string(_packaged("report.html.jinja")).render(
        script=Markup(script),
        script_policy=f"script-src 'sha256-{digest}'; " if script else "",
        run=run,
        pictures=pictures,
        evaluation=evaluation,
        held_out=held_out,
        behind=behind(run.folder, evaluation) if evaluation else "",
        elsewhere=elsewhere(run, evaluation) if evaluation else "",
        learned=learned,
        evaluate=command(run),
        lengths=lengths,
        hook_lengths=hook_lengths,
        summary=facts.summary(run),
        chosen=facts.chosen(run),
        tiles=facts.tiles(run),
        table=[(member, member.sweep.at(run.step)) for panel in panels(run) for member in panel.members],
        several_groups=len(run.groups()) > 1,
        asked="asked L0" if run.asks_l0() else "λ" if run.asks_l1() else "asked for",
        steered=any(member.is_steered for member in run.members),
        over=facts.averaged_over(run),
        l1_called="L1 penalty" if l1.is_multiplied(run) else "L1",
        l1_weighted=l1.weighted(run),
        l1_multiplied=l1.is_multiplied(run),
        widths=words.between(*run.widths()),
        dead_after=words.amount(facts.dead_after(run)),
        trained_on=trained_on(run),
        formulas=own,
        shared=shared,
        recipe=_recipe(run.section("recipe")),
    )


def _recipe(recipe: dict[str, Any]) -> str:
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)


def _packaged(name: str) -> str:
    return resources.files("unmix.report").joinpath(name).read_text(encoding="utf-8")


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
