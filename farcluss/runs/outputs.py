"""Outputs that must not replace what a command reads, by whatever name they are given."""

import os
from collections.abc import Iterable
from pathlib import Path


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
