"""tospike: from a trained network to a spiking one."""
