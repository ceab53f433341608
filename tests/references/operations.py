"""Synaptic operations counted one by one: every spike, every weight, every output that it reaches."""

import itertools

import numpy as np


def conv_operations(x, kernel, stride, padding, dilation, groups, outputs):
    """Count the weights that a convolution applies to non-zero inputs ``[N, C, H, W]``; zero padding holds no spike."""
    samples, channels, height, width = x.shape
    high, wide = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip((height, width), padding, dilation, kernel, stride, strict=True)
    )
    found = 0
    for n, out, row, column in np.ndindex(samples, outputs, high, wide):
        group = out // (outputs // groups)
        first = group * (channels // groups)
        for c, i, j in itertools.product(range(first, first + channels // groups), range(kernel[0]), range(kernel[1])):
            r, k = row * stride[0] + i * dilation[0] - padding[0], column * stride[1] + j * dilation[1] - padding[1]
            if 0 <= r < height and 0 <= k < width and x[n, c, r, k] != 0:
                found += 1
    return found


def transposed_operations(x, kernel, stride, padding, output_padding, dilation, groups, outputs):
    """Count the outputs at which non-zero inputs ``[N, C, H, W]`` of a transposed convolution arrive."""
    sizes = [
        (size - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for size, p, d, k, s, extra in zip(x.shape[2:], padding, dilation, kernel, stride, output_padding, strict=True)
    ]
    found = 0
    for _, _, row, column in np.argwhere(x != 0):
        for i, j in np.ndindex(*kernel):
            r, k = row * stride[0] + i * dilation[0] - padding[0], column * stride[1] + j * dilation[1] - padding[1]
            if 0 <= r < sizes[0] and 0 <= k < sizes[1]:
                found += outputs // groups
    return found
