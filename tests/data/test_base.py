import pytest
import torch
from torch.utils.data import TensorDataset

from tospike.data import Data, MemoryImages, RandomShift
from tospike.data.base import collate
from tospike.errors import DataError, OptionError


def data(**settings):
    pixels = torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 1, 6, 6)
    augmented = MemoryImages(pixels, torch.arange(50), (0.0,), (1.0,), 1.0, before=(RandomShift(2),))
    test = MemoryImages(pixels[:20], torch.arange(20), (0.0,), (1.0,), 1.0)
    return Data("toy", augmented, test, tuple(map(str, range(50))), (1, 6, 6), augmented.plain(), **settings)


def labels(loader):
    return torch.cat([batch[1] for batch in loader]).tolist()


def test_training_is_shuffled_by_its_seed_alone():
    torch.manual_seed(0)
    first = labels(data().loaders(8, seed=3)[0])
    torch.manual_seed(1)
    assert labels(data().loaders(8, seed=3)[0]) == first
    assert labels(data().loaders(8, seed=4)[0]) != first
    assert sorted(first) == list(range(50))


def test_every_pass_over_the_training_part_has_a_new_order():
    train, _ = data().loaders(8)
    assert labels(train) != labels(train)


def test_training_repeats_under_torch_seed():
    def run():
        torch.manual_seed(5)
        return torch.cat([images for images, _ in data().loaders(8)[0]])

    assert torch.equal(run(), run())


def test_the_last_batch_is_kept_and_the_test_part_is_in_order():
    train, test = data().loaders(8, test_batch_size=7)
    assert [len(target) for _, target in train] == [8] * 6 + [2]
    assert [len(target) for _, target in test] == [7, 7, 6]
    assert labels(test) == list(range(20))
    assert len(data().loaders(8)[1]) == 3


def test_calibration_is_shuffled_once_without_augmentation():
    loader = data().calibration(16, seed=2)
    order = labels(loader)
    assert sorted(order) == list(range(50))
    assert order != list(range(50))
    assert labels(loader) == order
    assert labels(data().calibration(16, seed=3)) != order
    for images, target in loader:
        assert torch.equal(images, target.view(-1, 1, 1, 1).expand_as(images).float())
    augmented = next(iter(data().loaders(50)[0]))
    assert not torch.equal(augmented[0], augmented[1].view(-1, 1, 1, 1).expand_as(augmented[0]).float())


def test_calibration_draws_nothing_from_the_global_generator():
    torch.manual_seed(0)
    list(data().calibration(16))
    after = torch.rand(1)
    torch.manual_seed(0)
    list(data().calibration(16))
    assert torch.equal(torch.rand(1), after)


def test_without_a_plain_part_calibration_takes_the_training_part():
    part = TensorDataset(torch.arange(6.0).view(6, 1), torch.arange(6))
    loader = Data("own", part, part, ("a",), (1,)).calibration(4)
    assert sorted(labels(loader)) == list(range(6))


def test_collate_passes_whole_batches_and_stacks_samples():
    batch = data().test.__getitems__([1, 2])
    assert collate(batch)[0] is batch.images
    assert collate([torch.zeros(3), torch.ones(3)]).tolist() == [[0, 0, 0], [1, 1, 1]]


def test_every_loader_makes_batches_as_the_set_says():
    found = data(collate=len)
    for loader in (*found.loaders(16), found.held_out(10).loaders(16)[0], found.calibration(16)):
        assert next(iter(loader)) == 16


def test_an_empty_part_is_refused():
    part, empty = TensorDataset(torch.zeros(1, 1)), TensorDataset(torch.zeros(0, 1))
    with pytest.raises(DataError, match="The test part of own holds no sample"):
        Data("own", part, empty, (), (1,))


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"batch_size": 4, "test_batch_size": 0}, {"batch_size": 4, "workers": -1}]
)
def test_sizes_below_their_range_are_refused(settings):
    with pytest.raises(OptionError, match="too small"):
        data().loaders(**settings)


def test_held_out_samples_are_not_trained_on():
    found = data()
    search = found.held_out(10, seed=3)
    train, validation = search.loaders(16)
    held = labels(validation)
    assert sorted(labels(train) + held) == list(range(50))
    assert len(held) == 10
    assert sorted(labels(search.calibration(16))) == sorted(labels(train))
    images = torch.cat([batch[0] for batch in validation])
    assert all((image == image.flatten()[0]).all() for image in images), "held-out samples were augmented"
    assert labels(found.held_out(10, seed=3).loaders(16)[1]) == held
    assert labels(found.held_out(10, seed=4).loaders(16)[1]) != held
    assert len(search.held_out(5).train) == 35
    for count in (0, 50, 2.5, "all"):
        with pytest.raises(OptionError, match="held_out"):
            found.held_out(count)
