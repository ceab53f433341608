"""What a GPU makes of an SNN: the neurons' kernel and the engines checked against slow references, and all of it timed.

    python benchmarks/gpu.py                 # docs/results/gpu.{json,md}
    python benchmarks/gpu.py --out FOLDER    # the same two files elsewhere
    python benchmarks/gpu.py --try-out       # tiny sizes on the CPU, to see that it runs; writes nothing

Networks have random weights: time does not depend on them. An interrupted run goes on where it stopped; `--fresh` measures all again.
Without a GPU it says so and ends.
"""

import argparse
import copy
import itertools
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

import tospike as ts
from common import Rows, made_by
from tospike.neurons import Neuron, fused
from tospike.neurons.chunk import Chunk
from tospike.neurons.levels import Levels
from tospike.run.arithmetic import arithmetic_of
from tospike.run.simulate import Run, last
from tospike.testing import CAUSAL

SHARE_OF_COPY, PER_STEP, FASTER = 0.7, 1.05, 1.8  # targets: bandwidth, SNN over T ANNs, half over single precision
BLOCKS = ((256, 2), (512, 4), (1024, 4), (1024, 8), (2048, 8))


@dataclass(frozen=True)
class Sizes:
    """How much is measured: maps [N, C, H, W] that are checked and that are timed, T, image, networks, samples, and repeats."""

    checked: tuple[int, int, int, int] = (4, 32, 28, 28)
    timed: tuple[int, int, int, int] = (64, 64, 56, 56)
    steps: int = 4
    image: int = 224
    networks: tuple[str, ...] = ("resnet18", "vgg16")
    samples: int = 32
    repeats: int = 20


TINY = Sizes((2, 8, 7, 7), (2, 16, 14, 14), 2, 32, ("resnet18",), 2, 2)


def seconds(function, device, repeats):
    """Return the median time of a call, after three that are not counted."""
    for _ in range(3):
        function()
    taken = []
    for _ in range(repeats):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            function()
            end.record()
            torch.cuda.synchronize()
            taken.append(begin.elapsed_time(end) / 1e3)
        else:
            begin = time.perf_counter()
            function()
            taken.append(time.perf_counter() - begin)
    return statistics.median(taken)


def graphed(function, device):
    """Return a call that replays all that a call does on the GPU as one CUDA graph; None where it cannot be captured."""
    if device != "cuda":
        return None
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            function()
    except RuntimeError as error:
        print("cannot be captured:", str(error).splitlines()[0], flush=True)
        torch.cuda.synchronize()
        return None
    return graph.replay


def laid_out(x, layout):
    """Return currents [T, N, C, H, W] as they lie in memory after a convolution of maps with channels first or last, or constant."""
    if layout == "constant":
        return x[:1].expand(x.shape)
    if layout == "channels last":
        return x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, x.shape[:2])
    return x


def neurons_of(model, channels, device, **settings):
    torch.manual_seed(0)
    return Neuron(torch.rand(channels, 1, 1) * 0.8 + 0.4, 0.5, model, **settings).to(device)


def through(neuron, currents, other, levels):
    """Step neurons through two chunks; return all that comes out."""
    state, found = neuron.initial(currents[0]), []
    for first, end in ((0, 2), (2, len(currents))):
        part = other.with_values(other.values[first:end]) if isinstance(other, Levels) else None
        part = other[first:end] if isinstance(other, torch.Tensor) else part
        emitted, state = neuron(currents[first:end], state, part, levels=levels)
        found.append(emitted)
    return [*found, state.potential, *([] if state.sent is None else [state.sent])]


