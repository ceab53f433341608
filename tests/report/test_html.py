"""The report, read as a person's browser reads it."""

import dataclasses
import math
import re
import shutil
import subprocess

import pytest
import torch
from torch import nn

import tospike as ts

CHROMIUM = shutil.which("chromium")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom")  # fmt: skip
browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def opened(path, tmp_path, *flags):
    """Return the page as it stands after its scripts, and what it said on the console."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, path.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def evaluated(widths, method, samples=40):
    torch.manual_seed(0)
    layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    ann, x = nn.Sequential(*layers), torch.randn(samples, widths[0])
    snn = ts.convert(ann, method, calibration=[x], progress=False)
    data = [(x, ann(x).argmax(1))]
    result = ts.evaluate(snn, data, time_steps=(1, 4, 16), reference=ann, progress=False)
    return result, snn, ts.diagnose(snn, ann, data, time_steps=4, progress=False)


@pytest.fixture(scope="module")
def parts():
    made = {
        "LTB": evaluated((4, 32, 32, 3), ts.LTB(batches=2)),
        'A <b>bold</b> & "ternary" one': evaluated((4, 32, 32, 3), ts.Auto(4, 2, iterations=5)),
    }
    return [{label: found[n] for label, found in made.items()} for n in range(3)]


@pytest.fixture(scope="module")
def page(parts, tmp_path_factory):
    results, snns, diagnoses = parts
    folder = tmp_path_factory.mktemp("report")
    return ts.write_report(
        results,
        folder / "report.html",
        snns=snns,
        diagnoses=diagnoses,
        command="tospike report x",
        pictures=folder / "pictures",
    )


def test_the_file_stands_alone(page):
    text = page.read_text()
    assert page.stat().st_size < 6_000_000
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    outside = re.findall(r'(?:src|href)="(?!#)[^"]*"|@import|<link', markup)
    assert outside == []
    assert not re.search(r"<script[^>]+src=", text)


@browser
def test_it_renders_every_number_without_a_complaint(page, parts, tmp_path):
    results, _, diagnoses = parts
    dom, complaints = opened(page, tmp_path)
    assert complaints == []
    assert 'data-ready="true"' in dom
    for label, result in results.items():
        for t in (1, 4, 16):
            assert f"<td>{result.curve[t]:.2f}</td>" in dom
            assert f"<td>{1e6 * ts.energy(result).snn[t]:.4g}</td>" in dom
        for site in diagnoses[label].sites:
            assert f"<td>{site.correlation:.4f}</td>" in dom
    for text in (
        "tospike report x",
        torch.__version__,
        "calibration samples",
        "rebuilt",
        "latency in steps by T",
        "in 5 iterations, 200 samples",
        "multiply-adds",
    ):
        assert text in dom
    assert dom.count("<figure>") == dom.count("vega-embed") // (dom.count("vega-embed") // dom.count("<figure>")) == 9
    assert "<b>bold" not in dom  # a label is text, not code


@browser
def test_networks_can_be_hidden_by_keyboard_and_mouse(page, tmp_path):
    def points(script):
        changed = tmp_path / "changed.html"
        wait = f"setTimeout(() => {{ {script} }}, 2000)"
        body, _, rest = page.read_text().rpartition("</body>")
        changed.write_text(f"{body}<script>{wait}</script></body>{rest}")
        dom, complaints = opened(changed, tmp_path)
        assert complaints == []
        return len(re.findall('aria-roledescription="point"', dom.partition('id="curve"')[2].partition("</figure>")[0]))

    assert points("") == 6
    assert points("const box = document.querySelector('#networks input'); box.focus(); box.click();") == 3


@browser
def test_charts_stand_without_scripts(page, tmp_path):
    bare = tmp_path / "bare.html"
    bare.write_text(re.sub(r"<script.*?</script>", "", page.read_text(), flags=re.S))
    dom, _ = opened(bare, tmp_path)
    assert dom.count("<svg") >= 9


def test_every_chart_is_a_picture_too(page):
    names = sorted(path.name for path in (page.parent / "pictures").iterdir())
    assert names == sorted(f"{name}.{ending}" for ending in ("png", "svg") for name in
                           ("curve", "energy", "stages-0", "errors-0", "stages-1", "errors-1", "descent", "rates", "thresholds"))  # fmt: skip


def test_one_result_alone_is_enough(parts, tmp_path):
    result = next(iter(parts[0].values()))
    text = ts.write_report(result, tmp_path / "one.html").read_text()
    assert "Beware" not in text
    assert "fieldset id" not in text
    with pytest.raises(ts.errors.OptionError, match="exists already"):
        ts.write_report(result, tmp_path / "one.html")
    ts.write_report(result, tmp_path / "one.html", force=True)


def test_it_says_what_does_not_belong_together(parts, tmp_path):
    wide = evaluated((4, 48, 3), ts.LTB(batches=2), samples=30)[0]
    text = ts.write_report({"one": next(iter(parts[0].values())), "other": wide}, tmp_path / "two.html").read_text()
    assert "different networks" in text
    assert "one 40, other 30" in text


def test_scores_that_are_no_numbers_leave_gaps(parts, tmp_path):
    result = dataclasses.replace(next(iter(parts[0].values())), curve={1: math.nan, 4: math.inf, 16: 50.0})
    assert "50.00" in ts.write_report(result, tmp_path / "gaps.html").read_text()
    again = ts.Result.from_json(result.to_json())
    assert math.isnan(again.curve[1])
    assert again.curve[16] == 50.0


def test_results_of_different_scores_are_refused(parts, tmp_path):
    result = next(iter(parts[0].values()))
    with pytest.raises(ts.errors.OptionError, match="different scores"):
        ts.write_report({"a": result, "b": dataclasses.replace(result, headline="mse", unit="")}, tmp_path / "two.html")


def test_what_is_no_result_is_refused(tmp_path):
    with pytest.raises(ts.errors.OptionError, match="nothing to report"):
        ts.write_report({}, tmp_path / "none.html")
    with pytest.raises(ts.errors.OptionError, match="wrong kind"):
        ts.write_report({"x": 3}, tmp_path / "none.html")
    assert list(tmp_path.iterdir()) == []
