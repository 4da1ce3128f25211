"""Predicting files: which ones, where to, and what to do about the ones that cannot be read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farcluss.data.files import SUFFIXES, read_image
from farcluss.errors import DataError, FarclussError
from farcluss.weights import Model


@dataclass(frozen=True)
class Job:
    """One image and where its prediction goes (a path without extension)."""

    image: Path
    target: Path


@dataclass(frozen=True)
class Outcome:
    """What became of a job: the error's text, or nothing."""

    job: Job
    error: str = ""


def plan(inputs: Sequence[str], output: Path) -> list[Job]:
    """Jobs for files, folders (with sub-folders, whose structure is kept) and globs.

    Raises:
        DataError: nothing matches, or two images would write the same file.
    """
    jobs: list[Job] = []
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            jobs += [Job(p, output / p.relative_to(path).with_suffix("")) for p in found]
        elif path.is_file():
            found = [path]
            jobs.append(Job(path, output / path.stem))
        else:
            base = Path(path.anchor) if path.is_absolute() else Path()
            pattern = str(path.relative_to(path.anchor)) if path.is_absolute() else text
            found = sorted(p for p in base.glob(pattern) if p.suffix.lower() in SUFFIXES)
            jobs += [Job(p, output / p.stem) for p in found]
        if not found:
            raise DataError(f"{text} is no image, no folder with images and no glob that matches any.")
    owners: dict[Path, Path] = {}
    for job in jobs:
        other = owners.setdefault(job.target, job.image)
        if other != job.image:
            raise DataError(
                f"{other} and {job.image} would both be written to {job.target}.png.\n"
                "Predict them in two calls, or give their common folder."
            )
    return jobs


def refuse_existing(jobs: list[Job], writer: Any) -> None:
    """Raise DataError when a prediction would overwrite a file."""
    taken = [path for job in jobs for path in writer.outputs(job.target) if path.exists()]
    if taken:
        raise DataError(
            f"{len(taken)} output files exist already, the first is {taken[0]}.\nUse --overwrite or another --output."
        )


def predict_files(model: Model, jobs: list[Job], writer: Any) -> Iterator[Outcome]:
    """Predict and write every job; one that fails is reported, the others go on."""
    for job in jobs:
        try:
            image = read_image(str(job.image), model.card.channels)
            writer.write(job.target, image, model.probs(image).cpu().numpy())
        except FarclussError as error:
            yield Outcome(job, str(error))
        else:
            yield Outcome(job)
