import json
import subprocess
import sys

import pytest

import tospike as ts
from tospike import data, zoo
from tospike.cli import main
from tospike.zoo.recipes import recipe


def test_methods_lists_every_method_with_its_spikes(capsys):
    assert main(["methods"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ts.METHODS)
    assert all(word in shown for word in ("binary", "ternary", "graded"))


def test_methods_describes_one_with_settings_and_source(capsys):
    assert main(["methods", "--name", "ftbc"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("ts.FTBC", "time_steps", "required", "rounds", "Source: Wu et al."))


@pytest.mark.parametrize("name", ["rts", "RTS", "threshold-shift"])
def test_methods_are_found_by_the_name_of_their_class_too(name, capsys):
    assert isinstance(ts.method(name, time_steps=8), ts.RTS)
    assert main(["methods", "--name", name]) == 0
    assert "threshold-shift: ts.RTS" in capsys.readouterr().out


def test_the_module_runs_and_tells_its_version():
    done = subprocess.run([sys.executable, "-m", "tospike", "--version"], capture_output=True, text=True, check=True)
    assert ts.__version__ in done.stdout


def test_check_of_a_zoo_network_says_that_it_converts(capsys):
    assert main(["check", "fashion-resnet20"]) == 0
    assert "It converts." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "fashion-resnet"], "Did you mean"),
        (["check", "no.such:network"], "in the folder that holds it"),
        (["evaluate", "nothing"], "tospike convert NETWORK"),
        (["convert", "fashion-resnet20", "nothing", "--method", "ternary"], "Pass --settings.time_steps 8."),
        (["train", "digits-relu", "--tuning_epochs", "3"], "no tuning"),
        (["check", "nothing.onnx"], "no such file"),
        (["preview", "./nothing", "nothing.png"], "no such folder"),
        (["methods", "--name", "ltbb"], "Did you mean 'ltb'"),
        (["check", "nothing"], "module.path:callable"),
        (["check", "os:getcwd"], "nn.Module"),
        (["check", ":"], "module:callable"),
        (["demo", "--samples", "-5"], "samples"),
        (["train", "digits-relu", "--epochs", "1", "--out", "/proc/nope"], "/proc"),
        (["demo", "--dataset", "mnist"], "Unknown demo data"),
    ],
)
def test_errors_are_messages_with_status_2(arguments, said, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Traceback" not in shown


def test_train_writes_weights_history_and_checkpoint(tmp_path, capsys):
    assert main(["train", "digits-relu", "--out", str(tmp_path), "--epochs", "1"]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".pt", ".json", ".jsonl", ".safetensors"}
    assert len(json.loads((tmp_path / "digits-relu.json").read_text())["records"]) == 1


TUNED = """
name: mine
network: digits_net
network_options: {}
data: digits
method: mice
method_options: {time_steps: 2}
epochs: 2
batch_size: 64
lr: 0.02
weight_decay: 0.0
start: digits-relu
tunings: [{tuning: joint-errors, options: {time_steps: 2}, epochs: 1}]
expected: {2: 12.5}
"""


def test_a_recipe_of_ones_own_is_trained_and_tuned(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(TUNED)
    arguments = ["train", str(tmp_path / "mine.yaml"), "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "tospike train digits-relu" in capsys.readouterr().err  # what it starts from comes first
    assert main(["train", "digits-relu", "--out", str(tmp_path), "--epochs", "3"]) == 0
    (tmp_path / "options.yaml").write_text(f"recipe: {tmp_path / 'mine.yaml'}\nout: {tmp_path}\n")
    assert main(["train", "--config", str(tmp_path / "options.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "mine.tospike, T = 2" in shown.replace("\n", "")
    assert ts.load(tmp_path / "mine.tospike").conversion.tuned.settings["time_steps"] == 2
    assert "12.5" in shown
    tuned = json.loads((tmp_path / "mine-tuned-1.json").read_text())
    assert tuned["records"][0]["test_scores"]["top1"] > 80
    assert (tmp_path / "mine-tuned-1.jsonl").exists()


CONVERTED = TUNED.replace("method: mice\nmethod_options: {time_steps: 2}\nepochs: 2", "method: relu\nmethod_options: {}\nepochs: 0").replace(
    "epochs: 1}]", "epochs: 1}, {tuning: dsr, options: {time_steps: 2}, epochs: 1, lr: 0.001}]\nconversion: auto\nconversion_options: {time_steps: 2, batches: 2}"
)  # fmt: skip


def test_a_recipe_tunes_what_a_training_free_method_makes_of_trained_weights(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(CONVERTED)
    out = ["--out", str(tmp_path)]
    assert main(["train", "digits-relu", "--epochs", "3", *out]) == 0
    assert main(["train", str(tmp_path / "mine.yaml"), *out]) == 0
    shown = capsys.readouterr().out
    assert "tuning 1 of 2, T = 2" in shown
    assert "tuning 2 of 2, T = 2" in shown
    assert not (tmp_path / "mine.safetensors").exists()  # it would be digits-relu again
    made = ts.load(tmp_path / "mine.tospike").conversion
    assert (made.method, made.tuned.settings["name"], made.neuron.spikes) == ("auto", "DSR", "ternary")
    assert (
        made.tuned.history.records[0].lr < 2e-6
    )  # the end of a cosine from 0.001; that from the default is a hundred times as high
    first = (tmp_path / "mine.tospike").read_bytes()
    (tmp_path / "mine.tospike").unlink()
    assert main(["train", str(tmp_path / "mine.yaml"), *out]) == 0  # from the checkpoints of both
    assert (tmp_path / "mine.tospike").read_bytes() == first


@pytest.mark.parametrize(("line", "said"), [
    ("tunings: [{tuning: micee, options: {}, epochs: 1}]", "micee"), ("tunings: [{tuning: dsr, options: {time_steps: 2}, epochs: 0}]", "tunings[0].epochs=4"),
    ("tunings: [{tuning: dsr, options: {}, epochs: 1}]", "time_steps"), ("tunings: [{tuning: dsr, options: 3, epochs: 1}]", "tunings[0].options"),
    ("tunings: [{tuning: dsr, epochs: 1}]", "lacks fields"), ("tunings: [{tuning: dsr, option: {}, epochs: 1}]", "Did you mean 'options'"),
    ("tunings: [{tuning: dsr, options: {time_steps: 2}, epochs: 1, lr: high}]", "tunings[0].lr"), ("tunings: [{tuning: 3, options: {}, epochs: 1}]", "the name of a tuning"),
    ("tunings: []\nepochs: 0", "with `start` and `tunings`"), ("tunings: 3", "a list of mappings"), ("conversion: autoo", "autoo"), ("start: ''\nepochs: 0", "with `start` and `tunings`"), ("start: ''", "learns from"),
    ("epochs: 2.5", "epochs"), ("expected: null", "expected"),
])  # fmt: skip
def test_a_recipe_is_checked_before_it_is_trained(line, said, tmp_path, capsys):
    keys = tuple(f"{one.split(':')[0]}:" for one in line.splitlines())
    kept = [other for other in TUNED.splitlines() if not other.startswith(keys)]
    (tmp_path / "mine.yaml").write_text("\n".join([*kept, line]))
    assert main(["train", str(tmp_path / "mine.yaml"), "--out", str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_recipes_are_listed_and_written(capsys, tmp_path):
    assert main(["recipes"]) == 0
    shown = capsys.readouterr().out
    assert "cifar10-wide-resnet20-mice-t8" in shown
    assert "95.74" in shown
    assert main(["recipes", "--name", "digits-qcfs-l4"]) == 0
    (tmp_path / "my.yaml").write_text(capsys.readouterr().out)
    assert recipe(str(tmp_path / "my.yaml")) == recipe("digits-qcfs-l4")


def test_methods_lists_tunings_too(capsys):
    assert main(["methods"]) == 0
    assert "layer-tuning" in capsys.readouterr().out
    assert main(["methods", "--name", "ptl"]) == 0
    assert "TPAMI" in capsys.readouterr().out


def test_demo_on_digits_writes_curve_and_results(tmp_path, capsys):
    assert main(["demo", "--dataset", "digits", "--out", str(tmp_path), "--batches", "20"]) == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "different networks" in (tmp_path / "report.html").read_text()  # each was trained on its own
    result = json.loads((tmp_path / "LTB.json").read_text())
    assert sorted(map(int, result["curve"])) == [1, 2, 4, 8, 16, 32]
    assert result["samples"] == 360
    assert result["curve"]["32"] > 80
    assert "T=32" in capsys.readouterr().out


@pytest.mark.skipif(not data.is_available("fashion-mnist"), reason="Fashion-MNIST is not on this machine")
def test_demo_takes_the_networks_of_its_data_from_the_zoo(tmp_path, capsys):
    assert main(["demo", "--out", str(tmp_path), "--batches", "30", "--samples", "250"]) == 0
    shown = capsys.readouterr().out
    assert "Data: fashion-mnist" in shown
    curves = {path.stem: json.loads(path.read_text())["curve"] for path in tmp_path.glob("*.json")}
    assert sorted(curves) == ["LTB", "QCFS L=4", "QCFS L=8"]
    assert all(curve["32"] > 80 for label, curve in curves.items() if label != "LTB")
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_options_can_stand_in_a_file(tmp_path, capsys):
    file = tmp_path / "options.yaml"
    file.write_text("network: fashion-resnet20\n")
    assert main(["check", "--config", str(file)]) == 0


def test_zoo_networks_load_in_eval_mode():
    for name in zoo.available():
        assert not zoo.load(name).training


def test_interrupting_ends_with_the_status_of_the_shell_and_says_what_was_kept(tmp_path, capsys, monkeypatch):
    update, calls = ts.Classification.prediction, []

    def stop_later(self, output, context=None):
        calls.append(output)
        if len(calls) > 10:  # in the second batch: a batch has the ANN's output and six checkpoints
            raise KeyboardInterrupt
        return update(self, output)

    monkeypatch.setattr(
        "tospike.cli.commands._demo_networks", lambda *_: [("LTB", zoo.build(recipe("digits-relu")), ts.LTB(batches=5))]
    )
    monkeypatch.setattr(ts.Classification, "prediction", stop_later)
    assert main(["demo", "--dataset", "digits", "--out", str(tmp_path)]) == 130
    assert "interrupted after 250 samples" in capsys.readouterr().err
    assert json.loads((tmp_path / "LTB.json").read_text())["finished"] is False


def test_check_looks_at_what_of_a_detector_is_simulated(capsys):
    pytest.importorskip("torchvision")
    assert main(["check", "torchvision:fcos_resnet50_fpn", "--shape", "[1, 3, 64, 64]"]) == 1
    assert "groupnorm" in capsys.readouterr().out
    assert main(["check", "torchvision:retinanet_resnet50_fpn", "--shape", "[1, 3, 64, 64]"]) == 0


def test_check_takes_leave_to_run_in_analog(capsys):
    pytest.importorskip("torchvision")
    arguments = ["check", "torchvision.models:mobilenet_v3_small", "--shape", "[1, 3, 32, 32]"]
    assert main(arguments) == 1
    assert "--analog" in capsys.readouterr().out
    assert main([*arguments, "--analog", "[auto]"]) == 0
    assert "Analog: 9 x mul." in capsys.readouterr().out
