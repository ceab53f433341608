"""Neurons as modules: they hold thresholds and biases, never state; the state belongs to a run."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tospike.graph.rewrite import Rectifier
from tospike.neurons import codes, fused, learning
from tospike.neurons.functional import emit, expected_start, goal, if_step, track_step
from tospike.neurons.levels import Levels, integers_for, value_of
from tospike.neurons.model import NeuronModel, PreRun
from tospike.neurons.state import State as State
from tospike.neurons.surrogate import Surrogate


class Neuron(nn.Module):
    """The neurons of one Site, stepped over a chunk of time; see `if_step`, `track_step` and `tospike.neurons.codes.count`.

    Args:
        threshold: θ > 0, broadcastable to one sample ``[C, ...]``, in units of the ANN's activation.
        start: v(0) as a share of θ.
        model: Which neuron it is.
        function: The activation of the ANN, which a signed or synchronous neuron tracks; ReLU when None.
        seed: Seed of neurons that round at random; the same in every run, so that a run can be repeated.
        remember: Sum up what is sent, as `carried` needs it; signed neurons do so anyway.

    Attributes:
        bias: Current added at step t, ``[S, ...]``, the last one also at all steps after S; zero unless a refiner sets it.
        gain: What an emission is multiplied with, broadcastable to one sample; 1 unless a refiner sets it.
        start: v(0) as a share of θ, a tensor broadcastable to one sample.
        surrogate: Gradient of the emission while the neuron is tuned; None where none is wanted.

    Example:
        >>> neuron = Neuron(torch.tensor(1.0))
        >>> current = torch.tensor([0.4]).expand(5, 1, 1)
        >>> spikes, state = neuron(current, neuron.initial(current[0]))
        >>> spikes.flatten().tolist()
        [0.0, 1.0, 0.0, 1.0, 0.0]
    """

    threshold: Tensor
    start: Tensor
    bias: Tensor | None
    gain: Tensor | None

    def __init__(
        self,
        threshold: Tensor,
        start: float = 0.5,
        model: NeuronModel | None = None,
        function: nn.Module | None = None,
        seed: int = 0,
        remember: bool = False,
    ) -> None:
        super().__init__()
        self.model = model or NeuronModel()
        self.seed, self.remember = seed, remember
        self.surrogate: Surrogate | None = None
        self.function = function if function is not None else Rectifier()
        self.homogeneous = isinstance(function, (nn.ReLU, nn.LeakyReLU, nn.PReLU)) or (
            isinstance(self.function, Rectifier) and self.function.cap == float("inf")
        )
        self.register_buffer("threshold", threshold)
        self.register_buffer("start", torch.as_tensor(start, dtype=threshold.dtype, device=threshold.device))
        self.register_buffer("bias", None)
        self.register_buffer("gain", None)

    def get_extra_state(self) -> Tensor:
        """Return the model as text in a tensor, so that a state dict says all that refiners and tuning change."""
        return torch.frombuffer(bytearray(json.dumps(asdict(self.model)).encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the model of a state dict."""
        settings = json.loads(bytes(state.tolist()))
        pre = settings.pop("pre")
        self.model = NeuronModel(**settings, pre=None if pre is None else PreRun(**pre))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """Take over tensors of any shape: whether there are biases, and for what thresholds stand, is not known before a refinement."""
        for name in ("threshold", "start", "bias", "gain"):
            given, mine = state_dict.get(f"{prefix}{name}"), getattr(self, name)
            if given is None:
                setattr(self, name, None if name in ("bias", "gain") else mine)
            elif mine is None or mine.shape != given.shape:
                setattr(self, name, torch.empty_like(given, device=self.threshold.device))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def misfits(self, current: Tensor) -> list[str]:
        """Return which of its tensors, having a value for each neuron of a map, are of a map of another size than the current ``[N, ...]``."""
        sample, found = current.shape[1:], []
        for name in ("threshold", "start", "bias", "gain"):
            value = getattr(self, name)
            own = () if value is None else value.shape[1:] if name == "bias" else value.shape
            sizes = zip(reversed(own), reversed(sample), strict=False)
            if len(own) > len(sample) or any(mine not in (1, given) for mine, given in sizes):
                found.append(name)
        return found

    def initial(self, current: Tensor) -> State:
        """Return the state before the first step, given the current of one step ``[N, ...]``."""
        zeros = current.new_zeros((), dtype=self.number(current)).expand_as(current)  # not written to memory
        if self.model.signed or self.model.synchronous:
            return State(0, zeros, zeros)
        return State(0, self._start(zeros), zeros if self.remember else None)

    def number(self, current: Tensor) -> torch.dtype:
        """Return in what numbers to compute: those of the current, or of the thresholds where these are finer than half precision."""
        return self.threshold.dtype if current.dtype in (torch.float16, torch.bfloat16) else current.dtype

    def carried(self, state: State, share: float) -> State:
        """Return the state before the first step of another input, with part of what this one left.

        ``v(0)' = v(0) + clip(α·max(r, −S), −θ/2, θ/2)`` with v(0) the start of the first input, r what was received and not sent, S the
        sum of emissions: a neuron that sent too much without cause does not owe more than it sent.

        Args:
            state: After the last input; it has to know what was sent.
            share: α in [0, 1].

        Source: Xu et al., "CRPI", ICML 2026. Differs from the paper in: none known; the paper was read through its code.
        """
        assert state.sent is not None
        theta, zeros = self.threshold.to(state.sent.dtype), torch.zeros_like(state.sent)
        if self.model.signed:
            left = goal(state.potential, max(state.steps, 1), self.function, homogeneous=self.homogeneous) - state.sent
        else:
            left = state.potential - self._start(state.potential)
        kept = (share * left.maximum(-state.sent)).clamp(-theta / 2, theta / 2)
        return State(0, kept if self.model.signed else self._start(kept) + kept, zeros)

    def forward(
        self, currents: Tensor, state: State, other: Tensor | Levels | None = None, *, levels: bool = False,
        overwrite: bool = False,
    ) -> tuple[Tensor, State]:  # fmt: skip
        """Step through a chunk of time; causal neurons in one pass over memory where `tospike.neurons.fused` can.

        Args:
            currents: Input currents ``[T, N, ...]``, in units of the ANN's activation; all of the run for a synchronous neuron.
            state: What `initial` or an earlier call returned.
            other: More currents ``[T, N, ...]``, or levels whose worth is added.
            levels: Return levels of causal neurons, of which each is worth `unit`, as `tospike.neurons.levels.integers_for` says.
            overwrite: Whether the state that is given may be lost: the new one then takes its memory where it can.

        Returns:
            What was emitted at each step, ``[T, N, ...]``, and the state after the chunk.
        """
        if self.model.synchronous:
            currents, steps = currents if other is None else currents + value_of(other), len(currents)
            counted = self.count(currents.mean(0), steps)
            emitted = torch.stack([self.at_step(counted, steps, t) for t in range(1, steps + 1)])
            return emitted, replace(state, steps=steps)
        if self.model.pre is None:
            return self._advanced(currents, state, other, levels=levels, overwrite=overwrite)
        currents = currents.to(state.potential.dtype)
        if other is not None:
            currents = currents + value_of(other)
        if self.model.waiting and state.steps == 0:
            state = self._shifted(currents[: self.model.waiting], state)
        before = self.model.pre_steps - state.steps
        parts = []
        for part in currents.tensor_split([before]) if 0 < before < len(currents) else (currents,):
            if state.steps == self.model.pre_steps:  # the pre-run is over: start again, corrected
                silenced = self._start(part[0]).masked_fill(state.potential < 0, -torch.inf)  # for good
                state = replace(state, potential=silenced if state.start is None else state.start)
            emitted, state = self._advanced(part, state, levels=levels)
            parts.append(emitted)
        return torch.cat(parts), state

    def _advanced(
        self, currents: Tensor, state: State, other: Tensor | Levels | None = None, *, levels: bool = False,
        overwrite: bool = False,
    ) -> tuple[Tensor, State]:  # fmt: skip
        if fused.fits(self, currents):
            return fused.advance(self, currents, state, other, levels=levels, overwrite=overwrite)
        if learning.fits(self, currents) and not levels:
            return learning.advance(self, currents, state, other)
        written = integers_for(currents)
        currents = currents.to(state.potential.dtype)
        if other is not None:
            currents = currents + value_of(other)
        step = self._track if self.model.signed else self._fire
        steps = []
        for x in currents:
            emission, state = step(self._biased(x, state.steps), state)
            steps.append(emission)
        emitted = torch.stack(steps)
        if levels:
            integers = (emitted / self._level(emitted)).round_()
            return (integers.add_(self.model.zero) if written is torch.uint8 else integers).to(written), state
        return self._gained(emitted), state

    @property
    def unit(self) -> Tensor:
        """What one level is worth, broadcastable to one sample: ``θ`` for uniform levels, else the smallest; times the gain."""
        return self._gained(self._level(self.threshold))

    @property
    def silence(self) -> Tensor:
        """What silence is worth, at the first step where the receiver holds the mean; broadcastable to one sample."""
        return self._gained(self.threshold * self.model.rest)

    def _level(self, like: Tensor) -> Tensor:
        theta = self.threshold.to(like.dtype)
        return theta if self.model.finest == 1.0 else theta * self.model.finest

    def count(self, current: Tensor, time_steps: int) -> Tensor:
        """Return what synchronous neurons count in their current; see `tospike.neurons.codes.count`.

        Args:
            current: Mean current over the T steps ``[N, ...]``.
            time_steps: T.
        """
        current = self.biased_mean(current, time_steps)
        theta, start, wanted = self.threshold.to(current.dtype), self.start.to(current.dtype), self.function(current)
        if self.model.random:
            generator = torch.Generator(current.device).manual_seed(self.seed)
            return codes.random_count(wanted, theta, start, time_steps, generator)
        return codes.count(wanted, theta, start, self.model, time_steps)

    def mean_emission(self, counted: Tensor, time_steps: int) -> Tensor:
        """Return the mean of what is sent for a count ``[N, ...]`` over T steps."""
        return self._gained(counted * codes.unit(self.threshold.to(counted.dtype), self.model, time_steps))

    def for_constant(self, current: Tensor, time_steps: int, first: int = 0) -> Tensor:
        """Return the mean emission over T steps, the first ones left out, for a current that does not change, biases included ``[N, ...]``."""
        biases = self.bias
        self.bias = None
        try:
            emitted, _ = self(current.expand(time_steps, *current.shape), self.initial(current))
        finally:
            self.bias = biases
        return emitted[first:].mean(0)  # type: ignore[no-any-return]

    def by_rate(self, current: Tensor, emitted: Tensor, time_steps: int) -> Tensor:
        """Return what was emitted, as if it were a clip of the mean current: with the gradients that this would have.

        ``ē = θ·(r + [ē/θ − r])``, ``r = clip(f(z̄ + (v(0) − [v(0)])/T)/θ, −δ, ρ)`` with ρ and δ reach and depth; brackets pass no
        gradient. So ``∂ē/∂z̄ = f'`` inside and 0 outside, ``∂ē/∂θ = ē/θ − z̄/θ`` inside and ē/θ outside.

        Args:
            current: z̄, the mean current over T steps ``[N, ...]``.
            emitted: ē, the mean emission that it gave ``[N, ...]``.
            time_steps: T.

        Source: Meng et al., DSR, CVPR 2022. Differs from the paper in: nothing for integrate-and-fire; other neurons have their own reach.
        """
        theta = self.threshold.to(current.dtype)
        start = self.start.to(current.dtype)
        mean = self.biased_mean(current, time_steps) + theta * (start - start.detach()) / time_steps
        # Unsigned causal neurons know nothing of the activation, not even its cap: their threshold is the bound.
        tracks = self.model.signed or self.model.synchronous
        rate, reach = (self.function(mean) if tracks else functional.relu(mean)) / theta, self.model.reach(time_steps)
        rate = reach - functional.relu(reach - rate)  # nothing passes where the bound is reached exactly
        if self.model.signed:
            depth = self.model.depth(time_steps)
            rate = functional.relu(rate + depth) - depth
        sent = emitted.detach() / theta.detach()
        if self.gain is not None:
            sent = sent / self.gain.to(current.dtype)
        return self._gained(theta * (rate + (sent - rate).detach()))

    def clipped(self, current: Tensor, time_steps: int) -> Tensor:
        """Return the activation of the ANN, clipped at what the neurons can send: ``clip(f(z̄), −δθ, ρθ)``, ρ and δ reach and depth over T steps.

        Args:
            current: z̄, the mean current over T steps ``[N, ...]``.
            time_steps: T.
        """
        reach, depth = (limit(time_steps) * self.threshold for limit in (self.model.reach, self.model.depth))
        return self.function(current).minimum(reach).maximum(-depth)  # type: ignore[no-any-return]

    def at_step(self, counted: Tensor, time_steps: int, t: int) -> Tensor:
        """Return what is sent for a count ``[N, ...]`` at step t; see `tospike.neurons.codes.at_step`."""
        return self._gained(codes.at_step(counted, self.threshold.to(counted.dtype), self.model, time_steps, t))

    def _start(self, like: Tensor) -> Tensor:
        return (self.start * self.threshold).to(like.dtype).expand_as(like)

    def _gained(self, emission: Tensor) -> Tensor:
        return emission if self.gain is None else emission * self.gain.to(emission.dtype)

    def _biased(self, x: Tensor, done: int) -> Tensor:
        return x if self.bias is None else x + self.bias[min(done, len(self.bias) - 1)].to(x.dtype)

    def biased_mean(self, current: Tensor, time_steps: int, first: int = 0) -> Tensor:
        """Return the mean current over T steps, the first ones left out, with the mean of the biases added."""
        if self.bias is None:
            return current
        steps = [min(t, len(self.bias) - 1) for t in range(first, time_steps)]
        return current + self.bias[steps].mean(0).to(current.dtype)

    def _shifted(self, currents: Tensor, state: State) -> State:
        biased = torch.stack([self._biased(x, t) for t, x in enumerate(currents)])
        start = expected_start(biased, self._start(currents[0]), self.threshold.to(currents.dtype))
        return replace(state, potential=start, start=start)

    def _fire(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        theta, v = self.threshold.to(x.dtype), state.potential
        if self.model.capacity == 1 and self.surrogate is None:
            spikes, v = if_step(v, x, theta)
        else:
            charged = v + x
            spikes = self._emit(charged, theta)
            v = charged - spikes
        sent = state.sent if state.sent is None else state.sent + spikes
        return spikes, replace(state, steps=state.steps + 1, potential=v, sent=sent)

    def _track(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        assert state.sent is not None
        theta, t = self.threshold.to(x.dtype), state.steps + 1
        charge = state.potential + x
        wanted = goal(charge, t, self.function, homogeneous=self.homogeneous)
        if self.model.total is not None:
            wanted = wanted.minimum(self.model.total * theta)
        rest = self.model.rest_at(t) * theta if self.model.rest_at(t) else None
        if self.model.holds:  # a change of the mean counts t times in the sum over t steps
            theta = theta * (t * self.model.worth(t))
        done = state.steps if self.model.holds else None
        emission, sent = track_step(self.start.to(x.dtype) * theta, state.sent, wanted, theta, self._emit, done, rest)
        return emission, State(t, charge, sent)

    def _emit(self, u: Tensor, theta: Tensor) -> Tensor:
        return emit(u, theta, self.model) if self.surrogate is None else self.surrogate.emit(u, theta, self.model)

    def extra_repr(self) -> str:
        """Show shape and range of the thresholds in a printed network."""
        low, high = self.threshold.aminmax()
        return f"threshold={tuple(self.threshold.shape)} in [{low.item():.4g}, {high.item():.4g}], {self.model}"
