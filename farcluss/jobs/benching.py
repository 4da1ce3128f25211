"""Timing the parts of a training step on this machine, with advice on how to make it faster."""

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from statistics import mean, median
from typing import Any

import torch

from farcluss.data.loader import LABELED, UNLABELED, Address, HostBatch, PairedCrops, cores, loader_processes
from farcluss.errors import FarclussError
from farcluss.jobs.trial import trial
from farcluss.learning.build import Parts
from farcluss.recipes.model import Recipe
from farcluss.tensors.timing import Stopwatch, span, wait_for
from farcluss.training.engine import load_batches
from farcluss.training.logs import memory_gib
from farcluss.training.state import Run
from farcluss.training.steps import one_step

WARM_UP = 4
"""Steps that are not timed: first batches, first allocations, compilation."""
DECODED = 24
"""Samples of each kind that are loaded to measure their cost."""
NETWORK = ("teacher", "student", "backward")
PARTS = ("wait", "copy", "augment", "teacher", "pseudo_label", "weight", "rebalance", "first_pass", "student", "losses",
         "contrast", "backward", "optimizer", "ema", "other")  # fmt: skip
"""In the order of a training step."""


ADVICE = {
    "copy": "Copying to the device, which a smaller data.crop or 8-bit images speed up,",
    "first_pass": "The extra forward of all micro-batches, which train.accumulate = 1 avoids,",
    "losses": "The loss, which fewer classes or a smaller data.crop speed up,",
    "optimizer": "The optimizer, whose cost per image a larger train.batch lowers,",
    "ema": "The teacher's update, whose cost per image a larger train.batch lowers,",
    "other": "Everything that is not timed separately",
}
"""Advice about parts that should be small."""


@dataclass(frozen=True)
class Figures:
    """The measurements.

    Attributes:
        device: device type.
        precision: mixed precision of the networks: no, bf16 or fp16.
        step: seconds per step, as in training.
        parts: seconds of each part of a step, timed separately, see `PARTS`.
        load: CPU seconds to load one labeled and one unlabeled sample.
        images: images per step that a process loads.
        workers: loader processes.
        cores: cores that this process may use.
        processes: training processes.
        memory_gib: peak memory, of the device on CUDA, of the process elsewhere.
        memory_share: share of the device's memory; None where the device has none of its own.
    """

    device: str
    precision: str
    step: float
    parts: dict[str, float]
    load: dict[str, float]
    images: int
    workers: int
    cores: int
    processes: int
    memory_gib: float
    memory_share: float | None

    @property
    def needed_workers(self) -> int:
        """Loader processes needed so that no step waits."""
        work = mean(self.load.values()) * self.images
        return max(1, math.ceil(work / max(self.step - self.parts["wait"], 1e-9)))

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        speed = self.processes * self.images / self.step
        return {**asdict(self), "images_per_second": speed, "needed_workers": self.needed_workers}


def bench(parts: Parts, steps: int) -> Figures:
    """Time the loading of samples, then `2 * steps` training steps, every second one part by part.

    Raises:
        FarclussError: as in training.
    """
    recipe, load = parts.recipe, time_loading(parts)
    with trial(parts, WARM_UP + 2 * steps, recipe.data.workers) as run:
        whole, timed = time_steps(run)
        device = run.accelerator.device
        used = memory_gib(device)
        total = torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else None
        return Figures(
            device=device.type,
            precision=run.accelerator.mixed_precision,
            step=median(whole),
            parts={name: median(each.get(name, 0.0) for each in timed) for name in PARTS},
            load=load,
            images=len(load) * recipe.train.batch // run.accelerator.num_processes,
            workers=loader_processes(recipe.data.workers),
            cores=cores(),
            processes=run.accelerator.num_processes,
            memory_gib=used,
            memory_share=used / total if total else None,
        )


