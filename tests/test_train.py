import copy
import itertools
import json
import math
import os
import pickle
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SubsetRandomSampler, TensorDataset

from tospike.errors import DataError, OptionError, TrainingError
from tospike.graph.kinds import TrainableActivation
from tospike.history import History
from tospike.parts.activations import Clip
from tospike.tasks import Classification, Regression
from tospike.train import fit

CLASSES = 3


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def samples(count=53, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator)
    return TensorDataset(x, x[:, :CLASSES].argmax(1))


def small(seed=0, dropout=0.2):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, CLASSES)
    )  # fmt: skip


def shuffled(**options):
    return DataLoader(samples(), 16, shuffle=True, **options)


def quiet(ann, loader, *rest, epochs=2, **options):
    return fit(ann, loader, *rest, epochs=epochs, progress=False, **options)


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def stop_after(count):
    def log(record):
        if record.epoch == count:
            raise KeyboardInterrupt

    return log


# --- what a run does


def test_it_learns_and_records_every_epoch():
    seen = []
    ann, test = small(dropout=0.0), DataLoader(samples(seed=1), 20)
    history = quiet(ann, shuffled(), test, epochs=30, log=seen.append)
    assert history.headline == "top1"
    assert list(history.records) == seen
    assert [record.epoch for record in seen] == list(range(1, 31))
    assert history.last == seen[-1]
    assert history.last.train_loss < 0.3 * seen[0].train_loss
    assert history.last.train_score > 90
    assert set(history.last.test_scores) == {"top1", "top5"}
    x, y = test.dataset.tensors
    with torch.no_grad():
        own = (ann.eval()(x).argmax(1) == y).float().mean() * 100
    assert history.last.test_scores["top1"] == pytest.approx(own.item(), abs=1e-4)


def test_it_is_sgd_with_momentum_decay_and_a_cosine_over_batches():
    batches = [(torch.randn(8, 6), torch.randint(CLASSES, (8,))) for _ in range(3)]
    ann = small(dropout=0.0)
    twin = copy.deepcopy(ann).train()
    settings = {"momentum": 0.8, "weight_decay": 1e-2, "nesterov": True}
    history = quiet(ann, batches, epochs=4, lr=0.3, warmup_epochs=1, **settings)
    optimizer = torch.optim.SGD(twin.parameters(), lr=1.0, **settings)
    rates, losses = [], []
    for step in range(12):
        done = (step + 0.5) / 3
        rates.append(0.3 * done if done < 1 else 0.15 * (1 + math.cos(math.pi * (done - 1) / 3)))
        optimizer.param_groups[0]["lr"] = rates[-1]
        x, y = batches[step % 3]
        loss = nn.functional.cross_entropy(twin(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ann.parameters(), twin.parameters(), strict=True))
    assert [record.lr for record in history.records] == pytest.approx(rates[2::3])
    assert [record.train_loss for record in history.records] == pytest.approx(
        [sum(losses[i : i + 3]) / 3 for i in range(0, 12, 3)], rel=1e-5
    )


def test_the_train_loss_is_a_mean_over_samples():
    x, y = torch.zeros(4, 6), torch.zeros(4, dtype=torch.long)
    ann = nn.Linear(6, CLASSES)
    nn.init.zeros_(ann.weight)
    ann.bias.data = torch.tensor([0.0, 5.0, 0.0])
    right = y[:1] + 1
    history = quiet(ann, [(x[:3], y[:3]), (x[:1], right)], epochs=1, lr=1e-12)
    wrong = nn.functional.cross_entropy(torch.tensor([[0.0, 5.0, 0.0]]), y[:1]).item()
    good = nn.functional.cross_entropy(torch.tensor([[0.0, 5.0, 0.0]]), right).item()
    assert history.last.train_loss == pytest.approx((3 * wrong + good) / 4)
    assert history.last.train_score == pytest.approx(25.0)


def test_weight_decay_reaches_every_parameter_and_frozen_ones_stay():
    ann = small()
    ann[0].weight.requires_grad_(False)
    before = copy.deepcopy(ann)
    quiet(ann, shuffled(), epochs=1, weight_decay=0.1)
    assert torch.equal(ann[0].weight, before[0].weight)
    decayed = small(dropout=0.0)
    decayed[1].weight.data.fill_(1.0)
    zero = [(torch.zeros(4, 6), torch.zeros(4, dtype=torch.long))]
    quiet(decayed, zero, epochs=1, lr=0.1, momentum=0.0, weight_decay=1.0)
    assert decayed[1].weight.tolist() == pytest.approx([1 - 0.05] * 16)


