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


def clip(z, theta):
    """Return min(max(z, 0), theta), da/dz and da/dtheta, element by element."""
    a, dz, dtheta = np.zeros_like(z), np.zeros_like(z), np.zeros_like(z)
    for index, value in np.ndenumerate(z):
        if value >= theta:
            a[index], dtheta[index] = theta, 1.0
        elif value > 0:
            a[index], dz[index] = value, 1.0
    return a, dz, dtheta


def learned_step(z, step, levels):
    """Return the rounded value and da/ds of Esser et al., element by element, before their scaling."""
    a, ds = np.zeros_like(z), np.zeros_like(z)
    for index, value in np.ndenumerate(z):
        ratio = value / step
        if ratio <= 0:
            continue
        rounded = min(np.floor(ratio + 0.5), levels)
        a[index] = step * rounded
        ds[index] = levels if ratio >= levels else rounded - ratio
    return a, ds
