"""Let an SNN act in an environment at several T, and score the return of its episodes beside the ANN's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from tospike.errors import OptionError, Problem, require_type
from tospike.evaluate import Interrupted
from tospike.progress import track
from tospike.result import Result, described
from tospike.run.control import Controller
from tospike.run.counts import Counts
from tospike.run.network import SNN
from tospike.run.schedule import Delay, ordered
from tospike.run.work import LayerWork
from tospike.tasks.control import Control
from tospike.tasks.episodes import Answer, Episodes


def play(
    snn: SNN,
    control: Control,
    *,
    time_steps: Sequence[int] = (4, 8, 16),
    seeds: Iterable[int] = range(10),
    delay: Delay = 0,
    reference: bool = True,
    steps_per_call: int | None = None,
    save: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Result:
    """Score an SNN in a closed loop: the return of one episode for each seed, at several T, and the ANN's on the same seeds.

    Every T is a run of its own, since what the network sees depends on what it did. With a carry, as of `tospike.CRPI`, potentials go
    over from decision to decision, see `Controller`; every episode begins without.

    Args:
        snn: The converted network of the task.
        control: The task.
        time_steps: T of each decision.
        seeds: Seeds of the environments; all their episodes run side by side.
        delay: Steps of each decision that its read-out leaves out, see `Controller`.
        reference: Play the ANN too.
        steps_per_call: See `tospike.simulate`.
        save: File for the result, written at the end or on Ctrl-C.
        progress: Show a progress bar.

    Returns:
        A result whose score is the mean return. Scores by T: ``return``, ``std`` (over the episodes), ``lowest``, ``length`` (decisions of an
        episode), and ``ratio`` to the ANN's return in percent where that is above 0. Spikes and operations are those of one decision.

    Raises:
        OptionError: A setting is out of range.
        SimulationError: The SNN does not take the observations.
        Interrupted: Ctrl-C was pressed; carries the T that were finished.

    Example:
        >>> import tospike as ts
        >>> policy = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
        >>> control = ts.Control("CartPole-v1", policy)
        >>> snn = ts.convert(policy, ts.CRPI(), calibration=control.observations(100))
        >>> result = ts.play(snn, control, time_steps=(4, 8), seeds=range(2), progress=False)
        >>> sorted(result.scores[8])
        ['length', 'lowest', 'ratio', 'return', 'std']
    """
    require_type("snn", snn, SNN, "an SNN", "Pass what ts.convert returned.")
    require_type("control", control, Control, "a Control", "Pass e.g. ts.Control(environment, network).")
    require_type("time_steps", time_steps, Iterable, "numbers of steps", "Pass e.g. time_steps=(4, 8).")
    require_type("seeds", seeds, Iterable, "numbers", "Pass e.g. seeds=range(10).")
    marks, chosen = ordered(time_steps), list(seeds)
    _check(marks, chosen)
    controllers = [
        Controller(snn, time_steps=t, delay=delay, steps_per_call=steps_per_call, counts=Counts()) for t in marks
    ]
    control.check(partial(_answer, Controller(snn, time_steps=marks[0], delay=delay), _device(snn)))
    playing = _Playing(snn, control, chosen, progress)
    finished = True
    try:
        if reference:
            playing.ann()
        for controller in controllers:
            playing.at(controller)
    except KeyboardInterrupt:
        if not playing.counts:
            raise
        finished = False
    result = replace(playing.result(), finished=finished)
    if save is not None:
        result.save(save)
    if not finished:
        raise Interrupted(result)
    return result


def _check(marks: list[int], seeds: list[int]) -> None:
    problems = []
    if not marks:
        problems.append(
            Problem("`time_steps` is empty", got="()", expected="at least one T", remedy="Pass time_steps=(4, 8).")
        )
    wrong = [seed for seed in seeds if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0]
    if not seeds or wrong or len(set(seeds)) < len(seeds):
        problems.append(Problem("`seeds` are no seeds", got=repr(wrong or seeds), expected="integers >= 0, each once",
                                remedy="Pass seeds=range(10)."))  # fmt: skip
    if problems:
        raise OptionError("The SNN cannot be played as asked", problems=problems)


class _Playing:
    """Scores of the ANN and of every T that was played to the end."""

    def __init__(self, snn: SNN, control: Control, seeds: list[int], progress: bool) -> None:
        self.snn, self.control, self.seeds, self.progress = snn, control, seeds, progress
        self.reference: dict[str, float] = {}
        self.scores: dict[int, dict[str, float]] = {}
        self.delays: dict[int, int] = {}
        self.counts: dict[int, Counts] = {}

    def ann(self) -> None:
        self.reference = self._played("ANN", self.control.answer, None)

    def at(self, controller: Controller) -> None:
        t, counts = controller.steps, controller.counts
        assert counts is not None
        answer = partial(_answer, controller, _device(self.snn))
        scores = self._played(f"T={t}", answer, controller)
        if self.reference.get("return", 0.0) > 0:
            scores["ratio"] = 100 * scores["return"] / self.reference["return"]
        self.scores[t], self.delays[t], self.counts[t] = scores, controller.delay, counts

    def _played(self, what: str, answer: Answer, controller: Controller | None) -> dict[str, float]:
        episodes = Episodes(self.control, self.seeds)
        decisions = episodes.decisions(answer, None if controller is None else controller.keep)
        for _ in track(decisions, f"play {what}", total=self.control.limit, shown=self.progress):
            pass
        return episodes.scores()

    def result(self) -> Result:
        marks, headline = list(self.counts), self.control.headline
        last = self.counts[marks[-1]]
        return Result(
            task=f"Control of {self.control.name}", headline=headline, unit=self.control.unit,
            curve={t: self.scores[t][headline] for t in marks}, scores=self.scores, delays=self.delays,
            reference=self.reference.get(headline), reference_scores=self.reference, reference_name="ANN" if self.reference else "",
            rates=last.rates(), spikes_per_neuron={t: counts.spikes_per_neuron(t) for t, counts in self.counts.items()},
            operations={t: counts.synaptic_operations(t) for t, counts in self.counts.items()},
            analog_operations={t: counts.analog_operations(t) for t, counts in self.counts.items()},
            samples=len(self.seeds), uncounted=sorted(last.uncounted), layers=_layers(self.counts),
            neurons=self.snn.conversion.members * sum(last.neurons.values()), higher_is_better=self.control.higher_is_better,
            per="decision", **described(self.snn.conversion, marks),
        )  # fmt: skip


def _device(snn: SNN) -> torch.device:
    return next(iter(snn.buffers())).device


def _answer(controller: Controller, device: torch.device, x: Tensor) -> Tensor:
    return controller(x.to(device))  # type: ignore[no-any-return]


def _layers(counts: dict[int, Counts]) -> list[LayerWork]:
    """Return what each layer did for one decision, from runs that differ by T."""
    runs = {t: found.layers([t]) for t, found in counts.items()}
    return [
        replace(same[-1], operations={t: layer.operations[t] for t, layer in zip(runs, same, strict=True)})
        for same in zip(*runs.values(), strict=True)
    ]