def time_loading(parts: Parts) -> dict[str, float]:
    """CPU seconds to load a sample of each kind, as a loader process does.

    Raises:
        FarclussError: a sample cannot be read.
    """
    recipe, items = parts.recipe, (parts.splits.labeled, parts.splits.unlabeled)
    crops = PairedCrops(
        parts.dataset,
        items,
        recipe.data,
        parts.crop,
        DECODED,
        recipe.train.seed,
        truth_every=(DECODED + 1,),
        chances=parts.chances(),
    )
    kinds = {"labeled": LABELED} | ({"unlabeled": UNLABELED} if recipe.semi_supervised else {})
    found = {}
    for name, stream in kinds.items():
        times = []
        for place in range(DECODED):
            start = time.process_time()
            sample = crops[Address(stream, 0, place)].sample
            times.append(time.process_time() - start)
            if isinstance(sample, FarclussError):
                raise sample
        found[name] = mean(times)
    return found


def time_steps(run: Run) -> tuple[list[float], list[dict[str, float]]]:
    """Seconds per step and per part of a step; the two kinds of measurement alternate."""
    whole: list[float] = []
    timed: list[dict[str, float]] = []
    device = run.accelerator.device
    with closing(load_batches(run)) as batches:
        while run.step < run.steps:
            start = time.perf_counter()
            if run.step % 2:
                with Stopwatch(device) as watch:
                    _step(run, batches)
                timed.append(dict(watch.seconds))
            else:
                _step(run, batches)
                wait_for(device)
                whole.append(time.perf_counter() - start)
            run.step += 1
    return whole[WARM_UP // 2 :], timed[WARM_UP // 2 :]


def _step(run: Run, batches: Iterator[HostBatch]) -> None:
    with span("wait"):
        host = next(batches)
    one_step(run, host, run.recipe.semi_supervised, logging=False)


def advise(figures: Figures, recipe: Recipe) -> list[str]:
    """Suggested changes, one or two sentences each."""
    train, parts, total = recipe.train, figures.parts, sum(figures.parts.values())
    shares = {name: seconds / total for name, seconds in parts.items()}
    found = []
    if shares["wait"] > 0.05:
        found.append(_advise_loader(figures, recipe, shares["wait"]))
    if figures.device == "cuda" and figures.precision == "no":
        found.append('The networks compute in float32: train.mixed_precision = "bf16" is about twice as fast.')
    for kind in ("augment", "pseudo_label", "weight", "rebalance", "contrast"):
        if shares[kind] > 0.1:
            name = getattr(recipe.stages, kind).name
            found.append(f"Stage {kind}/{name} takes {100 * shares[kind]:.0f} % of a step; see docs/performance.md.")
    for part, sentence in ADVICE.items():
        if shares[part] > 0.1:
            found.append(f"{sentence} takes {100 * shares[part]:.0f} % of a step.")
    if figures.memory_share and figures.memory_share > 0.9:
        found.append("The device's memory is nearly full: use train.split_backward or raise train.accumulate.")
    if figures.memory_share and figures.memory_share < 0.5 and train.accumulate > 1:
        found.append("Half of the device's memory is free: a smaller train.accumulate is faster.")
    network = sum(shares[name] for name in NETWORK)
    if network > 0.8 and not train.compile:
        text = f"The networks take {100 * network:.0f} % of a step; "
        found.append(text + "train.compile may speed them up, or use more devices, a smaller crop or encoder.")
    return found


def _advise_loader(figures: Figures, recipe: Recipe, share: float) -> str:
    """Advice for steps that wait for samples."""
    text = f"A step waits for samples {100 * share:.0f} % of its time. "
    needed, cores = figures.needed_workers, figures.cores // figures.processes
    if figures.workers < needed <= cores:
        return f"{text}Raise data.workers from {figures.workers} to {needed}."
    if figures.workers < needed and recipe.data.pack is None:
        return f"{text}Pack the data set: farcluss pack RECIPE -o FILE.h5, then --set data.pack=FILE.h5."
    if figures.workers >= needed:
        return (
            f"{text}Its {figures.workers} loader processes should suffice: the disk or the transfer from them is slow."
        )
    return f"{text}It needs {needed} loader processes, but there are {cores} cores per training process."
