"""Surrogate gradients of emissions of several levels, and the gradient of a clipped rate, value by value."""

import math


def derivative(distance, slope, shape):
    d = abs(distance)
    return slope * max(0.0, 1.0 - slope * d) if shape == "triangle" else slope / (1.0 + slope * d) ** 2


def emission(u, theta, low, high, slope, shape):
    """Return e = theta * clip(floor(u/theta), low, high), de/du and de/dtheta by the chain rule."""
    ratio = u / theta
    level = min(max(math.floor(ratio), low), high)
    jump = min(range(low + 1, high + 1), key=lambda k: abs(ratio - k))
    s = derivative(ratio - jump, slope, shape)
    return theta * level, s, level - s * ratio


def rate(current, emitted, theta, steps, reach=1.0, low=0.0):
    """Return the derivatives of a mean emission, taken for a clip: by the mean current, by theta, and by v(0)/theta."""
    inside = low < current / theta < reach
    return (
        float(inside and current > 0),
        emitted / theta - (current / theta if inside and current > 0 else 0.0),
        theta / steps if inside else 0.0,
    )
