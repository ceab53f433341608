"""What property tests draw, where several of them draw it."""

from hypothesis import strategies as st

from tospike.neurons import NeuronModel


@st.composite
def causal(draw, capacities, levels):
    """Draw a causal neuron with one of these capacities and one of these kinds of levels."""
    settings = {"capacity": draw(st.sampled_from(capacities)), "levels": draw(st.sampled_from(levels))}
    if draw(st.booleans()):
        return NeuronModel(**settings)
    rest = draw(st.integers(0, settings["capacity"])) if settings["levels"] == "uniform" else 0
    code = draw(st.sampled_from(["rate", "differential", "phase"]))
    return NeuronModel(**settings, signed=True, rest=rest, total=draw(st.none() | st.integers(1, 9)), code=code)
