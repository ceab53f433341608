"""What the command line says to what it cannot read."""

import pytest

from tospike.cli import main


@pytest.mark.parametrize(
    ("line", "said"),
    [("", ["No command", "tospike demo"]), ("covert a b", ["'covert'", "Did you mean 'convert'"]), ("convert", ["no NETWORK, no OUT", "tospike convert NETWORK OUT"]),
     ("convert a", ["no OUT"]), ("convert a b c", ["left over", "got: c"]), ("convert a b --batch_sise 3", ["'--batch_sise'", "Did you mean '--batch_size'"]),
     ("convert a b --batch_size x", ["--batch_size", "'x'", "an integer", "tospike convert --help"]), ("evaluate r --engine q", ["--engine", "'q'", "one of auto, float"]),
     ("evaluate r --time_steps 1,x", ["--time_steps", "integers, e.g. 1,2"]), ("evaluate r --delay x", ["--delay", "an integer or one of auto"]),
     ("bench", ["no WHAT"]), ("report", ["no FOLDERS"]), ("convert a b --config nowhere.yaml", ["--config", "nowhere.yaml"])],
)  # fmt: skip
def test_a_line_that_cannot_be_read_is_told_what_to_do(line, said, capsys):
    assert main(line.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: OptionError")
    assert [part for part in said if part not in told] == []
    assert not {"<class", "typing.", "Parser key"} & set(told.split())
    assert "do this: " in told


def test_help_and_version_are_no_errors(capsys):
    for line in (["--help"], ["convert", "--help"], ["--version"]):
        with pytest.raises(SystemExit) as done:
            main(line)
        assert done.value.code == 0
    assert "tospike" in capsys.readouterr().out