@pytest.mark.parametrize("precision", [None, "fp16"])
def test_clip_norm_bounds_the_step(precision):
    torch.manual_seed(0)
    ann, batch = nn.Linear(6, CLASSES), (0.1 * torch.randn(8, 6), torch.randint(CLASSES, (8,)))
    before = copy.deepcopy(ann)
    quiet(ann, [batch], epochs=1, lr=1.0, momentum=0.0, weight_decay=0.0, clip_norm=1e-2, mixed_precision=precision)
    steps = [(a - b).flatten() for a, b in zip(ann.parameters(), before.parameters(), strict=True)]
    assert torch.cat(steps).norm().item() == pytest.approx(0.5e-2, rel=1e-2)  # half of lr: the middle of the cosine


class Watching(Classification):
    seen = set()

    def loss(self, output, target, context=None):
        self.seen.add(output.dtype)
        return super().loss(output, target)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_runs_the_network_in_that_format(precision):
    ann, seen = small(), []
    ann[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    history = quiet(ann, shuffled(), DataLoader(samples(), 20), mixed_precision=precision, epochs=10, task=Watching())
    assert Watching.seen == {torch.float32}
    assert set(seen) == {{"bf16": torch.bfloat16, "fp16": torch.float16}[precision]}
    assert all(parameter.dtype == torch.float32 for parameter in ann.parameters())
    assert history.last.train_loss < 0.7 * history.records[0].train_loss


def test_channels_last_changes_only_the_layout():
    def images():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, CLASSES))
        return net, [(torch.randn(8, 2, 8, 8), torch.randint(CLASSES, (8,))) for _ in range(2)]

    (ann, batches), (other, _), layouts = images(), images(), []
    ann[2].register_forward_hook(
        lambda module, inputs, output: layouts.append(output.is_contiguous(memory_format=torch.channels_last))
    )
    quiet(ann, batches, channels_last=True, weight_decay=0.0)
    quiet(other, batches, weight_decay=0.0)
    assert all(layouts)
    assert all(parameter.is_contiguous() for parameter in ann.parameters())
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ann.parameters(), other.parameters(), strict=True))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1)

    def forward(self, left, right, scale=1.0):
        return scale * self.fc(left - right)


@pytest.mark.parametrize("as_dict", [True, False])
def test_inputs_go_in_by_name_and_other_tasks_train(as_dict):
    torch.manual_seed(0)
    left, right = torch.randn(2, 32, 4)
    target = (left - right).sum(1, keepdim=True)
    batch = {"target": target, "right": right, "left": left} if as_dict else (left, right, target)
    history = quiet(Pair(), [batch], [batch], task=Regression(), epochs=60, lr=0.05, weight_decay=0.0)
    assert history.headline == "mse"
    assert history.last.test_scores["mse"] < 1e-2
    assert history.last.train_score == pytest.approx(history.last.train_loss, rel=1e-4)


def test_a_network_without_required_arguments_gets_its_first():
    class Open(nn.Linear):
        def forward(self, *inputs):
            return super().forward(inputs[0])

    class Optional(nn.Linear):
        def forward(self, x=None, mask=None):
            assert mask is None
            return super().forward(x)

    for ann in (Open(6, CLASSES), Optional(6, CLASSES)):
        assert len(quiet(ann, shuffled()).records) == 2


def test_every_sample_of_a_sampler_is_scored():
    ann = nn.Linear(6, CLASSES)
    data = samples(17)  # 17 % 4 = 1, but the last batch of the sampler holds 2
    chosen = list(range(10))
    test = DataLoader(data, 4, sampler=SubsetRandomSampler(chosen))
    score = quiet(ann, shuffled(), test, epochs=1).last.test_scores["top1"]
    hits = (ann(data.tensors[0][chosen]).argmax(1) == data.tensors[1][chosen]).float().mean().item()
    assert score == pytest.approx(100 * hits, abs=1e-4)


# --- what a run leaves alone


