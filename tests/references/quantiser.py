"""Clip-floor-shift and its three gradients, from the table of formulas."""

import numpy as np


def forward(z, lam, levels, shift=0.5):
    return lam * np.clip(np.floor(z * levels / lam + shift) / levels, 0.0, 1.0)


def gradients(z, lam, levels, variant):
    """Return da/dz and da/dlambda for shift 1/2, element by element."""
    half = lam / (2 * levels)
    a = forward(z, lam, levels)
    dz, dlam = np.zeros_like(z), np.zeros_like(z)
    for index, value in np.ndenumerate(z):
        if variant == "half-open":
            inside, above = -half <= value < lam - half, value >= lam - half
        elif variant == "floor-first":
            inside, above = -half <= value < lam + half, value >= lam + half
        else:
            inside, above = 0 <= value <= lam, value > lam
        dz[index] = float(inside)
        dlam[index] = (a[index] - value) / lam if inside else float(above)
    return dz, dlam
