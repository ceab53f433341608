from pathlib import Path

import pytest

from tospike.bench import memory
from tospike.bench.memory import Memory, measure_memory


@pytest.mark.skipif(not memory.PEAK_RESET.exists(), reason="the system does not say how much a process had at most")
def test_memory_of_runs_is_measured_in_processes_of_their_own():
    (found,) = measure_memory("fashion-resnet20", ["int8"], batch=2)
    assert (found.network, found.engine, found.batch) == ("fashion-resnet20", "int8", 2)
    assert 50 < found.before <= found.short  # MB: Python and torch at least
    assert found.ratio < 1.3  # eight times as many steps


@pytest.mark.skipif(not memory.PEAK_RESET.exists(), reason="the system does not say how much a process had at most")
def test_the_peak_is_that_since_it_was_reset():
    block = bytearray(b"x" * 2**28)
    high = memory._megabytes("VmHWM")
    del block
    memory.PEAK_RESET.write_text("5")
    assert memory._megabytes("VmHWM") < high - 200


def test_the_ratio_is_long_over_short():
    assert Memory("net", "int8", 4, before=300.0, short=400.0, long=440.0).ratio == pytest.approx(1.1)


def test_nothing_is_said_where_the_system_says_nothing(monkeypatch):
    monkeypatch.setattr(memory, "PEAK_RESET", Path("/proc/self/no-such-file"))
    assert measure_memory("fashion-resnet20", ["int8"]) == []
