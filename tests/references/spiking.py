"""Integrate-and-fire neurons, one scalar at a time."""

import math

import numpy as np


def fire(currents, threshold, v0):
    """Step neurons over currents [T, ...] with >= and reset by subtraction; return counts of spikes [T, ...] and the last v."""
    currents = np.asarray(currents, dtype=np.float64)
    threshold = np.broadcast_to(np.asarray(threshold, dtype=np.float64), currents.shape[1:])
    spikes, last = np.zeros(currents.shape), np.zeros(currents.shape[1:])
    for index in np.ndindex(*currents.shape[1:]):
        theta = threshold[index]
        v = v0 * theta
        for t in range(currents.shape[0]):
            v += currents[(t, *index)]
            if v >= theta:
                spikes[(t, *index)] = 1
                v -= theta
        last[index] = v
    return spikes, last


def count_of_constant(z, theta, steps):
    return min(max(math.floor(z * steps / theta + 0.5), 0), steps)


def theta_valued_mlp(x, layers, thresholds, steps):
    """Run an MLP of (weight, bias) with spikes of value theta; return the output of every step [T, N, C]."""
    potentials = [None] * len(thresholds)
    outputs = []
    for _ in range(steps):
        signal = x
        for number, (weight, bias) in enumerate(layers):
            current = signal @ weight.T + bias
            if number == len(thresholds):
                outputs.append(current)
                break
            theta = thresholds[number]
            v = potentials[number] if potentials[number] is not None else np.zeros_like(current) + 0.5 * theta
            v = v + current
            fired = (v >= theta).astype(x.dtype)
            potentials[number] = v - fired * theta
            signal = fired * theta
    return np.stack(outputs)


def unit_mlp(x, layers, thresholds, steps):
    """Run the same MLP with unit spikes, unit thresholds and weights W * theta_in / theta_out."""
    scaled = []
    for number, (weight, bias) in enumerate(layers):
        before = thresholds[number - 1] if number else np.ones(weight.shape[1])
        after = thresholds[number] if number < len(thresholds) else np.ones(weight.shape[0])
        scaled.append((weight * before[None, :] / after[:, None], bias / after))
    return theta_valued_mlp(x, scaled, [np.ones_like(theta) for theta in thresholds], steps)
