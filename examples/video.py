"""A network for clips as a spiking network: accuracy of videos over T.

python examples/video.py            # minutes; needs Fashion-MNIST, whose items the clips show
python examples/video.py --smoke    # the same in seconds, on few clips
"""

import argparse
from pathlib import Path

from rich.console import Console

import tospike as ts
from tospike import data, zoo
from tospike.report import curve_table

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--smoke", action="store_true", help="few clips, few steps")
parser.add_argument("--out", type=Path, default=Path("runs/video"), help="folder for the report")
options = parser.parse_args()

# 1. Clips whose class is a motion, and a network of 3-d convolutions. Your own: torchvision's r3d_18, mc3_18, r2plus1d_18 on data.load("kinetics").
counts = {"train_count": 60, "test_count": 16} if options.smoke else {"train_count": 2000, "test_count": 200}
clips = data.load("fashion-clips", augment=False, **counts)
ann = zoo.load("fashion-clips-clip-net")

# 2. Frames are an axis of the network's input; the time of the SNN is another one: each of its steps sees the whole clip.
snn = ts.convert(ann, ts.LTB(batches=20 if options.smoke else 500), calibration=clips.calibration(8))

# 3. Accuracy of videos, whose clips' answers are averaged, and of single clips.
_, test = clips.loaders(24)
steps = (4, 8) if options.smoke else (4, 8, 16, 32)
result = ts.evaluate(snn, test, task=clips.task, time_steps=steps, reference=ann)
Console().print(curve_table({"LTB": result}, title=f"top-1 of {len(set(clips.test.labels.tolist()))} motions"))
print({t: round(scores["clip_top1"], 1) for t, scores in result.scores.items()}, "% of single clips")
page = ts.write_report(result, options.out / "report.html", snns=snn, title="A spiking network for clips", force=True)
print(f"Report: {page}")
