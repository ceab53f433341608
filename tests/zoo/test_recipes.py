import dataclasses
import inspect

import pytest
import torch

from tospike.data import available as data_sets
from tospike.errors import DataError, OptionError
from tospike.methods import method
from tospike.methods.tuning import tuning
from tospike.train import fit
from tospike.zoo import EXAMPLES
from tospike.zoo.networks import build
from tospike.zoo.recipes import OURS, RECIPES, recipe

# Tables of the paper, typed again: T = 2, 4, 8, 16, 32, 64, 512 for CIFAR, and 16, 32, 64, 128, 256, 1024 for ImageNet.
CIFAR_STEPS = (2, 4, 8, 16, 32, 64, 512)
IMAGENET_STEPS = (16, 32, 64, 128, 256, 1024)
PAPER = {
    "cifar10-vgg16-qcfs-l4": (95.52, 91.18, 93.96, 94.95, 95.40, 95.54, 95.55, 95.59),
    "cifar10-resnet20-qcfs-l4": (91.77, 73.20, 83.75, 89.55, 91.62, 92.24, 92.35, 92.41),
    "cifar10-resnet18-qcfs-l4": (96.04, 75.44, 90.43, 94.82, 95.92, 96.08, 96.06, 96.06),
    "cifar100-vgg16-qcfs-l4": (76.28, 63.79, 69.62, 73.96, 76.24, 77.01, 77.10, 77.08),
    "cifar100-resnet20-qcfs-l8": (69.94, 19.96, 34.14, 55.37, 67.33, 69.82, 70.49, 70.50),
    "cifar100-resnet18-qcfs-l4": (78.80, 70.79, 75.67, 78.48, 79.48, 79.62, 79.54, 79.61),
    "imagenet-resnet34-qcfs-l8": (74.32, 59.35, 69.37, 72.35, 73.15, 73.37, 73.39),
    "imagenet-vgg16-qcfs-l16": (74.29, 50.97, 68.47, 72.85, 73.97, 74.22, 74.32),
}
LEARNING = {"cifar10": (0.1, 5e-4), "cifar100": (0.02, 5e-4), "imagenet": (0.1, 1e-4)}


@pytest.mark.parametrize("name", PAPER)
def test_expected_figures_are_those_of_the_paper(name):
    steps = IMAGENET_STEPS if name.startswith("imagenet") else CIFAR_STEPS
    assert dict(recipe(name).expected) == dict(zip(("ann", *steps), PAPER[name], strict=True))


@pytest.mark.parametrize("name", PAPER)
def test_settings_are_those_of_the_paper(name):
    one = recipe(name)
    assert one.method_options == {"levels": int(name.removesuffix("-scratch").rsplit("-l", 1)[1])}
    assert (one.lr, one.weight_decay) == LEARNING[one.data]
    assert (one.epochs, one.batch_size, one.momentum, one.seed) == (300, 128, 0.9, 42)
    assert "ICLR 2022" in one.source


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_its_network_for_its_data(name):
    one = recipe(name)
    assert one.data in data_sets()
    if one.network == "fcos":
        pytest.importorskip("torchvision")
        boxes = build(one.network, **one.network_options).eval()(list(torch.zeros(2, *EXAMPLES[one.data])))
        assert [set(found) for found in boxes] == [{"boxes", "scores", "labels"}] * 2
        return
    output = {"cifar10": (10,), "cifar100": (100,), "imagenet": (1000,), "fashion-mnist": (10,), "digits": (10,),
              "fashion-scenes": (11, 64, 64), "fashion-clips": (8,)}[one.data]  # fmt: skip
    with torch.device("meta"):
        assert build(one.network, **one.network_options).eval()(torch.empty(1, *EXAMPLES[one.data])).shape == (
            1,
            *output,
        )


@pytest.mark.parametrize("name", [name for name, one in RECIPES.items() if one.method == "qcfs"])
def test_methods_take_the_settings_of_the_recipe(name):
    one = recipe(name)
    assert method(one.method, **one.method_options).levels == int(name.removesuffix("-scratch").rsplit("-l", 1)[1])


@pytest.mark.parametrize("name", [name for name, one in RECIPES.items() if one.tunings])
def test_tunings_are_for_the_steps_of_the_method(name):
    one = recipe(name)
    made = method(one.conversion or one.method, **(one.conversion_options if one.conversion else one.method_options))
    ways = [tuning(stage.tuning, **stage.options) for stage in one.tunings]
    steps = [way.time_steps for way in ways]
    assert (steps[0], steps[-1]) == (made.time_steps, int(name.rpartition("-t")[2]))
    assert steps == sorted(steps, reverse=True)  # fewer and fewer
    if one.method == "mice":
        assert dataclasses.replace(ways[0], distance_share=made.tuning.distance_share) == made.tuning
    assert recipe(one.start).network_options == one.network_options
    assert not any(way.distance for way in ways[1:])


def test_figures_of_mice_and_tcl_are_those_of_their_abstracts():
    assert recipe("cifar10-wide-resnet20-mice-t8").expected == {8: 95.74}
    assert recipe("cifar100-wide-resnet20-mice-t8").expected == {8: 79.02}
    assert recipe("imagenet-vgg16-tcl").expected == {250: 73.87}
    assert recipe("imagenet-resnet34-tcl").expected == {250: 70.37}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_its_file(name, tmp_path):
    (tmp_path / "my.yaml").write_text(recipe(name).to_yaml())
    assert recipe(str(tmp_path / "my.yaml")) == recipe(name)


@pytest.mark.parametrize(("text", "said"), [("name: [", "cannot be read"), ("- 1", "not a mapping"), ("name: x\nepoch: 3", "epochs"),
                                            ("name: x", "lacks fields"), ("!!python/object/apply:os.system [ls]", "cannot be read")])  # fmt: skip
def test_files_that_are_no_recipes(text, said, tmp_path):
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises((DataError, OptionError), match=said):
        recipe(str(tmp_path / "my.yaml"))
    with pytest.raises(DataError, match="cannot be read"):
        recipe(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("name", RECIPES)
def test_training_settings_are_arguments_of_fit(name):
    inspect.signature(fit).bind(None, None, **recipe(name).training())
    assert recipe(name).training()["weight_decay"] == recipe(name).weight_decay


def test_our_own_recipes_claim_nothing_published():
    ours = [one for one in RECIPES.values() if one.source == OURS]
    assert {one.name for one in ours} == {name for name, one in RECIPES.items() if not one.expected}
    assert not any(one.expected for one in ours)
    fashion = {one.name: one.method_options.get("levels") for one in ours if one.data == "fashion-mnist"}
    assert fashion == {"fashion-resnet20-relu": None, "fashion-resnet20-qcfs-l4": 4, "fashion-resnet20-qcfs-l8": 8,
                       "fashion-resnet20-qcfs-l8-scratch": 8, "fashion-resnet20-mice-t8": None, "fashion-resnet20-mice-t4": None, "fashion-resnet20-mice-t2": None,
                       "fashion-resnet20-auto-ternary-t2": None}  # fmt: skip
    assert all(one.network_options == {"channels": 1, "stem_pool": True} for one in ours if one.data == "fashion-mnist")


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(OptionError, match="Unknown recipe") as caught:
        recipe("cifar10-resnet20-qcfs")
    assert "cifar10-resnet20-qcfs-l4" in caught.value.problem.remedy
    with pytest.raises(OptionError, match="Choose one of these"):
        recipe("qqqq")
