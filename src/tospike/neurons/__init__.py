"""Spiking neurons: pure step functions and thin modules."""

from tospike.neurons.functional import if_step as if_step
from tospike.neurons.modules import IntegrateAndFire as IntegrateAndFire
