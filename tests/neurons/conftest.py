"""What tests of compiled kernels share."""

import pytest

from tospike.neurons import fused


@pytest.fixture
def small_maps_too(monkeypatch):
    """Let kernels take maps that are too small to be worth it, in parts."""
    monkeypatch.setattr(fused, "SMALLEST", 0)
    monkeypatch.setattr(fused, "SHARE", 512)
