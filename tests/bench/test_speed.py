import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import tospike as ts
from tospike.bench import CASES, Case, Speed, measure
from tospike.bench.contenders import ANN, FOLDED, LAYOUTS, STEPWISE, Absent, anns, engines, folded, peers
from tospike.bench.machine import Machine, Peaks, peaks
from tospike.bench.pages import chart, markdown, tables
from tospike.bench.scaling import measure_scaling
from tospike.bench.speed import multiply_adds_of
from tospike.bench.timing import Spread, best, interleaved
from tospike.errors import OptionError
from tospike.report.charts import write_chart

ENGINES = ["tospike float", "tospike int16", "tospike int8"]
ONCE = 64 * 4 * 9 + 4 * 5  # multiply-adds of one image: the first convolution, and what is behind the last neuron
STEPPED = 64 * 4 * 4 * 9


def tiny(activation=nn.ReLU):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), activation(), nn.Conv2d(4, 4, 3, padding=1), activation(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip


CASE = Case("tiny", tiny, (1, 8, 8), batch=3)
CAPPED = Case("capped", lambda: tiny(nn.ReLU6), (1, 8, 8), batch=2)


@pytest.fixture(scope="module")
def speed():
    return measure([CASE, CAPPED], time_steps=(2, 9), rounds=3, memory=False, scaling=False)


def rows_of(speed, network, time_steps):
    return {row.contender: row for row in speed.rows if (row.network, row.time_steps) == (network, time_steps)}


def test_every_contender_has_a_row_in_every_table(speed):
    assert list(rows_of(speed, "tiny", 2)) == [ANN, *ENGINES, STEPWISE, FOLDED]
    assert list(rows_of(speed, "tiny", 9)) == [ANN, *ENGINES]  # long runs are for the peer only when asked for
    assert all(len(row.rounds) == 3 and min(row.rounds) > 0 for row in rows_of(speed, "tiny", 2).values())
    assert {row.batch for row in speed.rows if row.network == "tiny"} == {3}


@pytest.mark.parametrize("time_steps", [2, 9])
def test_ratios_and_speed_up_are_quotients_of_the_times(speed, time_steps):
    rows = rows_of(speed, "tiny", time_steps)
    for row in rows.values():
        assert row.ms.median == pytest.approx(np.median(row.rounds))
        quotients = np.array(row.rounds) / np.array(rows[ANN].rounds)
        expected = np.quantile(quotients, (0.25, 0.5, 0.75))
        assert (row.ratio.low, row.ratio.median, row.ratio.high) == pytest.approx(expected)
    assert rows[ANN].ratio == Spread(1.0, 1.0, 1.0)
    if time_steps == 2:
        fastest = min(rows[name].ms.median for name in (STEPWISE, FOLDED))
        assert rows["tospike int8"].speed_up == pytest.approx(fastest / rows["tospike int8"].ms.median)
        assert max(rows[name].speed_up for name in (STEPWISE, FOLDED)) == 1.0
    else:
        assert rows["tospike int8"].speed_up is None


def test_work_is_what_dense_layers_multiply_over_the_time(speed):
    rows = rows_of(speed, "tiny", 9)
    for name, work, peak in (
        (ANN, 9 * (ONCE + STEPPED), speed.peaks.floats), ("tospike float", ONCE + 9 * STEPPED, speed.peaks.floats),
        ("tospike int8", ONCE + 9 * STEPPED, speed.peaks.integers), ("tospike int16", ONCE + 9 * STEPPED, speed.peaks.integers / 2),
    ):  # fmt: skip
        assert rows[name].work == pytest.approx(3 * work / 1e6 / rows[name].ms.median)
        assert rows[name].share == pytest.approx(rows[name].work / peak)
    x = CASE.images(3)
    assert multiply_adds_of(CASE.convert(CASE.network()), x) == (ONCE, STEPPED)


def test_what_does_not_run_says_why(speed):
    rows = rows_of(speed, "capped", 2)
    for name in (STEPWISE, FOLDED):
        assert "ReLU6" in rows[name].reason
        assert rows[name].ms is None
    assert rows["tospike int8"].ratio.median > 0
    assert rows["tospike int8"].speed_up is None
    page = markdown(speed, "the command")
    assert "| 2 | SpikingJelly, step by step | does not run |" in page
    assert page.count("of type ReLU6") == 2 * 2  # of two recipes, in both modes


def test_the_record_is_read_back(speed):
    assert Speed.from_json(speed.to_json()) == speed
    scaled = replace(
        speed, points=tuple(measure_scaling(CASE, ["int8"], 1, time_steps=(1, 2), batches=(1,), threads=(1,)))
    )
    assert Speed.from_json(scaled.to_json()) == scaled


def test_pages_show_targets_and_measured_values(speed, tmp_path):
    row = replace(
        rows_of(speed, "tiny", 2)["tospike int8"], network="resnet18-32", target=0.35, ratio=Spread(0.3, 0.25, 0.375)
    )
    found = replace(speed, rows=(*speed.rows, row), peaks=Peaks(10.0, 40.0, "units", 5.0))
    page = markdown(found, "the command", "speed.svg")
    assert "## resnet18-32, batch 3" in page
    assert (
        f"| 2 | tospike int8 | {row.ms.text('.1f')} | 0.300 (0.250–0.375) | ≤ 0.35 | {row.speed_up:.2f} | ≥ 4 |" in page
    )
    assert "1 of 1 stepped layers in integers" in page
    assert "40.0 GMAC/s of spikes" in page
    assert speed.machine.processor in page
    assert [table.title for table in tables(found)] == ["tiny, batch 3", "capped, batch 2", "resnet18-32, batch 3"]
    points = tuple(measure_scaling(CASE, ["float"], 1, time_steps=(1, 2), batches=(1, 2), threads=(1,)))
    drawn = write_chart(chart(replace(found, points=points, scaled="tiny")), tmp_path / "speed.svg").read_text()
    assert all(text in drawn for text in ("0.30, T = 2", "SpikingJelly, multi-step", "threads", "ms, tiny"))


def test_the_full_benchmark_times_the_peer_at_every_t():
    found = measure([CASE], names=["float"], time_steps=[9], rounds=1, full=True, memory=False, scaling=False)
    assert [row.contender for row in found.rows] == [ANN, "tospike float", STEPWISE, FOLDED]


def test_an_interrupted_run_goes_on_where_it_stopped():
    kept = []

    def stop(found):
        kept.append(found)
        if len(kept) == 2:
            raise KeyboardInterrupt

    settings = {"names": ["int8"], "rounds": 2, "memory": False, "scaling": False}
    with pytest.raises(KeyboardInterrupt):
        measure([CASE, CAPPED], time_steps=[2, 9], keep=stop, **settings)
    assert [(row.network, row.time_steps) for row in kept[-1].rows if row.contender == ANN] == [
        ("tiny", 2),
        ("tiny", 9),
    ]
    whole = measure([CASE, CAPPED], time_steps=[9, 2], before=kept[-1], **settings)
    assert whole.rows[: len(kept[-1].rows)] == kept[-1].rows
    assert whole.peaks == kept[-1].peaks
    measured = [(row.network, row.time_steps) for row in whole.rows if row.contender == "tospike int8"]
    assert measured == [("tiny", 2), ("tiny", 9), ("capped", 2), ("capped", 9)]
    with_another = measure([CASE], time_steps=[9], before=whole, **settings | {"names": ["int8", "float"]})
    assert sorted(rows_of(with_another, "tiny", 9)) == [ANN, "tospike float", "tospike int8"]
    assert rows_of(with_another, "tiny", 2) == rows_of(whole, "tiny", 2)
    with pytest.raises(OptionError) as caught:
        measure([CASE], before=replace(whole, machine=replace(whole.machine, threads=99)), rounds=3, seed=1)
    assert all(name in str(caught.value) for name in ("machine", "99 threads", "rounds", "seed"))


def test_wrong_settings_are_all_named():
    with pytest.raises(OptionError) as caught:
        measure([CASE], time_steps=[0], rounds=0, batch=-1)
    assert all(name in str(caught.value) for name in ("time_steps", "rounds", "batch"))
    with pytest.raises(OptionError, match="count"):
        measure([CASE], names=["count"])
    with pytest.raises(OptionError, match="cases"):
        measure(["resnet18-32"])


@torch.no_grad()
def test_the_ann_is_folded_and_in_place_and_computes_the_same():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.first, self.second = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.ReLU()

        def forward(self, x):
            y = self.norm(self.conv(self.first(x)))
            return self.second(y) + y  # the second one may not change what is added

    ann, x = Twice(), torch.randn(2, 1, 8, 8)
    ann.norm.running_mean.uniform_()
    ann.eval()
    given = x.clone()
    network = folded(ann, x)
    torch.testing.assert_close(network(x), ann(x))
    assert torch.equal(x, given)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    plain = folded(tiny().eval(), x)
    assert all(module.inplace for module in plain.modules() if isinstance(module, nn.ReLU))
    assert [one.setting.rpartition(", ")[2] for one in anns(ann, x)] == list(LAYOUTS)


@torch.no_grad()
def test_contenders_compute_the_same_at_every_way_of_stepping():
    ann, x = CASE.network(), CASE.images(3)
    stepwise, together = peers(ann, x, 4)
    kinds = {one.setting.split(",")[0] for one in (stepwise, together)}
    if len(kinds) == 1:  # of the two recipes the faster is taken
        torch.testing.assert_close(stepwise.run(4), together.run(4))
    snn = CASE.convert(ann)
    (ours,) = engines(snn, x, ["int8"])
    torch.testing.assert_close(ours.run(4), snn(x, time_steps=4, engine="int8"))
    assert stepwise.run(4).shape == together.run(4).shape == ours.run(4).shape
    assert all(isinstance(one, Absent) for one in peers(CAPPED.network(), CAPPED.images(2), 2))


def test_networks_are_the_same_for_a_seed_and_no_layer_fades():
    before = torch.get_rng_state()
    first, again, other = CASE.network(3), CASE.network(3), CASE.network(4)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first[0].weight, again[0].weight)
    assert not torch.equal(first[0].weight, other[0].weight)
    with torch.no_grad():
        normed = first[1](first[0](CASE.images(200)))
    torch.testing.assert_close(normed.var((0, 2, 3)), torch.ones(4), rtol=0.2, atol=0)
    assert not any(module.training for module in first.modules())