def test_the_test_set_changes_nothing():
    one, other = small(), small()
    quiet(one, shuffled(), DataLoader(samples(seed=9), 20, shuffle=True))
    assert quiet(other, shuffled()).last.test_scores == {}
    assert same(one, other)


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_mode_and_attributes_of_the_network_are_put_back(precision):
    ann = small().eval()
    ann[1].train()
    modes, attributes = [module.training for module in ann.modules()], set(vars(ann))
    quiet(ann, shuffled(), mixed_precision=precision)
    assert [module.training for module in ann.modules()] == modes
    assert set(vars(ann)) == attributes
    assert all(parameter.grad is None for parameter in ann.parameters())
    clone = copy.deepcopy(ann).eval()
    nn.init.zeros_(ann[4].weight)
    assert clone(torch.randn(4, 6)).std(0).min() > 0


def test_mode_is_put_back_after_a_failure():
    ann = small().eval()
    with pytest.raises(TrainingError):
        quiet(ann, [(torch.full((4, 6), math.nan), torch.zeros(4, dtype=torch.long))])
    assert not any(module.training for module in ann.modules())
    assert "_is_accelerate_prepared" not in vars(ann)


# --- seeds and resuming


def loaders():
    data = samples()
    return {
        "plain": lambda: DataLoader(data, 16, shuffle=True),
        "generator": lambda: DataLoader(data, 16, shuffle=True, generator=torch.Generator()),
        "sampler": lambda: DataLoader(data, 16, sampler=RandomSampler(data, generator=torch.Generator())),
    }


@pytest.mark.parametrize("optimizer", [{"nesterov": True}, {"optimizer": "adam", "lr": 0.03}])
@pytest.mark.parametrize("kind", loaders())
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_does(kind, optimizer, tmp_path):
    straight, broken = small(), small()
    options = {"epochs": 4, "clip_norm": 1.0} | optimizer
    whole = quiet(straight, loaders()[kind](), **options)
    options["checkpoint"] = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        quiet(broken, loaders()[kind](), log=stop_after(2), **options)
    torch.rand(7)
    fresh = small(seed=5)
    history = quiet(fresh, loaders()[kind](), **options)
    assert same(straight, fresh)
    assert not same(straight, broken)
    timeless = [[replace(record, seconds=0) for record in run.records] for run in (whole, history)]
    assert timeless[0] == timeless[1]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "run.pt"]


def test_the_seed_decides(tmp_path):
    one, other, third = small(), small(), small()
    quiet(one, shuffled())
    torch.rand(3)
    quiet(other, shuffled())
    quiet(third, shuffled(), seed=43)
    assert same(one, other)
    assert not same(one, third)


def test_epochs_draw_different_orders():
    firsts = []
    ann = small()
    ann.register_forward_pre_hook(lambda module, inputs: firsts.append(inputs[0][0].tolist()))
    quiet(ann, shuffled(), epochs=3)
    per_epoch = firsts[::4]
    assert len({tuple(first) for first in per_epoch}) == 3


def test_a_finished_run_is_returned_without_training(tmp_path):
    one, other, seen = small(), small(seed=5), []
    history = quiet(one, shuffled(), checkpoint=tmp_path / "deep" / "run.pt")
    assert quiet(other, shuffled(), checkpoint=tmp_path / "deep" / "run.pt", log=seen.append) == history
    assert same(one, other)
    assert not seen


def test_resume_false_begins_anew(tmp_path):
    path = tmp_path / "run.pt"
    path.write_bytes(b"old")
    one, other = small(), small()
    quiet(one, shuffled(), checkpoint=path, resume=False)
    quiet(other, shuffled())
    assert same(one, other)
    assert len(quiet(small(), shuffled(), checkpoint=path).records) == 2


def test_an_interrupt_prints_how_to_go_on(tmp_path, capsys):
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(small(), shuffled(), epochs=3, checkpoint=path, log=stop_after(1))
    shown = " ".join(capsys.readouterr().err.split())
    assert "Stopped after 1 of 3 epochs: the same call goes on from" in shown
    with pytest.raises(KeyboardInterrupt):
        quiet(small(), shuffled(), log=stop_after(1))
    assert "checkpoint=" in capsys.readouterr().err


