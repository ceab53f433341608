import pytest
import torch
from torch.utils.data import DataLoader, Subset

from tospike.data import Cutout, MemoryImages, RandomFlip, RandomShift
from tospike.errors import DataError


def images(count=20, **augmentation):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return MemoryImages(pixels, torch.arange(count) % 4, (0.1, 0.2, 0.3), (0.5, 0.25, 0.125), **augmentation)


def test_pixels_are_scaled_then_normalised_by_channel():
    data = images()
    batch = data.__getitems__([3, 1])
    for place, index in enumerate((3, 1)):
        for channel in range(3):
            expected = (data.images[index, channel].double() / 255 - data.mean[channel]) / data.std[channel]
            torch.testing.assert_close(batch.images[place, channel].double(), expected, atol=1e-5, rtol=1e-5)
    assert batch.images.dtype == torch.float32
    assert batch.labels.dtype == torch.int64
    assert batch.labels.tolist() == [3, 1]


def test_scale_is_the_integer_that_stands_for_one():
    data = MemoryImages(torch.full((1, 1, 2, 2), 16, dtype=torch.uint8), torch.zeros(1).long(), (0.0,), (1.0,), 16.0)
    assert data[0][0].unique().tolist() == [1.0]


def test_a_sample_is_what_the_batch_holds():
    data = images()
    image, label = data[-1]
    assert torch.equal(image, data.__getitems__([19]).images[0])
    assert (label, type(label)) == (3, int)
    with pytest.raises(IndexError):
        data[20]


def test_augmentation_runs_before_and_after_normalisation():
    data = images(before=(lambda x: torch.zeros_like(x),), after=(lambda x: x + 10,))
    expected = torch.tensor([10 - 0.1 / 0.5, 10 - 0.2 / 0.25, 10 - 0.3 / 0.125])
    torch.testing.assert_close(data[0][0][:, 0, 0], expected)


def test_plain_shares_the_memory_and_drops_the_augmentation():
    data = images(before=(RandomFlip(1.0),), after=(Cutout(4),))
    plain = data.plain()
    assert plain.images.data_ptr() == data.images.data_ptr()
    assert torch.equal(plain[0][0], images()[0][0])
    assert not torch.equal(data[0][0], plain[0][0])


def test_augmentation_changes_no_stored_pixel():
    data = images(before=(RandomShift(2), RandomFlip()), after=(Cutout(4),))
    data.__getitems__(range(20))
    assert torch.equal(data.images, images().images)


def test_every_collate_function_takes_the_batch():
    data = images()
    pixels, labels = next(iter(DataLoader(data, 5)))
    assert torch.equal(pixels, data.__getitems__(range(5)).images)
    assert labels.tolist() == [0, 1, 2, 3, 0]
    pixels, labels = next(iter(DataLoader(Subset(data, [7, 2]), 2)))
    assert torch.equal(pixels, data.__getitems__([7, 2]).images)
    assert labels.tolist() == [3, 2]


def test_a_batch_is_the_sequence_of_its_samples():
    batch = images().__getitems__([4, 5, 6])
    assert [label for _, label in batch] == [0, 1, 2]
    assert [label for _, label in batch[1:]] == [1, 2]
    assert len(batch) == 3


@pytest.mark.parametrize(
    ("pixels", "labels", "channels"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), 1),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(3).long(), 1),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2), 1),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long(), 1),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2).long(), 3),
    ],
)
def test_what_does_not_fit_together_is_refused(pixels, labels, channels):
    with pytest.raises(DataError, match="do not fit together"):
        MemoryImages(pixels, labels, (0.0,) * channels, (1.0,) * channels)
