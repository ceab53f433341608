"""The threshold of least rounding error, by trying clips on the activations themselves."""

import numpy as np


def rounding_error(activations, clip, levels):
    step = clip / levels
    rounded = step * np.clip(np.floor(activations / step + 0.5), 0, levels)
    return np.mean((activations - rounded) ** 2)


def least_error(activations, levels, clips):
    return min(rounding_error(activations, clip, levels) for clip in clips)
