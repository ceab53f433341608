"""Colours for classes that differ for all kinds of colour vision."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

OKABE_ITO = (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)
IGNORE = 255  # class of pixels that count nowhere, as in Pascal VOC
IGNORED = (255, 255, 255)  # of pixels that a mask says nothing about
COUNT = 255
LEVELS = (0, 36, 73, 109, 146, 182, 219, 255)  # of each channel, from which further colours are chosen
LIGHTNESS = (0.46, 0.93)  # neither black nor white, which images and `IGNORED` have
PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566), (0.0883024619, 0.2817188376, 0.6299787005),
)  # fmt: skip
OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099), (0.0259040371, 0.7827717662, -0.8086757660),
)  # fmt: skip


def colours(classes: int) -> Tensor:
    """Return a colour for each of so many classes, uint8 ``[C, 3]``; a class has the same one whatever the number of classes.

    The first seven are those of Okabe and Ito. Each further one is the candidate c that is farthest from all before it,
    max_c min_i min_v |v(c) - v(i)|, where v is the place of a colour in the Oklab space as it is seen with normal vision, with
    protanopia and with deuteranopia. After 255 classes the colours begin again.

    Source: Okabe and Ito 2008, "Color Universal Design". Vision by Machado, Oliveira and Fernandes 2009, "A Physiologically-based
        Model for Simulation of Color Vision Deficiency". Space by Ottosson 2020, "A perceptual color space for image processing".

    Example:
        >>> colours(2).tolist()
        [[230, 159, 0], [86, 180, 233]]
    """
    return _all()[torch.arange(classes) % COUNT].clone()


@cache
def _all() -> Tensor:
    levels = torch.tensor(LEVELS)
    grid = torch.cartesian_prod(levels, levels, levels)
    lightness = seen(grid)[0, :, 0]
    grid = grid[(lightness > LIGHTNESS[0]) & (lightness < LIGHTNESS[1])]
    chosen = torch.tensor(OKABE_ITO)
    places = seen(grid)
    distance = torch.stack([_distance(places, seen(colour.view(1, 3))) for colour in chosen]).amin(0)
    while len(chosen) < COUNT:
        best = distance.argmax()
        chosen = torch.cat([chosen, grid[best].view(1, 3)])
        distance = torch.minimum(distance, _distance(places, places[:, best : best + 1]))
    return chosen.to(torch.uint8)


def seen(rgb: Tensor) -> Tensor:
    """Return where colours ``[C, 3]`` of 0 to 255 lie in the Oklab space ``[3, C, 3]``: normal vision, protanopia, deuteranopia."""
    share = rgb.double() / 255
    light = torch.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    matrices = [torch.tensor(matrix, dtype=torch.float64) for matrix in (PROTANOPIA, DEUTERANOPIA)]
    lights = torch.stack([light, *(light @ matrix.T for matrix in matrices)]).clamp(0, 1)
    cones, oklab = (torch.tensor(matrix, dtype=torch.float64) for matrix in (CONES, OKLAB))
    return (lights @ cones.T).clamp(min=0).pow(1 / 3) @ oklab.T


def _distance(places: Tensor, other: Tensor) -> Tensor:
    return (places - other).square().sum(2).sqrt().amin(0)
