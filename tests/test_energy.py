import json
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

import tospike as ts
from tospike.energy import frames_per_watt
from tospike.errors import DataError, OptionError


def made(**changes):
    """Return a result with one layer in each part, whose energies can be had by hand."""
    layers = [
        ts.LayerWork("stem", "constant", 100.0, {2: 100.0, 8: 100.0}, "float32"),
        ts.LayerWork("a", "spiking", 1000.0, {2: 600.0, 8: 6000.0}, "float32"),
        ts.LayerWork("gate", "analog", 10.0, {2: 20.0, 8: 80.0}, "float32"),
        ts.LayerWork("fc", "read-out", 50.0, {2: 50.0, 8: 50.0}, "float32"),
    ]
    plain = ts.Result(
        task="Classification", headline="top1", unit="%", curve={2: 85.5, 8: 95.5}, scores={}, delays={}, reference=100.0, reference_scores={},
        reference_name="ANN", approaches="", rates={"relu": 0.1}, spikes_per_neuron={2: 0.2, 8: 0.8}, operations={2: 600.0, 8: 6000.0},
        analog_operations={2: 20.0, 8: 80.0}, method="ltb", settings={}, seed=0, spikes="binary", capacity=1, calibration_samples=0,
        neurons_added=0, latency={2: 2, 8: 8}, samples=10, layers=layers, neurons=64,
        uncounted=["block.0 (add, net.py:3)", "block.1 (add, net.py:3)", "(top level) (softmax, net.py:9)"],
    )  # fmt: skip
    return replace(plain, **changes)


def test_reproduces_the_arithmetic_that_ltb_published():
    """ResNet-34 on ImageNet: 22 FPS/W from 3.6 G FLOPs, 622 FPS/W from 20.86 G synaptic operations, 28 times as many."""
    table = ts.ENERGY_TABLES["qiao-2015"]
    ann = frames_per_watt(table.joules(multiply_adds=3.6e9))
    snn = frames_per_watt(table.joules(synaptic_operations=20.86e9))
    assert (int(ann), int(snn), round(snn / ann)) == (22, 622, 28)


def test_the_result_that_ltb_published_gives_the_same():
    layer = ts.LayerWork("all", "spiking", 3.6e9, {64: 20.86e9, 128: 33.42e9}, "float32")
    result = made(curve={64: 90.1, 128: 95.1}, layers=[layer], operations=layer.operations)
    cost = ts.energy(result, table="qiao-2015")
    assert (int(cost.ann_frames_per_watt), int(cost.snn_frames_per_watt[64]), int(cost.snn_frames_per_watt[128])) == (
        22,
        622,
        388,
    )
    assert (cost.sop90, cost.sop95) == (20.86e9, 33.42e9)


def test_energy_of_every_part_by_hand():
    cost = ts.energy(made())
    assert cost.ann == pytest.approx(1160 * 4.6e-12)
    assert cost.parts[8] == pytest.approx(
        {"constant": 460e-12, "spiking": 5400e-12, "analog": 368e-12, "read-out": 230e-12}
    )
    assert cost.snn[2] == pytest.approx((460 + 540 + 92 + 230) * 1e-12)
    assert cost.ratio[2] == pytest.approx(1322 / 5336)
    assert cost.snn_frames_per_watt[2] == pytest.approx(1e12 / 1322)
    assert cost.break_even == pytest.approx(4.6 / 0.9)
    assert cost.spikes_per_synapse == {2: 0.6, 8: 6.0}
    assert cost.updates == {2: 128, 8: 512}
    assert cost.uncounted == {"add": 2, "softmax": 1}
    assert (cost.sop90, cost.sop95) == (6000.0, 6000.0)
    every = ts.energy(made(), first_layer="every step")
    assert every.parts[8] == pytest.approx(cost.parts[8] | {"constant": 8 * 460e-12})


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"reference": None}, (None, None)), ({"higher_is_better": False}, (None, None)), ({"reference": -1.0}, (None, None)),
        ({"curve": {8: 91.0, 2: 90.0}}, (6000.0, None)), ({"curve": {8: 96.0, 2: 95.0}}, (600.0, 6000.0)), ({"curve": {2: 1.0, 8: 90.0}}, (None, None)),
    ],
)  # fmt: skip
def test_sop_at_a_share_of_the_reference_is_where_the_score_first_exceeds_it(changes, wanted):
    cost = ts.energy(made(**changes))
    assert (cost.sop90, cost.sop95) == wanted


