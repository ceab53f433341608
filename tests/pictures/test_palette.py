import torch

from tospike.pictures.palette import IGNORED, OKABE_ITO, colours, seen


def nearest(rgb):
    """The smallest distance of two of the colours in each of three kinds of vision."""
    places = seen(rgb)
    return (torch.cdist(places, places) + 9 * torch.eye(len(rgb), dtype=torch.float64)).amin((1, 2))


def test_colours_are_distinct_and_stay_the_same():
    table = colours(255)
    assert (table.shape, table.dtype) == ((255, 3), torch.uint8)
    assert len({tuple(colour) for colour in table.tolist()} | {IGNORED}) == 256
    for count in (0, 1, 21, 91):
        assert torch.equal(colours(count), table[:count])
    assert table[:7].tolist() == [list(colour) for colour in OKABE_ITO]
    assert torch.equal(colours(300)[255:], table[:45])


def test_colours_of_twenty_classes_differ_for_every_vision_nearly_as_the_published_seven_do():
    assert nearest(colours(7)).min() > 0.07
    assert nearest(colours(21)).min() > 0.06
    rainbow = torch.tensor(
        [[255, 0, 0], [136, 119, 0], [0, 255, 0], [0, 0, 255]]
    )  # red and olive are one colour to some
    assert nearest(rainbow).argmin() > 0
    assert nearest(colours(91)).min() > 0.015


def test_a_returned_table_may_be_changed():
    colours(3)[:] = 0
    assert colours(3).max() > 0


def test_the_colour_space_is_that_of_its_author():
    red, white, grey = seen(torch.tensor([[255, 0, 0], [255, 255, 255], [128, 128, 128]]))[0]
    torch.testing.assert_close(red, torch.tensor([0.62796, 0.22486, 0.12585], dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(white, torch.tensor([1.0, 0, 0], dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(grey[1:], torch.zeros(2, dtype=torch.float64), atol=1e-4, rtol=0)


def test_grey_looks_the_same_to_all():
    greys = seen(torch.tensor([[0, 0, 0], [90, 90, 90], [255, 255, 255]]))
    for vision in (1, 2):
        torch.testing.assert_close(greys[vision], greys[0], atol=1e-3, rtol=0)
