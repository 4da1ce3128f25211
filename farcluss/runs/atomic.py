"""Atomic writes: a file is either the old or the complete new one, even after a crash."""

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import numpy as np

UNFINISHED = ".part"


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Write to a temporary file, which replaces `path` when the block ends without an error.

    Content and name are then on the disk, not only in the system's cache. Permissions follow the umask.

    Raises:
        OSError: its `filename` is `path`, unless it is of a folder above it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}{UNFINISHED}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        rename_durably(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
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


def save_array(file: IO[bytes], array: Any) -> None:
    """Write an array as `.npy`; errors are the system's, where NumPy would say only how much was written."""
    np.save(SimpleNamespace(write=file.write), array)


def is_full(error: OSError) -> bool:
    """Whether there is no room for more bytes: on the disk, or in the user's share of it."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def reason(error: OSError) -> str:
    """Why a file cannot be written, as text, from errors of the system or of libraries above it."""
    return error.strerror or str(error).strip().partition("\n")[0] or type(error).__name__


def unwritable(path: Path, error: OSError, other: str) -> str:
    """The message for a file or folder that cannot be written; `other` is what to give instead, such as an option."""
    advice = f"Free space there, or choose another {other}" if is_full(error) else f"Choose another {other}"
    if error.errno == errno.ENAMETOOLONG:
        advice = "Shorten the name"
    return f"{path} cannot be written: {reason(error)}. {advice}."


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of killed writers in `folder`, where no one else may be writing."""
    for path in folder.glob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)