def test_says_plainly_when_the_snn_costs_more_and_what_is_left_out():
    said = str(ts.energy(made()))
    assert "costs MORE than the ANN: 1.21 times at T=8" in said
    assert "costs no more than the ANN: 0.248 times at T=2" in said
    assert "memory traffic; neuron updates (512 at T=8); add (2 places); softmax (1 place)" in said
    assert "84% of the SNN's energy goes to its spiking layers" in said
    dear = made(curve={8: 95.5})
    assert "costs MORE than the ANN at every T" in str(ts.energy(dear))
    cheap = ts.energy(made(curve={2: 85.5}))
    assert "MORE" not in str(cheap)
    assert "no more than the ANN at every T" in str(cheap)


def test_notes_say_when_figures_do_not_fit_the_run():
    assert ts.energy(made()).notes == ()
    (precision,) = ts.energy(made(), table="horowitz-45nm-int8").notes
    assert "float32" in precision
    assert "int8" in precision
    graded, interrupted = ts.energy(made(spikes="graded", capacity=3, finished=False)).notes
    assert "3 levels" in graded
    assert "10 samples" in interrupted


def test_table_shows_the_ann_every_t_and_every_part():
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(ts.energy(made()).table())
    text = console.export_text()
    for word in (
        "ANN",
        "SNN, T=2",
        "SNN, T=8",
        "constant",
        "spiking",
        "analog",
        "read-out",
        "5.34 nJ",
        "6.46 nJ",
        "top1 [%]",
        "Not covered",
    ):
        assert word in text


def test_a_network_without_spiking_layers_has_no_spikes_per_synapse():
    cost = ts.energy(made(layers=made().layers[:1]))
    assert cost.spikes_per_synapse == {2: 0.0, 8: 0.0}
    assert str(cost)


def test_a_table_of_ones_own():
    chip = ts.EnergyTable("chip", multiply_add=2.0, synaptic_operation=0.5, precision="float32", source="measured")
    cost = ts.energy(made(), chip)
    assert cost.prices is chip
    assert cost.ann == pytest.approx(1160 * 2e-12)


def test_refuses_what_has_no_energy():
    with pytest.raises(DataError, match="Evaluate again"):
        ts.energy(made(layers=[]))
    with pytest.raises(OptionError, match="horowitz-45nm"):
        ts.energy(made(), table="horowitz")
    with pytest.raises(OptionError, match="every step"):
        ts.energy(made(), first_layer="each step")
    with pytest.raises(OptionError, match=r"ts\.evaluate"):
        ts.energy("result")
    with pytest.raises(OptionError, match="EnergyTable"):
        ts.energy(made(), table=4.6)
    with pytest.raises(OptionError, match="picojoules"):
        ts.EnergyTable("free", 0.0, float("nan"), "", "")


def test_every_table_names_its_source_and_is_found_by_its_name():
    for name, table in ts.ENERGY_TABLES.items():
        assert table.name == name
        assert "20" in table.source


def test_an_evaluation_says_what_its_layers_did():
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(30, 4)
    batches = [(part, part.argmax(1).clamp_max(2)) for part in x.split(10)]
    snn = ts.convert(ann, ts.LTB(batches=20), calibration=[x])
    result = ts.evaluate(snn, batches, time_steps=(2, 8), reference=ann, progress=False)
    assert [(layer.name, layer.part, layer.multiply_adds) for layer in result.layers] == [
        ("0", "constant", 32), ("2", "spiking", 48), ("4", "read-out", 18),
    ]  # fmt: skip
    for t in (2, 8):
        assert result.operations[t] == sum(layer.operations[t] for layer in result.layers if layer.part == "spiking")
    assert result.operations[8] == pytest.approx(6 * 8 * 8 * result.rates["1"])  # outputs, neurons, steps
    assert result.operations[8] > result.operations[2] > 0
    assert result.neurons == 14
    assert ts.Result.from_json(result.to_json()) == result
    assert ts.energy(ts.Result.from_json(result.to_json())) == ts.energy(result)
    lossy = ts.evaluate(
        snn,
        [(a, ann(a).detach()) for a, _ in batches],
        task=ts.Regression(),
        time_steps=(8,),
        reference=ann,
        progress=False,
    )
    assert ts.energy(lossy).sop90 is None


def test_results_saved_before_layers_were_noted_are_read():
    raw = json.loads(made().to_json())
    for key in ("layers", "neurons", "higher_is_better", "uncounted", "exits"):
        del raw[key]
    result = ts.Result.from_json(json.dumps(raw))
    assert (result.layers, result.neurons, result.higher_is_better) == ([], 0, True)
    with pytest.raises(DataError):
        ts.energy(result)
