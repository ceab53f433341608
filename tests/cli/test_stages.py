"""The way of a user's own network through the commands: convert, evaluate, diagnose, report, export."""

import json
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import tospike as ts
from tospike import data
from tospike.cli import main
from tospike.cli.arguments import as_options
from tospike.cli.commands import train
from tospike.cli.sources import network_of
from tospike.cli.stages import convert

MINE = """
from torch import nn

def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "my_network.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "my_network", raising=False)
    return tmp_path


CONVERT = [
    "convert",
    "my_network:network",
    "runs/mine",
    "--method",
    "ltb",
    "--settings.batches",
    "3",
    "--data",
    "digits",
]


def answer(capsys, *arguments):
    """Run a command with --json and return what it printed, which must be JSON alone."""
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_from_a_network_to_a_page(here, capsys):
    torch.manual_seed(0)
    assert answer(capsys, *CONVERT)["sites"] == 1
    result = answer(capsys, "evaluate", "runs/mine", "--time_steps", "[1, 4]")
    assert sorted(result["curve"]) == ["1", "4"]
    assert result["samples"] == 360
    assert result["reference"] is not None
    found = answer(capsys, "diagnose", "runs/mine", "--time_steps", "4", "--samples", "100", "--batch_size", "50")
    assert found["samples"] == 100
    assert main(["report", "runs/mine", "--pictures", "pictures"]) == 0
    assert "tospike convert --config runs/mine/convert.yaml" in (here / "runs/mine/report.html").read_text()
    assert (here / "pictures" / "curve.svg").exists()
    assert sorted(path.name for path in (here / "runs/mine").iterdir()) == [
        "convert.yaml", "diagnose.yaml", "diagnosis.json", "evaluate.yaml", "report.html", "result.json", "snn.tospike",
    ]  # fmt: skip


def test_a_run_repeats_goes_on_and_is_not_overwritten(here, capsys):
    answer(capsys, *CONVERT)
    answer(capsys, "evaluate", "runs/mine", "--samples", "50", "--time_steps", "[2]")
    kept = (here / "runs/mine/result.json").stat().st_mtime_ns
    answer(capsys, "evaluate", "runs/mine", "--samples", "50", "--time_steps", "[2]")
    assert (here / "runs/mine/result.json").stat().st_mtime_ns == kept  # nothing was done twice
    assert main([*CONVERT[:-4], "--settings.batches", "4", "--data", "digits"]) == 2
    assert "other options" in capsys.readouterr().err
    assert main(["convert", "--config", "runs/mine/convert.yaml", "--force"]) == 0
    capsys.readouterr()
    settings = yaml.safe_load((here / "runs/mine/convert.yaml").read_text())
    assert settings["settings"] == {"batches": 3}
    ann = sys.modules["my_network"].network()
    torch.save({"state_dict": {f"module.{k}": v for k, v in ann.state_dict().items()}}, "weights.pt")
    for name in ("one", "two"):
        answer(capsys, *CONVERT[:2], f"runs/{name}", *CONVERT[3:], "--weights", "weights.pt")
    assert (here / "runs/one/snn.tospike").read_bytes() == (here / "runs/two/snn.tospike").read_bytes()


def test_results_follow_the_network_that_was_converted_anew(here, capsys):
    answer(capsys, *CONVERT)
    first = answer(capsys, "evaluate", "runs/mine", "--time_steps", "[2]")
    answer(capsys, "diagnose", "runs/mine", "--time_steps", "2")
    answer(capsys, *CONVERT[:3], "--method", "rmp", "--data", "digits", "--force")
    again = answer(capsys, "evaluate", "runs/mine", "--time_steps", "[2]")
    assert [first["method"], again["method"]] == ["ltb", "rmp"]
    before = (here / "runs/mine/diagnosis.json").read_text()
    answer(capsys, "diagnose", "runs/mine", "--time_steps", "2")
    assert (here / "runs/mine/diagnosis.json").read_text() != before
    (here / "runs/mine/result.json").unlink()  # what is gone is made again
    assert answer(capsys, "evaluate", "runs/mine", "--time_steps", "[2]")["method"] == "rmp"
    (here / "runs/mine/snn.tospike").unlink()
    assert main(["evaluate", "runs/mine", "--time_steps", "[2]"]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_converted_network_is_exported(here, capsys):
    answer(capsys, *CONVERT)
    assert main(["export", "runs/mine", "--weights", "--out", "net.nir", "--target", "norse", "--no_alone"]) == 0
    shown = capsys.readouterr().out
    for words in ("range, in thresholds", "8 bits", "loss of the weights", "reset_method=reset_subtract"):
        assert words in shown
    assert (here / "net.nir").exists()
    assert main(["export", "runs/mine/snn.tospike", "--out", "net.pt2"]) == 0
    assert "steps" in capsys.readouterr().out
    assert main(["export", "runs/mine", "--out", "net.nir"]) == 2
    assert "--force" in capsys.readouterr().err
    assert main(["export", "runs/mine", "--out", "net.txt"]) == 2
    assert "*.onnx" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # of torch's exporter, about itself
def test_an_onnx_file_is_a_network(here, capsys):
    torch.manual_seed(1)
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    x = torch.rand(2, 1, 8, 8)
    axes = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    torch.onnx.export(ann, (x,), "net.onnx", dynamo=False, opset_version=13, do_constant_folding=False, **axes)
    assert answer(capsys, "check", "net.onnx", "--shape", "[1, 1, 8, 8]")["ok"]
    answer(capsys, "convert", "net.onnx", "runs/onnx", "--method", "ltb", "--settings.batches", "3", "--data", "digits")
    torch.testing.assert_close(network_of("net.onnx")(x), ann(x))


def test_networks_of_libraries_and_weights_as_scripts_leave_them(here):
    torch.manual_seed(0)
    made = network_of("torchvision:resnet18").state_dict()
    torch.save({"net": {f"module.{name}": value for name, value in made.items()}, "epoch": 3}, "wrapped.pt")
    torch.save({f"module._orig_mod.{name}": value for name, value in made.items()}, "compiled.pt")
    save_file(made, "plain.safetensors")
    for file in ("wrapped.pt", "compiled.pt", "plain.safetensors"):
        loaded = network_of("torchvision:resnet18", file).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in made.items())
    assert not network_of("timm:resnet10t").training


def test_a_folder_of_images_is_data(here, capsys):
    for part in ("train", "test"):
        for number, label in enumerate(("dark", "light")):
            folder = here / "images" / part / label
            folder.mkdir(parents=True)
            for shade in range(4):
                Image.new("RGB", (12, 12), (120 * number + 20 * shade,) * 3).save(folder / f"{shade}.png")
    (here / "my_network.py").write_text(MINE.replace("Conv2d(1,", "Conv2d(3,").replace("10)", "2)"))
    answer(
        capsys,
        "convert",
        "my_network:network",
        "runs/images",
        "--method",
        "ltb",
        "--settings.batches",
        "2",
        "--data",
        "images",
        "--data_options.size",
        "8",
    )
    assert answer(capsys, "evaluate", "runs/images", "--time_steps", "[2]")["samples"] == 8


REFUSED = {
    "an unknown network": (["convert", "nothing", "out"], "no such network"),
    "an unknown network of torchvision": (["check", "torchvision:resnet1"], "no such network"),
    "an unknown method": (
        ["convert", "my_network:network", "out", "--method", "ltbb", "--data", "digits"],
        "Did you mean 'ltb'",
    ),
    "settings without a method": (["convert", "my_network:network", "out", "--settings.batches", "3"], "need a method"),
    "an unknown data set": (["convert", "my_network:network", "out", "--data", "digitz"], "Did you mean 'digits'"),
    "weights that are not there": (
        ["convert", "my_network:network", "out", "--weights", "no.pt"],
        "weights cannot be read",
    ),
    "weights that run code": (
        ["convert", "my_network:network", "out", "--weights", "code.pt"],
        "weights cannot be read",
    ),
    "weights of another network": (["convert", "my_network:network", "out", "--weights", "other.pt"], "do not fit"),
    "weights that are none": (["convert", "my_network:network", "out", "--weights", "list.pt"], "no state dict"),
    "a folder that cannot be written to": ([*CONVERT[:2], "/proc/nope", *CONVERT[3:]], "/proc"),
    "an SNN that is not there": (["evaluate", "no.tospike", "--out", "x", "--data", "digits"], "no such run"),
    "a folder without an SNN": (["evaluate", "empty", "--data", "digits"], "cannot be read"),
    "a file of another tool": (["evaluate", "other.pt", "--out", "x", "--data", "digits"], "another tool"),
    "a report of nothing": (["report", "empty"], "tospike evaluate"),
    "two folders without a page": (["report", "empty", "empty2"], "--out"),
    "weights that are text": (
        ["convert", "my_network:network", "out", "--weights", "text.pt"],
        "weights cannot be read",
    ),
    "a shape that is none": (["check", "my_network:network", "--shape", "[1, -1, 8, 8]"], "sizes >= 1"),
    "a network that ends the program": (["check", "ending:network"], "cannot be built"),
    "options of a wrong kind": (["evaluate", "kinds"], "options of a run"),
    "an ONNX file that is none": (["check", "broken.onnx"], "ONNX"),
    "damaged options": (["evaluate", "damaged"], "options of a run"),
    "a damaged result": (["report", "torn"], "no Result"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused(what, here, capsys):
    torch.save({"a": torch.zeros(2)}, "other.pt")
    torch.save([1, 2], "list.pt")
    torch.save(nn.Linear(2, 2), "code.pt")
    for name in ("empty", "empty2", "damaged", "torn"):
        (here / name).mkdir()
    (here / "damaged" / "convert.yaml").write_text("[1, 2")
    (here / "torn" / "result.json").write_text('{"task": ')
    (here / "kinds").mkdir()
    (here / "kinds" / "convert.yaml").write_text("data: 3")
    (here / "text.pt").write_text("hello")
    (here / "ending.py").write_text("def network():\n    raise SystemExit(3)\n")
    (here / "broken.onnx").write_bytes(b"not onnx")
    before = sorted(here.rglob("*"))
    arguments, said = REFUSED[what]
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert "do this" in shown.err or "/proc" in shown.err
    assert "Traceback" not in shown.err
    left = [path for path in sorted(here.rglob("*")) if path not in before and "__pycache__" not in path.parts]
    assert left == []


def test_an_interrupted_evaluation_is_kept_and_done_anew(here, capsys, monkeypatch):
    answer(capsys, *CONVERT)
    evaluate = ts.evaluate

    def interrupted(snn, batches, **options):
        def stopping():
            yield next(iter(batches))
            raise KeyboardInterrupt

        return evaluate(snn, stopping(), **options)

    answer(capsys, "evaluate", "runs/mine", "--batch_size", "50", "--time_steps", "[2]")
    monkeypatch.setattr(ts, "evaluate", interrupted)
    assert main(["evaluate", "runs/mine", "--batch_size", "50", "--time_steps", "[2]", "--force"]) == 130
    assert json.loads((here / "runs/mine/result.json").read_text())["samples"] == 50
    assert not (here / "runs/mine/evaluate.yaml").exists()
    monkeypatch.undo()
    monkeypatch.syspath_prepend(here)
    monkeypatch.chdir(here)
    assert answer(capsys, "evaluate", "runs/mine", "--batch_size", "50", "--time_steps", "[2]")["samples"] == 360


def test_help_has_an_example_and_completion_is_there(capsys):
    for command in ("convert", "evaluate", "diagnose", "report", "export", "check"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"Example: tospike {command}" in capsys.readouterr().out.replace("\n", " ")
    with pytest.raises(SystemExit):
        main(["--print_completion", "shtab-bash"])
    assert "complete" in capsys.readouterr().out


def test_a_page_does_not_mix_an_snn_with_the_result_of_another(here, capsys):
    answer(capsys, *CONVERT)
    answer(capsys, "evaluate", "runs/mine", "--time_steps", "2")
    answer(capsys, "diagnose", "runs/mine", "--time_steps", "2")
    answer(capsys, *CONVERT[:3], "--method", "rmp", "--data", "digits", "--force")
    assert main(["report", "runs/mine"]) == 2
    said = capsys.readouterr().err
    assert "tospike evaluate runs/mine" in said
    assert "tospike diagnose runs/mine" in said
    assert not (here / "runs/mine/report.html").exists()
    answer(capsys, "evaluate", "runs/mine", "--time_steps", "2")
    answer(capsys, "diagnose", "runs/mine", "--time_steps", "2")
    assert main(["report", "runs/mine"]) == 0


def test_an_interrupted_command_leaves_no_outcome_of_an_snn_that_was_replaced(here, capsys, monkeypatch):
    answer(capsys, *CONVERT)
    answer(capsys, "evaluate", "runs/mine", "--time_steps", "2")
    answer(capsys, *CONVERT[:3], "--method", "rmp", "--data", "digits", "--force")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ts, "evaluate", interrupted)
    assert main(["evaluate", "runs/mine", "--time_steps", "2"]) == 130
    assert main(["report", "runs/mine"]) == 2
    assert "holds no result" in capsys.readouterr().err


def test_what_cannot_be_run_leaves_the_record_of_what_was(here, capsys):
    answer(capsys, *CONVERT)
    answer(capsys, "evaluate", "runs/mine", "--time_steps", "2")
    assert main(["evaluate", "runs/mine", "--time_steps", "2", "--data", "nosuch", "--force"]) == 2
    kept = (here / "runs/mine/result.json").stat().st_mtime_ns
    answer(capsys, "evaluate", "runs/mine", "--time_steps", "2")
    assert (here / "runs/mine/result.json").stat().st_mtime_ns == kept


def test_a_network_in_the_folder_is_found_and_one_that_does_not_convert_ends_with_1(tmp_path):
    (tmp_path / "smooth.py").write_text(MINE.replace("ReLU", "GELU"))
    program = [sys.executable, "-m", "tospike"]
    arguments = ["convert", "smooth:network", "out", "--method", "ltb", "--data", "digits"]
    done = subprocess.run([*program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Pass --analog gelu, or --analog auto" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [["--time_steps", "2,4"], ["--time_steps=2,4"], ["--time_steps", "[2, 4]"]])
def test_lists_need_no_brackets(given, here, capsys):
    answer(capsys, *CONVERT)
    assert sorted(answer(capsys, "evaluate", "runs/mine", "--samples", "50", *given)["curve"]) == ["2", "4"]


def test_the_record_names_the_command_that_repeats_it(here, capsys):
    answer(capsys, *CONVERT)
    again = next(line for line in (here / "runs/mine/convert.yaml").read_text().splitlines() if "Again" in line)
    (here / "runs/mine/snn.tospike").unlink()
    assert main(again.partition("tospike ")[2].split()) == 0
    assert (here / "runs/mine/snn.tospike").exists()


def test_remedies_name_options_of_the_command_and_leave_the_rest():
    said = as_options(
        'Pass resume=False, analog=["gelu"], calibration=loader, batches=9 or T=8; see torch(x=1).', convert
    )
    assert said == "Pass resume=False, --analog gelu, --data NAME, --settings.batches 9 or T=8; see torch(x=1)."
    assert as_options("Pass resume=False.", train) == "Pass --no_resume."


@pytest.mark.skipif(not data.is_available("fashion-mnist"), reason="Fashion-MNIST is not on this machine")
def test_an_snn_of_the_zoo_is_evaluated_beside_the_network_that_it_comes_from(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "fashion-resnet20-mice-t4", "--samples", "250"]) == 2
    assert "--out fashion-resnet20-mice-t4" in capsys.readouterr().err
    found = answer(
        capsys, "evaluate", "fashion-resnet20-mice-t4", "--samples", "250", "--time_steps", "4", "--out", "runs/mice"
    )
    assert found["reference"] - found["curve"]["4"] < 3
    assert answer(
        capsys, "diagnose", "fashion-resnet20-mice-t4", "--samples", "50", "--time_steps", "4", "--out", "runs/mice"
    )["sites"]
