"""Adam with relative steps, value by value."""

import math


def relative_adam(w, grads, lr, betas=(0.9, 0.999), eps=1e-8, least=1e-3):
    """Return the values of a tensor after steps along gradients; all are lists of numbers."""
    size = max(math.sqrt(sum(value**2 for value in w) / len(w)), least)
    found = []
    for place, value in enumerate(w):
        mean = square = 0.0
        for t, grad in enumerate(grads, 1):
            mean = betas[0] * mean + (1 - betas[0]) * grad[place]
            square = betas[1] * square + (1 - betas[1]) * grad[place] ** 2
            value -= lr * size * (mean / (1 - betas[0] ** t)) / (math.sqrt(square / (1 - betas[1] ** t)) + eps)
        found.append(value)
    return found
