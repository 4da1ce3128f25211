"""Predicting files: which ones, where to, and what to do about the ones that cannot be read."""

import os
from collections.abc import Iterable, Iterator, Sequence
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


def plan(inputs: Sequence[str], output: Path, writer: Any) -> list[Job]:
    """Jobs for files, folders (with sub-folders, whose structure is kept) and globs.

    Raises:
        DataError: nothing matches, two images would write the same file, or a file would replace an image.
    """
    jobs = list(dict.fromkeys(job for text in inputs for job in _jobs(text, output)))
    for job in jobs:
        _refuse_leaving(job, output, writer)
    images = {job.image.resolve() for job in jobs}
    owners: dict[Path, Path] = {}
    for path, image in ((path, job.image) for job in jobs for path in writer.outputs(job.target)):
        if path.resolve() in images:
            raise DataError(f"The prediction of {image} would replace the image {path}.\nGive another --output.")
        other = owners.setdefault(path, image)
        if other != image:
            raise DataError(
                f"{other} and {image} would both be written to {path}.\n"
                "Predict them in two calls, or give their common folder."
            )
    return jobs


def _refuse_leaving(job: Job, output: Path, writer: Any) -> None:
    """Raise DataError when a prediction would be written outside the output folder, through a name or a link."""
    if not job.target.name.strip("."):
        raise DataError(f"{job.image} has a name of dots alone, which a prediction cannot have. Rename it.")
    for path in writer.outputs(job.target):
        if path.is_symlink() or not path.resolve().is_relative_to(output.resolve()):
            raise DataError(
                f"The prediction {path} would be written through a link, to {path.resolve()}.\n"
                "Remove the link, or give another --output."
            )


def _jobs(text: str, output: Path) -> list[Job]:
    if not text.strip():
        raise DataError("An input is empty; give an image, a folder or a glob.")
    path = Path(text)
    if path.is_file():
        return [Job(path, output / path.stem)]
    if path.is_dir():
        below = [p.relative_to(path) for p in _images(path.rglob("*"))]
        shown = [p for p in below if not any(part.startswith(".") for part in p.parts)]
        jobs = [Job(path / p, output / p.with_suffix("")) for p in shown]
    else:
        try:
            found = _images(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        except ValueError as error:
            raise DataError(f"{text} is no image, no folder and no glob: {error}.") from None
        jobs = [Job(p, output / p.stem) for p in found]
    if not jobs:
        raise DataError(f"{text} is no image, no folder with images and no glob that matches any.")
    return jobs


def _images(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def refuse_existing(jobs: list[Job], writer: Any) -> None:
    """Raise DataError when a prediction would overwrite a file."""
    taken = [path for job in jobs for path in writer.outputs(job.target) if path.exists()]
    if taken:
        raise DataError(
            f"{len(taken)} output files exist already, the first is {taken[0]}.\nUse --overwrite or another --output."
        )


def make_folder(output: Path) -> None:
    """Make the folder for predictions. Raises DataError when that, or writing into it, is impossible."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(output, os.W_OK) else "permission denied"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise DataError(f"The folder {output} cannot be written: {reason}. Choose another --output.")


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
