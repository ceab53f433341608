"""The threshold of least rounding error, by trying clips on the activations themselves."""

import numpy as np


def rounding_error(activations, clip, levels):
    step = clip / levels
    rounded = step * np.clip(np.floor(activations / step + 0.5), 0, levels)
    return np.mean((activations - rounded) ** 2)


def least_error(activations, levels, clips):
    return min(rounding_error(activations, clip, levels) for clip in clips)


def lifted(thresholds, floor):
    """Thresholds of the channels of a layer, none below a share of their root mean square; one of 0, of a channel that was never active, stays."""
    live = [theta for theta in thresholds if theta > 0]
    if not live:
        return list(thresholds)
    lowest = floor * np.sqrt(np.mean(np.square(live)))
    return [max(theta, lowest) if theta > 0 else 0.0 for theta in thresholds]
