import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import tospike as ts
from references.spiking import residual_network, theta_valued_mlp, unit_mlp
from tospike import zoo


def mlp(*widths):
    layers = [module for a, b in zip(widths, widths[1:], strict=False) for module in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def ltb(ann, *batches, k=5, **settings):
    return ts.convert(ann, ts.LTB(batches=k), calibration=list(batches), **settings)


def approaches(ann, x, steps=400, tolerance=0.05):
    """Convert with maximum thresholds, run long, and compare with the ANN."""
    example = x if isinstance(x, torch.Tensor) else (tuple(x),)
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=[example], example=x)
    ann.eval()
    with torch.no_grad():
        expected = ann(x) if isinstance(x, torch.Tensor) else ann(*x)
    got = snn(x, time_steps=steps) if isinstance(x, torch.Tensor) else snn(*x, time_steps=steps)
    assert snn.conversion.rebuilt_difference < 1e-4
    assert (got - expected).abs().max() < tolerance * expected.abs().max() + 1e-3
    return snn


def test_theta_valued_spikes_equal_unit_spikes_with_scaled_weights():
    ann = mlp(4, 8, 7, 6, 3).double()
    x = torch.randn(10, 4, dtype=torch.float64)
    snn = ltb(ann, x)
    layers = [(ann[i].weight.detach().numpy(), ann[i].bias.detach().numpy()) for i in (0, 2, 4, 6)]
    thetas = [snn.conversion.thresholds[name].numpy() for name in ("1", "3", "5")]
    valued = theta_valued_mlp(x.numpy(), layers, thetas, 13)
    np.testing.assert_allclose(unit_mlp(x.numpy(), layers, thetas, 13), valued, atol=1e-10)
    for t, y in ts.simulate(snn, x, time_steps=13, checkpoints=range(1, 14)):
        np.testing.assert_allclose(y.numpy(), valued[:t].mean(0), atol=1e-10)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(3, 2)

    def forward(self, x):
        y = self.a(x).relu()
        y = (self.b(y) + y).relu()
        return self.c(nn.functional.avg_pool1d(y[:, None], 2)[:, 0])


def test_theta_valued_spikes_equal_unit_spikes_through_a_residual_join_and_an_average_pool():
    ann, x = Residual().double(), torch.randn(10, 4, dtype=torch.float64)
    snn = ltb(ann, x)
    weights = [layer.weight.detach().numpy() for layer in (ann.a, ann.b, ann.c)]
    biases = [layer.bias.detach().numpy() for layer in (ann.a, ann.b, ann.c)]
    thetas = [theta.numpy() for theta in snn.conversion.thresholds.values()]
    pool = np.kron(np.eye(3), [[0.5, 0.5]])
    valued, unit = (residual_network(x.numpy(), weights, biases, thetas, pool, 11, unit=unit) for unit in (False, True))
    np.testing.assert_allclose(unit, valued, atol=1e-10)
    for t, y in ts.simulate(snn, x, time_steps=11, checkpoints=range(1, 12)):
        np.testing.assert_allclose(y.numpy(), valued[:t].mean(0), atol=1e-10)


def test_a_network_with_batch_norm_gives_the_snn_of_its_folded_twin():
    ann = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(),
                        nn.Linear(6, 3)).double()  # fmt: skip
    x = torch.randn(32, 1, 6, 6, dtype=torch.float64)
    ann(x)
    ann.eval()
    twin = nn.Sequential(
        fuse_conv_bn_eval(ann[0], ann[1]), ann[2], ann[3], fuse_linear_bn_eval(ann[4], ann[5]), ann[6], ann[7]
    )
    ours, theirs = (ltb(network, x)(x, time_steps=17) for network in (ann, twin))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mode", [True, False])
