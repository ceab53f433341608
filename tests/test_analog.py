"""Networks with smooth activations, gates and attention, converted with analog="auto"."""

import pytest
import torch
from torch import nn

import tospike as ts
from tospike.errors import OptionError
from tospike.parts.refiners import Refiner
from tospike.parts.scales import Percentile
from tospike.testing import _Residual

models = pytest.importorskip("torchvision.models")
timm = pytest.importorskip("timm")

NETWORKS = {
    "efficientnet_b0": lambda: models.efficientnet_b0(),
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(),
    "convnext_tiny": lambda: models.convnext_tiny(),
    "regnet_y_400mf": lambda: models.regnet_y_400mf(),
    "vit_b_16": lambda: models.vit_b_16(image_size=32),
    "swin_t": lambda: models.swin_t(),
    "lraspp_mobilenet_v3_large": lambda: models.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None),
    "timm ghostnet_100": lambda: timm.create_model("ghostnet_100"),
    "timm seresnet18": lambda: timm.create_model("legacy_seresnet18"),
}


class Fine(Percentile):
    """A small part of the largest activation, so that rounding is no excuse."""

    def threshold(self):
        return super().threshold() / 4000


def build(name):
    """Return a network whose signals neither vanish nor explode, although nobody trained it, and an input."""
    torch.manual_seed(0)
    ann = NETWORKS[name]()
    for path, parameter in ann.named_parameters():
        if path.endswith(("layer_scale", "heads.head.weight")):
            nn.init.normal_(parameter, std=0.5)
    x = torch.randn(8, 3, 32, 32) if name == "vit_b_16" else torch.randn(8, 3, 64, 64)
    for module in ann.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # statistics of the batch itself
    with torch.no_grad():
        ann.train()(x)
    return ann.eval(), x[:2]


def tensor(output):
    return output["out"] if isinstance(output, dict) else output


@pytest.mark.parametrize("name", NETWORKS)
def test_network_converts_in_analog_and_approaches_the_ann(name):
    ann, x = build(name)
    assert not ts.check(ann, x).ok
    report = ts.check(ann, x, analog="auto")
    assert report.ok, str(report)
    fine = ts.RMP().using(
        scale=lambda site, _: Fine(site, "channel", 1.0), start=0.5, neuron=ts.NeuronModel(capacity=8000, signed=True)
    )
    snn = ts.convert(ann, fine, calibration=[x], analog="auto")
    assert len(snn.conversion.analog) == len(report.incremental) > 0
    with torch.no_grad():
        wanted = tensor(ann(x))
    assert (tensor(snn(x, time_steps=4)) - wanted).norm() < 0.015 * wanted.norm()


def test_every_problem_without_leave_names_its_place_and_the_leave_that_solves_it():
    report = ts.check(*build("efficientnet_b0"))
    assert len(report.problems) > 60
    for problem in report.problems:
        assert ".py:" in problem.where
        assert "analog=" in problem.remedy


def test_leave_can_be_given_by_name_or_path():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.gate, self.b, self.c = nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2), nn.Linear(2, 5)

        def forward(self, x):
            y = self.a(x)
            return self.c(self.b(y.relu() * self.gate(y)).relu())

    x = torch.randn(3, 4)
    assert len(ts.check(Gated(), x).problems) == 2
    assert len(ts.check(Gated(), x, analog=["mul"]).problems) == 1
    assert ts.check(Gated(), x, analog=["mul", "gate"]).ok
    snn = ts.convert(Gated(), ts.LTB(batches=5), calibration=[torch.randn(64, 4)], analog="auto")
    assert snn.conversion.analog
    result = ts.evaluate(snn, [(x, torch.zeros(3, dtype=torch.long))], time_steps=(1, 5), progress=False)
    assert result.analog_operations == {
        1: 16,
        5: 80,
    }  # 8 x 2 weights have no spikes to read
    assert result.operations == {1: 0, 5: 0}


@pytest.mark.parametrize("activation", [nn.LeakyReLU(0.2), nn.PReLU(4), nn.GELU(), nn.SiLU()])
def test_activations_with_negative_values_need_signed_neurons_and_then_converge(activation):
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3), activation, nn.Flatten(), nn.Linear(64, 16), nn.LeakyReLU(), nn.Linear(16, 3)
    ).double()
    x = torch.randn(32, 1, 6, 6, dtype=torch.float64)
    with pytest.raises(OptionError, match="these neurons cannot send") as caught:
        ts.convert(ann, ts.LTB(batches=5), calibration=[x], analog="auto")
    assert len(caught.value.problems) == 2
    snn = ts.convert(ann, ts.Ternary(time_steps=64).using(refiners=()), calibration=[x], analog="auto")
    with torch.no_grad():
        assert (snn(x, time_steps=64) - ann(x)).norm() < 0.1 * ann(x).norm()