def test_an_interrupt_within_an_epoch_keeps_the_finished_ones(tmp_path):
    path, calls = tmp_path / "run.pt", []

    def interrupt(module, inputs):
        calls.append(1)
        if len(calls) == 7:  # the third batch of the second epoch
            raise KeyboardInterrupt

    ann, whole, fresh = small().eval(), small(), small(seed=5)
    hook = ann.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        quiet(ann, shuffled(), epochs=3, checkpoint=path)
    hook.remove()
    assert not ann.training
    quiet(whole, shuffled(), epochs=3)
    quiet(fresh, shuffled(), epochs=3, checkpoint=path)
    assert same(whole, fresh)


@pytest.mark.parametrize(
    ("changed", "line"), [({"lr": 0.05}, "lr=0.1"), ({"seed": 1}, "seed=42"), ({"epochs": 3}, "epochs=2"),
                          ({"task": Classification(top=(1,))}, "task=")],
)  # fmt: skip
def test_a_checkpoint_of_other_settings_is_refused(changed, line, tmp_path):
    quiet(small(), shuffled(), checkpoint=tmp_path / "run.pt")
    ann = small(seed=5)
    with pytest.raises(TrainingError, match="another training run") as caught:
        quiet(ann, shuffled(), checkpoint=tmp_path / "run.pt", **changed)
    assert len(caught.value.problems) == 1
    assert line in caught.value.problems[0].got
    assert "resume=False" in caught.value.problem.remedy
    assert same(ann, small(seed=5))


def test_a_checkpoint_of_another_network_or_loader_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    quiet(small(), shuffled(), checkpoint=path)
    wider = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 7))
    with pytest.raises(TrainingError) as caught:
        quiet(wider, shuffled(), checkpoint=path)
    assert "4.weight: (3, 16)" in caught.value.problems[0].got
    assert "4.weight: (7, 16)" in caught.value.problems[0].expected
    with pytest.raises(TrainingError, match=r"p=0\.2"):  # equal weights, another setting of a module
        quiet(small(dropout=0.5), shuffled(), checkpoint=path)
    frozen = small()
    frozen[0].bias.requires_grad_(False)
    with pytest.raises(TrainingError, match=r"0\.bias: \(16,\) torch\.float32 trained=True"):
        quiet(frozen, shuffled(), checkpoint=path)
    with pytest.raises(TrainingError, match="batches=4"):
        quiet(small(), DataLoader(samples(), 8, shuffle=True), checkpoint=path)


def test_addresses_in_the_text_of_a_network_do_not_count(tmp_path):
    addresses = itertools.count(0x7F00)

    class Addressed(nn.Linear):
        def extra_repr(self):
            return f"<function at {next(addresses):#x}>"

    keep = [quiet(Addressed(6, CLASSES), shuffled(), checkpoint=tmp_path / "run.pt") for _ in range(2)]
    assert keep[0] == keep[1]


def test_damaged_checkpoints_are_refused(tmp_path):
    path = tmp_path / "run.pt"
    quiet(small(), shuffled(), checkpoint=path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"no checkpoint at all"):
        path.write_bytes(content)
        with pytest.raises(TrainingError, match="cannot be read"):
            quiet(small(), shuffled(), checkpoint=path)
    torch.save({"something": "else"}, path)
    with pytest.raises(TrainingError, match="cannot be read"):
        quiet(small(), shuffled(), checkpoint=path)


class Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["HARM"],)


def test_loading_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    for save in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))):
        save(Harmful(), tmp_path / "run.pt")
        with pytest.raises(TrainingError, match="cannot be read"):
            quiet(small(), shuffled(), checkpoint=tmp_path / "run.pt")
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_is_replaced_only_when_it_is_complete(tmp_path, monkeypatch):
    path, save, calls = tmp_path / "run.pt", torch.save, []

    def fail_second(state, file):
        calls.append(1)
        save(state, file)
        if len(calls) == 2:
            raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail_second)
    with pytest.raises(OSError, match="disk full"):
        quiet(small(), shuffled(), epochs=3, checkpoint=path)
    assert list(tmp_path.iterdir()) == [path]
    assert len(History.from_json(torch.load(path, weights_only=True)["history"]).records) == 1


# --- bad input


@pytest.mark.parametrize(
    ("name", "value"), [("epochs", 0), ("epochs", "3"), ("lr", 0.0), ("lr", math.nan), ("momentum", 1.0), ("weight_decay", -1e-4),
                        ("warmup_epochs", 2), ("clip_norm", 0.0), ("mixed_precision", "fp8"), ("optimizer", "lion")],
)  # fmt: skip
def test_settings_out_of_range(name, value):
    with pytest.raises(OptionError, match="out of range") as caught:
        quiet(small(), shuffled(), **{name: value})
    assert f"`{name}` of fit" in str(caught.value)
    assert caught.value.problem.remedy.startswith(f"Pass {name}=")


