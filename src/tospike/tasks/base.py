"""What every task answers: how a prediction is scored, and what loss trains it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torchmetrics import MetricCollection

from tospike.errors import OptionError

if TYPE_CHECKING:
    from PIL.Image import Image


class Task(ABC):
    """What goes into a network, and how its output is read and scored.

    A batch takes this way: ``feed`` makes what the network takes of what the loader yields; the network, or its SNN, makes an output of
    that, averaged over time; ``prediction`` does once what no neuron does (decoding of boxes, say); metrics compare that with the target.
    A task of your own defines `headline`, `metrics` and `loss`, and of the rest what differs.

    Attributes:
        headline: Name of the metric that stands on a curve.
        higher_is_better: Whether a larger headline value is a better network.
        unit: Unit of the headline value, for axes and tables.
        scores_training: Whether training batches are scored too, not only learned from.
    """

    headline: str
    higher_is_better: bool = True
    unit: str = ""
    scores_training: bool = True

    def bind(self, network: nn.Module) -> tuple[Task, nn.Module]:
        """Return the task for a network, and what of the network is simulated; by default the task itself, and all of it."""
        return self, network

    def feed(self, batch: Any) -> tuple[Any, Any]:
        """Return a batch as networks take it, inputs first and then the target, and what only `prediction` needs; by default all as it is."""
        return batch, None

    def batches(self, loader: Iterable[Any]) -> Iterable[Any]:
        """Return a loader of fed batches, for what knows no task: calibration, simulation.

        Example:
            >>> from tospike.tasks import Regression
            >>> list(Regression().batches([(1, 2)]))
            [(1, 2)]
        """
        return _Fed(self, loader)

    @abstractmethod
    def metrics(self, prediction: Any) -> MetricCollection:
        """Return fresh metrics for predictions shaped like this one, fed as ``metrics.update(prediction, target)``."""

    def scores(self, metrics: MetricCollection) -> dict[str, float]:
        """Read the metrics as plain numbers, in `unit`."""
        return {name: float(value) for name, value in metrics.compute().items()}

    @abstractmethod
    def loss(self, output: Any, target: Any, context: Any = None) -> Tensor:
        """Return the scalar training loss of one batch; arguments as for `prediction`, and the target."""

    def prediction(self, output: Any, context: Any = None) -> Any:
        """Turn the network's time-averaged output into what the metrics take; the first tensor of several by default.

        Args:
            output: What the network returns.
            context: What `feed` returned beside the batch.
        """
        if isinstance(output, dict):
            return next(iter(output.values()))
        return output[0] if isinstance(output, (tuple, list)) else output

    def draw(self, inputs: Tensor, answer: Any, index: int, context: Any = None) -> Image:
        """Draw an answer over its input; for sheets of pictures.

        Args:
            inputs: The network's first input ``[N, ...]``.
            answer: A prediction, or the target of the batch.
            index: Which sample of the batch.
            context: What `feed` returned beside the batch.

        Raises:
            OptionError: The task draws no pictures.
        """
        raise self._lacks("The task draws no pictures", "draw", "pictures")

    def legend(self) -> dict[int, str]:
        """Return the names of the classes whose colours in pictures need an explanation; none by default."""
        return {}

    def confidence(self, prediction: Any) -> Tensor:
        """Return how sure each prediction is ``[N]``, in [0, 1]; for exits before the last step.

        Raises:
            OptionError: The task knows no confidence.
        """
        raise self._lacks("The task knows no confidence", "confidence", "confidence")

    def _lacks(self, what: str, method: str, option: str) -> OptionError:
        return OptionError(what, got=type(self).__name__, expected=f"a task with a `{method}` method",
                           remedy=f"Leave {option}= out, or define `{method}` in your task.")  # fmt: skip

    def check_target(self, prediction: Any, target: Any) -> None:
        """Raise `DataError` when prediction and target cannot belong together; called on the first batch."""
        return


class _Fed:
    """A loader seen through a task; every pass starts the loader again."""

    def __init__(self, task: Task, loader: Iterable[Any]) -> None:
        self.task, self.loader = task, loader

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            yield self.task.feed(batch)[0]
