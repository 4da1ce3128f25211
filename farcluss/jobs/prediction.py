"""Predicting files: which ones, where to, and what to do about the ones that cannot be read."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from farcluss.errors import DataError, FarclussError
from farcluss.inference.weights import Model
from farcluss.inference.writers import Writer


@dataclass(frozen=True)
class Job:
    """One case, of one or more files, and where its prediction goes (a path without extension)."""

    files: tuple[Path, ...]
    target: Path

    @property
    def image(self) -> Path:
        """The first file, for messages."""
        return self.files[0]


@dataclass(frozen=True)
class Outcome:
    """What has become of the jobs so far.

    Attributes:
        done: number of jobs behind, with the share of the one at hand.
        error: why the last job failed; empty where it did not.
        remark: what its writer has to say; empty for nothing.
    """

    done: float
    error: str = ""
    remark: str = ""


def plan(inputs: Sequence[str], output: Path, writer: Writer) -> list[Job]:
    """Jobs for files, folders (with sub-folders, whose structure is kept) and globs.

    Of a folder in which the output folder lies, what is in the latter is left out: these are predictions.

    Raises:
        DataError: nothing matches or makes a case, two images would write the same file, or one would replace an image.
    """
    found = dict.fromkeys(pair for text in inputs for pair in _files(text, output, writer))
    folders: dict[tuple[Path, Path], list[Path]] = {}
    for path, folder in found:
        folders.setdefault((path.parent, folder), []).append(path)
    jobs = [Job(files, folder / name) for (_, folder), paths in folders.items() for name, files in writer.cases(paths)]
    if not jobs:
        raise DataError(f"{', '.join(inputs)}: nothing there is what these weights predict. Check the folders.")
    for job in jobs:
        _refuse_leaving(job, output, writer)
    images = {path.resolve() for job in jobs for path in job.files}
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


def _refuse_leaving(job: Job, output: Path, writer: Writer) -> None:
    """Raise DataError when a prediction would be written outside the output folder, through a name or a link."""
    if not job.target.name.strip("."):
        raise DataError(f"{job.image} has a name of dots alone, which a prediction cannot have. Rename it.")
    for path in writer.outputs(job.target):
        if path.is_symlink() or not path.resolve().is_relative_to(output.resolve()):
            raise DataError(
                f"The prediction {path} would be written through a link, to {path.resolve()}.\n"
                "Remove the link, or give another --output."
            )


def _files(text: str, output: Path, writer: Writer) -> list[tuple[Path, Path]]:
    """The files that an input names, each with the folder that its prediction goes to."""
    if not text.strip():
        raise DataError("An input is empty; give an image, a folder or a glob.")
    path = Path(text)
    if path.is_file():
        return [(path, output)]
    if path.is_dir():
        below = [p.relative_to(path) for p in _images(path.rglob("*"), writer)]
        shown = [
            p for p in below if not any(part.startswith(".") for part in p.parts) and not _made(path / p, path, output)
        ]
        found = [(path / p, output / p.parent) for p in shown]
    else:
        try:
            matching = _images(Path(path.anchor).glob(str(path.relative_to(path.anchor))), writer)
        except ValueError as error:
            raise DataError(f"{text} is no image, no folder and no glob: {error}.") from None
        found = [(p, output) for p in matching]
    if not found:
        raise DataError(f"{text} is no image, no folder with images and no glob that matches any.")
    return found


def _made(file: Path, folder: Path, output: Path) -> bool:
    """Whether a file is below an output folder that lies inside the folder of images: an earlier prediction."""
    own = output.resolve()
    return own != folder.resolve() and own.is_relative_to(folder.resolve()) and file.resolve().is_relative_to(own)


def _images(paths: Iterable[Path], writer: Writer) -> list[Path]:
    ends = tuple(writer.suffixes)
    return sorted(p for p in paths if p.name.lower().endswith(ends) and not p.name.startswith("."))


def refuse_existing(jobs: list[Job], writer: Writer) -> None:
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


def predict_files(model: Model, jobs: list[Job], writer: Writer) -> Iterator[Outcome]:
    """Predict and write every job, step by step; one that fails is reported, the others go on."""
    for number, job in enumerate(jobs):
        try:
            for step in writer.predict(model, job.files, job.target) or ():
                yield Outcome(number + step.share, remark=step.remark)
        except FarclussError as error:
            yield Outcome(number + 1, str(error))
        else:
            yield Outcome(number + 1)
