"""Weights as integers, one number at a time."""

import numpy as np


def digits(weights, count):
    """Return the integers of one row of weights, as tuples of one digit or two, and their scale."""
    largest = max(abs(weight) for weight in weights)
    scale = largest / 127 if largest > 0 else 1.0
    found = []
    for weight in weights:
        first = int(np.rint(weight / scale))
        rest = weight / scale - first
        found.append((first,) if count == 1 else (first, int(np.rint(rest * 254))))
    return found, scale


def value(integers, scale):
    """Return the weight that digits stand for."""
    return scale * sum(digit / 254**place for place, digit in enumerate(integers))
