"""What every data set is: a training part, a test part, and loaders over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from tospike.data.memory import Batch
from tospike.errors import DataError, OptionError, is_count
from tospike.tasks import Classification, Task


def collate(samples: Sequence[Any]) -> Any:
    """Stack samples into a batch; a batch that was read as a whole passes through.

    Example:
        >>> images, labels = collate([(torch.zeros(1, 2, 2), 3), (torch.ones(1, 2, 2), 5)])
        >>> tuple(images.shape), labels.tolist()
        ((2, 1, 2, 2), [3, 5])
    """
    return (samples.images, samples.labels) if isinstance(samples, Batch) else default_collate(list(samples))


@dataclass(frozen=True)
class Data:
    """A data set that is ready to train, calibrate and test with.

    Attributes:
        name: Name of the set.
        train: Training samples, augmented where the set was loaded so: ``(image [C, H, W], class)``, an image alone,
            ``(image, mask [H, W])``, ``(image, {"boxes": [K, 4], "labels": [K], ...})``, or
            ``(clip [C, F, H, W], class, video)``.
        test: Test samples, never augmented.
        classes: Names of the classes, by index; empty when the samples carry no label.
        shape: Shape of one input, ``(C, H, W)`` or, for clips, ``(C, F, H, W)``; -1 where it differs between samples.
        plain: The training samples as the test samples are treated, for calibration; `train` itself when None.
        mean: Mean of each channel that was subtracted, on the scale of [0, 1]; empty where images are not normalised.
        std: Standard deviation of each channel that was divided by; empty where images are not normalised.
        collate: Makes a batch of a list of samples.
        task: What its samples ask for.
        together: How many training samples that follow each other belong together, as the clips of one video do.

    Raises:
        DataError: A part holds no sample.
    """

    name: str
    train: Dataset[Any]
    test: Dataset[Any]
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    plain: Dataset[Any] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    collate: Callable[[Sequence[Any]], Any] = collate
    task: Task = field(default_factory=Classification)
    together: int = 1

    def __post_init__(self) -> None:
        """Refuse empty parts, which every later stage would trip over."""
        for part, samples in (("train", self.train), ("test", self.test)):
            if len(samples) == 0:  # type: ignore[arg-type]
                raise DataError(
                    f"The {part} part of {self.name} holds no sample", got="0 samples", expected="at least 1",
                    remedy="Look into the folder it was read from.",
                )  # fmt: skip

    def loaders(
        self, batch_size: int, *, test_batch_size: int | None = None, workers: int = 0, seed: int = 0
    ) -> tuple[DataLoader[Any], DataLoader[Any]]:
        """Return the loader of the training part, shuffled anew in every pass, and that of the test part, in order.

        The order of training follows from `seed` alone; augmentation draws from torch's global generator.

        Args:
            batch_size: Samples in a training batch; the last one may be shorter.
            test_batch_size: Samples in a test batch; `batch_size` when None.
            workers: Processes that read ahead; 0 reads in this one, which is faster for sets held in memory.
            seed: Seed of the shuffling.

        Raises:
            OptionError: A size is below 1 or `workers` below 0.
        """
        shuffling = torch.Generator().manual_seed(seed)
        test_size = batch_size if test_batch_size is None else test_batch_size
        train = _loader(self.train, batch_size, workers, collate_fn=self.collate, shuffle=True, generator=shuffling)
        return train, _loader(self.test, test_size, workers, collate_fn=self.collate)

    def held_out(self, count: int, *, seed: int = 0) -> Data:
        """Return the set with `count` training samples, drawn by `seed`, in place of its test samples: for choosing settings.

        The samples that are held out are not augmented; `train` and `plain` lose them. Samples that belong together stay together: of
        videos with five clips, a `count` of 8 takes two whole ones, 10 clips.

        Raises:
            OptionError: `count` is below 1, or leaves nothing to train on.

        Example:
            >>> from tospike import data
            >>> kept = data.load("digits").held_out(100)
            >>> len(kept.test)
            100
        """
        plain = self.train if self.plain is None else self.plain
        units = len(plain) // self.together  # type: ignore[arg-type]
        most = (units - 1) * self.together
        if not is_count(count) or count > most:
            raise OptionError("`count` of held_out is out of range", got=repr(count), expected=f"an integer in [1, {most}]",
                              remedy=f"Pass {max(most // 10, 1)}.")  # fmt: skip
        taken = -(-count // self.together)
        order = torch.randperm(units, generator=torch.Generator().manual_seed(seed))
        samples = torch.arange(units * self.together).view(units, self.together)
        out, left = (samples[part.sort().values].flatten().tolist() for part in (order[:taken], order[taken:]))
        return replace(self, train=Subset(self.train, left), test=Subset(plain, out), plain=Subset(plain, left))

    def calibration(self, batch_size: int, *, workers: int = 0, seed: int = 0) -> DataLoader[Any]:
        """Return a loader of the training images without augmentation, in one order that `seed` draws.

        Every pass has the same order, so that two conversions with one loader see the same images.

        Raises:
            OptionError: `batch_size` is below 1 or `workers` below 0.
        """
        plain = self.train if self.plain is None else self.plain
        count = len(plain)  # type: ignore[arg-type]
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        return _loader(plain, batch_size, workers, collate_fn=self.collate, sampler=order)


def _loader(samples: Dataset[Any], batch_size: int, workers: int, **settings: Any) -> DataLoader[Any]:
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0)):
        if value < least:
            raise OptionError(
                f"`{name}` of a loader is too small", got=str(value), expected=f"an integer >= {least}",
                remedy=f"Pass {name}={max(least, 64 if least else 0)}.",
            )  # fmt: skip
    return DataLoader(
        samples, batch_size, num_workers=workers, pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0, **settings,
    )  # fmt: skip
