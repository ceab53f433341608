"""What the benchmarks share: rows that are measured once and kept, and the data."""

import json
import platform
from itertools import islice

import torch

from tospike import data
from tospike.files import replacing

BATCH = 100


class Rows:
    """The rows of a results file; a row that it has already is not measured again, so an interrupted run goes on."""

    def __init__(self, file, *, fresh=False):
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        self.fresh = fresh
        self.rows = json.loads(file.read_text()) if file.exists() else []

    def measure(self, key, function):
        """Return the row with these values, measured by a function that returns the others if there is none yet."""
        found = next((row for row in self.rows if key.items() <= row.items()), None)
        if found is None or self.fresh:
            self.rows = [row for row in self.rows if row is not found]
            found = json.loads(json.dumps(key | function()))
            self.rows.append(found)
            print(found, flush=True)
            with replacing(self.file) as written:
                written.write_text(json.dumps(self.rows, indent=1) + "\n")
        return found


def fashion_mnist(samples, batches, seed=0):
    """Return calibration batches in the order of a seed, and the first test images in batches of 250."""
    found = data.load("fashion-mnist")
    _, test = found.loaders(BATCH, test_batch_size=250)
    return list(islice(found.calibration(BATCH, seed=seed), batches)), list(islice(test, -(-samples // 250)))


def made_by(command):
    """Say how a table was made."""
    return f"Made by `{command}` with torch {torch.__version__} on {platform.machine()}."
