"""The compiled gradients of neurons against those that autograd takes from the steps in torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from strategies import causal
from tospike.graph.rewrite import Rectifier
from tospike.neurons import learning
from tospike.neurons.model import NeuronModel
from tospike.neurons.modules import Neuron
from tospike.neurons.surrogate import SHAPES, Surrogate

pytest.importorskip("numba")


pytestmark = pytest.mark.usefixtures("small_maps_too")
MODELS = causal([1, 3], ["uniform", "successive"])  # each kind of neuron is compiled


def parameters_of(neuron):
    """Turn what is tuned of a neuron into parameters."""
    for name in ("threshold", "start", "bias"):
        value = getattr(neuron, name)
        if value is not None:
            delattr(neuron, name)
            neuron.register_parameter(name, nn.Parameter(value.clone()))


def gradients(neuron, currents, other, cuts, weights, compiled):
    """Return what neurons emit in chunks and all gradients of a weighted sum of emissions and of the last state."""
    leaves = [x.clone().requires_grad_() for x in (currents, other) if x is not None]
    neuron.zero_grad()
    state, emitted, at = neuron.initial(leaves[0][0]), [], 0
    with pytest.MonkeyPatch.context() as patch:
        if not compiled:
            patch.setattr(learning, "fits", lambda *_: False)
        for size in cuts:
            parts = [x[at : at + size] for x in leaves]
            out, state = neuron(parts[0], state, *parts[1:])
            emitted.append(out)
            at += size
    emitted = torch.cat(emitted)
    of_emissions, of_state = weights
    loss = (emitted * of_emissions).sum() + (state.potential * of_state).sum()
    if state.sent is not None:
        loss = loss + (state.sent * of_state.cos()).sum()
    loss.backward()
    return emitted.detach(), [leaf.grad for leaf in (*leaves, *neuron.parameters())]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_gradients_are_those_of_the_steps_in_torch(data):
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    n, c, h, w = (data.draw(st.integers(1, high)) for high in (3, 9, 7, 40))
    cuts = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    grain = data.draw(st.sampled_from([(), (c, 1, 1), (c, h, w)]))
    function = data.draw(st.sampled_from([None, Rectifier(1.0), nn.LeakyReLU(0.2)]))
    double = {"dtype": torch.float64}
    neuron = Neuron(
        0.3 + torch.rand(grain, **double), 0.0, data.draw(MODELS), function, remember=data.draw(st.booleans())
    )
    neuron.start = torch.rand(grain, **double)
    if data.draw(st.booleans()):
        neuron.bias = 0.3 * torch.randn(data.draw(st.sampled_from([1, 2, 9])), c, 1, 1, **double)
    if data.draw(st.booleans()):
        neuron.gain = 0.5 + torch.rand(c, 1, 1, **double)
    parameters_of(neuron)
    neuron.surrogate = Surrogate(data.draw(st.sampled_from([0.4, 1.0, 1.7])), data.draw(st.sampled_from(SHAPES)))
    shape = (sum(cuts), n, c, h, w)
    currents, of_emissions = torch.randn(shape, **double), torch.randn(shape, **double)
    if data.draw(st.booleans()):
        currents = currents.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, shape[:2])
    if data.draw(st.booleans()):
        of_emissions = of_emissions[:1].expand(shape)  # as that of a mean over time
    other = torch.randn(shape, **double) if data.draw(st.booleans()) else None
    weights = of_emissions, torch.randn(shape[1:], **double)
    assert learning.fits(neuron, currents)
    emitted, found = gradients(neuron, currents, other, cuts, weights, compiled=True)
    wanted, expected = gradients(neuron, currents, other, cuts, weights, compiled=False)
    torch.testing.assert_close(emitted, wanted)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_currents_of_mixed_precision_get_gradients_of_their_own_kind(dtype):
    torch.manual_seed(0)
    neuron = Neuron(torch.rand(5, 1, 1) + 0.4)
    parameters_of(neuron)
    neuron.surrogate = Surrogate()
    currents = torch.randn(4, 2, 5, 3, 3).to(dtype)
    weights = torch.randn(currents.shape), torch.randn(currents.shape[1:])
    assert learning.fits(neuron, currents)
    emitted, found = gradients(neuron, currents, None, (4,), weights, compiled=True)
    wanted, expected = gradients(neuron, currents, None, (4,), weights, compiled=False)
    assert torch.equal(emitted, wanted)
    assert found[0].dtype is dtype
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("model", [NeuronModel(), NeuronModel(signed=True), NeuronModel(capacity=3)], ids=repr)
@pytest.mark.parametrize("learns", [True, False])
def test_what_is_not_a_number_is_handed_on_so_that_a_loss_shows_it(model, learns):
    neuron = Neuron(torch.rand(8, 1, 1) + 0.4, model=model)
    neuron.surrogate = Surrogate()
    currents = torch.randn(4, 2, 8, 16, 16)
    currents[1, 0, 3, 5, 5] = float("nan")
    currents.requires_grad_(learns)
    emitted, _ = neuron(currents, neuron.initial(currents[0]))
    wanted = torch.zeros(4, 2, 8, 16, 16, dtype=torch.bool)
    wanted[1:, 0, 3, 5, 5] = True
    assert torch.equal(emitted.isnan(), wanted)


def test_what_is_not_used_gets_no_gradient():
    neuron = Neuron(torch.rand(3, 1, 1) + 0.4, model=NeuronModel(signed=True))
    parameters_of(neuron)
    neuron.surrogate = Surrogate()
    currents = torch.randn(4, 2, 3, 5, 5, requires_grad=True)
    _, state = neuron(currents, neuron.initial(currents[0]))
    state.potential.sum().backward()  # the charge: a sum, whatever was sent
    assert torch.equal(currents.grad, torch.ones_like(currents))
    assert torch.equal(neuron.threshold.grad, torch.zeros(3, 1, 1))


def test_what_has_no_kernel_is_stepped_by_torch():
    neuron = Neuron(torch.tensor(1.0), model=NeuronModel(capacity=2, levels="nearest"))
    currents = torch.randn(4, 2, 3)
    assert not learning.fits(neuron, currents)  # no surrogate
    neuron.surrogate = Surrogate()
    assert not learning.fits(neuron, currents)  # no gradient between levels at unequal distances
    neuron.model = NeuronModel(signed=True)
    assert learning.fits(neuron, currents)
    assert not learning.fits(neuron, currents.half())
    neuron.function = nn.GELU()
    assert not learning.fits(neuron, currents)
