"""unmix in Python: a sweep as one call, and a run folder as one object.

run = unmix.sweep(l0=[20, 50], model="gpt2", hook="resid_pre.8", corpus="texts/", steps=20_000, name="gpt2-texts")
run = unmix.sweep(activations=x_RD, l0=[20, 50], features=4096)       # no language model, no text
run = unmix.sweep(activations=x_RD, targets=y_RE, l0=[20, 50], features=4096)               # transcoders: ŷ of x
run = unmix.open_run("runs/demo")

run.choice; run.members; run.sae(); run.metrics(); run.evaluation(); run.report()
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmix.disk import at_home
from unmix.errors import UserError

if TYPE_CHECKING:
    from unmix.activations.rows import Rows
    from unmix.config import RunConfig
    from unmix.dictionary.model import Dictionary
    from unmix.lm.model import LanguageModel

FEW = ("l0", "l1", "hook", "architecture")
"""Keywords that take one value or several."""


def sweep(
    recipe: str | Path | None = None,
    *,
    activations: Any = None,
    targets: Any = None,
    runs: str | Path = "runs",
    evaluate: bool = True,
    quiet: bool = False,
    force: bool = False,
    **keys: Any,
) -> Run:
    """Train a dictionary for every L0 (or λ, hook, architecture) on the same batches, choose one, evaluate it.

    `recipe`: a YAML file, or the name of one that ships. `keys` change it, as the options of the command do: `name`,
    `model`, `hook`, `corpus`, `features`, `architecture`, `l0`, `l1`, `steps`, `device`; a section by a dictionary,
    `training={"lr": 1e-3}`. Nothing given at all is the demo.

    `activations` takes the place of model and corpus: x_RD of any tensors or numpy arrays (memory maps too), or hook ->
    x_RD; the path of a `.npy` or safetensors file; an iterable of batches x_BD. A tenth of the rows is held out. Where
    it is known which token each row is of, a pair: `activations=(x_RD, ids_R)`, or batches (x_BD, ids_B); rows of
    `activations.special_ids` are then left out, and the tokens that are outliers are named. A dictionary of keys of the
    section, `activations={"sequence_length": 128}`, is that section.

    `targets`, y_RE beside x_RD and of the same kind (arrays, hook -> y_RE, a path, an iterable of batches y_BE in step
    with those of x): then transcoders are trained, which give ŷ of x in place of x̂.

    The run is in `runs/NAME`, as that of `unmix sweep`; called again with the same arguments, a run that was stopped is
    resumed, to the same bits. `evaluate`: judge the dictionaries on what was held out. `quiet` shows nothing. `force`:
    begin although disk or memory seem too small.

    Raises `UserError` in one line for what does not fit, and `KeyboardInterrupt`, after saving, at Ctrl-C.
    """
    from unmix.activations.rows import rows_of
    from unmix.cli.progress import Progress
    from unmix.cli.sweep import run_sweep
    from unmix.devices import resolve

    activations, keys = _section(activations, keys)
    rows, ids, keys = _activations(activations, keys)
    beside, keys = _targets(targets, activations, rows, keys)
    found = _recipe(recipe, keys)
    given: Rows | None = None if rows is None else rows_of(found, rows, resolve(found.device), ids, beside)
    folder = at_home(Path(runs)) / found.name
    with Progress(quiet=quiet) as progress:
        run_sweep(progress, found, folder, force=force, evaluate=evaluate, given=given)
        if progress.stopped is not None:
            raise KeyboardInterrupt(f"stopped at step {progress.stopped:,}, saved; the same call resumes it")
    return Run(folder)


def open_run(folder: str | Path) -> Run:
    """A run folder. Raises `UserError` if there is none."""
    folder = at_home(Path(folder))
    if not (folder / "run.yaml").exists():
        raise UserError(f"{folder} is no run: it has no run.yaml; give the folder that `unmix sweep` made, runs/NAME")
    return Run(folder)


def load_model(name: str, *, dtype: str = "float32", device: str = "cpu") -> LanguageModel:
    """A language model: `embedded`, `smollm2`, a folder, a `.gguf` file, a name on the hub.

    `.model` is the model of `transformers`, `.tokenizer` its tokenizer; `.activations(ids, hooks)` reads hooks. Raises
    `UserError` if it cannot be had.
    """
    from pydantic import ValidationError

    from unmix.config import ModelConfig
    from unmix.config.messages import problems_line
    from unmix.devices import resolve
    from unmix.lm.model import load_language_model

    try:
        config = ModelConfig.model_validate({"name": name, "dtype": dtype})
    except ValidationError as error:
        raise UserError(problems_line(error, ModelConfig)) from None
    found = load_language_model(config)
    found.model.to(resolve(device))
    return found


def top_features(
    lm: object, sae: Dictionary, text: str, hook: str | None = None, *, most: int = 10
) -> list[tuple[str, list[tuple[int, float]]]]:
    """(token, its strongest features as (feature, f)) for the BOS and every token of a text, the largest |f| first.

    There is no BOS if the dictionary's files say that it was trained without one. `lm`: of `load_model`, or a model of
    nnsight, nnterp or TransformerLens that has its tokenizer. `hook`: where the dictionary reads, if its files do not
    say. Raises `UserError` if nobody says it, if the model cannot be read, or if it cannot take so long a text.
    """
    from unmix.explore.prompt import active_features, prompt_ids
    from unmix.lm.wrapped import language_model_of, place_name

    if not hook and sae.cfg:
        sae.cfg.require_all_heads("the dictionary")
    hook = hook or (sae.cfg.hook if sae.cfg else None)
    if hook is None:
        raise UserError("the dictionary does not say where it reads; give the hook, such as resid_post.3")
    model = language_model_of(lm)
    bos = sae.cfg is None or sae.cfg.prepend_bos is not False
    prompt = prompt_ids(model, text, sys.maxsize, bos=bos)
    if prompt.truncated:
        raise UserError(
            f"the text is longer than {model.name} can read, {len(prompt.ids_T):,} tokens; give it in parts"
        )
    found = active_features(model, place_name(model.model, hook), sae, prompt.ids_T)
    tokens = [str(model.tokenizer.decode([token])) for token in prompt.ids_T.tolist()]
    return [(token, active[:most]) for token, active in zip(tokens, found, strict=True)]


class Run:
    """A run folder: what was trained in it, and how it came out. Reads its files anew at every call."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        """Wherever the process goes meanwhile, as a notebook does by `%cd`."""

    @property
    def recipe(self) -> RunConfig:
        """The recipe, with nothing left to defaults."""
        from unmix.evaluation.subject import recipe_of

        return recipe_of(self.folder)

    @property
    def members(self) -> dict[str, Path]:
        """name -> the folder of its newest checkpoint. What was trained on beyond the sweep is a member of its own."""
        from unmix.runlog import newest_checkpoints

        return newest_checkpoints(self.folder)

    @property
    def choices(self) -> dict[str, str]:
        """hook -> the member that the rule has chosen; a member that was trained on stands for what it was.

        With `choice.per_variant` a hook has several, and they go by hook and variant, as the names of members do.
        """
        from unmix.runlog import read_choices, split_name

        made = [choice for choice in read_choices(self.folder) if choice.get("member")]
        hooks = [
            next((str(c.get("hook", "")) for c in choice["candidates"] if c["member"] == choice["member"]), "")
            for choice in made
        ]
        there, found = self.members, {}
        for hook, name in zip(hooks, (str(choice["member"]) for choice in made), strict=True):
            key = hook if hooks.count(hook) == 1 else split_name(name)[0]
            found[key] = f"{name}-extended" if f"{name}-extended" in there else name
        return found

    @property
    def choice(self) -> str | None:
        """The member that the rule has chosen; none where it chose none. Raises `UserError` if there are several."""
        found = self.choices
        if len(found) > 1:
            raise UserError(f"{self.folder} has a choice for each of {', '.join(found)}; take run.choices")
        return next(iter(found.values()), None)

    def sae(self, member: str | None = None) -> Dictionary:
        """The newest dictionary of a member, by default of the chosen one, for raw activations."""
        from unmix.interop.load import load_sae

        there, name = self.members, member or self.choice
        if name is None:
            raise UserError(f"{self.folder} has no choice; name a member, one of {', '.join(there)}")
        if name not in there:
            raise UserError(f"{self.folder} has no member {name!r}; it has {', '.join(there)}")
        return load_sae(there[name])

    def metrics(self) -> dict[str, list[Any]]:
        """Every line of metrics.jsonl in columns: `pandas.DataFrame(run.metrics())`. None where a row has no value.

        They are of the training stream, and of the dictionaries as they were saved (docs/formats.md).
        """
        from unmix.runlog import read_metrics

        return columns(read_metrics(self.folder / "metrics.jsonl"))

    def evaluation(self) -> dict[str, list[Any]]:
        """A row for each dictionary, of what was held out, in columns; empty if the run was not evaluated."""
        from unmix.runlog import read_evaluation

        found = read_evaluation(self.folder) or {"hooks": []}
        rows = []
        for result in found["hooks"]:
            for name, row in result["saes"].items():
                plain = {key: value for key, value in row.items() if isinstance(value, int | float | str | None)}
                rows.append({"member": name, "hook": result["hook"], **plain})
        return columns(rows)

    def report(self) -> Path:
        """Write report.html and its pictures; its path."""
        from unmix.report.html import write_report

        return write_report(self.folder)

    def __repr__(self) -> str:
        """One line: where, what, and which was chosen."""
        there, here = self.members, Path.cwd()
        chosen = ", ".join(self.choices.values()) or "none"
        folder = self.folder.relative_to(here) if self.folder.is_relative_to(here) else self.folder
        return f"Run({shlex.quote(str(folder))}: {len(there)} dictionaries ({', '.join(there)}); chosen: {chosen})"


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns, in the order in which keys first appear; None where a row lacks one.

    Whole numbers are floats in a column that has both: polars wants one type.
    """
    names = dict.fromkeys(key for row in rows for key in row)
    return {name: _of_one_type([row.get(name) for row in rows]) for name in names}


