"""Predicting files: choosing inputs and output paths, and reporting files that cannot be read."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from farcluss.errors import FAILURES, DataError, WeightsError
from farcluss.inference.weights import Model
from farcluss.inference.writers import Writer
from farcluss.runs.outputs import replaced


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
    """Progress of the prediction.

    Attributes:
        done: number of jobs done, plus the share of the current one.
        error: why the last job failed; None if it did not.
        note: message of the writer for the user; empty for none.
        image: first file of the job, as text.
    """

    done: float
    error: BaseException | None = None
    note: str = ""
    image: str = ""


def plan(inputs: Sequence[str], output: Path, writer: Writer) -> list[Job]:
    """Jobs for files, folders (with sub-folders, whose structure is kept) and globs.

    Files in an output folder below an input folder are left out: they are predictions.

    Raises:
        DataError: nothing matches, two images would write the same file, or a prediction would replace an image.
    """
    found = dict.fromkeys(pair for text in inputs for pair in _files(text, output, writer))
    folders: dict[tuple[Path, Path], list[Path]] = {}
    for path, folder in found:
        folders.setdefault((path.parent, folder), []).append(path)
    jobs = [Job(files, folder / name) for (_, folder), paths in folders.items() for name, files in writer.cases(paths)]
    if not jobs:
        raise DataError(f"{', '.join(inputs)}: no file there is an input of these weights. Check the paths.")
    for job in jobs:
        _refuse_leaving(job, output, writer)
    owners: dict[Path, Path] = {}
    for path, image in ((path, job.image) for job in jobs for path in writer.outputs(job.target)):
        other = owners.setdefault(path, image)
        if other != image:
            raise DataError(
                f"{other} and {image} would both be written to {path}.\n"
                "Predict them separately, or give their common folder."
            )
    if lost := replaced(owners, (path for job in jobs for path in job.files)):
        raise DataError(f"The prediction of {owners[lost]} would replace the image {lost}.\nGive another --output.")
    return jobs


def _refuse_leaving(job: Job, output: Path, writer: Writer) -> None:
    """Raise DataError when a prediction would be written outside the output folder, through a name or a link."""
    if not job.target.name.strip("."):
        raise DataError(f"{job.image} has a name of only dots, which a prediction cannot have. Rename it.")
    for path in writer.outputs(job.target):
        if path.is_symlink() or not path.resolve().is_relative_to(output.resolve()):
            raise DataError(
                f"The prediction {path} would be written through a link, to {path.resolve()}.\n"
                "Remove the link, or give another --output."
            )


def _files(text: str, output: Path, writer: Writer) -> list[tuple[Path, Path]]:
    """The files that an input names, each with the folder for its prediction."""
    if not text.strip():
        raise DataError("An input is empty; give an image, a folder or a glob.")
    path = Path(text)
    if path.is_file():
        return [(path, output)]
    if path.is_dir():
        below = [p.relative_to(path) for p in _images(path.rglob("*"), writer)]
        visible = [p for p in below if not any(part.startswith(".") for part in p.parts)]
        shown = [p for p in visible if not _is_prediction(path / p, path, output)]
        found = [(path / p, output / p.parent) for p in shown]
    else:
        try:
            matching = _images(Path(path.anchor).glob(str(path.relative_to(path.anchor))), writer)
        except ValueError as error:
            raise DataError(f"{text} is not an image, a folder or a valid glob: {error}.") from None
        found = [(p, output) for p in matching]
    if not found:
        raise DataError(f"{text} is not an image, a folder with images or a glob that matches any.")
    return found


def _is_prediction(file: Path, folder: Path, output: Path) -> bool:
    """Whether a file lies in an output folder inside the input folder, so that it is an earlier prediction."""
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
            f"{len(taken)} output files exist already, the first is {taken[0]}.\nUse --overwrite, or another --output."
        )


def refuse_unlike(writer: Writer, others: Mapping[str, Writer]) -> None:
    """Raise WeightsError when weights that are to be averaged prepare images differently.

    Args:
        writer: built for the first weights.
        others: built for the others, by their path.
    """
    facts: Mapping[str, object] = getattr(writer, "preparation", {})
    for path, other in others.items():
        theirs: Mapping[str, object] = getattr(other, "preparation", {})
        if differing := [name for name in facts if facts[name] != theirs[name]]:
            name = differing[0]
            raise WeightsError(
                f"{path} cannot be averaged with the first weights, they differ in {', '.join(differing)}.\n"
                f"{name} is {theirs[name]} there, {facts[name]} here."
            )


def make_folder(output: Path) -> None:
    """Create the folder for predictions. Raises DataError when it cannot be created or written."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(output, os.W_OK) else "permission denied"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise DataError(f"The folder {output} cannot be written: {reason}. Choose another --output.")


def predict_files(model: Model, jobs: list[Job], writer: Writer) -> Iterator[Outcome]:
    """Predict and write every job, step by step; a job that fails in any way does not stop the others."""
    for number, job in enumerate(jobs):
        try:
            _refuse_pipes(job)
            for step in writer.predict(model, job.files, job.target) or ():
                yield Outcome(number + step.share, note=step.note)
        except FAILURES as error:
            yield Outcome(number + 1, error, image=str(job.image))
        else:
            yield Outcome(number + 1)


def _refuse_pipes(job: Job) -> None:
    """Raise DataError for a pipe or a device, from which one would read for ever."""
    for path in job.files:
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise DataError(f"{path} is a pipe or a device, not a file. Take it out.")
