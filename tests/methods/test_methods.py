"""The contract of every method, and the exactness that signed neurons with memory promise."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import tospike as ts
from tospike.errors import ExportError, OptionError
from tospike.graph.walk import site_nodes
from tospike.methods.auto import FLOOR
from tospike.methods.base import LeastError
from tospike.methods.trained import Trained
from tospike.neurons import Neuron, NeuronModel
from tospike.parts.activations import ClipFloorShift
from tospike.parts.reconstruct import Reconstruct
from tospike.parts.refiners import ChannelBias, Refiner, StepBias
from tospike.testing import _Residual, check_method

METHODS = {
    "ltb": ts.LTB(batches=30), "robust-norm": ts.RobustNorm(percentile=1.0), "rmp": ts.RMP(), "snm": ts.SNM(),
    "light-calibration": ts.LightCalibration(time_steps=8), "advanced-calibration": ts.AdvancedCalibration(time_steps=8),
    "ftbc": ts.FTBC(time_steps=8), "ternary": ts.Ternary(time_steps=8), "burst": ts.Burst(time_steps=8, capacity=3),
    "multi-threshold": ts.MultiThreshold(sizes=5), "auto": ts.Auto(time_steps=8), "opi": ts.OPI(), "threshold-shift": ts.RTS(time_steps=8),
    "group": ts.Group(time_steps=8), "harmony": ts.Harmony(time_steps=8), "differential": ts.Differential(time_steps=8),
    "srp": ts.SRP(time_steps=8, pre_steps=4), "cos": ts.COS(time_steps=8, pre_steps=4), "parallel": ts.Parallel(time_steps=8),
    "tpp": ts.TPP(time_steps=8), "bit-weighted": ts.BitWeighted(time_steps=8), "first-spike": ts.FirstSpike(time_steps=8),
    "crpi": ts.CRPI(),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_contract(name):
    assert METHODS[name].name == name
    check_method(METHODS[name], error=0.6 if name in ("rmp", "opi", "threshold-shift") else 0.5)


@pytest.mark.parametrize("spikes", ["binary", "ternary", "graded"])
@pytest.mark.parametrize("steps", [1, 2, 8])
def test_auto_keeps_to_the_kind_of_spikes_and_the_contract(spikes, steps):
    method = ts.Auto(time_steps=steps, spikes=spikes)
    assert method.parts().neuron.spikes == spikes
    assert (2 if method.parts().neuron.signed else 1) * method.parts().neuron.capacity + 1 <= 15
    check_method(method, time_steps=steps, error={1: 0.8, 2: 0.6, 8: 0.4}[steps])


@pytest.mark.parametrize(("spikes", "steps", "biases"), [("binary", 2, 2), ("ternary", 8, 8), ("graded", 4, 4)])
def test_auto_has_a_bias_for_every_step_unless_told_otherwise(spikes, steps, biases, tmp_path):
    ann, x = _Residual().eval(), torch.randn(32, 1, 8, 8)
    for wanted, step_biases in ((biases, True), (1, False)):
        snn = ts.convert(ann, ts.Auto(steps, 2, 2, spikes=spikes, step_biases=step_biases), calibration=[x])
        assert {len(neuron.bias) for neuron in snn.modules() if isinstance(neuron, Neuron)} == {wanted}
        if spikes == "binary" and step_biases:
            pytest.importorskip("nir")
            with pytest.raises(ExportError, match="step_biases=False"):
                ts.export_nir(snn, tmp_path / "net.nir", alone=False)


@pytest.mark.parametrize("steps", [1, 4])
def test_graded_auto_leaves_room_for_a_channel_that_calibration_data_hardly_showed(steps):
    ann = nn.Sequential(nn.Identity(), nn.ReLU(), nn.Conv2d(2, 2, 1, bias=False)).eval()
    ann[2].weight.data = torch.eye(2)[..., None, None]
    x = torch.rand(64, 2, 4, 4)
    seldom = x * torch.tensor([1.0, 0.02])[:, None, None]
    auto = ts.Auto(steps, 1, 1, spikes="graded")
    close = dataclasses.replace(auto.parts().scale, floor=0.0)
    errors = []
    for method in (auto, auto.using(scale=close)):
        snn = ts.convert(ann, method, calibration=[seldom])
        errors.append((snn(x, time_steps=steps) - ann(x))[:, 1].square().mean() / x[:, 1].square().mean())
    assert errors[0] < 0.3 < 0.6 < errors[1]


@pytest.mark.parametrize("floor", [-0.1, 1.5, float("nan"), "0.7"])
def test_a_floor_that_is_no_share_is_refused(floor):
    with pytest.raises(
        OptionError, match=r"(?s)`floor` of LeastError.*got: .*expected: a share from 0 to 1.*do this: Pass floor=0.7"
    ):
        LeastError(NeuronModel(), 4, floor=floor)


@pytest.mark.parametrize(
    ("steps", "codes"), [(1, ("rest", "taper")), (2, ("rest", "taper", "fit")), (8, ("taper", "fit"))]
)
def test_auto_keeps_the_code_that_comes_closer(steps, codes):
    ann, x = _Residual().eval(), torch.randn(64, 1, 8, 8)
    settings = {"time_steps": steps, "batches": 2, "refine_batches": 2}
    snn = ts.convert(ann, ts.Auto(**settings), calibration=[x])
    errors = {}
    for code in codes:
        one = ts.convert(ann, ts.Auto(**settings, code=code), calibration=[x])
        with torch.no_grad():
            errors[code] = float((one(x, time_steps=steps) - ann(x)).square().sum())
    assert snn.conversion.settings["code"] == min(errors, key=errors.get)
    assert len(set(errors.values())) == len(codes)


def test_auto_leaves_out_codes_that_cannot_send_what_an_activation_passes():
    ann, x = nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU(), nn.Linear(8, 2)).eval(), torch.randn(64, 3)
    assert ts.convert(ann, ts.Auto(2, 2, 2), calibration=[x]).conversion.settings["code"] != "rest"
    with pytest.raises(
        OptionError, match=r"(?s)leaky_?relu passes more.*got: ternary spikes, silence worth 1 of 1.*do this"
    ):
        ts.convert(ann, ts.Auto(2, 2, 2, code="rest"), calibration=[x])


def test_every_training_free_method_is_tested():
    training_free = {name for name, cls in ts.METHODS.items() if not issubclass(cls, Trained)}
    assert METHODS.keys() == training_free


def quantised(snn, ann, steps):
    """Return a copy of the network whose ReLUs round to the T levels of the SNN's neurons."""

    class Quantiser(nn.Module):
        def __init__(self, thetas):
            super().__init__()
            self.thetas, self.calls = thetas, 0

        def forward(self, z):
            theta = self.thetas[self.calls % len(self.thetas)] / steps
            self.calls += 1
            return theta * torch.floor(z / theta + 0.5).clamp(0, steps)

    copied = copy.deepcopy(ann)
    copied.relu = Quantiser([snn.conversion.thresholds[name] for name in ("relu", "relu#2")])
    return copied.eval()


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 16])
def test_unlimited_signed_neurons_equal_the_quantised_network_at_every_t(steps):
    ann = _Residual().double().eval()
    x = torch.randn(16, 1, 8, 8, dtype=torch.float64)
    method = ts.RobustNorm(percentile=0.9, granularity="channel").using(
        neuron=NeuronModel(capacity=10_000, signed=True, total=steps)
    )
    snn = ts.convert(ann, method, calibration=[x])
    with torch.no_grad():
        torch.testing.assert_close(snn(x, time_steps=steps), quantised(snn, ann, steps)(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("engine", ["count", "float"])
def test_synchronous_neurons_equal_the_quantised_network_at_every_t(steps, engine):
    ann = _Residual().double().eval()
    x = torch.randn(16, 1, 8, 8, dtype=torch.float64)
    method = ts.RobustNorm(percentile=0.9, granularity="channel").using(neuron=NeuronModel(synchronous=True))
    snn = ts.convert(ann, method, calibration=[x])
    with torch.no_grad():
        wanted = quantised(snn, ann, steps)(x)
    torch.testing.assert_close(snn(x, time_steps=steps, engine=engine), wanted, rtol=0, atol=1e-9)


def test_one_signed_spike_per_step_settles_on_the_quantised_network():
    """Input and biases last T steps, then the spikes that are still owed come in: a deep random network becomes exact."""
    depth, width, steps = 12, 64, 4
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(width, width, generator=generator, dtype=torch.float64) * (2 / width) ** 0.5 for _ in range(depth)
    ]
    x = torch.randn(20, width, generator=generator, dtype=torch.float64)
    layers, a, thetas = [], x, []
    for weight in weights:
        z = a @ weight.T
        thetas.append(z.clamp_min(0).quantile(0.95))
        a = thetas[-1] / steps * torch.floor(z * steps / thetas[-1] + 0.5).clamp(0, steps)
        layers.append(Neuron(thetas[-1], 0.5, NeuronModel(signed=True, total=steps)))
    states = [layer.initial(x) for layer in layers]
    sums, distance = torch.zeros_like(x), {}
    for t in range(1, steps + 17):
        signal = x if t <= steps else torch.zeros_like(x)
        for number, (weight, layer) in enumerate(zip(weights, layers, strict=True)):
            sent, states[number] = layer((signal @ weight.T)[None], states[number])
            signal = sent[0]
        sums += signal
        distance[t - steps] = float((sums / steps - a).norm() / a.norm())
    assert distance[0] > 0.3
    assert distance[16] < 1e-9


def test_one_spike_per_step_comes_closer_than_a_neuron_without_memory():
    ann = _Residual().double().eval()
    x = torch.randn(64, 1, 8, 8, dtype=torch.float64)
    errors = []
    for signed in (False, True):
        snn = ts.convert(
            ann, ts.LightCalibration(time_steps=8).using(neuron=NeuronModel(signed=signed)), calibration=[x]
        )
        with torch.no_grad():
            errors.append((snn(x, time_steps=8) - ann(x)).norm().item())
    assert errors[1] < errors[0]


@pytest.mark.parametrize("levels", [2, 4, 8])
def test_a_qcfs_network_with_signed_neurons_reaches_its_ann_at_t_equal_l(levels):
    ann = ts.prepare(_Residual(), ts.QCFS(levels=levels, initial=1.0), example=torch.zeros(1, 1, 8, 8)).double().eval()
    x = torch.randn(16, 1, 8, 8, dtype=torch.float64)
    assert {module.levels for module in ann.modules() if isinstance(module, ClipFloorShift)} == {levels}
    neurons = NeuronModel(capacity=levels, signed=True, total=levels), NeuronModel(synchronous=True)
    for neuron in neurons:
        snn = ts.convert(ann, ts.QCFS(levels=levels, initial=1.0).using(neuron=neuron), example=x)
        with torch.no_grad():
            torch.testing.assert_close(snn(x, time_steps=levels), ann(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("made", ["qcfs", "mice"])
def test_where_silence_is_worth_a_spike_t_steps_say_the_levels_of_a_network_trained_with_twice_as_many(steps, made):
    x = torch.randn(64, 4, dtype=torch.float64)
    qcfs, mice = ts.QCFS(levels=2 * steps, initial=1.5), ts.MiCE(time_steps=steps, spikes="ternary", initial=1.5)
    plain = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    ann = ts.prepare(plain, qcfs if made == "qcfs" else mice, example=x.float()).double().eval()
    method = qcfs.using(neuron=NeuronModel(signed=True, rest=1)) if made == "qcfs" else None
    snn = ts.convert(ann, method, example=x)
    assert snn.conversion.neuron == NeuronModel(signed=True, rest=1)
    torch.testing.assert_close(snn.conversion.thresholds["1"], torch.full_like(snn.conversion.thresholds["1"], 0.75))
    with torch.no_grad():
        torch.testing.assert_close(snn(x, time_steps=steps), ann(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "method",
    [ts.Parallel(time_steps=4, correct=False), ts.Group(time_steps=1, members=4), ts.BitWeighted(time_steps=2)],
)
def test_trained_thresholds_stay(method):
    """One step of four members, or four steps that wait, say the four levels of QCFS; two bits say three."""
    levels = 3 if method.name == "bit-weighted" else 4
    ann = ts.prepare(_Residual(), ts.QCFS(levels=levels, initial=1.0), example=torch.zeros(1, 1, 8, 8)).double().eval()
    x = torch.randn(16, 1, 8, 8, dtype=torch.float64)
    snn = ts.convert(ann, method, calibration=[x])
    with torch.no_grad():
        torch.testing.assert_close(snn(x, time_steps=method.time_steps), ann(x), rtol=0, atol=1e-6)


def test_a_scale_can_be_that_of_another_method():
    x = torch.randn(32, 1, 8, 8)
    plain = ts.convert(_Residual().eval(), ts.LTB(batches=7), calibration=[x])
    mixed = ts.FTBC(time_steps=4).using(scale=ts.LTB(batches=7))
    assert mixed.parts().calibration_batches == 7
    assert plain.conversion.calibration_batches == 7
    assert type(mixed.parts().scale(plain.conversion.sites[0], nn.ReLU())).__name__ == "LocalBalance"


def mean_errors(method, x, ann):
    """Return the mean error of each channel at the last Site, ANN minus SNN."""
    snn = ts.convert(ann, method, calibration=[x])
    seen = {}
    target = next(
        str(node.target) for node in snn.graph.graph.nodes if "site" in node.meta and node.meta["site"].name == "relu#2"
    )
    neuron = snn.graph.get_submodule(target)
    neuron.register_forward_hook(lambda module, args, out: seen.update(spikes=out[0]))
    snn(x, time_steps=8, steps_per_call=8)
    wanted = []
    ann.relu.register_forward_hook(lambda module, args, out: wanted.append(out))
    with torch.no_grad():
        ann(x)
    return snn, (wanted[1] - seen["spikes"].mean(0)).mean((0, 2, 3)), (wanted[1] - seen["spikes"]).mean((1, 3, 4))


@pytest.mark.parametrize("refiner", [ChannelBias(rounds=30), StepBias(rounds=30), Reconstruct()])
def test_refiners_shrink_the_mean_error_that_they_aim_at(refiner):
    torch.manual_seed(1)
    x = torch.randn(128, 1, 8, 8)
    plain = ts.LightCalibration(time_steps=8).using(refiners=())
    _, before, steps_before = mean_errors(plain, x, _Residual().eval())
    torch.manual_seed(1)
    _, after, steps_after = mean_errors(plain.using(refiners=(refiner,), refine_batches=1), x, _Residual().eval())
    assert after.abs().mean() < before.abs().mean()
    if isinstance(refiner, ChannelBias):
        assert after.abs().max() < 0.02
    if isinstance(refiner, StepBias):
        assert steps_after.abs().mean() < 0.5 * steps_before.abs().mean()


def test_reconstruction_is_the_ridge_solution():
    ann = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    x = torch.randn(200, 3, dtype=torch.float64)
    plain = ts.LightCalibration(time_steps=4).using(refiners=())
    snn = ts.convert(ann, plain, calibration=[x])
    inputs = []
    snn.graph.get_submodule("2").register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    snn(x, time_steps=4)
    rows = np.concatenate([inputs[0].numpy(), np.ones((200, 1))], 1)
    with torch.no_grad():
        missing = (ann(x) - ann[2](inputs[0])).numpy()
    ridge = 0.1
    gram = rows.T @ rows
    change = np.linalg.solve(gram + ridge * np.trace(gram) / 6 * np.eye(6), rows.T @ missing)
    refined = ts.convert(ann, plain.using(refiners=(Reconstruct(ridge=ridge),), refine_batches=1), calibration=[x])
    layer = refined.graph.get_submodule("2")
    np.testing.assert_allclose(layer.weight.numpy() - ann[2].weight.detach().numpy(), change[:-1].T, atol=1e-8)
    np.testing.assert_allclose(layer.bias.numpy() - ann[2].bias.detach().numpy(), change[-1], atol=1e-8)


LAYERS = {
    "same padding": nn.Conv2d(4, 6, 3, padding="same"), "strided, dilated": nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2),
    "grouped": nn.Conv2d(4, 6, (3, 1), groups=2, bias=False), "depthwise": nn.Conv2d(4, 4, 3, groups=4, padding=1),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_reconstruction_finds_the_weights_that_were_taken_away(name):
    """A view of a layer with other weights, whose missing output is known: the fit gives the weights back."""
    from tospike.parts.refiners import LayerView

    true, x = copy.deepcopy(LAYERS[name]).double(), torch.randn(8, 4, 9, 9, dtype=torch.float64)
    changed = copy.deepcopy(true)
    with torch.no_grad():
        changed.weight.mul_(0.3)
        missing = true(x) - changed(x)
    Reconstruct(ridge=1e-9).layer(LayerView(changed, [x], [missing]))
    torch.testing.assert_close(changed.weight, true.weight, rtol=0, atol=1e-4)


def test_a_refiner_sees_each_place_once_from_front_to_back_and_the_ann_it_is_compared_with():
    seen = []

    class Watch(Refiner):
        def site(self, view):
            seen.append((view.site.name, len(view.currents), view.currents[0].shape[0]))

        def layer(self, view):
            seen.append(type(view.layer).__name__)

    ann, x = _Residual().eval(), torch.randn(32, 1, 8, 8)
    ts.convert(ann, ts.LTB(batches=5).using(refiners=(Watch(),), time_steps=6, refine_batches=2), calibration=[x])
    assert seen == [("relu", 2, 6), "Conv2d", ("relu#2", 2, 6), "Linear"]


@pytest.mark.parametrize("code", ["rate", "bits", "first"])
def test_of_synchronous_neurons_refiners_see_the_mean_which_takes_the_memory_of_one_step(code):
    steps, seen = 6, []

    class Watch(Refiner):
        def site(self, view):
            (current,) = view.currents
            stepped, _ = view.neuron(current, view.neuron.initial(current[0]))
            torch.testing.assert_close(view.emissions(0).mean(0), stepped.mean(0))
            seen.append((current.shape[0], current.stride(0), current[0].clone()))

    ann, x = _Residual().eval(), torch.randn(32, 1, 8, 8)
    neuron = NeuronModel(synchronous=True, code=code)
    method = ts.LTB(batches=5).using(neuron=neuron, refiners=(Watch(),), time_steps=steps, refine_batches=1)
    snn = ts.convert(ann, method, calibration=[x])
    assert [found[:2] for found in seen] == [(steps, 0)] * 2
    means, _ = snn.plan.settle(snn.plan.prepare({"x": x}), steps)
    for site, (*_, current) in zip(site_nodes(snn.graph), seen, strict=True):
        torch.testing.assert_close(means[site.all_input_nodes[0]], current)


def test_unknown_parts_are_refused():
    with pytest.raises(OptionError, match="Did you mean 'neuron'"):
        ts.LTB().using(neurons=NeuronModel())
    assert {field.name for field in dataclasses.fields(ts.Parts)} >= {"scale", "start", "neuron", "refiners"}


@pytest.mark.parametrize(
    "method",
    [
        ts.Parallel(time_steps=4),
        ts.FTBC(time_steps=4),
        ts.Auto(time_steps=4, code="rate"),
        ts.LightCalibration(time_steps=4),
    ],
)
def test_a_trained_network_is_refined_towards_itself(method):
    """The targets are what the quantised network sends, not what a network of plain ReLUs would."""
    ann = ts.prepare(_Residual(), ts.QCFS(levels=4, initial=0.5), example=torch.zeros(1, 1, 8, 8)).double().eval()
    x = torch.randn(64, 1, 8, 8, dtype=torch.float64)
    snn = ts.convert(ann, method, calibration=[x])
    with torch.no_grad():
        error = float((snn(x, time_steps=4) - ann(x)).norm() / (ann(x) - ann(x).mean(0)).norm())
    assert error < (0.02 if method.name == "parallel" else 0.8)


def test_another_neuron_takes_the_scale_made_for_it():
    ann, x = _Residual().eval(), torch.randn(64, 1, 8, 8)
    rate = NeuronModel(signed=True)
    thetas = [
        ts.convert(ann, method.using(refiners=()), calibration=[x]).conversion.thresholds["relu"]
        for method in (ts.Auto(time_steps=8, code="taper").using(neuron=rate), ts.Auto(time_steps=8, code="rate"))
    ]
    torch.testing.assert_close(*thetas)
    kept = ts.Auto(time_steps=4, spikes="graded").using(neuron=rate).parts().scale
    assert (kept.neuron, kept.reach, kept.levels, kept.floor) == (rate, None, None, FLOOR)


def test_the_record_says_what_stands_at_each_site():
    ann, x = _Residual().eval(), torch.randn(64, 1, 8, 8)
    snn = ts.convert(ann, ts.Auto(time_steps=8, code="taper"), calibration=[x])
    neurons = {
        node.meta["site"].name: snn.graph.get_submodule(str(node.target))
        for node in snn.graph.graph.nodes
        if "site" in node.meta
    }
    assert [model.ratio for model in snn.conversion.neurons.values()] == [0.5, 0.75]
    for name, neuron in neurons.items():
        assert snn.conversion.neurons[name] == neuron.model
        assert torch.equal(snn.conversion.thresholds[name], neuron.threshold)


def test_neurons_of_a_group_are_counted_as_added():
    snn = ts.convert(_Residual().eval(), ts.Group(time_steps=2, members=4), calibration=[torch.randn(8, 1, 8, 8)])
    assert snn.conversion.neurons_added == 3 * sum(site.neurons for site in snn.conversion.sites)


def test_the_generator_of_the_caller_stays_where_it_was():
    ann, loader = _Residual().eval(), torch.utils.data.DataLoader(torch.randn(64, 1, 8, 8), 16, shuffle=True)
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    ts.convert(ann, ts.Auto(time_steps=4), calibration=loader)
    assert torch.equal(torch.rand(3), wanted)
