"""The compiled kernel against the steps in torch: equal to the last bit, for every neuron, layout and way to cut time."""

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from strategies import causal
from tospike.graph.rewrite import Rectifier
from tospike.neurons import fused, threads
from tospike.neurons.levels import Levels
from tospike.neurons.model import NeuronModel, PreRun
from tospike.neurons.modules import Neuron
from tospike.testing import CAUSAL

pytest.importorskip("numba")


pytestmark = pytest.mark.usefixtures("small_maps_too")
MODELS = causal([1, 2, 5], ["uniform", "nearest", "successive"])  # each kind of neuron is compiled


def drawn(data, shape, low, high, dtype):
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=dtype)


def laid_out(x, layout):
    """Return currents ``[T, N, C, H, W]`` with the same values in another order of memory."""
    if layout == "channels last":
        return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    if layout == "every other":
        return torch.stack([x, -x], dim=-1).flatten(-2)[..., ::2]
    if layout == "turned":
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    return x


def both(neuron, currents, cuts, other, levels, overwrite=False):
    """Step neurons through chunks by the kernel and by torch."""
    found = []
    for fits in (True, False):
        state, emitted, at = neuron.initial(currents[0]), [], 0
        for size in cuts:
            more = other
            if isinstance(other, Levels):
                more = other.with_values(other.values[at : at + size])
            elif other is not None:
                more = other[at : at + size]
            with pytest.MonkeyPatch.context() as patch:
                if not fits:
                    patch.setattr(fused, "fits", lambda *_: False)
                out, state = neuron(currents[at : at + size], state, more, levels=levels, overwrite=overwrite)
            emitted.append(out)
            at += size
        found.append((torch.cat(emitted), state))
    return found


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_the_kernel_is_equal_to_the_steps_in_torch(data):
    model = data.draw(MODELS)
    n, c, h, w = (data.draw(st.integers(1, high)) for high in (3, 9, 7, 7))
    cuts = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float64]))
    plain = (
        dtype is torch.float64
    )  # in double precision only what the float engine asks for, since each type is compiled
    grain = data.draw(st.sampled_from([(), (1,), (c, 1, 1), (c, h, w), (1, h, 1)]))
    theta = drawn(data, grain, 0.3, 1.5, dtype)
    function = data.draw(st.sampled_from([None, Rectifier(1.0), nn.LeakyReLU(0.2), nn.ReLU()]))
    neuron = Neuron(
        theta, data.draw(st.sampled_from([0.0, 0.5, 0.9])), model, function, remember=data.draw(st.booleans())
    )
    if data.draw(st.booleans()):
        neuron.bias = drawn(data, (data.draw(st.sampled_from([1, 2, 9])), c, 1, 1), -0.3, 0.3, dtype)
    if data.draw(st.booleans()):
        neuron.gain = drawn(data, (c, 1, 1), 0.5, 2.0, dtype)
    shape = (sum(cuts), n, c, h, w)
    constant = data.draw(st.booleans())
    values = drawn(data, (1, *shape[1:]) if constant else shape, -1.0, 1.5, dtype)
    currents = (
        values.expand(shape)
        if constant
        else laid_out(values, data.draw(st.sampled_from(["plain", "channels last", "every other", "turned"])))
    )
    kind = data.draw(st.sampled_from(["none", "float"] if plain else ["none", "float", "levels"]))
    other = None
    if kind == "float":
        other = laid_out(drawn(data, shape, -1.0, 1.0, dtype), data.draw(st.sampled_from(["plain", "channels last"])))
    elif kind == "levels":
        integers = drawn(data, shape, 0, 8, dtype).to(torch.uint8)
        other = Levels(
            integers, drawn(data, data.draw(st.sampled_from([(), (c, 1, 1)])), 0.1, 0.3, dtype), zero=3, largest=4
        )
    levels = not plain and not model.holds and data.draw(st.booleans())
    assert fused.fits(neuron, currents)
    (got, state), (wanted, expected) = both(neuron, currents, cuts, other, levels, data.draw(st.booleans()))
    assert got.dtype == wanted.dtype
    assert torch.equal(got, wanted)
    assert torch.equal(state.potential, expected.potential)
    assert (state.sent is None) == (expected.sent is None)
    assert state.sent is None or torch.equal(state.sent, expected.sent)
    assert state.steps == expected.steps == sum(cuts)
    if levels:
        worth = Levels(got, neuron.unit, model.zero, model.largest + model.rest, model.rest).emission()
        (emitted, _), _ = both(neuron, currents, cuts, other, False)
        torch.testing.assert_close(worth, emitted)


@pytest.mark.parametrize("other", ["none", "bfloat16", "levels"])
@pytest.mark.parametrize(
    "model", [NeuronModel(), NeuronModel(capacity=3, signed=True)], ids=["binary", "graded, signed"]
)
def test_currents_in_bfloat16_are_read_as_what_they_are_worth(model, other):
    torch.manual_seed(0)
    neuron = Neuron(torch.rand(5, 1, 1) + 0.4, model=model)
    currents, more = (torch.randn(6, 2, 5, 3, 3).bfloat16() for _ in range(2))
    added = {"none": None, "bfloat16": more, "levels": Levels((more > 0).byte(), torch.tensor(0.3), zero=0, largest=1)}[
        other
    ]
    assert fused.fits(neuron, currents)
    (got, state), (wanted, expected) = both(neuron, currents, (4, 2), added, True)
    assert got.dtype == wanted.dtype == torch.uint8
    assert torch.equal(got, wanted)
    assert state.potential.dtype is torch.float32
    assert torch.equal(state.potential, expected.potential)
    widened = added.float() if other == "bfloat16" else added
    assert torch.equal(both(neuron, currents.float(), (6,), widened, True)[0][0], got)


