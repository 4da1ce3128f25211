"""Atomic writes: a file is either the old or the complete new one, even after a crash."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

UNFINISHED = ".part"


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Write to a temporary file, which replaces `path` when the block ends without an error.

    Content and name are then on the disk, not only in the system's cache.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        rename_durably(Path(temporary), path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def rename_durably(source: Path, path: Path) -> None:
    """Rename `source`, whose content is on the disk, to `path`, and sync the new name to the disk."""
    os.replace(source, path)
    if hasattr(os, "O_DIRECTORY"):  # not on Windows
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file with `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of killed writers in `folder`, where no one else may be writing."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
