"""`unmix doctor`: what is installed, what this machine has, and what `auto` makes of it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from unmix.cli.arguments import Dotted
from unmix.cli.screen import show

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "numba")
WIDTH = 768  # of the activations at which steps are timed: GPT-2's
LACKING = "not installed"
KINDS = ("cuda", "mps", "xpu")


def add_doctor(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "doctor",
        help="versions, devices, what `auto` chooses on this machine, what each extra is missing",
        description="Inspect this installation and this machine: versions, devices and memory, free disk, which\n"
        "extras are complete, what is in the cache. Time training steps for a few seconds (once: the figures are\n"
        "cached) to show what a recipe's `auto` becomes here. Nothing is downloaded.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--no-measure", action="store_true", help="time nothing: leave out what `auto` chooses")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace, dotted: Dotted) -> int:
    found = look(measure=not args.no_measure)
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    show(_lines(found))
    return 0


def look(*, measure: bool) -> dict[str, Any]:
    """All that is shown, in plain data. Bytes are bytes, times are seconds."""
    import unmix

    return {
        "unmix": unmix.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "processor": _processor(),
        "memory": _memory(),
        "devices": _devices(),
        "auto": _auto() if measure else None,
        "extras": _extras(),
        "smollm2": _fetched("smollm2"),
        "disk": _disk(),
    }


def _version(name: str) -> str | None:
    """Of what is installed; None if it is not."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> dict[str, Any]:
    import numba
    import torch

    from unmix.machine import cpu_name

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "name": cpu_name(),
        "cores": cores,
        "threads": {"torch": torch.get_num_threads(), "numba": numba.get_num_threads()},
    }


def _memory() -> dict[str, int | None]:
    """Of the machine; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return {"total": _kib(lines["MemTotal"]), "available": _kib(lines["MemAvailable"])}
    except (OSError, KeyError, ValueError):  # no Linux
        total = None
    with suppress(AttributeError, ValueError, OSError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"total": total, "available": None}


def _kib(text: str) -> int:
    return int(text.split()[0]) * 1024


def _devices() -> dict[str, Any]:
    """What torch can compute on besides the processor, and why not on the others."""
    import torch

    from unmix.devices import free, resolve
    from unmix.errors import UserError

    there: list[dict[str, Any]] = []
    missing = {}
    for kind in KINDS:
        try:
            resolve(kind)
        except UserError as error:
            missing[kind] = str(error).split(": ", 1)[1].split("; give", 1)[0]
            continue
        if kind != "cuda":
            there.append({"name": kind})
            continue
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            there.append(
                {
                    "name": f"cuda:{i}",
                    "model": about.name,
                    "memory": about.total_memory,
                    "free": free(torch.device("cuda", i)),
                    "capability": f"{about.major}.{about.minor}",
                }
            )
    return {"there": there, "missing": missing}


def _auto() -> dict[str, Any]:
    """What the defaults of a recipe become: the device, and the choices that `precision.decide` measures."""
    from unmix import config, precision
    from unmix.devices import resolve

    recipe = config.load(None, {})
    began = time.perf_counter()
    decided, figures = precision.decide(recipe, {"": WIDTH})
    chosen = {f"training.{key}": getattr(decided.training, key) for key in precision.OPEN} if figures else {}
    said = precision.said(decided, figures) if figures else None
    return {
        "device": str(resolve(recipe.device)),
        "chosen": chosen,
        "figures": figures,
        "seconds": round(time.perf_counter() - began, 3),
        "said": said,
    }


def _extras() -> dict[str, dict[str, str | None]] | None:
    """extra -> package -> what is wrong with it; None: nothing. None for all if unmix is not installed as a package."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("unmix") or []]
        names = metadata.metadata("unmix").get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return None
    found: dict[str, dict[str, str | None]] = {}
    for extra in names:
        found[extra] = {}
        for want in wanted:
            plain = want.marker is None or want.marker.evaluate({"extra": ""})
            if plain or not (want.marker and want.marker.evaluate({"extra": extra})):
                continue
            has = _version(want.name)
            fits = has is not None and want.specifier.contains(has, prereleases=True)
            wrong = LACKING if has is None else f"{has} is installed, {want.specifier} is needed"
            found[extra][want.name] = None if fits else wrong
    return found


def _fetched(name: str) -> dict[str, Any]:
    """A model that `unmix fetch` brings."""
    from unmix.lm.fetch import place

    path = place(name)
    return {"path": str(path), "bytes": path.stat().st_size if path.is_file() else None}


def _disk() -> dict[str, Any]:
    """Bytes free where runs and the cache go."""
    from unmix.cache import cache_folder

    found = {}
    for what, folder in (("here", Path.cwd()), ("cache", cache_folder())):
        there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        found[what] = {"path": str(folder), "free": shutil.disk_usage(there).free}
    return found


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, its line) as people read it."""
    from unmix.disk import size

    yield "unmix", f"{found['unmix']}, Python {found['python']}, {found['system']}"
    yield "libraries", ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["libraries"].items())
    about, threads = found["processor"], found["processor"]["threads"]
    yield (
        "processor",
        f"{about['name']}, {about['cores']} cores; threads: torch {threads['torch']}, numba {threads['numba']}",
    )
    has = {name: "unknown" if value is None else size(value) for name, value in found["memory"].items()}
    yield "memory", f"{has['total']}, of which {has['available']} available"
    there = [_device(device) for device in found["devices"]["there"]]
    missing = [f"no {kind}: {why}" for kind, why in found["devices"]["missing"].items()]
    yield "devices", "\n".join(there + missing)
    yield "auto", _chosen(found["auto"])
    yield (
        "extras",
        "\n".join(_extra(name, packages) for name, packages in (found["extras"] or {}).items())
        or ("unknown: unmix is not installed as a package"),
    )
    smollm2 = found["smollm2"]
    yield (
        "smollm2",
        f"not in the cache; `unmix fetch smollm2` downloads it (to {smollm2['path']})"
        if smollm2["bytes"] is None
        else f"{smollm2['path']}, {size(smollm2['bytes'])}",
    )
    yield "free disk", "; ".join(f"{size(one['free'])} in {one['path']}" for one in found["disk"].values())


def _device(device: dict[str, Any]) -> str:
    from unmix.disk import size

    if "model" not in device:
        return str(device["name"])
    return (
        f"{device['name']}: {device['model']}, {size(device['memory'])}, {size(device['free'])} free, "
        f"capability {device['capability']}"
    )


def _chosen(auto: dict[str, Any] | None) -> str:
    if auto is None:
        return "not measured (--no-measure)"
    if not auto["chosen"]:
        return f"device {auto['device']}; its kernels leave nothing else to choose"
    figures = auto["figures"]
    shape = f"{figures['features']:,} features of {figures['width']}, {figures['tokens']:,} tokens per step"
    return f"device {auto['device']}; at {shape}:\n{auto['said']}"


def _extra(name: str, packages: dict[str, str | None]) -> str:
    if not any(packages.values()):
        return f"{name}: complete" if packages else f"{name}: nothing to install here"
    lacking = [package for package, why in packages.items() if why == LACKING]
    wrong = [f"{package} {why}" for package, why in packages.items() if why and why != LACKING]
    said = [f"without {', '.join(lacking)}"] * bool(lacking) + wrong
    return f"{name}: {'; '.join(said)}; pip install 'unmix[{name}]'"
