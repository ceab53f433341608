"""Spiking neurons: pure step functions and thin modules."""

from tospike.neurons.functional import emit as emit
from tospike.neurons.functional import expected_start as expected_start
from tospike.neurons.functional import goal as goal
from tospike.neurons.functional import if_step as if_step
from tospike.neurons.functional import track_step as track_step
from tospike.neurons.model import NeuronModel as NeuronModel
from tospike.neurons.model import PreRun as PreRun
from tospike.neurons.modules import Neuron as Neuron
from tospike.neurons.modules import State as State
