import pytest
import torch
from rich.console import Console
from torch import nn

import tospike as ts
from tospike.report import curve_table, draw_curve


@pytest.fixture(scope="module")
def results():
    ann = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))
    x = torch.randn(40, 4)
    batches = [(x, ann(x).argmax(1))]
    snn = ts.convert(ann, ts.LTB(batches=10), calibration=[x])
    return {
        "with ANN": ts.evaluate(snn, batches, time_steps=(2, 8), reference=ann, progress=False),
        "alone": ts.evaluate(snn, batches, time_steps=(4,), progress=False),
    }


def test_table_has_a_row_per_network_and_a_column_per_t(results):
    console = Console(width=120, no_color=True)
    with console.capture() as captured:
        console.print(curve_table(results, title="Scores"))
    lines = captured.get().splitlines()
    head = next(line for line in lines if "T=2" in line)
    assert [head.index(f"T={t}") for t in (2, 4, 8)] == sorted(head.index(f"T={t}") for t in (2, 4, 8))
    row = next(line for line in lines if "with ANN" in line)
    assert "100.00" in row
    assert f"{results['with ANN'].curve[8]:.2f}" in row
    result = results["with ANN"]
    spikes = f"{result.spikes_per_neuron[8] / 8:.3f}"  # of all 21 neurons, not of two Sites
    assert spikes in row
    assert spikes != f"{sum(result.rates.values()) / 2:.3f}"
    assert "100.00" not in next(line for line in lines if "alone" in line) or results["alone"].curve[4] == 100


@pytest.mark.parametrize(("name", "magic"), [("curve.png", b"\x89PNG"), ("curve.svg", b"<svg"), ("curve.pdf", b"%PDF")])
def test_curve_is_written_in_the_format_of_its_name(results, tmp_path, name, magic):
    path = draw_curve(results, tmp_path / "new" / name, title="Scores")
    assert path.read_bytes().startswith(magic)
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_curve_shows_every_point_every_reference_and_the_unit(results, tmp_path):
    text = draw_curve(results, tmp_path / "curve.svg", title="Scores").read_text()
    for shown in ("Scores", "time-steps T", "top1 [%]", "with ANN (ANN 100.00, dashed)", "alone"):
        assert f">{shown}</text>" in text, shown
    assert text.count('aria-roledescription="point"') == 3