def test_the_first_step_of_adam_is_a_share_of_each_tensor():
    ann = small()
    before = {name: value.detach().clone() for name, value in ann.named_parameters()}
    quiet(ann, DataLoader(samples(), len(samples())), epochs=1, optimizer="adam", lr=0.01, weight_decay=0.0)
    for name in ("0.weight", "1.weight", "4.weight"):
        moved = (ann.get_parameter(name) - before[name]).detach().abs().max()
        half = 0.005  # the rate at the middle of a batch, halfway down the cosine
        assert float(moved / before[name].square().mean().sqrt()) == pytest.approx(half, rel=0.01)


def test_nesterov_momentum_is_one_of_sgd():
    with pytest.raises(OptionError, match="nesterov"):
        quiet(small(), shuffled(), optimizer="adam", nesterov=True)


def test_all_bad_settings_are_named_at_once():
    with pytest.raises(OptionError) as caught:
        quiet(small(), shuffled(), lr=-1.0, momentum=0.0, nesterov=True)
    assert [problem.what.split("`")[1] for problem in caught.value.problems] == ["lr", "nesterov"]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(samples())


@pytest.mark.parametrize("loader", [[], DataLoader(samples(5), 16, drop_last=True), DataLoader(Stream(), 4)])
def test_a_loader_without_batches_or_length(loader):
    with pytest.raises(TrainingError, match="training loader"):
        quiet(small(), loader)


def test_an_empty_test_loader():
    with pytest.raises(TrainingError, match="test loader"):
        quiet(small(), shuffled(), [])


def test_a_loss_that_is_not_finite_names_its_batch():
    good = torch.randn(4, 6), torch.zeros(4, dtype=torch.long)
    bad = torch.full((4, 6), math.inf), good[1]
    with pytest.raises(TrainingError, match="not finite") as caught:
        quiet(nn.Linear(6, CLASSES), [good, good, bad])
    assert caught.value.problem.where == "epoch 1, batch 3"
    assert "lr" in caught.value.problem.remedy


def test_a_target_of_another_task():
    batch = torch.randn(4, 6), torch.randn(4, CLASSES)
    with pytest.raises(DataError, match="do not fit together"):
        quiet(small(), [batch])
    with pytest.raises(DataError, match="differ in shape"):
        quiet(small(), shuffled(), task=Regression())


def test_nothing_to_train():
    with pytest.raises(TrainingError, match="nothing to train"):
        quiet(small().requires_grad_(False), shuffled())
    with pytest.raises(TrainingError, match="nothing to train"):
        quiet(nn.ReLU(), shuffled())


# --- accumulation, early stopping, divergence


@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_accumulated_batches_are_one_large_batch(clip_norm):
    x, y = samples(48).tensors
    nets = []
    for size, accumulate in ((24, 1), (8, 3)):
        ann = nn.Linear(6, CLASSES)
        with torch.no_grad():
            ann.weight.fill_(0.1), ann.bias.zero_()
        quiet(ann, DataLoader(TensorDataset(x, y), size), accumulate=accumulate, clip_norm=clip_norm, lr=0.1, epochs=1)
        nets.append(ann)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)
    ann = nn.Linear(6, CLASSES)
    with torch.no_grad():
        ann.weight.fill_(0.1), ann.bias.zero_()
    quiet(ann, DataLoader(TensorDataset(x, y), 8), clip_norm=clip_norm, lr=0.1, epochs=1)
    assert (ann.weight - nets[0].weight).abs().max() > 5e-3


def test_the_last_group_may_be_short():
    steps = []

    class Counting(nn.Linear):
        def forward(self, x):
            steps.append(self.weight.detach().clone())
            return super().forward(x)

    quiet(Counting(6, CLASSES), DataLoader(samples(40), 8), accumulate=3, epochs=1)
    changed = [not torch.equal(a, b) for a, b in itertools.pairwise(steps)]
    assert changed == [False, False, True, False]


