"""Two processes that share the data measure, convert and score what one does with all of it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import tospike as ts
from tospike import processes, trainable
from tospike.testing import _Residual

METHODS = {
    "ltb": ts.LTB(batches=6), "robust-norm": ts.RobustNorm(percentile=1.0), "light": ts.LightCalibration(4, 3, 2), "auto": ts.Auto(4, 3, 2),
    "descent": ts.Auto(4, 3, 2, spikes="binary", iterations=5), "differential": ts.Differential(4, batches=3), "advanced": ts.AdvancedCalibration(4, 3, 2),
}  # fmt: skip


def network():
    torch.manual_seed(0)
    ann, x = _Residual(), torch.randn(64, 1, 8, 8)
    ann(x)
    return ann.eval()


def batches(rank, world):
    """Return this process's share of three batches of 32 samples."""
    torch.manual_seed(1)
    whole = [torch.randn(32, 1, 8, 8) * (1 + number) for number in range(3)]
    return [x.chunk(world)[rank] for x in whole]


def followed(snn, ann, loader):
    """Return in how many of its batches a process met the distance to the ANN, which leaves the loss half-way."""
    met, tuning = [], ts.Tuning(4, normalise=False, distance=1.0, distance_share=0.5)

    def counted(*given):
        met.append(distance(*given))
        return met[-1]

    with pytest.MonkeyPatch.context() as patch:
        distance = trainable.distance
        patch.setattr(trainable, "distance", counted)
        ts.tune(snn, tuning, loader, ann=ann, epochs=2, lr=0.01, progress=False)
    return len(met)


def measured(rank, world):
    ann, found = network(), {}
    share = batches(rank, world)
    with torch.no_grad():
        labelled = [(x, ann(x).argmax(1)) for x in share]
    for name, method in METHODS.items():
        snn = ts.convert(ann, method, calibration=share, progress=False)
        result = ts.evaluate(snn, labelled, time_steps=(2, 4), reference=ann, confidence=(0.5,), progress=False)
        found[name] = {
            "thresholds": [theta.flatten().tolist() for theta in snn.conversion.thresholds.values()],
            "weights": [snn.graph.get_submodule("fc").weight.sum().item(), snn.graph.get_submodule("conv.0").bias.sum().item()],
            "samples": snn.conversion.calibration_samples, "delay": snn.conversion.delay, "code": str(snn.conversion.settings.get("code")),
            "curve": list(result.curve.values()), "reference": result.reference, "scored": result.samples,
            "rates": list(result.rates.values()), "operations": list(result.operations.values()),
            "layers": [[layer.multiply_adds, *layer.operations.values()] for layer in result.layers],
            "spikes": list(result.spikes_per_neuron.values()), "exits": [list(values.values()) for values in result.exits.values()],
        }  # fmt: skip
    samples = TensorDataset(
        *(torch.cat(parts) for parts in zip(*((x, ann(x).argmax(1)) for x in batches(0, 1)), strict=True))
    )
    snn = ts.convert(ann, METHODS["light"], calibration=share, progress=False)
    loader = DataLoader(samples, 32 // world)
    tuned = ts.tune(snn, ts.Tuning(4, normalise=False), loader, loader, ann=ann, epochs=2, lr=0.01, progress=False)
    normalised = ts.tune(snn, ts.Tuning(4), loader, ann=ann, epochs=1, lr=0.01, progress=False)
    found["followed"] = followed(snn, ann, loader)
    found["normalised"] = normalised.graph.get_submodule("conv.0").weight.flatten().tolist()
    found["tune"] = {
        "thresholds": [theta.flatten().tolist() for theta in tuned.conversion.thresholds.values()],
        "weights": [tuned.graph.get_submodule("fc").weight.flatten().tolist()],
        "scores": [record.test_scores["top1"] for record in tuned.conversion.tuned.history.records],
        "moved": (tuned.graph.get_submodule("fc").weight - snn.graph.get_submodule("fc").weight).norm().item(),
    }
    return found


SCRIPT = """
import accelerate, json, os, pathlib, sys, torch
sys.path.insert(0, {folder!r})
from test_processes import measured
torch.set_num_threads(1)
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
pathlib.Path({path!r} + str(rank)).write_text(json.dumps(measured(rank, world)))
state = accelerate.PartialState()
state.wait_for_everyone()  # one that leaves early tears the connection of the other
state.destroy_process_group()
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "script.py"
    script.write_text(SCRIPT.format(folder=os.path.dirname(__file__), path=str(folder / "found")))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"found{rank}").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def alone():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield measured(0, 1)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [*METHODS, "tune"])
def test_two_processes_measure_convert_and_score_as_one(shared, alone, name):
    first, second = shared
    assert first[name] == second[name]
    wanted = alone[name]
    for key, value in first[name].items():
        if isinstance(value, str):
            assert value == wanted[key], key
        elif isinstance(value, list) and value and isinstance(value[0], list):
            assert len(value) == len(wanted[key])
            for one, other in zip(value, wanted[key], strict=True):
                assert one == pytest.approx(other, rel=2e-3, abs=1e-4), key
        else:
            assert value == pytest.approx(wanted[key], rel=2e-3, abs=1e-4), key


def test_the_distance_leaves_the_loss_where_it_does_with_one_process(shared, alone):
    assert [found["followed"] for found in (*shared, alone)] == [3, 3, 3]  # of 6 batches of each


def test_normalised_layers_are_the_same_in_all_processes(shared):
    first, second = shared
    assert first["normalised"] == second["normalised"]


def test_one_process_changes_nothing():
    value = torch.tensor([1.0, 2.0])
    assert processes.count() == 1
    assert processes.total(value) is processes.largest(value) is value
    assert processes.together({"x": value})["x"] is value
