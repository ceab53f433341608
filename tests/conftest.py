import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
settings.register_profile("tospike", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("tospike")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
