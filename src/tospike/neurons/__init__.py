"""Spiking neurons: pure step functions and thin modules."""
