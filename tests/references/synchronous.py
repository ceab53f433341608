"""Neurons that know all of their input before they send, one scalar at a time, from the papers."""

import math

import numpy as np


def parallel(charge, theta, v0, steps):
    """Fire at step t where ``(Q + v0)/t >= theta``; return the spikes, 0 or 1."""
    return [int((charge + v0) / t >= theta) for t in range(1, steps + 1)]


def bits(count, steps):
    """Return the bits of a count, the largest first."""
    return [int(digit) for digit in f"{count:0{steps}b}"]


def first(count, steps):
    """Return 1 at the step that says a count, counted down from the first step; nothing for 0."""
    return [int(count > 0 and t == steps - count) for t in range(steps)]


def probabilistic(charge, theta, steps, random):
    """Spike with probability v / (theta · steps left); return the count."""
    v, count = charge, 0
    for t in range(1, steps + 1):
        fired = random.random() < min(max(v / (theta * (steps - t + 1)), 0.0), 1.0)
        v -= theta * fired
        count += fired
    return count


def quantised(a, theta, levels):
    return theta / levels * min(max(math.floor(a * levels / theta + 0.5), 0), levels)


def shifted_start(currents, v0, theta):
    """Run a neuron again and again, and shift v(0) by the potential that decided a spike too many or too few."""
    wanted = min(max(math.floor((sum(currents) + v0) / theta), 0), len(currents))
    start = v0
    for _ in currents:
        v, fired, silent = start, [], []
        for x in currents:
            v += x
            (fired if v >= theta else silent).append(v)
            if v >= theta:
                v -= theta
        if len(fired) > wanted:
            start -= max(theta, min(fired))
        elif len(fired) < wanted:
            start += max(theta, theta - max(silent))
    return start


def settled_residual(x, weights, biases, thetas, steps):
    """Run ``W3·h2 + b3``, ``h2 = N(W2 h1 + b2 + h1)``, ``h1 = N(W1 x + b1)`` with spikes laid out in time, a layer at a time."""
    (w1, w2, w3), (b1, b2, b3) = weights, biases

    def send(currents, theta):
        sent = np.zeros_like(currents)
        for index in np.ndindex(*currents.shape[1:]):
            charge = sum(currents[(t, *index)] for t in range(steps))
            sent[(slice(None), *index)] = parallel(charge, theta[index[-1]], theta[index[-1]] / 2, steps)
        return sent * theta

    h1 = send(np.repeat((x @ w1.T + b1)[None], steps, 0), thetas[0])
    h2 = send(h1 @ w2.T + b2 + h1, thetas[1])
    return (h2 @ w3.T + b3).mean(0)
