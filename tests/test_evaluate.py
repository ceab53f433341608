import json

import numpy
import pytest
import torch
from torch import nn

import tospike as ts
from tospike.errors import DataError, OptionError


@pytest.fixture
def trio():
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(30, 4)
    y = ann(x).argmax(1)
    return ann, ts.convert(ann, ts.LTB(batches=20), calibration=[x]), list(zip(x.split(10), y.split(10), strict=True))


def test_scores_agree_with_single_runs(trio):
    ann, snn, batches = trio
    ann.train()
    result = ts.evaluate(snn, batches, time_steps=(1, 4, 16), reference=ann, progress=False)
    for t in (1, 4, 16):
        hits = sum((snn(x, time_steps=t).argmax(1) == y).sum().item() for x, y in batches)
        assert result.curve[t] == pytest.approx(100 * hits / 30)
    assert result.reference == 100.0
    assert (result.samples, result.finished, ann.training) == (30, True, True)
    assert 0 < result.rates["1"] <= 1


def test_what_is_printed_of_a_result_and_of_a_conversion_fits_into_a_few_lines(trio):
    ann, snn, batches = trio
    result = ts.evaluate(snn, batches, time_steps=(2, 8), reference=ann, progress=False)
    assert str(result) == (
        f"top1 in %: T=2 {result.curve[2]:.2f}, T=8 {result.curve[8]:.2f}; ANN 100.00\n"
        f"ltb, binary spikes, {result.rates['1']:.3f} per neuron and step; 30 samples"
    )
    assert repr(snn.conversion) == (
        "Conversion(ltb: batches=20, granularity='channel', rate=1.0; NeuronModel() at 1 Site(s); 600 calibration samples)"
    )


def test_json_round_trip(trio, tmp_path):
    _, snn, batches = trio
    result = ts.evaluate(
        snn, batches, time_steps=(2, 8), delay="auto", save=tmp_path / "deep" / "r.json", progress=False
    )
    assert ts.Result.from_json(result.to_json()) == result
    assert ts.Result.read(tmp_path / "deep" / "r.json") == result
    for text in ("", "[]", "{}", json.dumps({"curve": 1})):
        with pytest.raises(DataError):
            ts.Result.from_json(text)


def test_interrupt_keeps_what_was_scored(trio, tmp_path):
    _, snn, batches = trio

    def loader():
        yield from batches[:2]
        raise KeyboardInterrupt

    with pytest.raises(ts.Interrupted) as caught:
        ts.evaluate(snn, loader(), time_steps=(1, 4), save=tmp_path / "r.json", progress=False)
    assert not caught.value.result.finished
    assert caught.value.result.samples == 20
    expected = ts.evaluate(snn, batches[:2], time_steps=(1, 4), progress=False)
    assert caught.value.result.curve == expected.curve
    assert ts.Result.from_json((tmp_path / "r.json").read_text()) == caught.value.result


def test_regression(trio):
    ann, snn, batches = trio
    with torch.no_grad():
        pairs = [(x, ann(x)) for x, _ in batches]
    result = ts.evaluate(snn, pairs, task=ts.Regression(), time_steps=(4, 64), reference=ann, progress=False)
    with torch.no_grad():
        errors = torch.cat([snn(x, time_steps=4) - y for x, y in pairs])
    assert result.curve[4] == pytest.approx(errors.square().mean().item(), rel=1e-4)
    assert result.curve[64] < result.curve[4]
    assert result.reference == pytest.approx(0, abs=1e-9)


def test_samples_stop_when_they_are_sure(trio):
    _, snn, batches = trio
    marks = (1, 4, 16)
    result = ts.evaluate(snn, batches, time_steps=marks, confidence=(0.4, 1.0), progress=False)
    hits, steps = 0, 0
    for x, y in batches:
        for n in range(len(x)):
            outputs = [snn(x[n : n + 1], time_steps=t) for t in marks]
            t = next((k for k, out in enumerate(outputs[:-1]) if out.softmax(1).max() >= 0.4), len(marks) - 1)
            hits += int(outputs[t].argmax() == y[n])
            steps += marks[t]
    assert result.exits[0.4] == pytest.approx({"top1": 100 * hits / 30, "steps": steps / 30})
    assert result.exits[1.0] == pytest.approx({"top1": result.curve[16], "steps": 16})
    assert 1 <= result.exits[0.4]["steps"] < 16
    assert ts.Result.from_json(result.to_json()) == result


