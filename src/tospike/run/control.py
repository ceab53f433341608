"""An SNN in a control loop: one observation after the other, with what the neurons left over carried along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tospike.errors import OptionError, SimulationError, is_count, require, require_type
from tospike.neurons.modules import Neuron, State
from tospike.run.network import SNN
from tospike.run.simulate import Run, checked_inputs, last


class Controller:
    """Answers observations one after the other; every answer is T steps on a constant observation.

    With α > 0, each neuron starts where the last decision left it: see `tospike.neurons.modules.Neuron.carried`.

    Args:
        snn: A converted policy.
        time_steps: T of each decision.
        steps_per_call: See `tospike.simulate`.

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

    def __init__(self, snn: SNN, *, time_steps: int, steps_per_call: int | None = None) -> None:
        require_type("snn", snn, SNN, "an SNN", "Pass what ts.convert returned.")
        self.snn, self.steps, self.carry = snn, time_steps, snn.conversion.carry
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
        self._state: dict[str, State] = {}

    @torch.no_grad()
    def __call__(self, x: Any) -> Any:
        """Return the network's output for one batch of observations ``[N, ...]``, one for each environment."""
        inputs = checked_inputs(self.snn, x)
        if not self.carry:
            return self.snn(inputs, time_steps=self.steps, steps_per_call=self.chunk)
        count = len(next(iter(inputs.values())))
        held = next((len(state.potential) for state in self._state.values()), count)
        if held != count:
            raise SimulationError(
                "The number of environments has changed", got=f"{count} observations", expected=f"{held}, as before",
                remedy="Call reset() first.",
            )  # fmt: skip
        output = last(Run(self.snn, inputs, state=self._state).read_outs([self.steps], {self.steps: 0}, self.chunk))
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
        require_type("done", done, Tensor, "booleans [N]", "Pass torch.tensor([True, False]), or nothing for all.")
        held = next((len(state.potential) for state in self._state.values()), len(done))
        if done.shape != (held,):
            raise SimulationError(
                "`done` does not fit the environments", got=str(tuple(done.shape)), expected=f"({held},)", remedy="Pass one boolean for each."
            )  # fmt: skip
        for key, state in self._state.items():
            chosen = done.to(state.potential.device).reshape(-1, *[1] * (state.potential.ndim - 1))
            fresh = self._neuron(key).initial(state.potential)
            self._state[key] = replace(fresh, potential=torch.where(chosen, fresh.potential, state.potential))

    def _neuron(self, key: str) -> Neuron:
        neuron = self.snn.graph.get_submodule(key)
        assert isinstance(neuron, Neuron)
        return neuron
