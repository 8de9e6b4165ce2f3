"""What is shown of a long command: on a terminal, elsewhere, and where letters are missing."""

import io
import os
import re
import struct
import subprocess
import sys

import pytest
from rich.console import Console

from unmix.cli import progress
from unmix.cli.progress import Progress, Standing, clock, frame, head, line
from unmix.training.loop import Rows

fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))


def rows(number, step=1234, rate=2345.6, left=3723.4):
    found = Rows(
        {
            "step": step, "tokens_per_s": rate, "member": f"resid_post.{i}-normalized-l1-{i}", "l0": 4000.0 / (i + 1),
            "explained_variance": 0.9 - i, "loss": 123.456 / (i + 1),
        }
        for i in range(number)
    )  # fmt: skip
    found.seconds_left = left
    return found


def drawn(members, width, height, at=None):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(frame(at or Standing(1234, 2000, 2345.6, 3723.4), members, width, height))
    return console.file.getvalue().splitlines()


def test_time_left_is_in_hours_minutes_and_seconds():
    assert [clock(s) for s in (0, 59.6, 3723, 360000)] == ["0:00:00", "0:01:00", "1:02:03", "100:00:00"]


def test_what_is_not_known_is_not_made_up():
    assert head(Standing(1999, 2000, 5000.0, 1.0)) == "step 1,999/2,000   99%  0:00:01 left  5,000 tokens/s"
    assert head(Standing(5, 2000, None, None)) == "step 5/2,000    0%  time left unknown"


@pytest.mark.parametrize("members", [1, 4, 30])
@pytest.mark.parametrize(("width", "height"), [(120, 40), (80, 24), (60, 10), (40, 6), (20, 3), (10, 1)])
def test_a_frame_fits_the_terminal_and_leaves_the_line_of_the_cursor(width, height, members):
    found = drawn(rows(members), width, height)
    assert len(found) <= max(1, height - 1)
    assert max(map(len, found)) <= width


def test_a_frame_has_the_bar_and_a_line_a_member():
    found = drawn(rows(3), 80, 24)
    assert re.match(r"━+ +step 1,234/2,000   61%  1:02:03 left  2,346 tokens/s", found[0])
    assert found[1].split() == ["member", "L0", "explained", "variance", "loss"]
    assert found[2].split() == ["resid_post.0-normalized-l1-0", "4000", "0.900", "123.5"]
    assert len(found) == 5


def test_a_narrow_frame_cuts_names_and_keeps_figures_and_time_left():
    found = drawn(rows(3), 40, 24)
    assert "1:02:03 left" in found[0]
    assert found[2].split()[1:] == ["4000", "0.900", "123.5"]
    assert found[2].split()[0].endswith("…")


def test_members_that_do_not_fit_are_counted_and_halted_ones_named():
    members = rows(20)
    members[1]["halted_at"] = members[17]["halted_at"] = 7
    found = drawn(members, 100, 12)
    assert found[3].split() == ["resid_post.1-normalized-l1-1", "halted"]
    assert found[-1] == "… and 12 more; halted: resid_post.17-normalized-l1-17"


def test_a_plain_line_is_ascii_and_counts_what_it_leaves_out():
    members = rows(8)
    members[2]["halted_at"] = 7
    found = line(Standing(10, 20, 5.0, 3.0), members)
    assert found.isascii()
    assert found.startswith("step 10/20   50%  0:00:03 left  5 tokens/s  resid_post.0-normalized-l1-0: L0 4000 loss ")
    assert "resid_post.2-normalized-l1-2: halted" in found
    assert found.endswith("... and 2 more")