def test_the_reference_gets_its_inputs_by_name():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.c = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, a, b=None, c=None):
            h = torch.relu(self.a(a if b is None else b))
            return self.c(h if c is None else h * 0.5 + c)

    ann, a, c = Optional().eval(), torch.randn(20, 4), torch.randn(20, 8)
    batch = {"a": a, "c": c}
    snn = ts.convert(ann, ts.LTB(batches=5), calibration=[batch], example=batch)
    result = ts.evaluate(snn, [(batch, ann(a, c=c).argmax(1))], time_steps=(8,), reference=ann, progress=False)
    assert result.reference == 100.0


def test_a_bad_target_is_named_with_a_reference_too(trio):
    ann, snn, batches = trio
    with pytest.raises(DataError, match="classes"):
        ts.evaluate(snn, [(batches[0][0], torch.full((10,), 9))], time_steps=(2,), reference=ann, progress=False)


def test_refuses_a_confidence_that_cannot_be(trio):
    ann, snn, batches = trio
    for settings in ({"confidence": (0.0,)}, {"confidence": (2,)}, {"confidence": (0.9,), "task": ts.Regression()}):
        with pytest.raises(OptionError):
            ts.evaluate(snn, batches, time_steps=(2,), progress=False, **settings)
    synchronous = ts.convert(ann, ts.Parallel(time_steps=2), calibration=[batches[0][0]])
    with pytest.raises(OptionError, match="stop early"):
        ts.evaluate(synchronous, batches, time_steps=(2,), confidence=(0.9,), progress=False)


@pytest.mark.parametrize("loader", [[], [(torch.zeros(2, 4), torch.tensor([0, 9]))], [torch.zeros(2, 4)]])
def test_refuses_an_empty_loader_and_unfit_targets(trio, loader):
    with pytest.raises(DataError):
        ts.evaluate(trio[1], loader, time_steps=(2,), progress=False)


@pytest.mark.parametrize("text", ['{"curve": {}}', "[" * 100_000, "null", "3"])
def test_what_is_no_result_is_refused(text):
    with pytest.raises(DataError, match="no Result"):
        ts.Result.from_json(text)


def segmenter():
    torch.manual_seed(0)
    ann = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)).eval()
    x = torch.randn(4, 3, 20, 30)
    return ann, x, ann(x).argmax(1)


def test_a_sheet_shows_what_each_network_says(tmp_path):
    image = pytest.importorskip("PIL.Image")
    ann, x, masks = segmenter()
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=[x], progress=False)
    task, path = ts.Segmentation(names=("ground", "a", "b")), tmp_path / "sheet.png"
    ts.evaluate(
        snn,
        [(x, masks), (x, masks)],
        task=task,
        time_steps=(1, 64),
        reference=ann,
        pictures=path,
        pictured=2,
        progress=False,
    )
    with image.open(path) as sheet:
        pixels = torch.from_numpy(numpy.array(sheet.convert("RGB")))
    cell = 180  # 30 pixels, enlarged sixfold to at least 160
    columns = [pixels[:, left : left + cell] for left in range(8, 8 + 4 * (cell + 8), cell + 8)]
    target, own, one, many = (column[40:150].float() for column in columns)
    assert torch.equal(target, own)  # the masks are what the ANN says
    assert not torch.equal(own, one)
    assert (many - own).abs().mean() < 0.5 * (one - own).abs().mean()


def test_what_cannot_be_drawn_is_said_before_the_run(tmp_path):
    ann, x, masks = segmenter()
    snn = ts.convert(ann, ts.RobustNorm(), calibration=[x], progress=False)
    for settings, words in (
        ({"task": ts.Regression(), "pictures": tmp_path / "a.png"}, "draws no pictures"),
        ({"task": ts.Segmentation(), "pictures": tmp_path / "a.txt"}, "needs a format"),
        ({"task": ts.Segmentation(), "pictures": tmp_path / "a.png", "pictured": 0}, "pictured"),
    ):
        with pytest.raises(OptionError, match=words):
            ts.evaluate(snn, [(x, masks)], progress=False, **settings)
    assert not list(tmp_path.iterdir())
