"""Checking a recipe: every file that it uses, and a few training steps on this machine."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from farcluss.data.base import Dataset
from farcluss.data.labels import LabelCounts, missing_classes, no_labels
from farcluss.data.loader import HostBatch
from farcluss.errors import DataError, FarclussError, RunError
from farcluss.inference.evaluation import read_images
from farcluss.jobs.trial import trial
from farcluss.learning.build import Parts, build_dataset, build_parts, known_of
from farcluss.recipes.model import Recipe
from farcluss.training.engine import load_batches, refuse_configuration
from farcluss.training.logs import memory_gib
from farcluss.training.remarks import patches, remarks
from farcluss.training.state import Run
from farcluss.training.steps import one_step, to_device

SETS = ("labeled", "unlabeled", "val")


SLOW = 30.0
"""Seconds of the first two steps of a dry run after which there is no third."""
FAR = 1e4
"""Normalized values above which mean and std cannot be meant."""


@dataclass
class Findings:
    """The result of reading every file.

    Attributes:
        problems: why the recipe cannot be run, one message each: of files that cannot be used, and others.
        warnings: what is odd, but can be run.
        sizes: number of images by spatial size, per set.
        pixels: pixels per class, then ignored pixels, per set with masks.
    """

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    sizes: dict[str, Counter[tuple[int, ...]]] = field(default_factory=lambda: {name: Counter() for name in SETS})
    pixels: dict[str, Any] = field(default_factory=dict)

    def unusable(self, text: str, recipe: Recipe) -> None:
        """Note a file that cannot be used: a problem, unless the recipe says that such files are left out."""
        skipped = recipe.data.on_error == "skip"
        (self.warnings if skipped else self.problems).append(f"left out: {text}" if skipped else text)

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Plain values."""
        names = [*classes, "ignored"]
        return {
            "problems": self.problems,
            "warnings": self.warnings,
            "sizes": {name: {"x".join(map(str, size)): n for size, n in c.items()} for name, c in self.sizes.items()},
            "pixels": {name: dict(zip(names, counts.tolist(), strict=True)) for name, counts in self.pixels.items()},
        }


def inspect(parts: Parts, workers: int, findings: Findings) -> Iterator[int]:
    """Read every image and mask of a recipe into `findings`; yields the number read so far."""
    done = 0
    classes = parts.dataset.classes
    for name in SETS:
        items = getattr(parts.splits, name)
        counts = LabelCounts(np.zeros(len(classes) + 1, np.int64))
        with closing(read_images(parts.dataset, items, workers if items else 0)) as samples:
            for item, sample in samples:
                done += 1
                yield done
                if isinstance(sample, FarclussError):
                    findings.unusable(f"{name} {item.id}: {sample}", parts.recipe)
                    continue
                findings.sizes[name][tuple(sample.image.shape[1:])] += 1
                counts.add(sample)
        if counts.pixels.any() and name != "unlabeled":
            findings.pixels[name] = counts.pixels
            if counts.empty:
                findings.problems.append(no_labels(f"data.{name}", counts.masks))
            elif name == "labeled" and (text := missing_classes(classes, counts, parts.recipe.data, "data.labeled")):
                findings.warnings.append(text)


def dry_run(parts: Parts, steps: int = 3, say: Callable[[str], object] = lambda _: None) -> dict[str, float]:
    """Train a few steps of a recipe and measure them; fewer than `steps` if they are slow.

    Args:
        parts: of the recipe.
        steps: how many; 0 only prepares them, which refuses what the start of a run refuses.
        say: called with what is about to be tried.

    Returns:
        `parameters_millions`, and with steps `seconds_per_step` (the fastest one), `memory_gib` (peak) and `loss`.

    Raises:
        RunError: the loss of a step is not finite; says the likely cause.
        FarclussError: as at the start of a run.
    """
    with trial(parts, max(steps, 1), workers=0, download=True) as run:
        size = {"parameters_millions": sum(p.numel() for p in run.networks["student"].parameters()) / 1e6}
        for warning in patches(run.networks["student"], parts.crop):
            say(f"Warning: {warning}")
        if not steps:
            return size
        images = parts.recipe.train.batch * (2 if parts.recipe.semi_supervised else 1)
        crop = "x".join(map(str, parts.crop))
        say(f"trying a step of {images} crops of {crop} on {run.accelerator.device}")
        return size | _measure(run)