def test_ann_is_left_bit_identical(mode):
    ann = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    calls = []
    ann[0].register_forward_hook(lambda *_: calls.append(1))
    ann.train(mode)
    before = {name: value.clone() for name, value in ann.state_dict().items()}
    kinds = [(name, type(module)) for name, module in ann.named_modules()]
    hooks = [len(module._forward_hooks) for module in ann.modules()]
    ltb(ann, torch.randn(4, 1, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in ann.state_dict().items())
    assert [(name, type(module)) for name, module in ann.named_modules()] == kinds
    assert [len(module._forward_hooks) for module in ann.modules()] == hooks
    assert all(module.training is mode for module in ann.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in ann.parameters())


class Reused(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.c(self.relu(self.b(self.relu(self.a(x)))))


def test_reused_relu_becomes_two_sites_with_membranes_of_their_own():
    ann = Reused().double()
    x = torch.randn(9, 3, dtype=torch.float64)
    snn = ltb(ann, x)
    assert snn.site_names == ["relu", "relu#2"]
    layers = [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in (ann.a, ann.b, ann.c)]
    thetas = [snn.conversion.thresholds[name].numpy() for name in snn.site_names]
    expected = theta_valued_mlp(x.numpy(), layers, thetas, 11).mean(0)
    np.testing.assert_allclose(snn(x, time_steps=11).numpy(), expected, atol=1e-10)


class Spelled(nn.Module):
    def __init__(self, spelling):
        super().__init__()
        self.a, self.b, self.spelling = nn.Linear(3, 6), nn.Linear(6, 2), spelling

    def forward(self, x):
        return self.b(self.spelling(self.a(x)))


SPELLINGS = [
    F.relu, torch.relu, nn.ReLU(), nn.ReLU(inplace=True), lambda z: z.relu(), lambda z: z.relu_(), lambda z: torch.relu_(z),
    lambda z: z.clamp(min=0), lambda z: torch.clamp_min(z, 0), lambda z: F.relu(z, inplace=True), lambda z: F.threshold(z, 0, 0),
]  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_relu_gives_the_same_snn(spelling):
    x = torch.randn(7, 3)
    ann = Spelled(nn.ReLU())
    other = Spelled(spelling)
    other.a, other.b = ann.a, ann.b
    assert torch.equal(ltb(ann, x)(x, time_steps=9), ltb(other, x)(x, time_steps=9))


@pytest.mark.parametrize(
    "spelling", [nn.ReLU6(), F.relu6, nn.Hardtanh(0, 6), lambda z: z.clamp(0, 6), lambda z: F.hardtanh(z, 0, 6)]
)
def test_capped_activation_bounds_the_threshold(spelling):
    ann = Spelled(spelling)
    with torch.no_grad():
        ann.a.weight.mul_(50)
    snn = ltb(ann, torch.randn(64, 3))
    assert snn.conversion.thresholds[snn.site_names[0]].max() == 6.0


class Joined(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 5), nn.Linear(2, 4), nn.Linear(9, 2)

    def forward(self, left, right):
        return self.c(torch.cat([F.relu(self.a(left)), F.relu(self.b(right))], 1))


def test_two_inputs_and_a_concatenation():
    approaches(Joined(), (torch.randn(6, 3), torch.randn(6, 2)))


def test_two_inputs_by_name():
    left, right = torch.randn(6, 3), torch.randn(6, 2)
    snn = ltb(Joined(), {"right": right, "left": left, "label": torch.zeros(6)})
    assert torch.equal(snn({"left": left, "right": right}, time_steps=5), snn(left, right, time_steps=5))


class Several(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.a, self.b, self.c, self.kind = nn.Linear(3, 5), nn.Linear(5, 2), nn.Linear(5, 4), kind

    def forward(self, x):
        h = F.relu(self.a(x))
        return {"out": self.b(h), "aux": self.c(h)} if self.kind is dict else (self.b(h), self.c(h))


@pytest.mark.parametrize("kind", [dict, tuple])
def test_outputs_keep_their_structure(kind):
    ann, x = Several(kind), torch.randn(6, 3)
    out = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=[x])(x, time_steps=500)
    assert isinstance(out, kind)
    got, expected = (list(o.values()) if kind is dict else o for o in (out, ann(x)))
    for mine, theirs in zip(got, expected, strict=True):
        assert (mine - theirs).abs().max() < 0.02


def test_linear_layers_on_sequences_take_a_threshold_per_feature():
    snn = approaches(mlp(4, 6, 5, 2), torch.randn(3, 7, 4))
    assert ltb(mlp(4, 6, 2), torch.randn(3, 7, 4)).conversion.thresholds["1"].shape == (1, 6)
    assert len(snn.site_names) == 2


CONVOLUTIONAL = {
    "1d": (nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), (2, 2, 9)),
    "2d": (nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), (2, 2, 7, 7)),
    "3d": (nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), (2, 2, 5, 5, 5)),
    "transposed 1d": (nn.ConvTranspose1d(2, 4, 3), nn.BatchNorm1d(4), (2, 2, 5)),
    "transposed 2d": (nn.ConvTranspose2d(2, 4, 3, stride=2), nn.BatchNorm2d(4), (2, 2, 4, 4)),
    "transposed 3d": (nn.ConvTranspose3d(2, 4, 2), nn.BatchNorm3d(4), (2, 2, 3, 3, 3)),
    "grouped, dilated": (nn.Conv2d(2, 4, 3, groups=2, dilation=2), nn.BatchNorm2d(4), (2, 2, 8, 8)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONAL)
