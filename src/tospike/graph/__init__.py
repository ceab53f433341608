"""From a network to a graph whose activations are Sites."""