def test_functional_forms_pass_their_settings_on():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.slope = nn.Linear(4, 8), nn.Linear(8, 2), nn.Parameter(torch.tensor([0.3]))

        def forward(self, x):
            y = nn.functional.leaky_relu(self.a(x), 0.4)
            return self.b(nn.functional.prelu(y, self.slope) + nn.functional.gelu(y, approximate="tanh"))

    ann, x = Functional().double(), torch.randn(32, 4, dtype=torch.float64)
    snn = ts.convert(ann, ts.Ternary(time_steps=128).using(refiners=()), calibration=[x], analog="auto")
    with torch.no_grad():
        assert (snn(x, time_steps=128) - ann(x)).norm() < 0.1 * ann(x).norm()


class Compare(Refiner):
    """Corrects nothing; notes how far the mean emission of each Site is from the ANN's activation."""

    def __init__(self):
        self.errors = {}

    def site(self, view):
        emitted, target = view.emissions(0).mean(0), view.targets[0]
        self.errors[view.site.name] = float((emitted - target).norm() / target.norm())


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vit_b_16", "swin_t", "timm ghostnet_100"])
def test_refiners_see_the_signals_of_the_run_through_analog_operations(name):
    ann, x = build(name)
    compare = Compare()
    fine = ts.RMP().using(
        scale=lambda site, _: Fine(site, "channel", 1.0), start=0.5, neuron=ts.NeuronModel(capacity=8000, signed=True),
        refiners=(compare,), time_steps=3, refine_batches=1,
    )  # fmt: skip
    snn = ts.convert(ann, fine, calibration=[x], analog="auto")
    assert list(compare.errors) == snn.site_names
    assert max(compare.errors.values()) < 0.03


def test_a_site_can_be_left_analog(tmp_path):
    ann, x = _Residual().eval(), torch.randn(64, 1, 8, 8)
    snn = ts.convert(ann, ts.LTB(batches=3), calibration=[x], analog=["relu#2"], progress=False)
    assert snn.site_names == ["relu"]
    assert any(place.startswith("relu#2") for place in snn.conversion.analog)
    with torch.no_grad():
        wanted = ann(x)
    all_spiking = ts.convert(ann, ts.LTB(batches=3), calibration=[x], progress=False)
    errors = [float((made(x, time_steps=16) - wanted).norm()) for made in (snn, all_spiking)]
    assert errors[0] < errors[1]
    torch.testing.assert_close(snn(x, time_steps=16, steps_per_call=3), snn(x, time_steps=16, steps_per_call=16))
    found = ts.diagnose(snn, ann, [x], time_steps=4, progress=False)
    assert [site.site for site in found.sites] == ["relu"]
    assert "analog=['relu']" in " ".join(found.advice())
    ts.save(snn, tmp_path / "net.tospike")
    assert torch.equal(ts.load(tmp_path / "net.tospike")(x, time_steps=4), snn(x, time_steps=4))
    assert ts.check(ann, x[:1], analog=["relu", "relu#2"]).problems[0].got == "0 Sites"


def test_a_site_left_analog_between_others_is_exact_in_the_mean():
    ann = nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    ).double()
    x = torch.randn(32, 4, dtype=torch.float64)
    snn = ts.convert(ann, ts.SNM(batches=1), calibration=[x], analog=["3"], progress=False)
    assert snn.site_names == ["1", "5"]
    torch.testing.assert_close(snn(x, time_steps=9, steps_per_call=2), snn(x, time_steps=9, steps_per_call=9))
    with torch.no_grad():
        wanted = ann(x)
    errors = {
        t: float((y - wanted).norm() / wanted.norm())
        for t, y in ts.simulate(snn, x, time_steps=800, checkpoints=(8, 800))
    }
    assert errors[800] < 0.02 < errors[8]
    result = ts.evaluate(snn, [(x, wanted.argmax(1))], time_steps=(4,), progress=False)
    assert {layer.name: layer.part for layer in result.layers}["4"] == "analog"


def test_rectifiers_behind_the_last_layer_run_once_on_the_mean_where_they_are_left_analog():
    ann = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Flatten(), nn.ReLU6()).double()
    x = torch.randn(32, 4, dtype=torch.float64)
    plain, kept = (
        ts.convert(ann[:end], ts.SNM(batches=1), calibration=[x], analog=leave, progress=False)
        for end, leave in ((3, ()), (6, ["3", "5"]))
    )
    assert (kept.site_names, kept.conversion.analog) == (["1"], ())
    assert ts.check(ann, x, analog=["3", "5"]).incremental == ()
    with torch.no_grad():
        assert torch.equal(kept(x, time_steps=5), plain(x, time_steps=5).clamp(0, 6))
    half = ts.convert(ann, ts.SNM(batches=1), calibration=[x], analog=["3"], progress=False)
    assert len(half.conversion.analog) == 1  # a Site follows, which is stepped