def check_neurons(name, device, sizes):
    """Compare the compiled kernel with the steps in torch on the same device, number by number."""
    model, shape, different, checked = CAUSAL[name], (6, *sizes.checked), 0, 0
    neuron = neurons_of(model, shape[2], device, remember=True)
    neuron.bias = torch.rand(3, shape[2], 1, 1, device=device) * 0.2 - 0.1
    values = torch.rand(shape, device=device) * 2.5 - 1
    levels = torch.randint(0, 8, shape, dtype=torch.uint8, device=device)
    unit = torch.rand(shape[2], 1, 1, device=device) * 0.2
    runs = [
        ("plain", None, torch.float32), ("channels last", Levels(laid_out(levels, "channels last"), unit, 3, 4), torch.float32),
        ("constant", values.flip(0), torch.float32),
    ]  # fmt: skip
    if device == "cuda":
        runs.append(("channels last", None, torch.float16))
    for layout, other, dtype in runs:
        currents = laid_out(values.to(dtype), layout)
        for as_levels in (False,) if model.holds else (False, True):
            assert fused.fits(neuron, currents[:2]), (name, layout)
            found = through(neuron, currents, other, as_levels)
            with mock.patch.object(fused, "fits", return_value=False):
                wanted = through(neuron, currents, other, as_levels)
            different += sum(int((a != b).sum()) for a, b in zip(found, wanted, strict=True))
            checked += sum(x.numel() for x in wanted)
    return {"values": checked, "different": different, "passed": different == 0}


class Small(nn.Module):
    """A network with joins, pooling and a linear layer between neurons."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (
            nn.Conv2d(3, 16, 3, padding=1),
            nn.Conv2d(16, 16, 3, padding=1),
            nn.Conv2d(16, 16, 1),
        )
        self.pool, self.middle, self.last = nn.AvgPool2d(4), nn.Linear(256, 64), nn.Linear(64, 10)

    def forward(self, x):
        x = self.first(x).relu()
        x = (self.second(x).relu() + self.third(x)).relu()
        return self.last(self.middle(self.pool(x).flatten(1)).relu())


def check_engine(engine, neuron, device):
    """Compare an engine with the float engine in double precision on the CPU."""
    torch.manual_seed(0)
    x = torch.randn(64, 3, 16, 16)
    snn = ts.convert(Small().eval(), ts.LTB(batches=5).using(neuron=CAUSAL[neuron]), calibration=[x], progress=False)
    exact = copy.deepcopy(snn).double()(x.double(), time_steps=32, engine="float")
    found = snn.to(device)(x.to(device), time_steps=32, engine=engine).cpu().double()
    error = float((found - exact).norm() / exact.norm())
    bound = {"float": 0.02, "int8": 0.05}.get(engine, 0.03)
    kernels = sorted({choice.kernel for choice in ts.explain(snn, x[:1].to(device), engine=engine)})
    return {"error": error, "bound": bound, "passed": error <= bound, "kernels": kernels}


def copy_bandwidth(device, sizes):
    """Return bytes per second that a copy reads and writes."""
    x = torch.rand((2 * sizes.steps, *sizes.timed), device=device)
    y = torch.empty_like(x)
    return {"bytes_per_second": 2 * x.nbytes / seconds(lambda: y.copy_(x), device, sizes.repeats)}


NEURONS_TIMED = {
    "binary": ("binary", torch.float32, False, False),
    "binary, levels of 8 bits": ("binary", torch.float32, False, True),
    "binary, half precision": ("binary", torch.float16, False, True),
    "binary, sum of two currents": ("binary", torch.float32, True, False),
    "ternary": ("ternary", torch.float32, False, False),
    "nearest, signed": ("nearest, signed", torch.float32, False, False),
}


def bandwidth(name, device, sizes, copied):
    """Return what neurons read and write in a second, each number once, as a share of what a copy does."""
    model, dtype, joined, levels = NEURONS_TIMED[name]
    if device == "cpu":
        dtype = torch.float32
    shape = (sizes.steps, *sizes.timed)
    neuron = neurons_of(CAUSAL[model], shape[2], device)
    currents = laid_out((torch.rand(shape, device=device) * 2.5 - 1).to(dtype), "channels last")
    other = currents.flip(0) if joined else None
    state = neuron.initial(currents[0])
    chunk = Chunk.of(neuron, currents, state, other, levels)
    rows = (
        chunk.current[0],
        chunk.other[0],
        *(values for values, _ in chunk.parameters),
        chunk.out,
        chunk.potential,
        chunk.sent,
    )
    moved = sum(row.nbytes for row in rows)
    taken = seconds(lambda: neuron(currents, state, other, levels=levels), device, sizes.repeats)
    share = moved / taken / copied
    return {"milliseconds": taken * 1e3, "megabytes": moved / 1e6, "share": share, "passed": share >= SHARE_OF_COPY}


def block(size, warps, device, sizes, copied):
    """Return the share of a copy's bandwidth with blocks of another size."""
    from tospike.neurons import triton_kernels

    with mock.patch.multiple(triton_kernels, BLOCK=size, WARPS=warps):
        return {name: bandwidth(name, device, sizes, copied)["share"] for name in ("binary", "nearest, signed")}


