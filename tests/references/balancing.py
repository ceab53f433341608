"""Local threshold balancing of a fully connected network, feature by feature."""

import numpy as np


def balance(batches, layers, cap=np.inf):
    """Balance the thresholds of an MLP of (weight, bias); every layer but the last has an activation."""
    thetas = [np.zeros(weight.shape[0]) for weight, _ in layers[:-1]]
    for x in batches:
        signal = x
        for number, (weight, bias) in enumerate(layers[:-1]):
            z = signal @ weight.T + bias
            for feature in range(z.shape[1]):
                total = sum(max(value - thetas[number][feature], 0.0) for value in z[:, feature])
                thetas[number][feature] = min(thetas[number][feature] + 2 * total / z.shape[0], cap)
            signal = np.minimum(np.maximum(z, 0.0), thetas[number])
    return thetas
