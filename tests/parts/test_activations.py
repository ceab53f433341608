import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from references.quantiser import forward, gradients
from tospike.errors import OptionError
from tospike.parts.activations import GRADIENTS, ClipFloorShift, clip_floor_shift


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