def network(name, neuron, device, sizes):
    """Return an ANN with batch norm folded, its SNN, and images, all with channels side by side."""
    from torchvision import models

    torch.manual_seed(0)
    ann = models.get_model(name, weights=None).eval().to(device, memory_format=torch.channels_last)
    x = torch.randn(sizes.samples, 3, sizes.image, sizes.image, device=device)
    method = ts.LTB(batches=3).using(neuron=CAUSAL[neuron])
    snn = ts.convert(ann, method, calibration=[x[:8]], progress=False).to(memory_format=torch.channels_last)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folded = fuse(ann).to(memory_format=torch.channels_last)
    return folded, snn, x.contiguous(memory_format=torch.channels_last)


def run_network(snn, x, engine, steps):
    """Return a call that steps an SNN through time, all steps at once, without the checks that ask the GPU for an answer."""
    inputs, arithmetic = {snn.plan.inputs[0]: x}, arithmetic_of(snn, engine)
    return lambda: last(Run(snn, inputs, arithmetic=arithmetic).read_outs([steps], {steps: 0}, steps))


@torch.no_grad()
def time_network(name, neuron, precision, device, sizes):
    """Time T steps of an SNN against T times its ANN in the same numbers, plain and as CUDA graphs."""
    ann, snn, x = network(name, neuron, device, sizes)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    many = x.repeat(sizes.steps, 1, 1, 1)
    if precision == "half":
        number = torch.float16 if device == "cuda" else torch.bfloat16
        ann, many = ann.to(number), many.to(number)
    engine = "half" if precision == "half" else "float"
    calls = {"ann": lambda: ann(many), "snn": run_network(snn, x, engine, sizes.steps)}
    found = {}
    for what, call in calls.items():
        found[what] = seconds(call, device, sizes.repeats) * 1e3
        replay = graphed(call, device)
        found[f"{what}_graph"] = None if replay is None else seconds(replay, device, sizes.repeats) * 1e3
    best = {what: min(t for t in (found[what], found[f"{what}_graph"]) if t is not None) for what in calls}
    exact = run_network(snn, x, "float", sizes.steps)()
    error = float((calls["snn"]().float() - exact).norm() / exact.norm())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    ratio = best["snn"] / best["ann"]
    return found | {"ratio": ratio, "difference_from_float": error, "passed": ratio <= PER_STEP}


def measure(rows, card, device, sizes):
    """Measure all; return nothing, since the rows keep it."""

    def measured(part, function, *arguments, **names):
        key = {"card": card, "part": part, **names}
        return rows.measure(key, lambda: function(*names.values(), *arguments))

    for name in CAUSAL:
        measured("neurons", check_neurons, device, sizes, name=name)
    for engine, neuron in itertools.product(("float", "half", "int8", "int16"), ("binary", "nearest, signed")):
        measured("engines", check_engine, device, engine=engine, neuron=neuron)
    copied = measured("copy", copy_bandwidth, device, sizes)["bytes_per_second"]
    for name in NEURONS_TIMED:
        measured("bandwidth", bandwidth, device, sizes, copied, name=name)
    for size, warps in BLOCKS if device == "cuda" else ():
        measured("blocks", block, device, sizes, copied, block=size, warps=warps)
    for name, neuron, precision in itertools.product(
        sizes.networks, ("binary", "nearest, signed"), ("float", "tf32", "half")
    ):
        if neuron == "binary" or precision != "tf32":
            measured("networks", time_network, device, sizes, network=name, neuron=neuron, precision=precision)