@pytest.mark.parametrize("correction", ["silence", "shift"])
@pytest.mark.parametrize("cuts", [(9,), (5, 4), (4, 5), (6, 1, 2)])
def test_pre_runs_begin_again_where_they_should(correction, cuts):
    torch.manual_seed(0)
    neuron = Neuron(torch.rand(5, 1, 1) + 0.4, model=NeuronModel(pre=PreRun(4, correction)))
    currents = torch.randn(9, 2, 5, 3, 3) * 0.5 + 0.2
    found = both(neuron, currents, cuts, None, False)
    whole = both(neuron, currents, (9,), None, False)
    for emitted, state in found:
        assert torch.equal(emitted, whole[1][0])
        assert torch.equal(state.potential, whole[1][1].potential)


def test_the_order_of_memory_is_kept():
    neuron = Neuron(torch.rand(6, 1, 1) + 0.5)
    currents = laid_out(torch.randn(2, 3, 6, 4, 4), "channels last")
    emitted, state = neuron(currents, neuron.initial(currents[0]))
    assert emitted.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    assert state.potential.is_contiguous(memory_format=torch.channels_last)


class _Cubed(nn.Module):
    def forward(self, z):
        return z**3


def test_what_the_kernel_cannot_do_is_left_to_torch(monkeypatch):
    currents = torch.randn(2, 3, 40)
    fit, learnt = Neuron(torch.ones(40)), Neuron(torch.ones(40).requires_grad_())
    assert fused.fits(fit, currents)
    assert not fused.fits(fit, currents.half())
    assert not fused.fits(learnt, currents)
    with torch.no_grad():
        assert fused.fits(learnt, currents)
    assert not fused.fits(Neuron(torch.ones(40), model=NeuronModel(signed=True), function=_Cubed()), currents)
    assert not fused.fits(Neuron(torch.ones(40), model=NeuronModel(signed=True), function=nn.PReLU()), currents)
    monkeypatch.setattr(fused, "SMALLEST", currents.numel() + 1)
    assert not fused.fits(fit, currents)
    monkeypatch.setattr(fused, "SMALLEST", 0)
    monkeypatch.setattr(fused, "available", lambda _: False)
    assert not fused.fits(fit, currents)
    emitted, _ = fit(currents, fit.initial(currents[0]))
    assert emitted.shape == currents.shape


@pytest.mark.parametrize("team", ["OpenMP", "pool"])
def test_threads_share_the_work_and_hand_back_errors(monkeypatch, team):
    if team == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("torch brings no GNU OpenMP")
    done = []
    threads.in_parallel(done.append, 5)
    assert sorted(done) == [0, 1, 2, 3, 4]

    def fail(part):
        if part == 1:
            raise ValueError("part 1")

    with pytest.raises(ValueError, match="part 1"):
        threads.in_parallel(fail, 3)


@pytest.mark.parametrize("model", [NeuronModel(), NeuronModel(signed=True)], ids=["binary", "signed"])
def test_a_state_is_written_over_only_when_it_may_be_lost(model):
    torch.manual_seed(0)
    neuron, x = Neuron(torch.rand(16, 1, 1) + 0.5, model=model), torch.randn(8, 2, 16, 12, 12)
    _, state = neuron(x[:4], neuron.initial(x[0]), overwrite=True)  # nothing is held yet that could be written over
    before = state.potential.clone()
    wanted, kept = neuron(x[4:], state)
    assert torch.equal(state.potential, before)
    assert kept.potential.data_ptr() != state.potential.data_ptr()
    found, lost = neuron(x[4:], state, overwrite=True)
    assert lost.potential.data_ptr() == state.potential.data_ptr()
    assert torch.equal(found, wanted)
    assert torch.equal(lost.potential, kept.potential)


def test_several_threads_may_step_neurons_at_once():
    torch.manual_seed(0)
    neuron = Neuron(torch.rand(16, 1, 1) + 0.5)
    inputs = [torch.randn(4, 2, 16, 12, 12) for _ in range(6)]
    wanted = [neuron(x, neuron.initial(x[0]))[0] for x in inputs]
    found = [None] * len(inputs)

    def step(number):
        for _ in range(20):
            found[number] = neuron(inputs[number], neuron.initial(inputs[number][0]))[0]

    running = [threading.Thread(target=step, args=(number,)) for number in range(len(inputs))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert all(torch.equal(got, expected) for got, expected in zip(found, wanted, strict=True))


@pytest.mark.parametrize("levels", [False, True])
@pytest.mark.parametrize("model", CAUSAL.values(), ids=CAUSAL.keys())
def test_every_kind_of_neuron_is_stepped_alike(model, levels):
    torch.manual_seed(0)
    neuron, currents = Neuron(torch.rand(5, 1, 1) + 0.4, model=model), torch.randn(7, 2, 5, 3, 3) + 0.3
    (got, state), (wanted, expected) = both(neuron, currents, (3, 4), None, levels and not model.holds)
    assert torch.equal(got, wanted)
    assert state.sent is None or torch.equal(state.sent, expected.sent)
