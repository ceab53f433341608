"""The examples run as they stand, made short."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tospike

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_an_example_runs_and_is_short(name, tmp_path):
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    source = str(Path(tospike.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, EXAMPLES / name, "--smoke"], capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": source}, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "runs" / Path(name).stem / "report.html").stat().st_size > 1e5


def test_the_examples_are_there():
    assert (EXAMPLES / "control.py").exists()