def test_every_convolution_converges_to_the_ann(kind):
    layer, norm, shape = CONVOLUTIONAL[kind]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    ann = nn.Sequential(layer, norm, nn.ReLU(), nn.Flatten(), nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(shape)
    ann(x)
    approaches(ann, x)


def test_prepared_network_brings_its_method_and_thresholds():
    x = torch.randn(16, 3)
    ann = ts.prepare(mlp(3, 8, 2), ts.QCFS(levels=8, shift=0.25, initial=3.0), example=x)
    snn = ts.convert(ann, example=x)
    assert (snn.conversion.method, snn.conversion.start) == ("qcfs", 0.25)
    assert snn.conversion.thresholds["1"].item() == pytest.approx(3.0)
    assert snn.conversion.delay is None
    assert snn.conversion.reference == "trained ANN with clips in place of its quantisers"


def test_one_layer_of_qcfs_loses_nothing_at_t_equal_l():
    x = torch.randn(64, 3, dtype=torch.float64)
    ann = ts.prepare(mlp(3, 8, 2).double(), ts.QCFS(levels=4, initial=2.0), example=x)
    torch.testing.assert_close(ts.convert(ann, example=x)(x, time_steps=4), ann.eval()(x))


def test_calibration_is_repeatable_and_leaves_the_global_generator_alone():
    data = torch.utils.data.DataLoader(torch.randn(64, 3), batch_size=8, shuffle=True)
    ann = mlp(3, 8, 2)
    state = torch.get_rng_state()
    thresholds = [
        ts.convert(ann, ts.LTB(batches=4), calibration=data, example=torch.zeros(1, 3), seed=s).conversion.thresholds[
            "1"
        ]
        for s in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(thresholds[0], thresholds[1])
    assert not torch.equal(thresholds[0], thresholds[2])


def test_a_flipped_quantiser_level_is_no_rebuilding_error():
    torch.manual_seed(0)
    images = torch.randn(200, 1, 28, 28)
    for name in ("fashion-resnet20-qcfs-l4", "fashion-resnet20-qcfs-l8"):
        ann = zoo.load(name)
        assert ts.convert(ann, example=images).conversion.rebuilt_difference < 1e-5
        assert not any(module._forward_hooks for module in ann.modules())


def test_a_trained_quantiser_becomes_a_clip_as_t_grows():
    torch.manual_seed(0)
    ann = mlp(4, 32, 32, 2)
    prepared = ts.prepare(ann, ts.QCFS(levels=4, initial=1.0), example=torch.zeros(1, 4)).eval()
    x, snn = torch.randn(256, 4), ts.convert(prepared)
    with torch.no_grad():
        quantised = prepared(x)
        clipped = ann[4](ann[2](ann[0](x).clamp(0, 1)).clamp(0, 1))
    y = snn(x, time_steps=1024)
    assert (y - clipped).norm() < 0.02 * clipped.norm()
    assert (y - clipped).norm() < 0.1 * (y - quantised).norm()


@pytest.mark.parametrize("layer", [nn.LSTM(3, 3), nn.GRU(3, 3)])
def test_recurrent_layers_are_refused_with_a_reason_that_helps(layer):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.before, self.layer, self.after = nn.Linear(3, 3), layer, nn.Linear(3, 2)

        def forward(self, x):
            return self.after(self.layer(self.before(x).relu())[0])

    report = ts.check(Recurrent(), torch.zeros(2, 5, 3))
    assert not report.ok
    assert "Write the cell out" in str(report)


def test_a_network_that_calls_view_on_maps_is_calibrated_channels_last():
    class Viewed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4 * 36, 2)

        def forward(self, x):
            return self.fc(torch.relu(self.conv(x)).view(x.size(0), -1))

    x = torch.randn(8, 3, 8, 8)
    ann = Viewed().eval()
    snn = ts.convert(ann, ts.RMP(), calibration=[x])
    z = ann.conv(x).detach()
    assert snn.conversion.thresholds[snn.site_names[0]].item() == pytest.approx(z.max().item(), rel=1e-5)
    torch.testing.assert_close(snn(x, time_steps=512), ann(x).detach(), atol=0.02, rtol=0.05)
