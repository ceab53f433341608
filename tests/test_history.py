"""Records of training: as text, as JSON lines, as events for TensorBoard."""

import builtins
import json

import pytest
import torch
from torch import nn

from tospike.errors import DataError, MissingExtraError
from tospike.history import EpochRecord, History
from tospike.train import fit


def test_history_survives_json():
    history = History("top1", (EpochRecord(1, 0.1 + 0.2, 12.5, {"top1": 1 / 3}, 0.1, 4.0, {"top1": 2 / 3}),), kept=1)
    assert History.from_json(history.to_json()) == history
    assert json.loads(history.to_json())["records"][0]["epoch"] == 1
    assert history.result is history.records[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"headline": "x", "records": [{"epoch": 1}]}'])
def test_what_is_no_history_is_refused(text):
    with pytest.raises(DataError, match="no History"):
        History.from_json(text)


def train(epochs=3, **options):
    torch.manual_seed(0)
    x = torch.randn(16, 4)
    batches = [(x, (x[:, 0] > 0).long())]
    return fit(nn.Linear(4, 2), batches, batches, epochs=epochs, progress=False, validation_loader=batches, **options)


def test_json_lines_hold_every_epoch_once(tmp_path):
    def stop(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    path, options = tmp_path / "run.jsonl", {"checkpoint": tmp_path / "run.pt"}
    with pytest.raises(KeyboardInterrupt):
        train(metrics=path, log=stop, **options)
    history = train(metrics=path, **options)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [EpochRecord(**line) for line in lines] == list(history.records)


def test_a_folder_gets_events_too(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = train(metrics=tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    scalars = events.Scalars("loss/train")
    assert [event.step for event in scalars] == [1, 2, 3]
    assert [event.value for event in scalars] == pytest.approx(
        [record.train_loss for record in history.records], rel=1e-6
    )
    assert {"top1/test", "top1/validation", "lr", "score/train"} <= set(events.Tags()["scalars"])
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


def test_tensorboard_is_asked_for_by_name(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if "tensorboard" in name:
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"tospike\[tensorboard\]"):
        train(metrics=tmp_path / "run")
    assert train(metrics=tmp_path / "run.jsonl").last.epoch == 3
