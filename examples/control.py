"""A trained pendulum policy as a spiking network, in its environment.

pip install "tospike[control]"
python examples/control.py            # about a minute
python examples/control.py --smoke    # the same in seconds, with short episodes
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

import tospike as ts
from tospike import zoo

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--smoke", action="store_true", help="two seeds and episodes of 50 decisions")
parser.add_argument("--out", type=Path, default=Path("runs/control"), help="folder for the report")
options = parser.parse_args()

# 1. An actor of the zoo with the environment that it was trained in. Your own: ts.Control.from_sb3(model, "Hopper-v4").
settings = {"max_episode_steps": 50} if options.smoke else {}
control = zoo.control("inverted-double-pendulum-td3", **settings)

# 2. What the actor sees when it plays; the largest activations on it become the thresholds.
observations = control.observations(500 if options.smoke else 10_000)

# 3. Two SNNs: one that starts every decision afresh, and one whose neurons carry half of what they have not sent yet on to the next decision.
snns = {
    f"carry {carry}": ts.convert(control.network, ts.CRPI(carry=carry), calibration=observations) for carry in (0, 0.5)
}

# 4. One episode for each seed. What the network sees depends on what it does, so every T is played anew.
seeds = range(2 if options.smoke else 10)
results = {label: ts.play(snn, control, time_steps=(4, 8, 16), seeds=seeds) for label, snn in snns.items()}

# 5. The return beside the ANN's.
table = Table(
    "network", "T", "return", "of the ANN", "spikes per neuron and step", title=f"{control.name}, {len(seeds)} episodes"
)
for label, result in results.items():
    for t, scores in result.scores.items():
        spikes = result.spikes_per_neuron[t] / t
        table.add_row(
            label, str(t), f"{scores['return']:.1f} ± {scores['std']:.1f}", f"{scores['ratio']:.1f} %", f"{spikes:.3f}"
        )
Console().print(table)
page = ts.write_report(results, options.out / "report.html", snns=snns, title=f"SNNs in {control.name}", force=True)
print(f"Report: {page}")