def test_without_a_terminal_there_is_a_line_every_15_seconds_and_one_at_the_end(capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress()
    for step in range(1, 41):
        shown.rows(rows(1, step=step), 40)
        shown.stop()
        now += 1.0
    error = capsys.readouterr().err
    assert [int(words.split("/")[0].removeprefix("step ")) for words in error.splitlines()] == [1, 16, 31, 40]
    assert "\x1b" not in error
    assert "\r" not in error


ON_A_TERMINAL = """
import sys
sys.path.insert(0, {tests!r})
from test_progress import rows
from unmix.cli import progress as module
from unmix.cli.progress import Progress
now = 1000.0
module.time.monotonic = lambda: now
with Progress() as progress:
    for step in range(1, 31):
        if step % 5 == 0:
            progress.rows(rows(3, step=step), 40)
        progress.stop()
        if step == 10:
            progress.say("a warning: [bold] " + "word " * 30)
        now += 0.0625
    raise KeyboardInterrupt
"""


def on_a_terminal(code, *, width=80, height=24, **environment):
    """What a process writes to a terminal of this size."""
    main, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")}
    env = {**kept, "TERM": "xterm-256color", "PYTHONUTF8": "1", **environment}
    process = subprocess.Popen([sys.executable, "-c", code], stdin=end, stdout=end, stderr=end, env=env)
    os.close(end)
    found = b""
    try:
        while part := os.read(main, 65536):
            found += part
    except OSError:  # the other end is closed
        pass
    process.wait()
    os.close(main)
    return found.decode()


CODE = ON_A_TERMINAL.format(tests=os.path.dirname(__file__))  # noqa: PTH120


@pytest.mark.parametrize("width", [80, 120])
def test_a_live_view_moves_between_rows_and_gives_the_terminal_back(width):
    found = on_a_terminal(CODE, width=width)
    steps = [int(step) for step in re.findall(r"step (\d+)/40", found)]
    assert list(dict.fromkeys(steps)) == [5, 9, 13, 17, 21, 25, 29]  # a frame at most each 0.2 s, 4 steps of 0.0625
    assert found.index("\x1b[?25l") < found.index("\x1b[?25h")  # the cursor is hidden, and shown again
    assert "[bold] word word" in found
    assert "Traceback" in found.rpartition("\x1b[?25h")[2]
    visible = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", found.partition("Traceback")[0])
    assert max(len(part) for part in re.split(r"[\r\n]+", visible)) <= width


def test_two_signals_in_a_live_view_say_so_above_it_and_give_the_terminal_back():
    twice = "if step in (11, 22): import os, signal; os.kill(os.getpid(), signal.SIGTERM)"
    found = on_a_terminal(CODE.replace("now += 0.0625", f"now += 0.0625\n        {twice}"))
    assert found.count("stopping after this step; press Ctrl-C again to quit at once") == 1
    assert found.index("stopping after this step") < found.rindex("step 21/40") < found.index("\x1b[?25h")
    assert "KeyboardInterrupt" in found.rpartition("\x1b[?25h")[2]  # which the command line turns into its status
    assert "step 25/40" not in found


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_is_dumb_or_wants_no_colour_gets_plain_lines(environment):
    found = on_a_terminal(CODE, **environment)
    assert "\x1b" not in found
    assert "step 5/40   12%  1:02:03 left  2,346 tokens/s  resid_post.0-normalized-l1-0: L0 4000 loss 123.5" in found


def test_a_terminal_without_utf_8_gets_ascii():
    found = on_a_terminal(CODE, PYTHONUTF8="0", PYTHONIOENCODING="ascii", height=5)
    assert "... and 2 more" in found
    assert found.isascii()


def test_rich_is_not_imported_with_the_command_line():
    code = "import sys, unmix.cli; print([name for name in sys.modules if name.startswith('rich')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    ],
)
@pytest.mark.parametrize("words", [["fetch", "--help"], ["report", "/no/such/日本"]])
def test_letters_that_a_terminal_lacks_are_replaced(environment, words):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONUTF8", "PYTHONIOENCODING")} | environment
    done = subprocess.run([sys.executable, "-m", "unmix.cli", *words], capture_output=True, env=env, check=False)
    assert done.returncode == (0 if words[-1] == "--help" else 2), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"?" in (done.stdout if words[-1] == "--help" else done.stderr) or b"\xd7" in done.stdout


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_sweep_in_python_says_its_choice_where_letters_are_missing(encoding):
    """Windows has cp1252 for output that goes to a file; no `main` stands before it."""
    code = "from unmix.cli.progress import Progress; Progress().result('λ 0.5 is chosen')"
    env = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True)
    assert done.stdout.split() == [b"?", b"0.5", b"is", b"chosen"]
