"""A step of the learner over the bare networks, part by part: what the method costs beside the networks themselves.

python benchmarks/step.py                                  # ResNet-50, crop 321, 4 + 4 images, on a CPU or GPU
python benchmarks/step.py --encoder resnet101s --crop 801 --batch 8 --classes 19 --precision bf16
python benchmarks/step.py --grid        # ResNet-50 and 101 at 321, 513, 801, with and without compile

The bare step is the teacher's forward without gradient, the student's forward and backward from a constant gradient,
and the optimizer's step: the same networks, images and optimizer, and nothing of the method. Bare step, learner's step
and a step that is timed part by part take turns; medians count. On CUDA the learner's steps run with
`torch.cuda.set_sync_debug_mode("error")`, which ends the benchmark if the host ever waits for the device.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from itertools import product
from statistics import median
from typing import Any

import numpy as np
import torch
from recording import record
from torch.utils.flop_counter import FlopCounterMode

from farcluss.data.base import Item, Sample
from farcluss.data.loader import HostBatch
from farcluss.jobs.benching import PARTS
from farcluss.jobs.trial import trial
from farcluss.learning.build import build_parts
from farcluss.plugins import registry
from farcluss.recipes.model import Recipe
from farcluss.tensors.timing import Stopwatch, wait_for
from farcluss.training.engine import load_batches
from farcluss.training.logs import memory_gib
from farcluss.training.state import Run
from farcluss.training.steps import one_step

WARM_UP = 2


class Noise:
    """Images of one size with masks of stripes, as many classes as wanted."""

    def __init__(self, data: Any, *, side: int = 321, count: int = 21) -> None:
        self.side, self.classes = side, tuple(map(str, range(count)))
        self.palette = tuple((n, n, n) for n in range(count))

    def items(self, split: str) -> list[Item]:
        return [self.parse(f"{split}/{n}") for n in range(16)]

    def parse(self, line: str) -> Item:
        return Item(line, line, line)

    def size(self, item: Item) -> tuple[int, ...]:
        return self.side, self.side

    def read(self, item: Item, window: Any = None) -> Sample:
        place = (slice(None), slice(None)) if window is None else window
        image = np.random.default_rng(len(item.id)).integers(0, 256, (3, self.side, self.side), np.uint8)
        mask = np.add.outer(np.arange(self.side), np.arange(self.side)) // 16 % len(self.classes)
        return Sample(image[:, *place], mask.astype(np.uint8)[place])


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "step",
            "data": {
                "layout": {"name": "noise", "side": arguments.crop, "count": arguments.classes},
                "labeled": "8/16",
                "val": "none",
                "crop": arguments.crop,
            },
            "network": {"name": "deeplabv3plus", "encoder": arguments.encoder},
            "loss": {"supervised": arguments.loss},
            "train": {
                "steps": 1,
                "batch": arguments.batch,
                "mixed_precision": arguments.precision,
                "compile": arguments.compile,
            },
        }
    )


def bare_step(run: Run, host: HostBatch) -> Callable[[], None]:
    """The networks alone: teacher forward, student forward and backward, optimizer."""
    accelerator, learner = run.accelerator, run.learner
    images = learner.normalize(host.images.to(accelerator.device).float() / 255)
    unlabeled = images[host.labeled :].contiguous()
    student, teacher = (learner._compiled[network] for network in (learner.student, learner.teacher))
    with torch.no_grad(), accelerator.autocast():
        outputs = [output for output in student(images) if output is not None]
    gradients = [torch.randn_like(output) * 1e-6 for output in outputs]

    def step() -> None:
        with torch.no_grad(), accelerator.autocast():
            teacher(unlabeled)
        with accelerator.autocast():
            outputs = [output for output in student(images) if output is not None]
        torch.autograd.backward(outputs, gradients)
        run.optimizer.step()
        run.optimizer.zero_grad()

    return step


def learner_step(run: Run, host: HostBatch) -> None:
    cuda = run.accelerator.device.type == "cuda"
    if cuda:
        torch.cuda.set_sync_debug_mode("error")
    try:
        one_step(run, host, semi=True, logging=False)
    finally:
        if cuda:
            torch.cuda.set_sync_debug_mode("default")
    run.step += 1


def seconds(function: Callable[[], object], device: torch.device) -> float:
    wait_for(device)
    start = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - start


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of bare step, step and parts, memory, and the operations of a bare step."""
    recipe = recipe_of(arguments)
    with trial(build_parts(recipe), 100_000, workers=0) as run:
        device = run.accelerator.device
        with closing(load_batches(run)) as batches:
            host = next(batches)
        if device.type == "cuda":
            host = host._replace(**{name: getattr(host, name).pin_memory() for name in ("images", "masks", "valid")})
        bare = bare_step(run, host)
        times: dict[str, list[float]] = {"bare": [], "step": []}
        parts: list[dict[str, float]] = []
        for turn in range(WARM_UP + arguments.rounds):
            once = {"bare": seconds(bare, device), "step": seconds(lambda: learner_step(run, host), device)}
            with Stopwatch(device) as watch:
                one_step(run, host, semi=True, logging=False)
            run.step += 1
            if turn >= WARM_UP:
                parts.append(dict(watch.seconds))
                for name, value in once.items():
                    times[name].append(value)
        memory = memory_gib(device)  # before the operations are counted, which needs more
        with FlopCounterMode(display=False) as counter:
            bare_step_eager(run, host)
        figures = {name: median(values) for name, values in times.items()}
        figures["ratio"] = median(step / bare for bare, step in zip(times["bare"], times["step"], strict=True))
        figures["images_per_second"] = 2 * arguments.batch / figures["step"]
        figures["memory_gib"] = memory
        figures["tflop"] = counter.get_total_flops() / 1e12
        if device.type == "cuda":
            figures["peak_tflops"] = matmul_tflops(device, arguments.precision)
            figures["share_of_peak"] = figures["tflop"] / figures["step"] / figures["peak_tflops"]
        figures["parts"] = {name: median(each.get(name, 0.0) for each in parts) for name in PARTS if name != "wait"}
        return figures


