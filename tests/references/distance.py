"""What an SNN differs by from its ANN, from the spikes of each step."""

import numpy as np
import torch

import tospike as ts


def distance(snn, ann, x, steps):
    """Return the distance by its formula; the network has two Sites, both of its module `relu`."""
    sent, wanted = [], []
    watched = [
        module.register_forward_hook(lambda *call: sent.append(call[2][0].double().numpy().mean(0)))
        for module in snn.graph.modules()
        if isinstance(module, ts.neurons.Neuron)
    ]
    hook = ann.relu.register_forward_hook(lambda *call: wanted.append(call[2].double().numpy()))
    try:
        with torch.no_grad():
            y, z = snn(x, time_steps=steps, steps_per_call=steps, engine="float"), ann(x)
    finally:
        for one in (*watched, hook):
            one.remove()
    assert len(sent) == len(wanted) == 2
    errors = [np.sum((e - a) ** 2) / np.sum(a**2) for e, a in zip(sent, wanted, strict=True)]
    y, z = y.double().numpy(), z.double().numpy()
    return np.mean(errors) + np.sum((y - z) ** 2) / np.sum(z**2)
