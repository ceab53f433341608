import contextlib
import copy
import hashlib
import io
import json
import pickle
import random
import zipfile

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

import tospike as ts
from tospike import zoo
from tospike.archive.container import DESCRIPTION, WEIGHTS, pack, unpack
from tospike.archive.network import describe, rebuild


def convert(ann, x, method=None, **settings):
    return ts.convert(ann.eval(), method or ts.LTB(batches=2), calibration=[x], progress=False, **settings)


def small(method=None):
    return convert(
        nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)),
        torch.randn(32, 3),
        method,
    )


def returned(snn, tmp_path):
    """Save and load, and check that nothing was lost on the way."""
    first, second = tmp_path / "first.tospike", tmp_path / "second.tospike"
    assert ts.save(snn, first, force=True) == ts.save(snn, second, force=True)
    loaded = ts.load(first)
    ts.save(loaded, second, force=True)
    assert first.read_bytes() == second.read_bytes()
    assert str(loaded.conversion) == str(snn.conversion)
    return loaded


class Inventive(nn.Module):
    """Activations, joins, tied weights, constants and arguments of many kinds."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.shift = nn.Parameter(torch.randn(6))
        self.register_buffer("scale", torch.rand(1))
        self.slopes = nn.PReLU(6)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        self.blocks = nn.ModuleDict({"3x3-block 1": nn.Linear(4, 4)})

    def forward(self, x, other):
        y = F.leaky_relu(self.first(x), negative_slope=0.2) + self.shift * self.scale
        y = self.slopes(self.second(y.view(y.size(0), -1))).clamp(min=0)
        z = torch.cat([self.normed(y)[:, ::2], other[..., :2].to(torch.float32)], dim=1)
        return {"out": self.blocks["3x3-block 1"](F.relu6(z)), "pair": (z, z.shape[1])}


def test_arguments_of_all_kinds_and_tied_weights(tmp_path):
    x, other = torch.randn(9, 6), torch.randn(9, 3)
    snn = ts.convert(Inventive(), ts.SNM(batches=1), calibration=[[(x, other)]], example=(x, other), progress=False)
    loaded = returned(snn, tmp_path)
    a, b = loaded(x, other, time_steps=6), snn(x, other, time_steps=6)
    assert torch.equal(a["out"], b["out"])
    assert torch.equal(a["pair"][0], b["pair"][0])
    assert loaded.graph.first.weight.data_ptr() == loaded.graph.second.weight.data_ptr()


def test_a_tuned_network_keeps_its_history(tmp_path):
    x, y = torch.randn(64, 3), torch.randint(2, (64,))
    tuned = ts.tune(small(), ts.Tuning(2, logits=0.0), [(x, y)], epochs=1, progress=False)
    assert returned(tuned, tmp_path).conversion.tuned == tuned.conversion.tuned


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 64), ("densenet121", 64), ("swin_t", 64), ("regnet_y_400mf", 64)]
)
def test_torchvision(name, size, tmp_path):
    x = torch.rand(1, 3, size, size)
    method = ts.LTB(batches=1) if name in ("resnet18", "densenet121") else ts.SNM(batches=1)
    snn = convert(getattr(torchvision.models, name)(), x, method, analog="auto")
    path = tmp_path / "net.tospike"
    ts.save(snn, path)
    assert torch.equal(ts.load(path)(x, time_steps=2), snn(x, time_steps=2))
    assert path.stat().st_size <= 1.05 * sum(v.nbytes for v in snn.state_dict().values())


def test_saving_refuses_to_replace_and_leaves_no_parts_behind(tmp_path):
    path = tmp_path / "net.tospike"
    ts.save(small(), path)
    with pytest.raises(ts.errors.OptionError, match="exists already"):
        ts.save(small(), path)
    assert [p.name for p in tmp_path.iterdir()] == ["net.tospike"]


def own_function(x):
    return x * 2


torch.fx.wrap("own_function")


class OwnModule(nn.Linear):
    def forward(self, x):
        return own_function(F.linear(x, self.weight, self.bias))


def test_code_of_the_users_own_is_refused_by_name():
    ann = nn.Sequential(OwnModule(3, 3), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(ts.errors.UnsupportedOperationError, match="own_function") as caught:
        ts.save(
            ts.convert(ann, ts.SNM(batches=1), calibration=[torch.randn(64, 3)], analog="auto", progress=False), "never"
        )
    assert len(caught.value.problems) == 1


class Standardised(nn.Linear):
    """A layer that computes more than its class says."""

    def extra_repr(self):
        return "standardised"

    def forward(self, x):
        return F.linear(x, (self.weight - self.weight.mean()) / self.weight.std(), self.bias)


class StandardisedConvolution(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, (weight - weight.mean()) / weight.std(), bias)


def test_layers_that_compute_more_than_their_class_says_are_taken_apart(tmp_path):
    ann = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(),
        StandardisedConvolution(4, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 3),
    ).eval()
    x = torch.randn(16, 3, 8, 8)
    snn = convert(ann, x, ts.SNM(batches=1))
    torch.testing.assert_close(snn(x, time_steps=500), ann(x), atol=0.02, rtol=0.02)
    loaded = returned(snn, tmp_path)
    assert torch.equal(loaded(x, time_steps=4), snn(x, time_steps=4))
    torch.testing.assert_close(ts.fold(snn).snn(x, time_steps=4), snn(x, time_steps=4), atol=1e-4, rtol=1e-4)


def test_a_forward_put_on_one_module_is_refused():
    layer = nn.Linear(5, 4)
    forward = layer.forward
    layer.forward = lambda x: 3 * forward(x)  # of the original, whatever copies are made
    with pytest.raises(ts.errors.CaptureError, match="cannot be traced"):
        ts.check(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), layer, nn.ReLU()), torch.zeros(1, 3))


def test_a_whole_layer_of_the_users_own_is_traced(tmp_path):
    snn = convert(nn.Sequential(Standardised(3, 5), nn.ReLU(), nn.Linear(5, 2)), torch.randn(32, 3))
    x = torch.randn(4, 3)
    assert torch.equal(returned(snn, tmp_path)(x, time_steps=4), snn(x, time_steps=4))


def test_hooks_are_refused_by_files_and_exports(tmp_path):
    ann = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    ann[2].register_forward_hook(lambda module, args, out: 3 * out)
    snn = convert(ann, torch.randn(32, 3))
    with pytest.raises(ts.errors.UnsupportedOperationError, match="hooks"):
        ts.save(snn, tmp_path / "net.tospike")
    for export in (ts.fold, ts.export_spikingjelly, lambda snn: ts.export_program(snn, tmp_path / "net.pt2")):
        with pytest.raises(ts.errors.ExportError, match="hooks"):
            export(snn)


def test_tensors_that_settings_do_not_explain_are_refused(tmp_path):
    class Attentive(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.mixed = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True)
            self.last = nn.Linear(8, 2)

        def forward(self, x):
            y = self.first(x).relu()
            return self.last(self.mixed(y, y, y, need_weights=False)[0].relu())

    snn = convert(Attentive(), torch.randn(16, 3, 8), ts.SNM(batches=1), analog="auto")
    with pytest.raises(ts.errors.UnsupportedOperationError, match="bias_k"):
        ts.save(snn, tmp_path / "net.tospike")


def sealed(body):
    """Return an archive whose hash is right, whatever was done to it."""
    return body[:-64] + hashlib.sha256(body[:-79]).hexdigest().encode()


def refused(packed, tmp_path, match=None):
    path = tmp_path / "bad.tospike"
    path.write_bytes(packed)
    with pytest.raises(ts.errors.DataError, match=match) as caught:
        ts.load(path)
    assert str(path) in str(caught.value)
    assert "do this" in str(caught.value)


def test_200_damaged_files_are_refused(tmp_path):
    packed, draw = pack(*describe(small())), random.Random(0)
    for _ in range(100):
        at = draw.randrange(len(packed))
        refused(packed[:at] + bytes([packed[at] ^ (1 << draw.randrange(8))]) + packed[at + 1 :], tmp_path)
    for _ in range(50):
        refused(packed[: draw.randrange(len(packed))], tmp_path)
    for _ in range(50):
        at, length = draw.randrange(len(packed)), draw.randrange(1, 200)
        refused(packed[:at] + draw.randbytes(length) + packed[at + length * draw.randrange(2) :], tmp_path)


def test_200_files_forged_with_a_right_hash_are_refused_or_load_to_a_network(tmp_path):
    packed, draw = pack(*describe(small())), random.Random(1)
    path = tmp_path / "forged.tospike"
    for _ in range(200):
        at = draw.randrange(len(packed) - 79)
        path.write_bytes(sealed(packed[:at] + bytes([packed[at] ^ (1 << draw.randrange(8))]) + packed[at + 1 :]))
        with contextlib.suppress(ts.errors.DataError):  # any other error is a failure
            assert isinstance(ts.load(path), ts.SNN)


def archive(members, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members:
            file.writestr(name, content)
        file.comment = b"tospike sha256 " + b"0" * 64
    return sealed(buffer.getvalue())


def test_bombs_traversals_and_other_archives_are_refused(tmp_path):
    description, tensors = describe(small())
    good = [(DESCRIPTION, json.dumps(description)), (WEIGHTS, safetensors.torch.save(tensors))]
    path = tmp_path / "good.tospike"
    path.write_bytes(archive(good))
    ts.load(path)  # so that what follows is refused for what was changed
    refused(archive([*good, ("../../evil.py", "boom")]), tmp_path, "other files")
    refused(archive([(f"../{DESCRIPTION}", good[0][1]), good[1]]), tmp_path, "other files")
    with pytest.warns(UserWarning, match="Duplicate"):
        refused(archive([*good, good[0]]), tmp_path, "other files")
    refused(archive([(DESCRIPTION, " " * 10_000_000), good[1]], zipfile.ZIP_DEFLATED), tmp_path, "compressed")
    refused(archive([(DESCRIPTION, "[" * 100_000), good[1]]), tmp_path)
    refused(archive([good[0], (WEIGHTS, b"\xff" * 64)]), tmp_path)
    refused(b"", tmp_path, "no .tospike file")
    refused(pickle.dumps({"a": 1}), tmp_path, "no .tospike file")
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    refused(buffer.getvalue(), tmp_path, "another tool")


def forged(change):
    description, tensors = describe(small())
    change(description)
    return sealed(pack(description, tensors))


def first_layer(description):
    return next(node for node in description["nodes"] if node["op"] == "call_module")


FORGERIES = {
    "a newer format": (lambda d: d.update(format=99), "newer tospike"),
    "no format": (lambda d: d.update(format="1"), "names no format"),
    "a function that opens files": (lambda d: first_layer(d).update(op="call_function", target="torch.from_file"), "torch.from_file"),
    "a function that unpickles": (lambda d: first_layer(d).update(op="call_function", target="torch.load"), "torch.load"),
    "a function that writes files": (lambda d: first_layer(d).update(op="call_function", target="torch.save"), "torch.save"),
    "a function that seeds": (lambda d: first_layer(d).update(op="call_function", target="torch.manual_seed"), "manual_seed"),
    "an activation that reaches into tensors": (
        lambda d: d["modules"]["0"].update({"class": "Function", "function": "getattr", "settings": {"dict": []}}), "unknown activation"),
    "an activation that is a method": (
        lambda d: d["modules"]["0"].update({"class": "Function", "function": "Tensor.numpy", "settings": {"dict": []}}), "unknown activation"),
    "a threshold below 0": (lambda d: d["shared"].update({"1.threshold": "0.bias"}), "thresholds that are none"),
    "no output": (lambda d: d["nodes"].pop(), "does not belong to its record"),
    "another input": (lambda d: d.update(inputs=["other"]), "does not belong to its record"),
    "no Sites": (lambda d: [node.pop("site", None) for node in d["nodes"]], "does not belong to its record"),
    "a format that is none": (lambda d: d.update(format=True), "names no format"),
    "a function of the system": (lambda d: first_layer(d).update(op="call_function", target="os.system"), "os.system"),
    "a method that reaches beyond tensors": (lambda d: first_layer(d).update(op="call_method", target="__reduce__"), "__reduce__"),
    "an attribute that does": (
        lambda d: first_layer(d).update(op="call_function", target="getattr", args=[{"node": "input_1"}, "__class__"]), "__class__"),
    "code as the name of a call": (lambda d: first_layer(d).update(name="x();import os"), "names that are none"),
    "code as the name of an input": (lambda d: d["nodes"][0].update(target="x=print(1)"), "names that are none"),
    "code as a keyword": (lambda d: first_layer(d).update(kwargs={"dict": [["x=print(1), y", 1]]}), "names that are none"),
    "code as a class": (lambda d: d.update({"class": "X:\n import os"}), "names that are none"),
    "code as a path": (lambda d: (d["constants"].update({'a"+print(1)+"': False}), d["shared"].update({'a"+print(1)+"': "0.bias"})), "names that are none"),
    "a module of another library": (lambda d: d["modules"]["0"].update({"class": "torch.hub.load"}), "unknown module"),
    "a class of torch that is no layer": (lambda d: d["modules"]["0"].update({"class": "nn.Sequential"}), "unknown module"),
    "a layer that the weights do not fit": (
        lambda d: d["modules"]["0"].update(settings={"dict": [["in_features", 4], ["out_features", 5]]}), "size mismatch|RuntimeError"),
    "a tensor that is not there": (lambda d: d["shared"].update({"0.weight": "1.weight"}), "KeyError"),
    "a value of torch that is code": (lambda d: first_layer(d).update(kwargs={"dict": [["input", {"torch": "load"}]]}), "unknown kind"),
    "a record that is none": (lambda d: d.update(conversion={"Popen": {"args": "ls"}}), "unknown kind"),
    "no calls": (lambda d: d.pop("nodes"), "nodes"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_descriptions_are_refused(what, tmp_path):
    refused(forged(lambda _: None)[:-1] + b"g", tmp_path)
    change, match = FORGERIES[what]
    refused(forged(change), tmp_path, match)


def test_missing_and_unreadable_files_are_named(tmp_path):
    with pytest.raises(ts.errors.DataError, match=r"nothing\.tospike"):
        ts.load(tmp_path / "nothing.tospike")
    with pytest.raises(ts.errors.DataError, match="cannot be read"):
        ts.load(tmp_path)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda snn: pickle.loads(pickle.dumps(snn))], ids=["deepcopy", "pickle"]
)
def test_copies_run_on_their_own(copied):
    snn, x = small(ts.Auto(4, 1, 1, spikes="ternary")), torch.randn(7, 3)
    wanted = snn(x, time_steps=4)
    other = copied(snn)
    snn.graph.get_submodule(str(ts.run.network.site_nodes(snn.graph)[0].target)).threshold.zero_()
    assert torch.equal(other(x, time_steps=4), wanted)


def test_torch_save_and_a_state_dict_carry_all_that_refinement_changed(tmp_path):
    ann, x = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(32, 3)
    refined, plain = convert(ann, x, ts.Auto(4, 1, 1, spikes="ternary")), convert(ann, x, ts.SNM(batches=1))
    wanted = refined(x, time_steps=4)
    assert not torch.equal(plain(x, time_steps=4), wanted)
    torch.save(refined, tmp_path / "whole.pt")
    assert torch.equal(torch.load(tmp_path / "whole.pt", weights_only=False)(x, time_steps=4), wanted)
    torch.save(refined.state_dict(), tmp_path / "state.pt")
    plain.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(plain(x, time_steps=4), wanted)
    safetensors.torch.save_file(refined.state_dict(), tmp_path / "state.safetensors")


def test_precision_and_compilation():
    snn, x = small(), torch.randn(7, 3)
    torch.testing.assert_close(
        copy.deepcopy(snn).to(torch.float64)(x.double(), time_steps=4).float(), snn(x, time_steps=4)
    )
    compiled = torch.compile(snn, backend="aot_eager")
    torch.testing.assert_close(compiled(x, time_steps=4), snn(x, time_steps=4))


def test_the_zoo_network_loads_without_its_class(tmp_path):
    x = torch.rand(2, 1, 28, 28)
    snn = convert(zoo.load("fashion-resnet20"), x)
    description, tensors = unpack(pack(*describe(snn)))
    assert "zoo" not in json.dumps({key: description[key] for key in ("modules", "class", "inputs")})
    assert torch.equal(rebuild(description, tensors)(x, time_steps=3), snn(x, time_steps=3))
