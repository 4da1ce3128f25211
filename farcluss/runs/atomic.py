"""Files that are either the old or the whole new one, whatever happens to the process or the machine."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

UNFINISHED = ".part"


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A new file to write into, which takes the place of `path` when the block ends without an error.

    Content and name are on the disk then, not merely in the system's memory.
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
    """Let `source`, whose content is on the disk, take the place of `path`, and have that name on the disk too."""
    os.replace(source, path)
    if hasattr(os, "O_DIRECTORY"):  # not on Windows
        folder = os.open(path.parent, os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file by `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content)


def remove_unfinished(folder: Path) -> None:
    """Remove what writers left in `folder` that were killed. Nobody else may be writing there."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
