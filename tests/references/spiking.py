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


def residual_network(x, weights, biases, thetas, pool, steps, *, unit):
    """Run ``out(pool(h2))`` with ``h2 = IF(W2 h1 + b2 + h1)`` and ``h1 = IF(W1 x + b1)``; return every step [T, N, C].

    With ``unit`` the spikes are 0 or 1, the thresholds 1, and the weights, the identity path and the pool carry the ratio
    of the thresholds of sender and receiver.
    """
    (w1, w2, w3), (b1, b2, b3), (t1, t2) = weights, biases, thetas
    identity = np.eye(len(t1))
    if unit:
        w1, b1 = w1 / t1[:, None], b1 / t1
        w2, b2, identity = w2 * t1 / t2[:, None], b2 / t2, identity * t1 / t2[:, None]
        pool = pool * t2
        t1, t2 = np.ones_like(t1), np.ones_like(t2)
    v1 = v2 = None
    outputs = []
    for _ in range(steps):
        current = x @ w1.T + b1
        v1 = (0.5 * t1 if v1 is None else v1) + current
        h1 = (v1 >= t1) * t1
        v1 = v1 - h1
        v2 = (0.5 * t2 if v2 is None else v2) + h1 @ w2.T + b2 + h1 @ identity.T
        h2 = (v2 >= t2) * t2
        v2 = v2 - h2
        outputs.append((h2 @ pool.T) @ w3.T + b3)
    return np.stack(outputs)


def level(u, theta, capacity, levels, signed):
    """Return what a neuron emits at a potential, by trying every level it has."""
    sizes = range(1, capacity + 1) if levels == "uniform" else [2.0**-k for k in range(capacity)]
    values = [0.0, *(size * theta for size in sizes)]
    values += [-value for value in values[1:]] if signed else []
    if levels == "uniform":  # the largest level not above the potential, or the lowest there is
        return max([value for value in values if value <= u], default=min(values))
    return min(values, key=lambda value: (abs(value - u), -abs(value)))


def track(currents, theta, v0, goal, capacity=1, levels="uniform", total=None, rest=0):
    """Step signed neurons with memory over currents [T, ...]: emit what is missing to goal(Q, t); return emissions [T, ...].

    A step without a spike is worth ``rest`` times theta, and spikes are added to that.
    """
    currents = np.asarray(currents, dtype=np.float64)
    emitted = np.zeros(currents.shape)
    for index in np.ndindex(*currents.shape[1:]):
        charge = sent = 0.0
        for t in range(currents.shape[0]):
            charge += currents[(t, *index)]
            wanted = goal(charge, t + 1)
            wanted = wanted if total is None else min(wanted, total * theta)
            silence = rest * theta
            emitted[(t, *index)] = silence + level(wanted + v0 * theta - sent - silence, theta, capacity, levels, True)
            sent += emitted[(t, *index)]
    return emitted
