"""A detector as a spiking network: torchvision's FCOS on a small backbone, mean average precision over T, and boxes beside the ANN's.

pip install "tospike[vision,detection]"
python examples/detection.py            # several minutes; needs Fashion-MNIST, whose items the scenes are made of
python examples/detection.py --smoke    # the same in seconds, on few scenes
"""

import argparse
from pathlib import Path

from rich.console import Console

import tospike as ts
from tospike import data, zoo
from tospike.report import curve_table

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--smoke", action="store_true", help="few scenes, few steps")
parser.add_argument("--out", type=Path, default=Path("runs/detection"), help="folder for pictures and report")
options = parser.parse_args()

# 1. Scenes with boxes, and a detector. Your own: fcos_resnet50_fpn, retinanet_resnet50_fpn, or one with the same parts.
counts = {"train_count": 40, "test_count": 6} if options.smoke else {"train_count": 2000, "test_count": 100}
scenes = data.load("fashion-detection", augment=False, **counts)
detector = zoo.load("fashion-detection-fcos")

# 2. Backbone and head are simulated as one network; anchors, decoding and suppression run once, by the detector's own code.
task = ts.Detection(detector, names=scenes.classes)
loader = task.batches(scenes.calibration(4))

# 3. Group norms, and the rectifier behind the last layer, stay analog: task.analog names them.
method = ts.LTB(batches=10 if options.smoke else 500)
snn = ts.convert(task.network, method, calibration=loader, analog=task.analog)

# 4. Scores at several T from one simulation, and a sheet of boxes.
_, test = scenes.loaders(3)
steps = (4, 8) if options.smoke else (8, 16, 32, 64)
sheet = options.out / "boxes.png"
result = ts.evaluate(snn, test, task=task, time_steps=steps, reference=task.network, pictures=sheet, pictured=3)
Console().print(curve_table({"LTB": result}, title=f"mAP, {len(scenes.test)} scenes"))
page = ts.write_report(result, options.out / "report.html", snns=snn, title="A spiking detector", force=True)

# 5. The detector as it was called before, now spiking.
images, _ = next(iter(test))
boxes = task.spiking(snn, time_steps=steps[-1])(images)
print(f"{len(boxes[0]['boxes'])} boxes in the first scene. Pictures: {sheet}. Report: {page}")
