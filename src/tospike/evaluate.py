"""Score an SNN over a data set at many time steps, all of them from one simulation."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

from tospike import processes
from tospike.errors import DataError, OptionError, is_count, is_within, require, require_type
from tospike.files import replacing
from tospike.graph.batches import move, split_batch
from tospike.graph.trace import run_network
from tospike.pictures import sheet
from tospike.pictures.sheets import pillow
from tospike.progress import track
from tospike.result import Result, described
from tospike.run.counts import Counts
from tospike.run.network import SNN
from tospike.run.schedule import Delay, Engine, check_run, ordered
from tospike.run.simulate import simulate
from tospike.tasks import Classification, Task

_CLASSIFICATION = Classification()


class Interrupted(KeyboardInterrupt):
    """An evaluation was interrupted; what was scored until then is kept.

    Attributes:
        result: The result over the batches that were finished.
    """

    def __init__(self, result: Result) -> None:
        super().__init__(f"interrupted after {result.samples} samples; see .result")
        self.result = result


def evaluate(
    snn: SNN,
    loader: Iterable[Any],
    *,
    task: Task = _CLASSIFICATION,
    time_steps: Sequence[int] = (1, 2, 4, 8, 16, 32),
    delay: Delay = 0,
    reference: nn.Module | None = None,
    confidence: Sequence[float] = (),
    steps_per_call: int | None = None,
    engine: Engine = "auto",
    device: str | torch.device | None = None,
    save: str | os.PathLike[str] | None = None,
    pictures: str | os.PathLike[str] | None = None,
    pictured: int = 6,
    progress: bool = True,
) -> Result:
    """Score an SNN at several T, and the network it came from beside it.

    Args:
        snn: A converted network.
        loader: Batches of inputs and targets; under several processes each passes its share, and the result is that of all.
        task: How outputs are scored.
        time_steps: The T to score; all come from one simulation to the largest.
        delay: First counted step, ``"auto"``, or 0; see `tospike.simulate`.
        reference: A network to score on the same batches, usually the ANN; it is scored in eval mode and left as it was.
        confidence: Levels in (0, 1] at which a sample may stop early, at one of `time_steps`; every level is scored.
        steps_per_call: See `tospike.simulate`.
        engine: See `tospike.simulate`.
        device: Where to run; where the SNN is when None. Both networks are put back afterwards.
        save: File for the result, written at the end or on Ctrl-C.
        pictures: File (``*.png``) for a sheet of the first samples with their targets and the answers of both networks at every T side by side;
            for tasks that draw them, such as segmentation and detection.
        pictured: Samples on that sheet, at most; they are those of the first batch.
        progress: Show a progress bar.

    Raises:
        OptionError: A setting is out of range.
        DataError: The loader is empty, or a target does not fit the task.
        Interrupted: Ctrl-C was pressed; carries the result so far.

    Example:
        >>> import tospike as ts
        >>> ann = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> x, y = torch.randn(64, 2), torch.randint(2, (64,))
        >>> snn = ts.convert(ann, ts.LTB(batches=10), calibration=[x])
        >>> sorted(ts.evaluate(snn, [(x, y)], time_steps=(2, 8), reference=ann, progress=False).curve)
        [2, 8]
    """
    _refuse(snn, loader, task, time_steps, confidence, device)
    marks = ordered(time_steps)
    delays = check_run(snn.conversion, marks, marks[-1], delay, steps_per_call, engine)
    drawn = None
    if pictures is not None:
        require("the evaluation", ("pictured", pictured, is_count(pictured), "an integer >= 1", 6))
        drawn = _Sheet(task, Path(pictures), pictured)
    calls = {"steps_per_call": steps_per_call, "engine": engine}
    scoring = _Scoring(snn, task, marks, delay, delays, reference, confidence, calls, drawn)
    result = scoring.run(loader, device, progress)
    if save is not None:
        result.save(save)
    if not result.finished:
        raise Interrupted(result)
    return result


def _refuse(
    snn: SNN, loader: Iterable[Any], task: Task, time_steps: Iterable[int], confidence: Sequence[float], device: str | torch.device | None
) -> None:  # fmt: skip
    require_type("snn", snn, SNN, "an SNN", "Pass what ts.convert returned.")
    require_type("loader", loader, Iterable, "an iterable of batches", "Pass a DataLoader or a list of batches.")
    require_type("task", task, Task, "a Task", "Pass e.g. task=ts.Regression().")
    require_type("time_steps", time_steps, Iterable, "numbers of steps", "Pass e.g. time_steps=(1, 2, 4, 8).")
    require_type("confidence", confidence, Iterable, "levels of confidence", "Pass e.g. confidence=(0.9, 0.99).")
    if device is not None and not _is_there(device):
        raise OptionError(
            "The device is not there", got=str(device), expected="a device of this machine", remedy='Pass device="cpu".'
        )
    if not time_steps:
        raise OptionError(
            "`time_steps` is empty", got=repr(time_steps), expected="at least one T", remedy="Pass time_steps=(1, 2, 4, 8)."
        )  # fmt: skip
    for level in confidence:
        require("the evaluation", ("confidence", level, is_within(level, 0, 1), "numbers in (0, 1]", (0.9,)))
    if confidence and type(task).confidence is Task.confidence:
        task.confidence(None)  # says that there is none
    if confidence and snn.conversion.neuron.synchronous:
        raise OptionError(
            "Synchronous neurons cannot stop early", got=f"confidence={tuple(confidence)}", expected="causal neurons",
            remedy="Leave confidence= out: every T is a run of its own.",
        )  # fmt: skip


def _is_there(device: str | torch.device) -> bool:
    try:
        return torch.device(device).type != "cuda" or torch.cuda.is_available()
    except RuntimeError:  # no device of torch has this name
        return False


class _Exit:
    """Scores of samples that stop as soon as their prediction is sure enough.

    Source: Li, Jones and Furber, "Unleashing the potential of spiking neural networks with dynamic confidence", ICCV 2023. Differs from
    the paper in: the level is given, not searched for on a Pareto front.
    """

    def __init__(self, level: float) -> None:
        self.level, self.steps, self.samples = level, 0, 0
        self.metrics: MetricCollection | None = None

    def update(self, task: Task, predictions: dict[int, Any], target: Any) -> None:
        """Score one batch, given the predictions ``[N, ...]`` at every T."""
        *early, last = sorted(predictions)
        chosen = predictions[last].clone()
        waiting = torch.ones(len(chosen), dtype=torch.bool, device=chosen.device)
        for t in early:
            sure = waiting & (task.confidence(predictions[t]) >= self.level)
            chosen[sure] = predictions[t][sure]
            waiting &= ~sure
            self.steps += t * int(sure.sum())
        self.steps += last * int(waiting.sum())
        self.samples += len(chosen)
        self.metrics = self.metrics or task.metrics(chosen)
        self.metrics.update(chosen, target)

    def mean_steps(self) -> float:
        """Return the steps that a sample took on average."""
        steps, samples = processes.total(torch.tensor([self.steps, self.samples], dtype=torch.float64)).tolist()
        return float(steps / samples)


class _Sheet:
    """A sheet of the first samples, with what each network says of them."""

    def __init__(self, task: Task, path: Path, count: int) -> None:
        self.task, self.path, self.count, self.done = task, path, count, False
        pillow()  # is missed before the first batch is simulated
        if type(task).draw is Task.draw:
            task.draw(torch.empty(0), None, 0)  # says that there are no pictures
        if path.suffix not in (".png", ".jpg", ".webp"):
            raise OptionError(
                "The sheet of pictures needs a format",
                got=str(path),
                expected="*.png, *.jpg or *.webp",
                remedy="Pass pictures='sheet.png'.",
            )

    def draw(self, inputs: Tensor, target: Any, context: Any, predictions: dict[int, Any]) -> None:
        """Write the sheet of a batch, if none was written yet; predictions by T, 0 for the reference."""
        if self.done:
            return
        self.done = True
        answers = {"target": target} | {
            "ANN" if t == 0 else f"T = {t}": prediction for t, prediction in predictions.items()
        }
        rows = [
            [self.task.draw(inputs, answer, index, context) for answer in answers.values()]
            for index in range(min(self.count, len(inputs)))
        ]
        with replacing(self.path) as written:
            sheet(rows, list(answers), legend=self.task.legend() or None).save(written)


class _Scoring:
    """Metrics of the reference and of every T, fed batch by batch."""

    def __init__(
        self, snn: SNN, task: Task, marks: list[int], delay: Delay, delays: dict[int, int], reference: nn.Module | None,
        confidence: Sequence[float], calls: dict[str, Any], sheet: _Sheet | None,
    ) -> None:  # fmt: skip
        self.snn, self.task, self.marks, self.ann, self.calls = snn, task, marks, reference, calls
        self.delay, self.delays, self.sheet = delay, delays, sheet
        self.metrics: dict[int, MetricCollection] = {}
        self.counts = Counts()
        self.exits = [_Exit(level) for level in confidence]

    def run(self, loader: Iterable[Any], device: str | torch.device | None, progress: bool) -> Result:
        here = next(iter(self.snn.buffers())).device
        there = torch.device(device) if device is not None else here
        mode = self.ann.training if self.ann is not None else False
        finished = True
        try:
            self.snn.to(there)
            if self.ann is not None:
                self.ann.to(there).eval()
            for batch in track(loader, "evaluate", shown=progress):
                self._batch(move(batch, there))
        except KeyboardInterrupt:
            if not self.metrics:
                raise
            finished = False
        finally:
            self.snn.to(here)
            if self.ann is not None:
                self.ann.to(here).train(mode)
        if not self.metrics:
            raise DataError(
                "The loader gave no batch to score", got="0 batches", expected="(input, target) batches",
                remedy="Pass a re-iterable loader with data.",
            )  # fmt: skip
        return replace(self._result(), finished=finished)

    @torch.no_grad()
    def _batch(self, batch: Any) -> None:
        batch, context = self.task.feed(batch)
        inputs, target = split_batch(batch, self.snn.plan.inputs)
        counts = copy.deepcopy(self.counts)  # kept only when the batch is finished
        outputs: dict[int, Any] = {}
        if self.ann is not None:
            outputs[0] = run_network(self.ann, self.snn.plan.inputs, inputs)
        outputs |= dict(
            simulate(
                self.snn, inputs, time_steps=self.marks[-1], checkpoints=self.marks, delay=self.delay,
                counts=counts, **self.calls,
            )
        )  # fmt: skip
        predictions = {t: self.task.prediction(output, context) for t, output in outputs.items()}
        for t, prediction in predictions.items():
            self.task.check_target(prediction, target)
            if t not in self.metrics:
                self.metrics[t] = self.task.metrics(prediction)
            self.metrics[t].update(prediction, target)
        if self.sheet is not None:
            self.sheet.draw(next(iter(inputs.values())), target, context, predictions)
        for stop in self.exits:
            stop.update(self.task, {t: prediction for t, prediction in predictions.items() if t}, target)
        self.counts = counts

    def _result(self) -> Result:
        made = self.snn.conversion
        self.counts.reduce()
        scores = {t: self.task.scores(metrics) for t, metrics in self.metrics.items()}
        ann = scores.pop(0, {})
        headline = self.task.headline
        return Result(
            task=type(self.task).__name__, headline=headline, unit=self.task.unit,
            curve={t: scores[t][headline] for t in self.marks}, scores=scores, delays=self.delays,
            reference=ann.get(headline), reference_scores=ann, reference_name="ANN" if ann else "",
            rates=self.counts.rates(),
            spikes_per_neuron={t: self.counts.spikes_per_neuron(t) for t in self.marks},
            operations={t: self.counts.synaptic_operations(t) for t in self.marks},
            analog_operations={t: self.counts.analog_operations(t) for t in self.marks},
            exits={e.level: {headline: self.task.scores(e.metrics)[headline], "steps": e.mean_steps()} for e in self.exits if e.metrics},
            samples=self.counts.samples, uncounted=sorted(self.counts.uncounted), layers=self.counts.layers(self.marks),
            neurons=made.members * sum(self.counts.neurons.values()), higher_is_better=self.task.higher_is_better,
            **described(made, self.marks),
        )  # fmt: skip
