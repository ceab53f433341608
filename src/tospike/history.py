"""What a training run did: a record per epoch, and where records are written."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tospike.errors import missing_extra
from tospike.files import Record, replacing


@dataclass(frozen=True)
class EpochRecord:
    """What one epoch did.

    Attributes:
        epoch: Number of the epoch, from 1.
        train_loss: Mean loss over the samples, each taken when it was trained on.
        train_score: Headline score of the task over the same outputs, in the task's unit; None where that would take longer than training.
        test_scores: Scores on the test set after the epoch; empty without a test loader.
        validation_scores: Likewise on the validation set.
        lr: Learning rate of the last batch.
        seconds: Wall time of the epoch, test included.
    """

    epoch: int
    train_loss: float
    train_score: float | None
    test_scores: dict[str, float]
    lr: float
    seconds: float
    validation_scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class History(Record):
    """The epochs of a training run.

    Attributes:
        headline: Name of the score in `EpochRecord.train_score`, and of the one to read first in `test_scores`.
        records: One record per finished epoch.
        kept: Number of the epoch whose weights are the result.
    """

    headline: str
    records: tuple[EpochRecord, ...] = ()
    kept: int = 0

    @property
    def last(self) -> EpochRecord:
        """The record of the last epoch."""
        return self.records[-1]

    @property
    def result(self) -> EpochRecord:
        """The record of the epoch whose weights are the result: the last, or with early stopping the best on the validation set."""
        return self.records[self.kept - 1]

    @classmethod
    def from_raw(cls, raw: dict[str, Any]) -> History:
        """Build a history from the values in its JSON."""
        records = tuple(EpochRecord(**record) for record in raw["records"])
        return cls(raw["headline"], records, raw.get("kept", len(records)))


class Metrics:
    """Writes records as they come: JSON lines, and in a folder also events for TensorBoard.

    Args:
        path: A file ``*.jsonl``, a folder, or None for nothing.
        history: Records of the epochs before a resume.
        on: Whether this process writes.
    """

    def __init__(self, path: str | os.PathLike[str] | None, history: History, *, on: bool = True) -> None:
        self.file = Path(path) if path is not None and on else None
        self.records = list(history.records)
        self.events: Any = None
        if self.file is not None and self.file.suffix != ".jsonl":
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise missing_extra(
                    "tensorboard", "tensorboard", "events for TensorBoard; a path metrics='run.jsonl' needs none"
                ) from error
            self.events = SummaryWriter(str(self.file), purge_step=len(self.records) + 1)
            self.file = self.file / "metrics.jsonl"

    def __enter__(self) -> Metrics:
        return self

    def __exit__(self, *_: object) -> None:
        if self.events is not None:
            self.events.close()

    def add(self, record: EpochRecord) -> None:
        """Write one more record; the file always holds all of them, once."""
        self.records.append(record)
        if self.file is not None:
            with replacing(self.file) as written:
                written.write_text("".join(json.dumps(asdict(one)) + "\n" for one in self.records), encoding="utf-8")
        if self.events is not None:
            values = {
                "loss/train": record.train_loss,
                "score/train": record.train_score,
                "lr": record.lr,
                "seconds": record.seconds,
            }
            for part, scores in (("test", record.test_scores), ("validation", record.validation_scores)):
                values |= {f"{name}/{part}": value for name, value in scores.items()}
            for name, value in values.items():
                if value is not None:
                    self.events.add_scalar(name, value, record.epoch)
