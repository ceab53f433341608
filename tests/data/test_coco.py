import json
import sys

import numpy as np
import pytest
import torch

from tospike import data
from tospike.data.voc import CLASSES
from tospike.errors import DataError, MissingExtraError

pytest.importorskip("torchvision")
pytest.importorskip("pycocotools")
Image = pytest.importorskip("PIL.Image")
NAMES = {1: "person", 2: "bicycle", 3: "car", 5: "airplane", 63: "couch", 65: "bed", 72: "tv"}
WIDTH, HEIGHT = 60, 40


def outline(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def thing(image, category, left, top, width, height, crowd=0, **changed):
    entry = {
        "image_id": image, "category_id": category, "bbox": [left, top, width, height], "area": width * height, "iscrowd": crowd,
        "segmentation": outline(left, top, left + width, top + height),
    }  # fmt: skip
    if crowd:  # as COCO writes crowds: runs down the columns
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[top : top + height, left : left + width] = True
        changes = np.flatnonzero(np.diff(np.concatenate([[False], mask.T.flatten()])))
        entry["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *changes, mask.size]).tolist()}
    return entry | changed


TRAIN = (
    thing(7, 1, 10, 5, 20, 30), thing(7, 3, 25, 5, 20, 30), thing(7, 65, 0, 0, 60, 40),  # person and car overlap; a bed is no class of VOC
    thing(7, 1, 50, 20, 0, 10), thing(7, 1, 0, 36, 20, 4, crowd=1),  # without area; a crowd
    thing(9, 72, 50, 30, 20, 30),  # reaches out of the image
    thing(11, 5, 0, 0, 20, 20), thing(11, 65, 0, 0, 60, 40),  # 400 pixels of VOC's classes, then 2,400 of others
)  # fmt: skip
VAL = thing(4, 63, 0, 0, 30, 40), thing(4, 1, 40, 10, 0, 10), thing(4, 1, 30, 0, 10, 40, crowd=1)
IMAGES = {"train": (11, 9, 7, 8), "val": (4, 5)}


def coco(root, train=TRAIN, val=VAL, **changed):
    folder = root / "coco"
    (folder / "annotations").mkdir(parents=True)
    for part, things in (("train", train), ("val", val)):
        (folder / f"{part}2017").mkdir()
        for number in IMAGES[part]:
            picture = Image.new("RGB", (WIDTH, HEIGHT), (number * 10, 0, 255))
            picture.save(folder / f"{part}2017" / f"{number:012d}.jpg")
        content = {
            "images": [{"id": number, "file_name": f"{number:012d}.jpg", "height": HEIGHT, "width": WIDTH} for number in IMAGES[part]],
            "categories": [{"id": number, "name": name, "supercategory": "thing"} for number, name in NAMES.items()],
            "annotations": [{"id": 100 + count, **entry} for count, entry in enumerate(things)],
        }  # fmt: skip
        (folder / f"annotations/instances_{part}2017.json").write_text(json.dumps(content | changed))
    return folder


def test_boxes_are_read_in_the_published_layout(tmp_path, capsys):
    coco(tmp_path)
    found = data.load("coco-detection", tmp_path, augment=False)
    assert capsys.readouterr().out == ""
    assert (len(found.train), len(found.test), found.shape, found.mean) == (4, 2, (3, -1, -1), ())
    assert (len(found.classes), found.classes[:4], found.classes[72]) == (
        73,
        ("background", "person", "bicycle", "car"),
        "tv",
    )
    assert found.classes[4] == "N/A"
    image, target = found.train[0]
    assert (image.shape, image.dtype) == ((3, HEIGHT, WIDTH), torch.float32)
    assert image[2].min() > 0.95
    assert target["image_id"] == 7, "images are in the order of their numbers"
    assert target["boxes"].tolist() == [[10, 5, 30, 35], [25, 5, 45, 35], [0, 0, 60, 40]]
    assert target["labels"].tolist() == [1, 3, 65]
    assert target["area"].tolist() == [600, 600, 2400]
    assert target["iscrowd"].tolist() == [0, 0, 0]
    types = {name: target[name].dtype for name in ("boxes", "labels", "iscrowd", "area")}
    assert types == {"boxes": torch.float32, "labels": torch.int64, "iscrowd": torch.int64, "area": torch.float32}


def test_boxes_end_at_the_border_of_the_image(tmp_path):
    coco(tmp_path)
    target = data.load("coco-detection", tmp_path, augment=False).train[2][1]
    assert target["boxes"].tolist() == [[50, 30, 60, 40]]


def test_test_images_keep_crowds_and_what_has_no_area(tmp_path):
    coco(tmp_path)
    target = data.load("coco-detection", tmp_path).test[0][1]
    assert target["boxes"].tolist() == [[0, 0, 30, 40], [40, 10, 40, 20], [30, 0, 40, 40]]
    assert target["iscrowd"].tolist() == [0, 0, 1]


def test_images_without_objects_have_empty_targets(tmp_path):
    coco(tmp_path)
    found = data.load("coco-detection", tmp_path, size=(20, 20))
    for target in (found.train[1][1], found.test[1][1]):
        assert (target["boxes"].shape, target["boxes"].dtype) == ((0, 4), torch.float32)
        assert [target[name].shape for name in ("labels", "iscrowd", "area")] == [(0,)] * 3
        assert target["labels"].dtype == torch.int64


def test_batches_are_lists(tmp_path):
    folder = coco(tmp_path)
    Image.new("RGB", (30, 50)).save(folder / "val2017" / f"{5:012d}.jpg")
    (images, targets), = data.load("coco-detection", tmp_path).loaders(2)[1]  # fmt: skip
    assert [tuple(image.shape) for image in images] == [(3, 40, 60), (3, 50, 30)]
    assert [target["image_id"] for target in targets] == [4, 5]


def test_boxes_are_scaled_and_mirrored_with_their_image(tmp_path):
    coco(tmp_path)
    found = data.load("coco-detection", tmp_path, size=(80, 60))
    seen = set()
    for seed in range(6):
        torch.manual_seed(seed)
        image, target = found.train[0]
        seen.add(tuple(target["boxes"][0].tolist()))
        assert image.shape == (3, 80, 60)
        assert target["area"].tolist() == [1200, 1200, 4800]
    assert seen == {(10, 10, 30, 70), (30, 10, 50, 70)}
    assert found.plain[0][1]["boxes"][0].tolist() == [10, 10, 30, 70]


def drawn(*parts):
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    for value, left, top, right, bottom in parts:
        mask[top:bottom, left:right] = value
    return mask


def test_masks_are_those_of_vocs_classes(tmp_path):
    coco(tmp_path)
    found = data.load("coco-segmentation", tmp_path, augment=False)
    assert (found.classes, found.shape, found.mean) == (CLASSES, (3, -1, -1), (0.485, 0.456, 0.406))
    person, car, sofa = (CLASSES.index(name) for name in ("person", "car", "sofa"))
    image, mask = found.train[0]
    assert (image.shape, mask.dtype) == ((3, HEIGHT, WIDTH), torch.int64)
    expected = drawn((person, 10, 5, 30, 35), (car, 25, 5, 45, 35), (255, 25, 5, 30, 35), (person, 0, 36, 20, 40))
    assert torch.equal(mask, expected)
    assert torch.equal(found.test[0][1], drawn((sofa, 0, 0, 30, 40), (person, 30, 0, 40, 40)))


def test_training_images_with_few_labelled_pixels_are_left_out(tmp_path):
    big = thing(8, 72, 0, 0, 40, 26)  # 1,040 pixels
    small = thing(9, 72, 0, 0, 40, 25)  # 1,000
    coco(tmp_path, train=(*(entry for entry in TRAIN if entry["image_id"] != 9), big, small))
    found = data.load("coco-segmentation", tmp_path, size=16)
    assert (found.train.part.ids, found.test.part.ids) == ((7, 8), (4, 5))
    assert found.plain.part.ids == (7, 8)
    images, masks = next(iter(found.loaders(2)[0]))
    assert (images.shape, masks.shape) == ((2, 3, 16, 16), (2, 16, 16))


def test_a_mask_of_an_image_of_another_size_is_refused(tmp_path):
    folder = coco(tmp_path)
    path = folder / "val2017" / f"{4:012d}.jpg"
    Image.new("RGB", (30, 50)).save(path)
    with pytest.raises(DataError, match="An image and its mask differ in size") as caught:
        data.load("coco-segmentation", tmp_path).test[0]
    assert caught.value.problem.where == str(path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"train": (thing(99, 1, 0, 0, 5, 5),)}, "annotation 100 is of image 99"),
        ({"train": (thing(7, 4, 0, 0, 5, 5),)}, "category 4"),
        ({"train": (thing(7, 1, 0, 0, 5, 5, bbox=[1, 2]),)}, "box \\[1, 2\\]"),
        ({"train": ({"image_id": 7, "category_id": 1},)}, "annotation 100 has no bbox, area"),
        ({"images": None}, "NoneType"),
        ({"annotations": 3}, "int"),
    ],
)
def test_damaged_annotations_are_named(changed, words, tmp_path):
    folder = coco(tmp_path, **changed)
    for name in ("coco-detection", "coco-segmentation"):
        with pytest.raises(DataError, match="annotations of COCO cannot be read") as caught:
            data.load(name, tmp_path)
        assert caught.value.problem.where == str(folder / "annotations/instances_train2017.json")
        assert caught.match(words)


