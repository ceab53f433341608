import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from references.quantiser import clip as clip_reference
from references.quantiser import forward, gradients, learned_step
from tospike.errors import OptionError
from tospike.parts.activations import (
    GRADIENTS,
    Clip,
    ClipFloorShift,
    LearnedStep,
    RateNorm,
    Slip,
    clip,
    clip_floor_shift,
)


@given(
    z=st.lists(st.floats(-20, 20), min_size=1, max_size=20),
    lam=st.floats(0.1, 10),
    levels=st.integers(1, 16),
    shift=st.sampled_from([0.0, 0.25, 0.5]),
)
def test_forward_agrees_with_the_formula(z, lam, levels, shift):
    z = np.array(z)
    got = clip_floor_shift(torch.tensor(z), torch.tensor(lam, dtype=torch.float64), levels, shift).numpy()
    clear = np.abs(np.mod(z * levels / lam + shift + 0.5, 1) - 0.5) > 1e-9  # rounding decides exact ties
    np.testing.assert_allclose(got[clear], forward(z, lam, levels, shift)[clear], atol=1e-12)


@pytest.mark.parametrize("variant", GRADIENTS)
@pytest.mark.parametrize(("lam", "levels"), [(2.0, 4), (1.0, 1), (8.0, 8), (0.5, 2)])
def test_gradients_at_the_edges_and_at_random(variant, lam, levels):
    half = lam / (2 * levels)
    edges = [-half, 0.0, lam - half, lam, lam + half]
    around = [edge + shift for edge in edges for shift in (-1e-6, 1e-6)]
    z = np.array([*edges, *around, *np.random.default_rng(0).uniform(-2 * lam, 3 * lam, 200)])
    dz, dlam = gradients(z, lam, levels, variant)
    for index, value in enumerate(z):
        x = torch.tensor(value, requires_grad=True, dtype=torch.float64)
        threshold = torch.tensor(lam, requires_grad=True, dtype=torch.float64)
        clip_floor_shift(x, threshold, levels, gradient=variant).backward()
        assert x.grad.item() == dz[index], f"da/dz at {value}"
        assert threshold.grad.item() == pytest.approx(dlam[index], abs=1e-12), f"da/dlambda at {value}"


@pytest.mark.parametrize("variant", GRADIENTS)
def test_threshold_gradient_sums_over_elements_with_incoming_weights(variant):
    z = np.random.default_rng(1).uniform(-4, 6, (5, 7))
    weight = np.random.default_rng(2).normal(size=z.shape)
    x = torch.tensor(z, requires_grad=True)
    threshold = torch.tensor(2.0, requires_grad=True, dtype=torch.float64)
    (clip_floor_shift(x, threshold, 4, gradient=variant) * torch.tensor(weight)).sum().backward()
    dz, dlam = gradients(z, 2.0, 4, variant)
    np.testing.assert_allclose(x.grad.numpy(), dz * weight, atol=1e-12)
    assert threshold.grad.item() == pytest.approx((dlam * weight).sum(), abs=1e-9)


def test_threshold_starts_as_asked():
    for initial in (0.01, 1.0, 8.0, 100.0):
        assert ClipFloorShift(4, initial=initial).threshold.item() == pytest.approx(initial, rel=1e-5)


def test_threshold_stays_positive():
    activation = ClipFloorShift(4)
    with torch.no_grad():
        activation.rho.fill_(-1000.0)
    assert activation.threshold.item() > 0
    assert activation(torch.tensor([0.0, 1.0])).isfinite().all()
    activation = ClipFloorShift(4, initial=1.0)
    optimiser = torch.optim.SGD(activation.parameters(), lr=100.0)
    for _ in range(5):
        optimiser.zero_grad()
        activation(torch.full((100,), 5.0)).sum().backward()
        optimiser.step()
        assert activation.threshold.item() > 0
        assert activation.rho.isfinite()


def test_shift_makes_the_mean_error_zero():
    z = torch.linspace(0, 1, 100001, dtype=torch.float64)
    theta = torch.tensor(1.0, dtype=torch.float64)
    assert abs((clip_floor_shift(z, theta, 4) - z).mean().item()) < 1e-4
    assert (clip_floor_shift(z, theta, 4, shift=0.0) - z).mean().item() == pytest.approx(-0.125, abs=1e-3)


@pytest.mark.parametrize(
    "settings",
    [{"levels": 0}, {"levels": 4, "shift": 1.5}, {"levels": 4, "initial": 0.0}, {"levels": 4, "gradient": "none"}],
)
def test_refuses_settings_out_of_range(settings):
    with pytest.raises(OptionError):
        ClipFloorShift(**settings)


values = st.lists(st.floats(-20, 20), min_size=1, max_size=20).map(np.array)


