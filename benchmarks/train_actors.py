"""Train the actors of the zoo by TD3, and take their checkpoints into it.

    .venv/bin/python benchmarks/train_actors.py hopper-td3         # goes on where it stopped; about 1 to 3 hours on one core
    .venv/bin/python benchmarks/train_actors.py --export           # every checkpoint that is there and reaches its target

Each training keeps its files in runs/control/ENVIRONMENT-SEED: best.zip and last.zip of Stable-Baselines3, buffer.pkl with the transitions,
and log.jsonl with one line for every evaluation. What is exported stands in src/tospike/zoo/weights with the return that was measured.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from tospike import zoo
from tospike.errors import TospikeError, refuse_unknown
from tospike.zoo import reinforce
from tospike.zoo.actors import ACTORS


def main():
    """Train, or export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("actors", nargs="*", help=f"which ones of {', '.join(ACTORS)}; all of them when none is named")
    parser.add_argument(
        "--export", action="store_true", help="train nothing, and write weights of the checkpoints that are there"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    parser.add_argument("--runs", type=Path, default=Path("runs/control"))
    parser.add_argument("--out", type=Path, default=zoo.WEIGHTS)
    options = parser.parse_args()
    refuse_unknown("actor", options.actors, ACTORS)
    torch.set_num_threads(1)
    for name in options.actors or ACTORS:
        entry = replace(ACTORS[name], seed=options.seed)
        checkpoint = reinforce.folder_of(entry, options.runs) / "best.zip"
        if not options.export:
            checkpoint = reinforce.train(entry, options.runs)
        try:
            path, scores = reinforce.export(entry, checkpoint, options.out)
            print(f"{path}: {scores}")
        except TospikeError as error:
            print(f"{name}: {error}")


if __name__ == "__main__":
    main()