def test_a_file_that_is_cut_off_is_named(tmp_path):
    path = coco(tmp_path) / "annotations/instances_val2017.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match="JSONDecodeError") as caught:
        data.load("coco-detection", tmp_path)
    assert caught.value.problem.where == str(path)
    path.write_text('{"images": [], "categories": []}')
    with pytest.raises(DataError, match="no annotations"):
        data.load("coco-detection", tmp_path)


def test_a_damaged_outline_is_named(tmp_path):
    coco(tmp_path, val=(thing(4, 1, 0, 0, 5, 5, segmentation={"size": [4], "counts": "x"}),))
    with pytest.raises(DataError, match="annotation 100: "):
        data.load("coco-segmentation", tmp_path).test[0]


def test_a_damaged_image_is_named(tmp_path):
    folder = coco(tmp_path)
    path = folder / "val2017" / f"{4:012d}.jpg"
    path.write_text("no image")
    for name in ("coco-detection", "coco-segmentation"):
        with pytest.raises(DataError, match="An image cannot be read") as caught:
            data.load(name, tmp_path).test[0]
        assert caught.value.problem.where == str(path)


def test_without_pycocotools_the_extra_is_named(tmp_path, monkeypatch):
    coco(tmp_path)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(MissingExtraError, match=r"tospike\[detection\]"):
        data.load("coco-detection", tmp_path)