def test_early_stopping_keeps_the_best_epoch():
    validation, weights = DataLoader(samples(20, seed=2), 10), []
    ann = small()
    history = quiet(ann, shuffled(), epochs=30, validation_loader=validation, patience=3, lr=0.5,
                    log=lambda _: weights.append(copy.deepcopy(ann.state_dict())))  # fmt: skip
    values = [record.validation_scores["top1"] for record in history.records]
    best = values.index(max(values))
    assert history.kept == best + 1
    assert history.result.validation_scores["top1"] == max(values)
    assert len(values) == 30 or len(values) == best + 1 + 3
    assert all(torch.equal(ann.state_dict()[name], value) for name, value in weights[best].items())


def test_early_stopping_resumes(tmp_path):
    options = {"epochs": 12, "validation_loader": DataLoader(samples(20, seed=2), 10), "patience": 2, "lr": 0.5}
    whole, parted = small(), small()
    history = quiet(whole, shuffled(), **options)
    for count in (1, 2, 4):
        with pytest.raises(KeyboardInterrupt):
            quiet(parted, shuffled(), checkpoint=tmp_path / "run.pt", log=stop_after(count), **options)
    resumed = quiet(parted, shuffled(), checkpoint=tmp_path / "run.pt", **options)
    assert same(whole, parted)
    assert resumed.kept == history.kept
    assert len(resumed.records) == len(history.records)


def test_early_stopping_without_a_validation_set():
    with pytest.raises(OptionError, match="validation"):
        quiet(small(), shuffled(), patience=2)


def test_a_diverging_run_stops_and_says_what_is_kept(tmp_path):
    x = torch.randn(32, 4)
    good, bad = [(x, x.sum(1, keepdim=True))], [(1e3 * x, x.sum(1, keepdim=True))]

    class Worse:
        passes = 0

        def __len__(self):
            return 1

        def __iter__(self):
            self.passes += 1
            return iter(good if self.passes < 3 else bad)

    path = tmp_path / "run.pt"
    with pytest.raises(TrainingError, match=r"grows without end(?s:.*)epoch 3(?s:.*)holds the run after epoch 2"):
        quiet(nn.Linear(4, 1), Worse(), epochs=4, lr=1e-4, task=Regression(), checkpoint=path)
    assert len(json.loads(torch.load(path, weights_only=True)["history"])["records"]) == 2


@pytest.mark.filterwarnings("ignore:overflow")
def test_infinite_running_statistics_are_refused():
    ann = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    ann[1].running_var.fill_(torch.inf)
    with pytest.raises(TrainingError, match=r"Running statistics(?s:.*)epoch 1: 1\.running_var"):
        quiet(ann, shuffled(), epochs=1)


def test_a_task_may_leave_training_batches_unscored():
    class Unscored(Classification):
        scores_training = False

    history = quiet(nn.Linear(6, CLASSES), shuffled(), shuffled(), epochs=1, task=Unscored())
    assert history.last.train_score is None
    assert History.from_json(history.to_json()) == history
    assert history.last.test_scores["top1"] > 0


def test_a_threshold_at_its_bound_is_named():
    ann = nn.Sequential(nn.Linear(6, 8), Clip(0.5, decay=50.0), nn.Linear(8, CLASSES))
    with pytest.raises(TrainingError, match=r"collapsed(?s:.*)where: 1\n"):
        quiet(ann, shuffled(), epochs=60, lr=0.5, clip_norm=1.0)


def test_penalties_are_part_of_the_loss():
    class Charged(TrainableActivation):
        threshold = torch.tensor(1.0)

        def forward(self, x):
            return x

        def penalty(self):
            return torch.tensor(100.0)

    plain, charged = (nn.Sequential(nn.Linear(6, CLASSES), extra) for extra in (nn.Identity(), Charged()))
    charged.load_state_dict(plain.state_dict())
    losses = [quiet(ann, shuffled(), epochs=1).last.train_loss for ann in (plain, charged)]
    assert losses[1] - losses[0] == pytest.approx(100.0, abs=1e-3)


def test_losses_below_zero_and_buffers_called_threshold_stop_nothing():
    class Similarity(Regression):
        def loss(self, output, target, context=None):
            return -nn.functional.cosine_similarity(output, target).mean()

    ann = nn.Linear(4, 4)
    nn.init.eye_(ann.weight)
    ann.register_buffer("threshold", torch.tensor(0.0))
    x = torch.randn(16, 4)
    assert quiet(ann, [(x, x)], epochs=3, task=Similarity()).last.train_loss < 0


