"""Outputs of commands: written whole, and never in place of what is read, by whatever name it is given."""

import os
from collections.abc import Iterable
from pathlib import Path

from farcluss.errors import DataError
from farcluss.runs.atomic import unwritable, write_atomically


def identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Device and number of a file, the same through links, `..` or another case; None where there is none."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a null character
        return None
    return found.st_dev, found.st_ino


def real(path: Path) -> Path:
    """The absolute path behind links; where they lead in a circle, the link itself."""
    return Path(os.path.realpath(path))


def replaced(outputs: Iterable[Path], inputs: Iterable[str | os.PathLike[str]]) -> Path | None:
    """The first output that is an input; None if there is none."""
    existing = {found: path for path in outputs if (found := identity(path))}
    taken = (existing.get(found) for path in inputs if existing and (found := identity(path)))
    return next((path for path in taken if path), None)


def write_output(path: Path, content: bytes) -> None:
    """Write a file of an output folder, with the folders above it. Raises DataError: it cannot be written."""
    try:
        write_atomically(path, content)
    except OSError as error:
        raise DataError(unwritable(path, error, "--output")) from None
