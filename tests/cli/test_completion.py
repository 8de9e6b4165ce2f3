"""`unmix completion`: the script is asked as a shell asks it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unmix.cli import main

ASK = """
source "$1"; shift
complete -p unmix | grep -q -- '-F _shtab_unmix' || exit 3
COMP_WORDS=(unmix "$@"); COMP_CWORD=$#
_shtab_unmix unmix "${@: -1}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `unmix completion bash` prints."""
    said = subprocess.run(
        [sys.executable, "-m", "unmix.cli", "completion", "bash"], capture_output=True, text=True, check=True
    )
    path = tmp_path_factory.mktemp("completion") / "unmix"
    path.write_text(said.stdout)
    return path


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["ex"], {"extend", "explore"}),
        (["push", "--pr"], {"--private"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes(words, completed, script):
    asked = ["bash", "--norc", "-c", ASK, "bash", str(script), *words]
    assert set(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()) >= completed


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_every_command(shell, capsys):
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert all(command in said for command in ("sweep", "evaluate", "push", "doctor", "--ce-tokens"))


def test_without_shtab_the_remedy_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 2
    assert capsys.readouterr().err == "unmix: completion needs shtab, which is not installed: pip install shtab\n"