def table(head, lines):
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(map(str, line)) + " |" for line in lines),
        "",
    ]


def milliseconds(value):
    return "not captured" if value is None else f"{value:.2f}"


def written(rows, card, sizes):
    """Return the page that the rows make."""

    def part(name):
        return [row for row in rows if row["part"] == name and row["card"] == card]

    passed = {True: "yes", False: "**no**"}
    (copied,) = part("copy")
    networks = part("networks")
    single = {(row["network"], row["neuron"]): row["snn"] for row in networks if row["precision"] == "float"}
    lines = [
        f"# {card}", "", made_by("python benchmarks/gpu.py"), "", "## Neurons, against the steps in torch", "",
        *table(("neuron", "values", "different", "equal"), [(r["name"], f"{r['values']:,}", r["different"], passed[r["passed"]]) for r in part("neurons")]),
        "## Engines, against the float engine in double precision, T = 32", "",
        *table(("engine", "neuron", "error", "at most", "passed", "kernels"), [
            (r["engine"], r["neuron"], f"{r['error']:.4f}", r["bound"], passed[r["passed"]], "; ".join(r["kernels"])) for r in part("engines")]),
        f"## Neurons: bandwidth, T = {sizes.steps}, maps {sizes.timed}", "",
        f"A copy moves {copied['bytes_per_second'] / 1e9:,.0f} GB/s. Target: {SHARE_OF_COPY:.0%} of it, each number counted once.", "",
        *table(("neuron", "MB", "ms", "share of a copy", "reached"), [
            (r["name"], f"{r['megabytes']:.0f}", f"{r['milliseconds']:.3f}", f"{r['share']:.0%}", passed[r["passed"]]) for r in part("bandwidth")]),
    ]  # fmt: skip
    if part("blocks"):
        names = ("binary", "nearest, signed")
        lines += table(
            ("block", "warps", *names),
            [(r["block"], r["warps"], *(f"{r[name]:.0%}" for name in names)) for r in part("blocks")],
        )
    lines += [
        f"## Networks: {sizes.samples} images of {sizes.image} x {sizes.image}, T = {sizes.steps}", "",
        f"ANN: T times as many images, batch norm folded, channels last. Target: at most {PER_STEP} of it, the faster of plain and graph each; half "
        f"precision at least {FASTER} times as fast as float. The last column is the output's distance from that of the float engine: with "
        "random weights and few steps, spikes that come a step earlier or later weigh much in it.", "",
        *table(("network", "neuron", "numbers", "ANN, ms", "ANN, graph", "SNN, ms", "SNN, graph", "SNN / ANN", "reached", "over float", "distance"), [
            (r["network"], r["neuron"], r["precision"], *(milliseconds(r[k]) for k in ("ann", "ann_graph", "snn", "snn_graph")), f"{r['ratio']:.2f}",
             passed[r["passed"]], f"{single[r['network'], r['neuron']] / r['snn']:.2f}", f"{r['difference_from_float']:.4f}") for r in networks]),
    ]  # fmt: skip
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--try-out", action="store_true")
    chosen = parser.parse_args()
    if chosen.try_out:
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(fused, "SMALLEST", 0):
            rows = Rows(Path(folder) / "gpu.json")
            measure(rows, "CPU", "cpu", TINY)
            print(written(rows.rows, "CPU", TINY))
        return
    if not torch.cuda.is_available():
        print(
            "There is no GPU here, so there is nothing to measure: run this on a machine with a CUDA build of torch, or with --try-out."
        )
        return
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    card, begin = torch.cuda.get_device_name(), time.perf_counter()
    rows = Rows(chosen.out / "gpu.json", fresh=chosen.fresh)
    measure(rows, card, "cuda", Sizes())
    (chosen.out / "gpu.md").write_text(written(rows.rows, card, Sizes()))
    failed = [row for row in rows.rows if row["card"] == card and not row.get("passed", True)]
    print(f"{len(failed)} of {len(rows.rows)} rows miss their target; {time.perf_counter() - begin:.0f} seconds")


if __name__ == "__main__":
    main()
