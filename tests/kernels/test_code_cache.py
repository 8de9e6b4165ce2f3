"""Compiled code has a place where neither the package nor the user's cache can be written to."""

import os
import subprocess
import sys
from pathlib import Path

import unmix

CODE = """
from pathlib import Path
import numba
import unmix.kernels.find
folder = Path(numba.config.CACHE_DIR)
print(folder.name, folder.is_dir())
"""


def test_where_nothing_can_be_written_the_code_is_kept_in_a_folder_of_the_process(tmp_path):
    """numba refused: `RuntimeError: cannot cache function …: no locator available`."""
    only = {"NUMBA_CACHE_LOCATOR_CLASSES": "UserProvidedCacheLocator,ZipCacheLocator", "TMPDIR": str(tmp_path)}
    env = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"} | only
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    name, there = done.stdout.split()
    assert name.startswith("unmix-numba-")
    assert there == "True"
    assert not (tmp_path / name).exists()  # gone with the process


def test_whatever_is_compiled_and_kept_asks_for_that_place_first():
    kept = [path for path in Path(unmix.__file__).parent.rglob("*.py") if "cache=True" in path.read_text()]
    assert len(kept) > 10
    assert [path for path in kept if "\nimport numba\n" in path.read_text()] == []
