"""Predicting files: choosing inputs and output paths, and reporting files that cannot be read."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from farcluss.data.accounting import Account, Passed, Reason
from farcluss.data.searching import search, search_glob
from farcluss.errors import FAILURES, DataError, WeightsError, not_a_file
from farcluss.inference.weights import Model
from farcluss.inference.writers import Case, Writer
from farcluss.runs.atomic import unwritable
from farcluss.runs.outputs import real, replaced


@dataclass(frozen=True)
class Job:
    """One case, of one or more files, and where its prediction goes (a path without extension)."""

    files: tuple[Path | str, ...]
    target: Path

    @property
    def image(self) -> Path | str:
        """The first file, for messages."""
        return self.files[0]

    @property
    def paths(self) -> list[Path]:
        """Those of its files that are files here."""
        return [file for file in self.files if isinstance(file, Path)]


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


def plan(inputs: Sequence[str], output: Path, writer: Writer) -> tuple[list[Job], Account]:
    """Jobs for files, folders (with sub-folders, whose structure is kept), globs, and what else the writer knows.

    Also says what of these is not used.

    Files in an output folder below an input folder are left out: they are predictions.

    Raises:
        DataError: nothing matches, two images would write the same file, or a prediction would replace an image.
    """
    named: Callable[[str], list[Case] | None] = getattr(writer, "named", lambda text: None)
    known = {text: named(text) for text in inputs if text.strip()}
    places = [_files(text, output, writer) for text in inputs if known.get(text) is None]
    found = dict.fromkeys(pair for files, _ in places for pair in files)
    folders: dict[tuple[Path, Path], list[Path]] = {}
    for path, folder in found:
        folders.setdefault((path.parent, folder), []).append(path)
    cases: list[tuple[Path, Case]] = [
        (folder, case) for (_, folder), paths in folders.items() for case in writer.cases(paths)
    ]
    cases += [(output, case) for own in known.values() for case in own or ()]
    jobs = list(dict.fromkeys(Job(files, folder / name) for folder, (name, files) in cases))
    if not jobs:
        raise DataError(f"{', '.join(inputs)}: no file there is an input of these weights. Check the paths.")
    used = {real(path) for job in jobs for path in job.paths}
    unfit = [path for path, _ in found if used.isdisjoint((real(path), real(path).parent))]
    passed = [*(entry for _, others in places for entry in others), *(Passed(path, Reason.UNFIT) for path in unfit)]
    for job in jobs:
        _refuse_leaving(job, output, writer)
    _refuse_collisions(jobs, writer)
    return jobs, Account.of(used, passed)


def _refuse_collisions(jobs: Sequence[Job], writer: Writer) -> None:
    """Raise DataError when two jobs would write the same file, or one would replace an image."""
    owners: dict[Path, Job] = {}
    for job in jobs:
        for path in writer.outputs(job.target):
            other = owners.setdefault(path, job)
            if other != job:
                raise DataError(
                    f"{other.image} and {job.image} would both be written to {path}.\n"
                    "Predict them separately, or give their common folder."
                )
    if lost := replaced(owners, (path for job in jobs for path in job.paths)):
        image = owners[lost].image
        raise DataError(f"The prediction of {image} would replace the image {lost}.\nGive another --output.")


def _refuse_leaving(job: Job, output: Path, writer: Writer) -> None:
    """Raise DataError when a prediction would be written outside the output folder, through a name or a link."""
    if not job.target.name.strip("."):
        raise DataError(f"{job.image} has a name of only dots, which a prediction cannot have. Rename it.")
    for path in writer.outputs(job.target):
        if path.is_symlink() or not real(path).is_relative_to(real(output)):
            raise DataError(
                f"The prediction {path} would be written through a link, to {real(path)}.\n"
                "Remove the link, or give another --output."
            )


def _files(text: str, output: Path, writer: Writer) -> tuple[list[tuple[Path, Path]], list[Passed]]:
    """The files that an input names, each with the folder for its prediction; and what else is there."""
    if not text.strip():
        raise DataError("An input is empty; give an image, a folder or a glob.")
    path = Path(text)
    if path.is_file():
        return [(path, output)], []
    if path.is_dir():
        place = search(path, writer.suffixes)
        shown = [p for p in place.files if not _is_prediction(p, path, output)]
        found = [(p, output / p.relative_to(path).parent) for p in shown]
        passed = [entry for entry in place.passed if not _is_prediction(entry.path, path, output)]
    else:
        place = search_glob(Path(), text, writer.suffixes)
        found, passed = [(p, output) for p in place.files], list(place.passed)
    if not found:
        reason = Account.of((), passed).lines()[:1]
        text = f"{text} is not an image, a folder with images or a glob that matches any."
        raise DataError("\n".join([text, *reason]))
    return found, passed


def _is_prediction(file: Path, folder: Path, output: Path) -> bool:
    """Whether a file lies in an output folder inside the input folder, so that it is an earlier prediction."""
    own, inside = real(output), real(folder)
    return own != inside and own.is_relative_to(inside) and real(file).is_relative_to(own)


def oddities(jobs: Sequence[Job], writer: Writer) -> list[str]:
    """What the writer says about the files, before it predicts any."""
    look: Callable[[Sequence[Path]], list[str]] = getattr(writer, "oddities", lambda files: [])
    return look([path for job in jobs for path in job.paths])


def refuse_existing(jobs: list[Job], writer: Writer, output: Path) -> None:
    """Raise DataError when a prediction, or a file for all of them, would overwrite a file."""
    joint: Callable[[Path], list[Path]] = getattr(writer, "joint", lambda folder: [])
    paths = [*(path for job in jobs for path in writer.outputs(job.target)), *joint(output)]
    taken = [path for path in paths if path.exists()]
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
        if not os.access(output, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise DataError(f"The folder {unwritable(output, error, '--output')}") from None


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


def finish(writer: Writer, output: Path) -> None:
    """Have a writer write what belongs to all predictions, if there is such. Raises DataError."""
    last: Callable[[Path], None] = getattr(writer, "finish", lambda folder: None)
    last(output)


def _refuse_pipes(job: Job) -> None:
    """Raise DataError for a pipe or a device, from which one would read for ever."""
    for path in job.paths:
        if (other := not_a_file(path)) and not path.is_dir():
            raise DataError(f"{path} is {other}, not a file. Take it out.")