def _of_one_type(column: list[Any]) -> list[Any]:
    both = {int, float} <= {type(value) for value in column}
    return [float(value) if type(value) is int else value for value in column] if both else column


def _section(given: Any, keys: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(the activations, the keywords): keys of a recipe's section `activations`, and no rows, are a keyword, before
    those that stand by their dotted names."""
    from unmix.activations.arrays import is_array
    from unmix.config import ActivationsConfig

    named = isinstance(given, Mapping) and ActivationsConfig.model_fields.keys() & given.keys()
    if not named or any(map(is_array, given.values())):
        return given, keys
    return None, {"activations": dict(given), **keys}


def _activations(
    given: Any, keys: dict[str, Any]
) -> tuple[Mapping[str, Any] | Iterable[Any] | None, Any, dict[str, Any]]:
    """(the rows, if they are to be handed over; their token ids, if known; the keywords with what follows)."""
    from unmix.activations.arrays import is_array
    from unmix.activations.token_ids import parted
    from unmix.config import GIVEN, HOOK

    if given is None:
        return None, None, keys
    if isinstance(given, str | Path):
        return None, None, {**keys, "activations.rows": str(given)}
    given, ids = parted(given)
    if not isinstance(given, Iterable):
        raise UserError(f"activations: {type(given).__name__} is no tensor, array, path, mapping or iterable of them")
    hooks = [keys["hook"]] if isinstance(keys.get("hook"), str) else list(keys.get("hook") or [HOOK])
    if isinstance(given, Mapping):
        if "hook" in keys:
            raise UserError("activations names its hooks itself, hook -> rows; leave hook out")
        hooks = list(given)
    elif is_array(given):
        if len(hooks) != 1:
            raise UserError(f"one array of activations is of one hook, and {len(hooks)} are named; give hook -> rows")
        given = {hooks[0]: given}
    elif ids is not None:
        raise UserError("token ids of all rows stand beside an array, or hook -> array; of batches, give each its own")
    named = {} if "activations.hooks" in keys else {"hook": hooks}  # of a mapping, those of its hooks that are wanted
    return given, ids, {**keys, **named, "activations.rows": GIVEN}


def _targets(
    given: Any, activations: Any, rows: Mapping[str, Any] | Iterable[Any] | None, keys: dict[str, Any]
) -> tuple[Mapping[str, Any] | Iterable[Any] | None, dict[str, Any]]:
    """(the targets, if they are to be handed over; the keywords with what follows). `rows`: what was made of
    `activations`.

    Raises `UserError` unless they are of the kind of the activations.
    """
    from unmix.activations.arrays import is_array
    from unmix.activations.token_ids import parted
    from unmix.config import GIVEN

    if given is None:
        return None, keys
    if activations is None:
        raise UserError("targets stand beside activations, row by row; give activations too")
    of_x, of_y = _kind(parted(activations)[0]), _kind(given)
    if of_x != of_y:
        raise UserError(f"activations are {of_x}, and targets {of_y}; give both alike")
    if rows is None:
        return None, {**keys, "activations.targets": str(given)}
    if is_array(given) and isinstance(rows, Mapping):
        given = {next(iter(rows)): given}
    return given, {**keys, "activations.targets": GIVEN}


def _kind(given: Any) -> str:
    """What activations or targets are handed over as, for a message."""
    from unmix.activations.arrays import is_array

    if isinstance(given, str | Path):
        return "the path of a file"
    if is_array(given):
        return "one array"
    if isinstance(given, Mapping):
        return "hook -> array"
    return "an iterable of batches" if isinstance(given, Iterable) else f"a {type(given).__name__}"


def _recipe(recipe: str | Path | None, keys: dict[str, Any]) -> RunConfig:
    """The recipe that the keywords make."""
    from unmix.cli.arguments import SHORT, recipe_with
    from unmix.config import RunConfig, flat

    lists = {key: value if isinstance(value, list | tuple) else [value] for key, value in keys.items() if key in FEW}
    short = {
        key: lists.get(key, value)
        for key, value in keys.items()
        if key in ("name", *SHORT) and not isinstance(value, dict)
    }
    architectures = list(lists.get("architecture", []))
    dotted: dict[str, Any] = {}
    for key, value in keys.items():
        if key in ("architecture", *short):
            continue
        if key.partition(".")[0] not in RunConfig.model_fields:
            known = ", ".join(dict.fromkeys(["architecture", *SHORT, *RunConfig.model_fields]))
            raise UserError(f"unknown keyword {key}; known here: {known}")
        dotted |= flat(value, f"{key}.") if isinstance(value, dict) else {key: value}
    return recipe_with(None if recipe is None else str(recipe), short, dotted, architectures)
