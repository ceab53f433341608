"""Running an SNN through time."""
