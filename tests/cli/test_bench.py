import json
import runpy
import sys
from pathlib import Path

import pytest

from tospike.bench import Speed
from tospike.cli import main

QUICK = [
    "--networks",
    "[fashion-resnet20]",
    "--batch",
    "1",
    "--time_steps",
    "[2]",
    "--rounds",
    "1",
    "--no_memory",
    "--no_scaling",
]


def test_bench_speed_prints_tables_and_writes_page_chart_and_record(tmp_path, capsys):
    assert main(["bench", "speed", *QUICK, "--engines", "[float,int8]", "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "fashion-resnet20, batch 1" in shown
    speed = Speed.from_json((tmp_path / "speed.json").read_text())
    assert [row.contender for row in speed.rows][:3] == ["ANN", "tospike float", "tospike int8"]
    assert "20 of 20 stepped layers in integers" in (tmp_path / "speed.md").read_text()
    assert (tmp_path / "speed.svg").read_text().startswith("<svg")


def test_the_script_is_the_command_and_prints_json_when_asked_to(tmp_path, capsys, monkeypatch):
    script = Path(__file__).parents[2] / "benchmarks" / "speed.py"
    options = [*QUICK, "--engines", "[int16]", "--json", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [str(script), *options])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == json.loads((tmp_path / "speed.json").read_text())


def test_bench_goes_on_with_a_record_when_asked_to(tmp_path, capsys):
    record = tmp_path / "speed.json"
    assert main(["bench", "speed", *QUICK, "--engines", "[int8]", "--out", str(tmp_path)]) == 0
    first = Speed.from_json(record.read_text())
    assert main(["bench", "speed", *QUICK, "--engines", "[int8]", "--resume", "--out", str(tmp_path)]) == 0
    assert Speed.from_json(record.read_text()) == first
    assert main(["bench", "speed", *QUICK, "--seed", "1", "--resume", "--out", str(tmp_path)]) == 2
    assert "interrupted run" in capsys.readouterr().err
    record.write_text("{}")
    assert main(["bench", "speed", *QUICK, "--resume", "--out", str(tmp_path)]) == 2
    shown = "".join(capsys.readouterr().err.split())
    assert all("".join(said.split()) in shown for said in ("This is no Speed", str(record)))


def test_bench_refuses_what_it_does_not_know(tmp_path, capsys):
    assert main(["bench", "speed", "--networks", "[resnet19-32]", "--out", str(tmp_path)]) == 2
    assert "Did you mean 'resnet18-32'" in capsys.readouterr().err
    assert main(["bench", "speed", *QUICK[:2], "--rounds", "0", "--out", str(tmp_path)]) == 2
    assert "rounds" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    assert main(["bench", "speed", "--out", str(tmp_path / "file" / "deep")]) == 2  # before it measures
    assert "cannot be written" in capsys.readouterr().err