def _measure(run: Run) -> dict[str, float]:
    """Time and memory of the steps of a trial, and the last loss. Raises RunError for one that is not finite."""
    times: list[float] = []
    loss = torch.zeros(())
    for host in load_batches(run):
        start = time.perf_counter()
        done = one_step(run, host, run.recipe.semi_supervised, logging=False)
        if bool(done.flags.any()):  # waits for the device, too
            raise RunError(
                f"The loss or gradient of trial step {run.step + 1} is not finite: such steps train nothing.\n"
                + likely_cause(run, host)
            )
        times.append(time.perf_counter() - start)
        loss = done.losses["total"]
        run.step += 1
        if run.step > 1 and sum(times) > SLOW:
            break
    return {"seconds_per_step": min(times), "memory_gib": memory_gib(run.accelerator.device), "loss": float(loss)}


def likely_cause(run: Run, host: HostBatch) -> str:
    """Why the loss of a step is not finite, in a sentence that says what to change."""
    data, train = run.recipe.data, run.recipe.train
    images = to_device(host, run.accelerator.device, semi=False, logging=False).images
    largest = float(run.parts.normalize(images).abs().max())
    if not largest < FAR:
        return (
            f"data.mean = {data.channel_mean} and data.std = {data.channel_std} bring pixels to {largest:.1g}; a few "
            "units are usual. Set them to those of the images."
        )
    if run.step:
        return f"The step before was finite: train.lr = {train.lr:g} is probably too high. Lower it, or set train.clip."
    return "Check the images and masks that are read first, and train.mixed_precision."


def check(recipe: Recipe) -> tuple[Parts, Findings, Iterator[int]]:
    """Build the parts of a recipe and prepare reading its files, which the returned iterator does.

    Raises:
        Unusable: the data set has findings, and too little of it is usable to train.
        FarclussError: see `build_parts`.
    """
    refuse_configuration(recipe)
    # With on_error = "skip" the data set lists what it leaves out in its findings, so one report names everything.
    lenient = recipe.model_copy(update={"data": recipe.data.model_copy(update={"on_error": "skip"})})
    try:
        parts = build_parts(lenient)
    except DataError as error:
        dataset = build_dataset(lenient.data)
        if found := findings_of(dataset):
            raise Unusable(str(error) if _has_images(dataset) else "", found) from None
        raise
    parts = replace(parts, recipe=recipe.with_defaults(known_of(recipe, parts.dataset)))
    items = [*parts.splits.labeled, *parts.splits.val, *parts.splits.unlabeled]
    odd: list[str] = getattr(parts.dataset, "oddities", lambda _: [])(items)
    findings = Findings([], [*remarks(parts), *odd])
    for text in findings_of(parts.dataset):
        findings.unusable(text, recipe)
    return parts, findings, inspect(parts, recipe.data.workers, findings)


def findings_of(dataset: Dataset) -> list[str]:
    """Problems that the data set itself reports, if it reports any."""
    return list(getattr(dataset, "findings", list)())


def _has_images(dataset: Dataset) -> bool:
    """Whether anything is left to train on; else whatever else is wrong follows from the findings."""
    try:
        return bool(dataset.items("train"))
    except FarclussError:
        return False


def settings(recipe: Recipe, dataset: Dataset) -> dict[str, tuple[Any, str]]:
    """The keys that a data set may fill in: each value, and its source.

    Args:
        recipe: as it was read, before the data set filled it.
        dataset: of the recipe.

    Returns:
        Value and "recipe", "data set", "weights" or "default", by recipe key.
    """
    known = known_of(recipe, dataset)
    filled, own = recipe.with_defaults(known), recipe.data
    values = {
        "data.classes": list(dataset.classes),
        "data.palette": ["#{:02x}{:02x}{:02x}".format(*color) for color in dataset.palette],
        "data.channels": filled.data.channel_count,
        **({"data.channel_names": filled.data.channel_names} if filled.data.channel_names else {}),
        "data.mean": filled.data.channel_mean,
        "data.std": filled.data.channel_std,
        "data.flip_axes": filled.data.flip_axes,
        "data.turns": filled.data.turns,
        "eval.writer": filled.eval.writer and filled.eval.writer.name,
    }
    sources = {f"data.{key}": "data set" if getattr(own, key) is None else "recipe" for key in ("classes", "palette")}
    sources |= recipe.sources(known)
    return {key: (value, sources[key]) for key, value in values.items()}


class Unusable(DataError):
    """A data set of which too little can be used.

    Attributes:
        problems: its findings.
        text: what else is wrong; empty where that follows from the findings.
    """

    def __init__(self, text: str, problems: list[str]) -> None:
        super().__init__(text, problems)
        self.text, self.problems = text, problems

    def __str__(self) -> str:
        return self.text
