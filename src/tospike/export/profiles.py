"""How each reader of NIR files runs an integrate-and-fire neuron, found by reading and running its code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """One way in which a reader's network is not the one that was written.

    Attributes:
        what: What the reader does.
        ours: What the SNN does.
        mended: What `load_nir` sets in the modules that the reader has built.
        only_start: It matters only where potentials start above 0.
        only_joins: It matters only where signals are added.
    """

    what: str
    ours: str
    mended: str
    only_start: bool = False
    only_joins: bool = False


@dataclass(frozen=True)
class Profile:
    """What a file for one reader holds, and what that reader makes of it.

    Attributes:
        name: The reader.
        version: Version of it that was read and run.
        package: What to import.
        neuron: Node that stands for a neuron: ``"IF"``, or ``"CubaLIF"`` with a leak too small for float32.
        strict: It fires at ``v > θ``; the file then holds the number just below θ, which is reached exactly when θ is.
        averages: It has average pools; else the file holds sum pools and a scale.
        flattens: Its flattening leaves the batch axis alone; else linear layers are written as convolutions.
        old_file: It reads files of NIR 1.0.4, which know no ``v_reset``.
        differences: What it does in another way.
    """

    name: str
    version: str
    package: str
    neuron: str = "IF"
    strict: bool = False
    averages: bool = False
    flattens: bool = False
    old_file: bool = False
    differences: tuple[Difference, ...] = ()


_START = Difference(
    "starts every potential at 0", "starts at v(0)", "the potential before the first step", only_start=True
)
_ORDER = Difference(
    "runs nodes depth first, so a sum misses the inputs that come later", "adds all inputs of the step", "the order of execution", only_joins=True,
)  # fmt: skip
_HARD = Difference("resets to v_reset", "subtracts θ", "v_reset=None")

PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "sinabs", "3.1.3", "sinabs", flattens=True, old_file=True,
            differences=(
                Difference("sends ⌊v/θ⌋ spikes in a step", "sends at most one", "spike_fn=SingleSpike"),
                Difference("clips potentials at −θ", "lets them fall", "min_v_mem=None"), _START, _ORDER,
            ),
        ),
        Profile(
            "snntorch", "1.0.0", "snntorch", strict=True, averages=True,
            differences=(
                Difference("leaks: v ← 0.9·v + x", "does not leak", "beta=1"),
                Difference("stays silent while what a spike left is above θ", "fires at every v ≥ θ", "mem_reset=zeros_like"),
                Difference("hands spikes and potential on as a pair, which the next layer cannot read", "hands on spikes", "init_hidden=True"), _START,
            ),
        ),
        Profile("norse", "1.1.0", "norse.torch", neuron="CubaLIF", strict=True,
                differences=(Difference("resets to 0 unless reset_method= is given", "subtracts θ", "reset_method=reset_subtract, dt=1.0"), _START, _ORDER)),
        Profile("spikingjelly", "2.0.0", "spikingjelly.activation_based.nir_exchange", averages=True, flattens=True,
                differences=(_HARD, Difference("takes r for 1/dt, with dt=1e-4", "counts time in steps", "dt=1.0"), _START)),
    )
}  # fmt: skip