def bare_step_eager(run: Run, host: HostBatch) -> None:
    """Teacher forward, student forward and backward, not compiled, to be counted."""
    images = run.learner.normalize(host.images.to(run.accelerator.device).float() / 255)
    with torch.no_grad():
        run.networks["teacher"](images[host.labeled :])
    outputs = [output.float().sum() for output in run.networks["student"](images) if output is not None]
    torch.stack(outputs).sum().backward()
    run.optimizer.zero_grad()


def matmul_tflops(device: torch.device, precision: str) -> float:
    """What the largest products of matrices reach on a device, in 10^12 operations per second."""
    side, repeats = 8192, 20
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16 if precision == "bf16" else None) for _ in "ab")
    once = min(seconds(lambda: [a @ b for _ in range(repeats)], device) / repeats for _ in range(5))
    return 2 * side**3 / once / 1e12


def show(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    print(
        f"{arguments.encoder}, crop {arguments.crop}, {arguments.batch} + {arguments.batch} images, "
        f"{arguments.classes} classes, {arguments.precision}, {'compiled' if arguments.compile else 'not compiled'}"
    )
    print(f"  bare {figures['bare']:8.3f} s    step {figures['step']:8.3f} s    ratio {figures['ratio']:.3f}")
    total = sum(figures["parts"].values())
    for name, value in figures["parts"].items():
        print(f"  {name:14}{1000 * value:10.1f} ms {100 * value / total:6.1f} %")
    share = f", {100 * figures['share_of_peak']:.1f} % of peak" if "share_of_peak" in figures else ""
    print(f"  {figures['images_per_second']:.2f} images/s, {figures['memory_gib']:.2f} GiB{share}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50s")
    parser.add_argument("--crop", type=int, default=321)
    parser.add_argument("--batch", type=int, default=4, help="labeled images, and as many unlabeled")
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--loss", choices=["cross-entropy", "ohem"], default="cross-entropy")
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--grid", action="store_true", help="bf16: two encoders, three crops, compiled or not")
    arguments = parser.parse_args()
    registry.register("dataset", "noise", Noise)
    if arguments.grid:  # each in a process of its own, whose peak of memory is its own
        for encoder, crop, compiled in product(("resnet50s", "resnet101s"), (321, 513, 801), ([], ["--compile"])):
            given = ["--encoder", encoder, "--crop", str(crop), "--precision", "bf16", "--batch", str(arguments.batch)]
            subprocess.run([sys.executable, __file__, *given, *compiled], check=False)
        return
    figures = measure(arguments)
    show(arguments, figures)
    settings = {name: value for name, value in vars(arguments).items() if name != "grid"}
    record("step", {**settings, **figures})


if __name__ == "__main__":
    main()
