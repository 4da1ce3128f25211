"""Checking a recipe: every file that it uses, and a few training steps on this machine."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from farcluss.data.base import IGNORE, Dataset, defaults_of
from farcluss.errors import DataError, FarclussError
from farcluss.inference.evaluation import read_images
from farcluss.jobs.trial import trial
from farcluss.learning.build import Parts, build_dataset, build_parts
from farcluss.recipes.model import Recipe
from farcluss.training.engine import load_batches
from farcluss.training.logs import memory_gib
from farcluss.training.steps import one_step

SETS = ("labeled", "unlabeled", "val")


@dataclass
class Findings:
    """The result of reading every file.

    Attributes:
        problems: one message per unusable file.
        sizes: number of images by spatial size, per set.
        pixels: pixels per class, then ignored pixels, per set with masks.
    """

    problems: list[str] = field(default_factory=list)
    sizes: dict[str, Counter[tuple[int, ...]]] = field(default_factory=lambda: {name: Counter() for name in SETS})
    pixels: dict[str, Any] = field(default_factory=dict)

    def to_json(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Plain values."""
        names = [*classes, "ignored"]
        return {
            "problems": self.problems,
            "sizes": {name: {"x".join(map(str, size)): n for size, n in c.items()} for name, c in self.sizes.items()},
            "pixels": {name: dict(zip(names, counts.tolist(), strict=True)) for name, counts in self.pixels.items()},
        }


def inspect(parts: Parts, workers: int, findings: Findings) -> Iterator[int]:
    """Read every image and mask of a recipe into `findings`; yields the number read so far."""
    done = 0
    classes = len(parts.dataset.classes)
    for name in SETS:
        items = getattr(parts.splits, name)
        counts = np.zeros(classes + 1, np.int64)
        with closing(read_images(parts.dataset, items, workers if items else 0)) as samples:
            for item, sample in samples:
                done += 1
                yield done
                if isinstance(sample, FarclussError):
                    findings.problems.append(f"{name} {item.id}: {sample}")
                    continue
                findings.sizes[name][tuple(sample.image.shape[1:])] += 1
                if sample.mask is not None:
                    folded = np.where(sample.mask == IGNORE, classes, sample.mask)
                    counts += np.bincount(folded.ravel(), minlength=classes + 1)
        if counts.any() and name != "unlabeled":
            findings.pixels[name] = counts


def dry_run(parts: Parts, steps: int = 3) -> dict[str, float]:
    """Train a few steps of a recipe and measure them.

    Returns:
        `seconds_per_step` (the fastest one), `memory_gib` (peak), `parameters_millions` and `loss`.
    """
    with trial(parts, steps, workers=0) as run:
        times: list[float] = []
        losses: dict[str, torch.Tensor] = {}
        for host in load_batches(run):
            start = time.perf_counter()
            losses = one_step(run, host, parts.recipe.semi_supervised, logging=False).losses
            if run.accelerator.device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
            run.step += 1
        return {
            "seconds_per_step": min(times),
            "memory_gib": memory_gib(run.accelerator.device),
            "parameters_millions": sum(p.numel() for p in run.networks["student"].parameters()) / 1e6,
            "loss": float(losses["total"]),
        }


def check(recipe: Recipe) -> tuple[Parts, Findings, Iterator[int]]:
    """Build the parts of a recipe and prepare reading its files, which the returned iterator does.

    Raises:
        Unusable: the data set has findings, and too little of it is usable to train.
        FarclussError: see `build_parts`.
    """
    # With on_error = "skip" the data set lists what it leaves out in its findings, so one report names everything.
    lenient = recipe.model_copy(update={"data": recipe.data.model_copy(update={"on_error": "skip"})})
    try:
        parts = build_parts(lenient)
    except DataError as error:
        dataset = build_dataset(lenient.data)
        if found := findings_of(dataset):
            raise Unusable(str(error) if _has_images(dataset) else "", found) from None
        raise
    parts = replace(parts, recipe=recipe.with_defaults(defaults_of(parts.dataset)))
    findings = Findings(findings_of(parts.dataset))
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
        Value and "recipe", "data set" or "default", by recipe key.
    """
    known = defaults_of(dataset)
    filled, own = recipe.with_defaults(known), recipe.data
    values = {
        "data.classes": list(dataset.classes),
        "data.palette": ["#{:02x}{:02x}{:02x}".format(*color) for color in dataset.palette],
        "data.channels": filled.data.channel_count,
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