def test_a_task_without_a_name_resumes(tmp_path):
    class Plain(Classification):
        __repr__ = object.__repr__

    with pytest.raises(KeyboardInterrupt):
        quiet(small(), shuffled(), task=Plain(), checkpoint=tmp_path / "run.pt", log=stop_after(1))
    assert len(quiet(small(), shuffled(), task=Plain(), checkpoint=tmp_path / "run.pt").records) == 2


def test_a_batch_of_one_sample_is_named():
    x, y = samples(17).tensors
    with pytest.raises(DataError, match="drop_last"):
        quiet(small(), [(x[:16], y[:16]), (x[16:], y[16:])])


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": None},
        {"epochs": "x"},
        {"momentum": "0.9"},
        {"clip_norm": "1"},
        {"warmup_epochs": None},
        {"seed": 1.5},
        {"task": "x"},
    ],
)
def test_settings_of_a_wrong_kind(options):
    with pytest.raises(OptionError):
        quiet(small(), shuffled(), **options)


# --- killed


KILLED = """
import sys, torch
sys.path.insert(0, {folder!r})
from test_train import quiet, shuffled, small
torch.set_num_threads(1)
ann = small()
class Slow(torch.nn.Module):
    def forward(self, x):
        import time
        time.sleep(0.02)
        return x
ann.append(Slow())
print("begun", flush=True)
quiet(ann, shuffled(), epochs=6, checkpoint={path!r}, log=lambda record: print(record.epoch, flush=True))
torch.save(ann.state_dict(), {path!r} + ".done")
"""


def test_a_run_killed_at_any_moment_ends_where_an_uninterrupted_one_does(tmp_path):
    states = []
    for name, delays in (("whole", ()), ("killed", (0.0, 0.1))):
        script, path = tmp_path / f"{name}.py", tmp_path / f"{name}.pt"
        script.write_text(KILLED.format(folder=os.path.dirname(__file__), path=str(path)))
        for delay in delays:
            with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as process:
                process.stdout.readline()  # it has begun
                process.stdout.readline()  # and finished an epoch
                time.sleep(delay)
                process.kill()
        subprocess.run([sys.executable, str(script)], check=True, capture_output=True)
        states.append(torch.load(f"{path}.done", weights_only=True))
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


# --- several processes

SCRIPT = """
import accelerate, json, os, pathlib, sys, torch
sys.path.insert(0, {folder!r})
from torch.utils.data import DataLoader
from test_train import quiet, samples, shuffled, small
torch.set_num_threads(1)
ann, seen = small(), []
history = quiet(ann, shuffled(), DataLoader(samples(seed=1), 10), checkpoint={path!r}, log=seen.append)
x, y = samples(seed=1).tensors
own = 100 * (ann.eval()(x).argmax(1) == y).float().mean().item()
weights = sum(parameter.double().sum().item() for parameter in ann.parameters())
off = history.last.test_scores["top1"] - own
pathlib.Path({path!r} + os.environ["RANK"]).write_text(json.dumps([weights, history.last.train_loss, off, len(seen)]))
state = accelerate.PartialState()
state.wait_for_everyone()  # one that leaves early tears the connection of the other
state.destroy_process_group()
"""


def test_two_processes_share_the_work(tmp_path):
    script, path = tmp_path / "script.py", tmp_path / "run.pt"
    script.write_text(SCRIPT.format(folder=os.path.dirname(__file__), path=str(path)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"run.pt{rank}").read_text()) for rank in range(2))
    assert first[:3] == second[:3]
    assert abs(first[2]) < 1e-2
    assert (first[3], second[3]) == (2, 0)
    assert path.exists()


def _share(rank, world, folder):
    """One process of a run of two: its own half of the data, the same weights at the end."""
    import os

    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT="29617",
                      ACCELERATE_USE_CPU="true", ACCELERATE_TORCH_DEVICE="cpu")  # fmt: skip
    torch.set_num_threads(1)
    ann = small()
    history = quiet(ann, DataLoader(samples(64), 8), DataLoader(samples(20), 8), epochs=2)
    torch.save((ann.state_dict(), history.last.test_scores), folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_train_one_network(tmp_path):
    torch.multiprocessing.spawn(_share, (2, tmp_path), nprocs=2)
    (first, scores), (second, others) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert scores == others
    assert any(not torch.equal(value, small().state_dict()[name]) for name, value in first.items())
