"""Time of ANN, SNN and SpikingJelly, in turn: `tospike bench speed` with its files in docs/results.

    .venv/bin/python benchmarks/speed.py                 # docs/results/speed.{json,md,svg}; best on a machine with nothing else to do
    .venv/bin/python benchmarks/speed.py --networks resnet18-32 --out /tmp/speed

All options are those of the command.
"""

import sys

from tospike.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "speed", "--out", "docs/results", *sys.argv[1:]]))
