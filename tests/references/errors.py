"""The three errors of one integrate-and-fire neuron, step by step in plain Python."""

import math


def run(currents, theta, start):
    """Return the number of spikes."""
    v, count = start, 0
    for x in currents:
        v += x
        if v >= theta:
            v -= theta
            count += 1
    return count


def terms(currents, theta, start):
    """Return clipping, quantisation and timing error, and what was sent beside ReLU of the mean current."""
    steps = len(currents)
    mean = sum(currents) / steps
    clipped = min(max(mean, 0.0), theta)
    quantised = theta / steps * min(max(math.floor((mean * steps + start) / theta), 0), steps)
    sent = theta / steps * run(currents, theta, start)
    relu = max(mean, 0.0)
    return clipped - relu, quantised - clipped, sent - quantised, sent - relu
