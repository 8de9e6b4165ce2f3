"""The command line, one file a command. Heavy imports wait until a command needs them: `unmix --help` must answer at
once."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from unmix.cli.arguments import Dotted, split_dotted
from unmix.cli.bench import add_bench
from unmix.cli.choose import add_choose
from unmix.cli.completion import add_completion
from unmix.cli.convert import add_convert
from unmix.cli.doctor import add_doctor
from unmix.cli.evaluate import add_evaluate
from unmix.cli.explore import add_explore
from unmix.cli.extend import add_extend
from unmix.cli.fetch import add_fetch
from unmix.cli.harvest import add_harvest
from unmix.cli.norms import add_norms
from unmix.cli.plan import add_plan
from unmix.cli.pull import add_pull
from unmix.cli.push import add_push
from unmix.cli.report import add_report
from unmix.cli.show import add_show
from unmix.cli.sweep import add_sweep
from unmix.cli.verify import add_verify
from unmix.disk import REFUSALS, at_home
from unmix.errors import LESS_MEMORY, UserError
from unmix.machine import keep_freed_memory
from unmix.neighbours import yield_where_busy

BROKEN_PIPE = 141
"""The status of a command whose output nobody reads on: 128 and SIGPIPE, as shells have it."""
COMPUTE = ("sweep", "plan", "extend", "evaluate", "explore", "norms", "harvest")
"""The commands that keep all threads busy for long."""

_FULL = (
    "out of memory",  # mps, and CUDA outside torch's own memory
    "out_of_device_memory",
    "out_of_resources",
    "cublas_status_alloc_failed",
    "defaultcpuallocator",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 if `verify` finds something, 2 for a user's mistake, 130 or 143 if
    stopped by a signal, 141 if its output was not read to the end."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal in ASCII shows what it can
    keep_freed_memory()
    words, dotted = split_dotted(list(sys.argv[1:] if argv is None else argv))
    try:
        args = _at_home(_parser().parse_args(words))
        _require_taken(args, dotted)
        if words[:1] and words[0] in COMPUTE:
            yield_where_busy()
        status = int(args.run(args, dotted) or 0)
        sys.stdout.flush()
        return status
    except UserError as error:
        print(f"unmix: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read it, `head` or a pager, has seen enough
        with suppress(OSError, ValueError):  # what is left in the buffer goes nowhere, at the end of the process too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        what = "cannot read or write" if isinstance(error, PermissionError) else "cannot write"
        print(f"unmix: {what} ({error}); {_remedy(error)}, then try again", file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        first = (str(error).splitlines() or [type(error).__name__])[0]
        print(f"unmix: out of memory ({first}); {_smaller(words)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nunmix: interrupted", file=sys.stderr)
        return 130


def _remedy(error: OSError) -> str:
    """What to do where the system refuses a file."""
    if isinstance(error, PermissionError):
        return "change its permissions, or give another one"
    return "make room or give another folder"


def _is_out_of_memory(error: Exception) -> bool:
    """As torch's own kind of error, which is not imported for this, or by what mps, a driver or a library says."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or any(s in said for s in _FULL)


def _smaller(words: Sequence[str]) -> str:
    """What to lower where a command ran out of memory."""
    command = next((word for word in words if not word.startswith("-")), "")
    if command in ("sweep", "extend"):
        return f"{LESS_MEMORY}, under another --name. Checkpoints that were written are kept"
    if command == "evaluate":
        return "give --batch 1, or --device cpu"
    return "give it less at once, or a device with more memory"


def _at_home(args: argparse.Namespace) -> argparse.Namespace:
    """With `~` in front of a path as the user's home: behind `--out=` no shell has seen it."""
    for name, value in vars(args).items():
        if isinstance(value, Path):
            setattr(args, name, at_home(value))
        elif isinstance(value, list):
            setattr(args, name, [at_home(one) if isinstance(one, Path) else one for one in value])
    return args


def _require_taken(args: argparse.Namespace, dotted: Dotted) -> None:
    """Raises `UserError` for a key of a recipe that the command has no use for."""
    if "recipe" in args:
        return
    taken = getattr(args, "keys", None)  # what the keys begin with that it takes without a recipe
    if strange := next((key for key in dotted if taken is None or not key.startswith(taken)), None):
        said = "none" if taken is None else f"those of {taken.rstrip('.')} alone"
        raise UserError(f"--{strange} is a key of a recipe, and this command takes {said}; leave it out")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="unmix",
        description="Sparse autoencoders for language models: sweep, choose, extend, evaluate, explore.",
        epilog="Start with `unmix sweep`; `unmix COMMAND --help` explains each command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(run=_no_command(parser))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    add_sweep(commands)
    add_plan(commands)
    add_extend(commands)
    add_choose(commands)
    add_report(commands)
    add_evaluate(commands)
    add_explore(commands)
    add_show(commands)
    add_norms(commands)
    add_convert(commands)
    add_pull(commands)
    add_push(commands)
    add_fetch(commands)
    add_harvest(commands)
    add_verify(commands)
    add_doctor(commands)
    add_completion(commands, _parser)
    add_bench(commands)
    return parser


def _no_command(parser: argparse.ArgumentParser) -> Callable[..., int]:
    def run(args: argparse.Namespace, _: Dotted) -> int:
        if args.version:
            import unmix

            print(f"unmix {unmix.__version__}")
            return 0
        parser.print_help()
        return 0

    return run
