import numpy as np
import pytest
import torch

from tospike import data
from tospike.data.voc import CLASSES, read_mask
from tospike.errors import DataError

pytest.importorskip("torchvision")
Image = pytest.importorskip("PIL.Image")
savemat = pytest.importorskip("scipy.io").savemat
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
VOC = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}
SBD = {"train": ["2007_000032", "2007_000033", "2008_000002"], "val": ["2008_000007", "2007_000039"]}
SIZE = (10, 8)  # width, height


def mask_of(name):
    """Classes that are drawn by the name of the image; its first row says nothing."""
    mask = np.random.default_rng(int(name[-6:])).integers(0, 21, SIZE[::-1], np.uint8)
    mask[0] = 255
    return mask


def photograph(path, shade=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (shade, 0, 0)).save(path)


def palette(path, mask):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask).convert("P")
    picture.putdata(mask.flatten().tolist())
    picture.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
    picture.save(path)


def voc(root):
    folder = root / "VOCdevkit" / "VOC2012"
    for part, names in VOC.items():
        for name in names:
            photograph(folder / "JPEGImages" / f"{name}.jpg")
            palette(folder / "SegmentationClass" / f"{name}.png", mask_of(name))
        (folder / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (folder / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def boundary(mask):
    return {"Boundaries": np.zeros((20, 1)), "Segmentation": mask, "CategoriesPresent": np.unique(mask)}


def sbd(root):
    folder = root / "benchmark_RELEASE" / "dataset"
    for part, names in SBD.items():
        for name in names:
            photograph(folder / "img" / f"{name}.jpg")
            (folder / "cls").mkdir(exist_ok=True)
            savemat(
                folder / "cls" / f"{name}.mat", {"GTcls": boundary(np.where(mask_of(name) == 255, 0, mask_of(name)))}
            )
        (folder / f"{part}.txt").write_text("\n".join(names))
    return folder


def names(part):
    return [image.stem for image, _ in part.files]


def test_the_published_layout_is_read(tmp_path):
    voc(tmp_path)
    found = data.load("voc-segmentation", tmp_path, augment=False)
    assert (names(found.train), names(found.test)) == (VOC["train"], VOC["val"])
    assert (found.shape, found.classes, len(found.classes)) == ((3, -1, -1), CLASSES, 21)
    assert (found.classes[0], found.classes[15], found.classes[20]) == ("background", "person", "tvmonitor")
    image, mask = found.test[0]
    assert torch.equal(mask, torch.from_numpy(mask_of("2007_000033")).long())
    expected = (torch.tensor([100, 0, 0]) / 255 - MEAN) / STD
    torch.testing.assert_close(image, expected.view(3, 1, 1).expand(3, 8, 10), atol=0.02, rtol=0)
    assert (found.mean, found.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_size_scales_images_and_masks(tmp_path):
    voc(tmp_path)
    found = data.load("voc-segmentation", tmp_path, size=[16, 20])
    image, mask = found.test[0]
    assert (image.shape, mask.shape, found.shape) == ((3, 16, 20), (16, 20), (3, 16, 20))
    doubled = torch.from_numpy(mask_of("2007_000033")).long().repeat_interleave(2, 0).repeat_interleave(2, 1)
    assert torch.equal(mask, doubled)
    images, masks = next(iter(data.load("voc-segmentation", tmp_path, size=6).loaders(2)[0]))
    assert (images.shape, masks.shape) == ((2, 3, 6, 6), (2, 6, 6))


def test_images_of_their_own_size_are_filled_up_in_a_batch(tmp_path):
    folder = voc(tmp_path)
    Image.new("RGB", (4, 12)).save(folder / "JPEGImages" / "2007_000039.jpg")
    palette(folder / "SegmentationClass" / "2007_000039.png", np.full((12, 4), 3, np.uint8))
    (images, masks), = data.load("voc-segmentation", tmp_path, augment=False).loaders(2)[0]  # fmt: skip
    assert (images.shape, masks.shape) == ((2, 3, 12, 10), (2, 12, 10))
    assert sorted((mask == 255).sum().item() for mask in masks) == [12 * 10 - 80 + 10, 12 * 10 - 48]


def test_sbd_adds_what_is_in_neither_part_of_voc(tmp_path):
    voc(tmp_path)
    folder = sbd(tmp_path)
    for named in (folder, folder.parent, tmp_path):
        found = data.load("voc-segmentation", tmp_path, augment=False, sbd=str(named))
        assert names(found.train) == [*VOC["train"], "2008_000002", "2008_000007"]
        assert names(found.test) == VOC["val"]
    masks = [mask for _, mask in (found.train[index] for index in range(4))]
    assert (masks[0][0] == 255).all(), "an image in both has the mask of VOC"
    added = torch.from_numpy(mask_of("2008_000002")).long()
    assert torch.equal(masks[2], torch.where(added == 255, 0, added))


def test_augmentation_is_for_training_only_and_follows_the_seed(tmp_path):
    voc(tmp_path)
    found = data.load("voc-segmentation", tmp_path, size=24)
    draws = []
    for _ in range(2):
        torch.manual_seed(1)
        draws.append([found.train[0] for _ in range(6)])
    for (image, mask), (again, same) in zip(*draws, strict=True):
        assert torch.equal(image, again)
        assert torch.equal(mask, same)
    assert len({tuple(mask.flatten().tolist()) for _, mask in draws[0]}) == 6
    assert torch.equal(found.plain[0][1], found.plain[0][1])
    assert torch.equal(found.plain[0][1], data.load("voc-segmentation", tmp_path, size=24, augment=False).train[0][1])


def test_missing_sets_say_what_was_looked_for(tmp_path):
    with pytest.raises(DataError) as caught:
        data.load("voc-segmentation", tmp_path)
    assert all(
        word in str(caught.value) for word in ("SegmentationClass/*.png", "host.robots.ox.ac.uk", "VOCdevkit/VOC2012")
    )
    voc(tmp_path)
    with pytest.raises(DataError, match="SBD is not in this folder") as caught:
        data.load("voc-segmentation", tmp_path, sbd=tmp_path / "nowhere")
    assert all(word in str(caught.value) for word in ("nowhere", "cls, train.txt, val.txt", "sbd="))


def test_files_that_a_list_names_must_be_there(tmp_path):
    folder = voc(tmp_path)
    (folder / "JPEGImages" / "2007_000032.jpg").unlink()
    (folder / "SegmentationClass" / "2007_000039.png").unlink()
    with pytest.raises(DataError, match=r"2 missing: 2007_000032\.jpg, 2007_000039\.png"):
        data.load("voc-segmentation", tmp_path)


def test_damaged_masks_are_named(tmp_path):
    Image.new("RGB", SIZE).save(tmp_path / "colours.png")
    palette(tmp_path / "classes.png", np.full((4, 4), 21, np.uint8))
    palette(tmp_path / "whole.png", mask_of("2007_000032"))
    (tmp_path / "short.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-30])
    (tmp_path / "text.mat").write_text("not MATLAB")
    savemat(tmp_path / "other.mat", {"GTinst": boundary(np.zeros((4, 4)))})
    savemat(tmp_path / "classes.mat", {"GTcls": boundary(np.full((4, 4), 30, np.uint8))})
    for name, got in (("colours.png", "RGB"), ("classes.png", "values 21"), ("short.png", ""), ("text.mat", ""),
                      ("other.mat", "GTcls"), ("classes.mat", "values 30"), ("absent.png", "FileNotFound")):  # fmt: skip
        with pytest.raises(DataError, match="A mask cannot be read") as caught:
            read_mask(tmp_path / name)
        assert caught.value.problem.where == str(tmp_path / name)
        assert got in caught.value.problem.got


def test_a_mask_of_another_size_is_refused(tmp_path):
    folder = voc(tmp_path)
    palette(folder / "SegmentationClass" / "2007_000033.png", np.zeros((8, 9), np.uint8))
    with pytest.raises(DataError, match="An image and its mask differ in size") as caught:
        data.load("voc-segmentation", tmp_path).test[0]
    assert caught.value.problem.got == "image (8, 10), mask (8, 9)"
