"""The trained networks that travel with the library."""

from itertools import islice

import pytest
import torch

from tospike import data, zoo
from tospike.errors import DataError, OptionError
from tospike.parts.activations import ClipFloorShift
from tospike.zoo.recipes import recipe


@pytest.mark.skipif(not data.is_available("fashion-mnist"), reason="Fashion-MNIST is not on this machine")
@pytest.mark.parametrize("name", ["fashion-resnet20", "fashion-resnet20-qcfs-l4", "fashion-resnet20-qcfs-l8"])
def test_network_scores_what_is_claimed(name):
    """93 % of the whole test set is the claim; the first 2,000 images, which are a little easier, tell whether the weights fit."""
    ann = zoo.load(name)
    images = data.load("fashion-mnist").test
    batch = [images[i] for i in range(2000)]
    x, y = torch.stack([image for image, _ in batch]), torch.tensor([int(label) for _, label in batch])
    with torch.no_grad():
        hits = sum(
            int((ann(part).argmax(1) == labels).sum()) for part, labels in zip(x.split(500), y.split(500), strict=True)
        )
    assert hits >= 0.93 * 2000


@pytest.mark.skipif(not data.is_available("fashion-mnist"), reason="Fashion-MNIST is not on this machine")
@pytest.mark.parametrize("name", zoo.snns())
def test_a_tuned_snn_is_close_to_the_network_that_it_comes_from(name):
    import tospike as ts

    snn, ann = zoo.snn(name), zoo.load(recipe(name).start)
    _, test = data.load("fashion-mnist").loaders(250)
    steps = snn.conversion.tuned.settings["time_steps"]
    assert name.endswith(f"-t{steps}")
    result = ts.evaluate(snn, list(islice(test, 8)), time_steps=(steps,), reference=ann, progress=False)
    assert result.reference - result.curve[steps] < (2.0 if name.endswith("mice-t2") else 1.0)


def test_an_snn_is_not_taken_for_a_network(tmp_path):
    name = zoo.snns()[0]
    with pytest.raises(OptionError) as caught:
        zoo.load(name)
    assert f"zoo.snn('{name}')" in caught.value.problem.remedy
    with pytest.raises(OptionError) as caught:
        zoo.snn("fashion-resnet20-relu")
    assert name in caught.value.problem.expected
    (tmp_path / f"{name}.tospike").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=name):
        zoo.snn(name, tmp_path)


def test_the_weights_together_are_small():
    assert sum(path.stat().st_size for path in zoo.WEIGHTS.glob("*")) < 20e6


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_damaged_weights_are_an_error_that_names_the_file(content, tmp_path, monkeypatch):
    whole = (zoo.WEIGHTS / "fashion-resnet20-relu.safetensors").read_bytes()
    (tmp_path / "fashion-resnet20-relu.safetensors").write_bytes(whole[:5000] if content is None else content)
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    with pytest.raises(DataError, match=r"fashion-resnet20-relu\.safetensors"):
        zoo.load("fashion-resnet20")


def test_an_unknown_name_is_refused_without_advice_that_fails():
    with pytest.raises(OptionError) as caught:
        zoo.load("nope")
    assert "tospike train" not in caught.value.problem.remedy


def test_training_can_start_from_the_weights_of_another_network():
    start, built = zoo.load("fashion-resnet20-qcfs-l4"), zoo.build(recipe("fashion-resnet20-qcfs-l8"))
    assert all(torch.equal(value, start.state_dict()[name]) for name, value in built.state_dict().items())
    assert {module.levels for module in built.modules() if isinstance(module, ClipFloorShift)} == {8}


def test_a_loaded_network_remembers_how_it_was_prepared():
    import tospike as ts

    snn = ts.convert(zoo.load("fashion-resnet20-qcfs-l4"), example=torch.zeros(1, 1, 28, 28))
    assert snn.conversion.settings["initial"] == recipe("fashion-resnet20-qcfs-l4").method_options["initial"]
