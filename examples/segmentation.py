"""A segmenter as a spiking network: mIoU over T, and a sheet of masks beside the ANN's.

pip install "tospike[vision]"
python examples/segmentation.py            # several minutes; needs Fashion-MNIST, whose items the scenes are made of
python examples/segmentation.py --smoke    # the same in seconds, on few scenes
"""

import argparse
from pathlib import Path

from rich.console import Console

import tospike as ts
from tospike import data, zoo
from tospike.report import curve_table

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--smoke", action="store_true", help="few scenes, few steps")
parser.add_argument("--out", type=Path, default=Path("runs/segmentation"), help="folder for pictures and report")
options = parser.parse_args()

# 1. Scenes with a class for every pixel, and a network that knows them. Your own: torchvision's fcn_resnet50, any nn.Module with masks for an output.
counts = {"train_count": 60, "test_count": 10} if options.smoke else {"train_count": 2000, "test_count": 200}
scenes = data.load("fashion-scenes", augment=False, **counts)
ann = zoo.load("fashion-scenes-fcn")
task = scenes.task  # ts.Segmentation: masks in, mIoU out; the resize behind the last neuron runs once for each T

# 2. Two SNNs: thresholds balanced on the training scenes, and the best known combination for ternary spikes at T = 8.
small = options.smoke
methods = {
    "LTB": ts.LTB(batches=20 if small else 500),
    "Auto": ts.Auto(8, batches=2 if small else 8, refine_batches=2, code="taper"),
}
snns = {label: ts.convert(ann, method, calibration=scenes.calibration(8)) for label, method in methods.items()}

# 3. Scores at several T, from one simulation for LTB; each draws what it sees.
_, test = scenes.loaders(10)
steps = {"LTB": (4, 8) if small else (4, 8, 16, 32), "Auto": (8,)}
results = {
    label: ts.evaluate(
        snn, test, task=task, time_steps=steps[label], reference=ann, pictures=options.out / f"{label}.png"
    )
    for label, snn in snns.items()
}
Console().print(curve_table(results, title=f"mIoU, {len(scenes.test)} scenes"))
page = ts.write_report(results, options.out / "report.html", snns=snns, title="A spiking segmenter", force=True)
print(f"Pictures: {options.out}/*.png. Report: {page}")
