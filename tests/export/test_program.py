import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import tospike as ts
from references.exports import converted
from tospike.errors import ExportError, MissingExtraError, OptionError
from tospike.export.step import Signature

METHODS = [
    ts.LTB(batches=3),
    ts.FTBC(time_steps=4),
    ts.SNM(),
    ts.SNM().using(neuron=ts.NeuronModel(signed=True, rest=1)),
    ts.Differential(time_steps=8),
    ts.Burst(time_steps=8),
]


def curve(snn, x, steps):
    return [y for _, y in ts.simulate(snn, x, time_steps=steps, checkpoints=range(1, steps + 1))]


@pytest.mark.parametrize(
    ("name", "method"),
    [("max_pooled", METHODS[0]), ("resnet", METHODS[0])] + [("mlp", m) for m in METHODS[1:]],
    ids=lambda v: getattr(v, "name", v),
)
def test_a_loop_over_the_program_gives_what_simulate_yields(name, method, tmp_path):
    snn, x = converted(name, method)
    signature = ts.export_program(snn, tmp_path / "net.pt2")
    extra = {"tospike.json": ""}
    step = torch.export.load(tmp_path / "net.pt2", extra_files=extra).module()
    assert json.loads(extra["tospike.json"])["state"] == {key: list(shape) for key, shape in signature.state.items()}
    for batch in (x, torch.cat([x, 2 * x])[:4], x[:1]):  # of any size
        state = signature.zeros(len(batch))
        for y in curve(snn, batch, 5):
            got, *state = step(batch, *state)
            torch.testing.assert_close(got, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "method"), [("max_pooled", METHODS[1])], ids=lambda v: getattr(v, "name", v))
def test_onnxruntime_gives_what_simulate_yields(name, method, tmp_path):
    snn, x = converted(name, method)
    signature = ts.export_onnx(snn, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    names = [*signature.inputs, *signature.state]
    assert [value.name for value in session.get_inputs()] == names
    assert [value.name for value in session.get_outputs()] == ["output", *(f"{name}_next" for name in signature.state)]
    for batch in (x, torch.cat([x, x.flip(0)])):
        state = [value.numpy() for value in signature.zeros(len(batch))]
        for y in curve(snn, batch, 5):
            got, *state = session.run(None, dict(zip(names, [batch.numpy(), *state], strict=True)))
            np.testing.assert_allclose(got, y.numpy(), rtol=1e-4, atol=1e-5)
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
    assert Signature(**json.loads(properties["tospike"])).zeros(2)[2].shape == signature.zeros(2)[2].shape


def test_zeroing_the_sums_begins_the_read_out_anew(tmp_path):
    snn, x = converted("mlp")
    signature = ts.export_program(snn, tmp_path / "net.pt2")
    step, state = torch.export.load(tmp_path / "net.pt2").module(), signature.zeros(len(x))
    for t in range(7):
        if t == 3:
            state = [
                0 * value if name == "counted" or name.startswith("sum") else value
                for name, value in zip(signature.state, state, strict=True)
            ]
        y, *state = step(x, *state)
    torch.testing.assert_close(y, snn(x, time_steps=7, delay=3))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 5), nn.Linear(5, 2)

    def forward(self, x, y):
        z = (self.a(x) + y).relu()
        return {"sum": self.b(z), "soft": self.b(z).softmax(1)}


def test_several_inputs_and_outputs_and_a_tail_that_is_not_linear(tmp_path):
    x = (torch.randn(4, 3), torch.randn(4, 5))
    snn = ts.convert(Two(), ts.LTB(batches=2), calibration=[x], progress=False)
    signature = ts.export_program(snn, tmp_path / "net.pt2")
    assert list(signature.inputs) == ["x", "y"]
    assert signature.outputs == ("output_0", "output_1")
    step, state = torch.export.load(tmp_path / "net.pt2").module(), signature.zeros(4)
    for _ in range(6):
        first, second, *state = step(*x, *state)
    expected = snn(x, time_steps=6)
    torch.testing.assert_close(first, expected["sum"])
    torch.testing.assert_close(second, expected["soft"])


def test_neurons_that_one_step_cannot_hold_are_refused(tmp_path):
    for method in (ts.Parallel(time_steps=4), ts.SRP(time_steps=8)):
        snn, _ = converted("mlp", method)
        with pytest.raises(ExportError) as caught:
            ts.export_program(snn, tmp_path / "net.pt2")
        assert len(caught.value.problems) == len(snn.site_names)
    with pytest.raises(ExportError, match="nearest power of two"):
        ts.export_onnx(converted("mlp", ts.Differential(time_steps=8))[0], tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_when_asked_to(tmp_path):
    snn, _ = converted("mlp")
    (tmp_path / "net.pt2").write_text("mine")
    with pytest.raises(OptionError, match="force=True"):
        ts.export_program(snn, tmp_path / "net.pt2")
    assert (tmp_path / "net.pt2").read_text() == "mine"
    ts.export_program(snn, tmp_path / "net.pt2", force=True)
    torch.export.load(tmp_path / "net.pt2")


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"tospike\[onnx\]"):
        ts.export_onnx(converted("mlp")[0], tmp_path / "net.onnx")