@given(z=values, theta=st.floats(0.1, 10))
def test_clip_and_its_gradients_agree_with_the_formula(z, theta):
    x, bound = torch.tensor(z, requires_grad=True), torch.full(z.shape, theta, dtype=torch.float64, requires_grad=True)
    a = clip(x, bound)
    a.sum().backward()
    wanted, dz, dtheta = clip_reference(z, theta)
    np.testing.assert_allclose(a.detach().numpy(), wanted, atol=1e-12)
    np.testing.assert_array_equal(x.grad.numpy(), dz)
    np.testing.assert_array_equal(bound.grad.numpy(), dtheta)


def test_clip_has_the_gradient_of_finite_differences():
    z = torch.linspace(-1.95, 3.95, 60, dtype=torch.float64, requires_grad=True)  # no point on a kink
    assert torch.autograd.gradcheck(clip, (z, torch.tensor(2.0, dtype=torch.float64, requires_grad=True)))


@pytest.mark.parametrize("levels", [1, 3, 8])
def test_learned_step_agrees_with_its_paper(levels):
    z = np.random.default_rng(levels).normal(1.0, 2.0, (1, 50))
    activation = LearnedStep(levels, initial=2.0).double()
    step = activation.threshold.item() / levels
    a = activation(torch.tensor(z))
    wanted, ds = learned_step(z, step, levels)
    np.testing.assert_allclose(a.detach().numpy(), wanted, atol=1e-12)
    a.sum().backward()
    # theta = L*s, so da/dtheta = (da/ds)/L; softplus passes its own slope on; the paper's factor for n activations.
    slope = torch.sigmoid(activation.rho).item()
    scale = (z.size * levels) ** -0.5
    assert activation.rho.grad.item() == pytest.approx(scale * ds.sum() / levels * slope, rel=1e-9)


@given(z=values, share=st.floats(0, 1), levels=st.integers(1, 8))
def test_slip_is_the_weighted_sum(z, share, levels):
    activation = Slip(levels, share, initial=2.0).double()
    theta = activation.threshold.item()
    got = activation(torch.tensor(z)).detach().numpy()
    clear = np.abs(np.mod(z * levels / theta, 1) - 0.5) > 1e-9
    wanted = share * clip_reference(z, theta)[0] + (1 - share) * forward(z, theta, levels)
    np.testing.assert_allclose(got[clear], wanted[clear], atol=1e-9)


def test_rate_norm_follows_the_largest_value_in_training_alone():
    activation = RateNorm(initial=0.5, momentum=0.25)
    activation(torch.tensor([-1.0, 4.0]))
    assert activation.threshold.item() == pytest.approx(2.0)
    activation(torch.tensor([8.0]))
    assert activation.threshold.item() == pytest.approx(2.5)  # 0.5*(4 + (8 - 4)/4)
    activation.eval()
    assert activation(torch.tensor([100.0])).item() == pytest.approx(2.5)
    assert activation.threshold.item() == pytest.approx(2.5)
    activation(torch.tensor([100.0])).sum().backward()
    assert activation.rho.grad.item() == pytest.approx(0.25 * 5.0)  # sigmoid's slope at 1/2, times the largest value


@pytest.mark.parametrize("make", [lambda c: Clip(2.0, c), lambda c: ClipFloorShift(4, initial=2.0, channels=c), lambda c: Slip(4, initial=2.0, channels=c),
                                  lambda c: LearnedStep(4, 2.0, c)])  # fmt: skip
def test_channels_have_thresholds_of_their_own(make):
    activation = make(3)
    with torch.no_grad():
        activation.rho[1] = 0.0
    z = torch.rand(2, 3, 4, 4) * 5
    activation(z).square().sum().backward()
    assert activation.rho.grad.shape == (3,)
    assert activation.rho.grad.abs().min() > 0
    alone = make(None)
    with torch.no_grad():
        alone.rho.fill_(0.0)
        torch.testing.assert_close(activation(z)[:, 1], alone(z)[:, 1])


@pytest.mark.parametrize("activation", [Clip(2.0, decay=0.5), ClipFloorShift(4, initial=2.0, decay=0.5)])
def test_the_penalty_draws_the_bound_down(activation):
    assert activation.penalty().item() == pytest.approx(2.0)
    activation.penalty().backward()
    assert activation.rho.grad.item() > 0
    assert ClipFloorShift(4).penalty() is None


@pytest.mark.parametrize("make", [lambda: Clip(-1.0), lambda: Clip(2.0, 0), lambda: Clip(2.0, decay=-1.0), lambda: RateNorm(1.0), lambda: RateNorm(0.5, 0.0),
                                  lambda: Slip(4, share=2.0), lambda: Clip(torch.tensor([1.0, float("nan")]))])  # fmt: skip
def test_other_activations_refuse_settings_out_of_range(make):
    with pytest.raises(OptionError):
        make()