@pytest.mark.parametrize("name", CASES)
def test_cases_build_and_take_their_images(name):
    case = CASES[name]
    if name != "fashion-resnet20":
        pytest.importorskip("torchvision")
    assert ts.check(case.build().eval(), case.images(1)).ok


def test_jobs_take_turns():
    order = []
    times = interleaved({name: lambda name=name: order.append(name) for name in "abc"}, 4, "jobs")
    assert "".join(order) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert [len(row) for row in times.values()] == [4, 4, 4]


def test_the_fastest_way_is_found():
    class Way:
        def __init__(self, work):
            self.run = lambda steps: sum(range(work * steps))

    slow, quick = Way(200_000), Way(10)
    assert best([slow, quick], 2) is quick
    assert best([quick, slow], 2) is quick


def test_scaling_varies_one_thing_at_a_time_and_gives_threads_back():
    threads = torch.get_num_threads()
    points = measure_scaling(CASE, ["float", "int8"], 1, time_steps=(1, 4), batches=(1, 2, 3), threads=(1, 2))
    assert torch.get_num_threads() == threads
    names = [ANN, "tospike float", "tospike int8"]
    found = {axis: sorted({p.value for p in points if p.axis == axis}) for axis in ("time steps", "batch", "threads")}
    assert found["time steps"] == [1, 4]
    assert found["batch"] == [1, 2, 3]
    assert found["threads"] == [1, 2]
    assert len(points) == len(names) * sum(map(len, found.values()))
    assert all(point.ms.median > 0 and point.contender in names for point in points)


def test_peaks_are_measured_and_bound_each_engine():
    most = peaks(rounds=1)
    assert all(0 < value < math.inf for value in (most.floats, most.integers, most.copy))
    bounds = Peaks(10.0, 40.0, "units", 5.0)
    assert [bounds.of(engine) for engine in ("", "float", "int16", "int8")] == [10.0, 10.0, 20.0, 40.0]


def test_the_machine_says_what_it_computes_with():
    here = Machine.here()
    assert here.threads == torch.get_num_threads()
    assert here.torch == torch.__version__
    assert f"{here.cores} cores" in here.text()
