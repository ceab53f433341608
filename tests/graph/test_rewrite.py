import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tospike as ts
from tospike.graph.capture import capture
from tospike.graph.kinds import Kind
from tospike.graph.rewrite import rewrite
from tospike.graph.walk import site_nodes


def rewritten(ann, x):
    captured = capture(ann, x)
    rewrite(captured)
    return captured


def norm(kind, channels, negative=False):
    made = kind(channels).double()
    made.running_mean.normal_()
    made.running_var.uniform_(0.3, 3)
    with torch.no_grad():
        made.weight.uniform_(0.5, 2)
        made.bias.normal_()
        if negative:
            made.weight[0] = -1
    return made


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d, (2, 4, 9)),
    "conv2d without bias": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d, (2, 4, 7, 7)),
    "conv2d grouped dilated": (nn.Conv2d(4, 6, 3, groups=2, dilation=2, stride=2), nn.BatchNorm2d, (2, 4, 9, 9)),
    "conv3d": (nn.Conv3d(4, 6, 2), nn.BatchNorm3d, (2, 4, 4, 4, 4)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d, (2, 4, 5)),
    "transposed 2d": (nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d, (2, 4, 5, 5)),
    "transposed 2d grouped": (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d, (2, 4, 5, 5)),
    "transposed 3d grouped": (nn.ConvTranspose3d(4, 6, 2, groups=2), nn.BatchNorm3d, (2, 4, 3, 3, 3)),
    "linear": (nn.Linear(4, 6), nn.BatchNorm1d, (5, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_batch_norm_folds_exactly(name):
    layer, kind, shape = LAYERS[name]
    ann = nn.Sequential(layer.double(), norm(kind, 6), nn.ReLU()).eval()
    captured = rewritten(ann, torch.randn(shape, dtype=torch.float64))
    assert not [m for m in captured.graph.modules() if isinstance(m, kind)]
    for _ in range(3):
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(captured.run({"input": x}), ann(x), rtol=1e-12, atol=1e-12)


def frozen(norm):
    """The same batch norm as torchvision freezes it."""
    ops = pytest.importorskip("torchvision.ops")
    made = ops.FrozenBatchNorm2d(norm.num_features, eps=norm.eps).double()
    made.load_state_dict({name: value for name, value in norm.state_dict().items() if "tracked" not in name})
    return made


def test_a_frozen_batch_norm_folds_exactly_and_elsewhere_becomes_one_of_torch():
    norms = [norm(nn.BatchNorm2d, 6), norm(nn.BatchNorm2d, 4, negative=True)]
    norms[0].eps = 1e-2
    ann = nn.Sequential(frozen(norms[1]), nn.Conv2d(4, 6, 3).double(), frozen(norms[0]), nn.ReLU()).eval()
    captured = rewritten(ann, torch.randn(2, 4, 7, 7, dtype=torch.float64))
    assert [type(module) for module in captured.graph.children()][:2] == [nn.BatchNorm2d, nn.Conv2d]
    assert len(captured.graph.graph.nodes) == 5  # input, norm, convolution, Site, output
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(captured.run({"input": x}), ann(x), rtol=1e-12, atol=1e-12)
    assert isinstance(ann[0], type(frozen(norms[0])))  # the network itself is as it was


class Functional(nn.Module):
    """A layer written as a function of weights that the module holds, with weight standardisation."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.weight, self.bias = [layer], layer.weight, layer.bias
        self.function = getattr(F, type(layer).__name__.lower().replace("transpose", "_transpose"))

    def forward(self, x):
        layer, weight = self.layer[0], self.weight - 0.1 * self.weight.mean()
        if isinstance(layer, nn.Linear):
            return self.function(x, weight, bias=self.bias)
        if layer.transposed:
            return self.function(
                x, weight, self.bias, layer.stride, layer.padding, layer.output_padding, groups=layer.groups
            )
        return self.function(
            x, weight, self.bias, stride=list(layer.stride), dilation=layer.dilation, groups=layer.groups
        )


@pytest.mark.parametrize("name", LAYERS)
def test_functional_layers_become_modules(name):
    layer, kind, shape = LAYERS[name]
    ann = nn.Sequential(Functional(layer.double()), norm(kind, 6), nn.ReLU()).eval()
    x = torch.randn(shape, dtype=torch.float64)
    captured = rewritten(ann, x)
    assert [type(m) for m in captured.graph.modules() if [*m.parameters(recurse=False)]] == [type(layer)]
    torch.testing.assert_close(captured.run({"input": x}), ann(x), rtol=1e-12, atol=1e-12)


def test_a_functional_layer_with_weights_from_the_input_stays():
    class Dynamic(nn.Module):
        def forward(self, x):
            return F.linear(F.relu(x), x.mean(0, keepdim=True).tanh())

    captured = rewritten(Dynamic(), torch.randn(3, 4))
    assert not [m for m in captured.graph.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_that_cannot_fold_stays_exact(affine):
    norms = [norm(nn.BatchNorm2d, 2), nn.BatchNorm2d(3, affine=affine).double()]
    ann = nn.Sequential(norms[0], nn.Conv2d(2, 3, 3).double(), nn.ReLU(), norms[1], nn.ReLU()).eval()
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(rewritten(ann, x).run({"input": x}), ann(x), rtol=1e-12, atol=1e-12)


def test_linear_on_a_sequence_does_not_fold_the_norm_of_its_positions():
    ann = nn.Sequential(nn.Linear(4, 6).double(), norm(nn.BatchNorm1d, 3), nn.ReLU()).eval()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(rewritten(ann, x).run({"input": x}), ann(x), rtol=1e-12, atol=1e-12)


class SharedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.first, self.second = (
            nn.Conv2d(2, 2, 1).double(),
            norm(nn.BatchNorm2d, 2),
            norm(nn.BatchNorm2d, 2),
        )

    def forward(self, x):
        return F.relu(self.second(self.conv(F.relu(self.first(self.conv(x))))))


def test_convolution_with_two_norms_folds_into_two():
    ann, x = SharedConv().eval(), torch.randn(2, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(rewritten(ann, x).run({"x": x}), ann(x), rtol=1e-12, atol=1e-12)


def test_max_pool_moves_before_the_neuron():
    ann, x = (
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Dropout(), nn.MaxPool2d(2), nn.Conv2d(2, 1, 1)).eval(),
        torch.randn(3, 1, 8, 8),
    )
    captured = rewritten(ann, x)
    (pool,), (site,) = captured.nodes(Kind.POOL_MAX), site_nodes(captured.graph)
    assert site.all_input_nodes == [pool]
    assert site.meta["site"].shape == (2, 3, 3)
    assert torch.equal(captured.run({"input": x}), ann(x))


class Inception(nn.Module):
    """A neuron that is pooled in one branch and used as it is in another."""

    def __init__(self, negative=None):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 3, 1), nn.Conv2d(4, 3, 1)
        self.pool, self.head = nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 2, 1)
        self.norm = nn.Identity() if negative is None else norm(nn.BatchNorm2d, 4, negative).float()

    def forward(self, x):
        h = F.relu(self.stem(x))
        return self.head(F.relu(torch.cat([self.a(h), self.b(self.pool(self.norm(h)))], 1)))


@pytest.mark.parametrize("negative", [None, False])
def test_shared_branch_becomes_a_pooled_copy(negative):
    ann, x = Inception(negative).eval(), torch.randn(2, 1, 6, 6)
    captured = rewritten(ann, x)
    sites = [node.meta["site"] for node in site_nodes(captured.graph)]
    assert [site.copy_of for site in sites if site.copy_of] == ["relu"]
    torch.testing.assert_close(captured.run({"x": x}), ann(x))
    report = ts.check(ann, x)
    assert report.ok
    assert report.neurons_added == 4 * 36
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=[x])
    assert snn.conversion.neurons_added == 4 * 36


def test_negative_scale_before_pooling_is_refused():
    report = ts.check(Inception(negative=True).eval(), torch.randn(2, 1, 6, 6))
    assert not report.ok
    assert any("negative" in problem.what and ".py:" in problem.where for problem in report.problems)


def test_copied_site_has_a_membrane_of_its_own():
    snn = ts.convert(Inception(), ts.RobustNorm(percentile=1.0), calibration=[torch.randn(2, 1, 6, 6)])
    targets = [node.target for node in site_nodes(snn.graph)]
    assert len(set(targets)) == len(targets) == 3


@pytest.mark.parametrize("window", [1, (1, 1)])
def test_a_max_pool_over_single_elements_only_leaves_some_out(window):
    ann = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.MaxPool2d(window, 2), nn.ReLU(), nn.Flatten()
    )
    x = torch.randn(4, 1, 8, 8)
    captured = rewritten(ann.eval(), x)
    assert not captured.nodes(Kind.POOL_MAX)
    assert ts.check(ann, x).ok
    torch.testing.assert_close(captured.run({"input": x}), ann(x))
    assert not ts.check(nn.Sequential(*ann[:3], nn.AdaptiveMaxPool2d(1), *ann[4:]), x).ok  # one output, not one input


def test_pool_of_the_read_out_stays():
    ann, x = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.MaxPool2d(2)), torch.randn(2, 1, 8, 8)
    assert ts.check(ann, x).ok
    snn = ts.convert(ann, ts.RobustNorm(percentile=1.0), calibration=[x])
    assert (snn(x, time_steps=1000) - ann(x)).abs().max() < 0.01


def test_pool_of_a_sum_behind_neurons_is_refused():
    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(1, 2, 3), nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 1)

        def forward(self, x):
            return F.relu(self.c(F.max_pool2d(F.relu(self.a(x)) + F.relu(self.b(x)), 2)))

    report = ts.check(Summed(), torch.randn(2, 1, 8, 8))
    assert not report.ok
    assert "add" in report.problems[0].what


@pytest.mark.parametrize("place", ["before the weights", "between neurons", "at the read-out"])
def test_nonlinear_operation_is_refused_only_between_neurons(place):
    gelu = lambda here: [nn.GELU()] if here == place else []  # noqa: E731
    ann = nn.Sequential(
        *gelu("before the weights"), nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), *gelu("between neurons"), nn.Linear(4, 4),
        nn.ReLU(), nn.Linear(4, 2), *gelu("at the read-out"),
    )  # fmt: skip
    assert ts.check(ann, torch.randn(2, 3)).ok == (place != "between neurons")
