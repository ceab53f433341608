"""An SNN in a control loop: one observation after the other, with what the neurons left over carried along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tospike.errors import OptionError, SimulationError, is_count, require, require_type
from tospike.neurons.modules import Neuron, State
from tospike.run.counts import Counts
from tospike.run.network import SNN
from tospike.run.schedule import Delay, check_run
from tospike.run.simulate import Run, checked_inputs, last, simulate


class Controller:
    """Answers observations one after the other; every answer is T steps on a constant observation.

    With α > 0, each neuron starts where the last decision left it: see `tospike.neurons.modules.Neuron.carried`.

    Args:
        snn: A converted policy.
        time_steps: T of each decision.
        delay: Steps at the beginning of each decision that its read-out leaves out, see `tospike.simulate`. What is carried over is what
            all T steps left, so with α > 0 none may be left out, and ``"auto"`` is 0.
        steps_per_call: See `tospike.simulate`.
        counts: Filled with spikes and operations when given; a decision of one environment is a sample.

    Attributes:
        delay: Steps that are left out.

    Raises:
        OptionError: A setting is out of range, or the neurons do not end a decision with a potential.

    Source: Xu et al., "CRPI", ICML 2026. Differs from the paper in: see `tospike.CRPI`.

    Example:
        >>> import tospike as ts
        >>> policy = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1), torch.nn.Tanh())
        >>> snn = ts.convert(policy, ts.CRPI(), calibration=[torch.randn(64, 3)])
        >>> controller = ts.Controller(snn, time_steps=8)
        >>> controller(torch.zeros(2, 3)).shape  # two environments
        torch.Size([2, 1])
        >>> controller.reset(torch.tensor([True, False]))  # the first of them begins anew
    """

    def __init__(
        self, snn: SNN, *, time_steps: int, delay: Delay = 0, steps_per_call: int | None = None, counts: Counts | None = None
    ) -> None:  # fmt: skip
        require_type("snn", snn, SNN, "an SNN", "Pass what ts.convert returned.")
        self.snn, self.steps, self.carry, self.counts = snn, time_steps, snn.conversion.carry, counts
        self.chunk = steps_per_call or time_steps
        require(
            "the controller",
            ("time_steps", time_steps, is_count(time_steps), "an integer >= 1", 8),
            ("steps_per_call", self.chunk, is_count(self.chunk), "an integer >= 1", 8),
        )
        neuron = snn.conversion.neuron
        if self.carry and (neuron.synchronous or neuron.pre_steps or snn.conversion.analog):
            raise OptionError(
                "Nothing can be carried over", got=f"{neuron}, analog={snn.conversion.analog}",
                expected="causal neurons without a pre-run, and no analog operations", remedy="Convert with carry=0, or by ts.CRPI().",
            )  # fmt: skip
        wanted = 0 if self.carry and delay == "auto" else delay
        self.delay = check_run(snn.conversion, [time_steps], time_steps, wanted, steps_per_call, "auto")[time_steps]
        if self.carry and self.delay:
            raise OptionError(
                "A read-out that leaves steps out does not go with a carry, which answers for all of them",
                got=f"delay={delay}, carry={self.carry}", expected="delay=0, or carry=0", remedy="Leave delay= out, or convert with carry=0.",
            )  # fmt: skip
        self._state: dict[str, State] = {}

    @torch.no_grad()
    def __call__(self, x: Any) -> Any:
        """Return the network's output for one batch of observations ``[N, ...]``, one for each environment."""
        inputs = checked_inputs(self.snn, x)
        if not self.carry:
            return last(
                simulate(self.snn, inputs, time_steps=self.steps, delay=self.delay, steps_per_call=self.chunk, counts=self.counts)
            )  # fmt: skip
        count = len(next(iter(inputs.values())))
        held = next((len(state.potential) for state in self._state.values()), count)
        if held != count:
            raise SimulationError(
                "The number of environments has changed", got=f"{count} observations", expected=f"{held}, as before",
                remedy="Call reset() first, or keep() where some have ended.",
            )  # fmt: skip
        run = Run(self.snn, inputs, self.counts, state=self._state)
        output = last(run.read_outs([self.steps], {self.steps: 0}, self.chunk))
        self._state = {
            key: self._neuron(key).carried(state, self.carry)
            for key, state in self._state.items()
            if isinstance(state, State)
        }
        return output

    def reset(self, done: Tensor | None = None) -> None:
        """Forget what was carried.

        Args:
            done: Which environments begin anew, booleans ``[N]``; all of them when None.
        """
        if done is None:
            self._state = {}
            return
        self._check("done", done)
        for key, state in self._state.items():
            chosen = done.to(state.potential.device).reshape(-1, *[1] * (state.potential.ndim - 1))
            fresh = self._neuron(key).initial(state.potential)
            self._state[key] = replace(fresh, potential=torch.where(chosen, fresh.potential, state.potential))

    def keep(self, going: Tensor) -> None:
        """Go on with some of the environments alone, such as those whose episodes still run.

        Args:
            going: Which ones, booleans ``[N]``.
        """
        self._check("going", going)
        for key, state in self._state.items():
            chosen = going.to(state.potential.device)
            sent = None if state.sent is None else state.sent[chosen]
            self._state[key] = replace(state, potential=state.potential[chosen], sent=sent)

    def _check(self, name: str, flags: Any) -> None:
        require_type(name, flags, Tensor, "booleans [N]", "Pass torch.tensor([True, False]), one for each environment.")
        held = next((len(state.potential) for state in self._state.values()), len(flags))
        if flags.shape != (held,):
            raise SimulationError(
                f"`{name}` does not fit the environments", got=str(tuple(flags.shape)), expected=f"({held},)", remedy="Pass one boolean for each."
            )  # fmt: skip

    def _neuron(self, key: str) -> Neuron:
        neuron = self.snn.graph.get_submodule(key)
        assert isinstance(neuron, Neuron)
        return neuron
