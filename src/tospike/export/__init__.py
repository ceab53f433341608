"""An SNN in the forms that other software and chips take: 0/1 spikes, integers, NIR, PyTorch programs, ONNX, SpikingJelly."""
