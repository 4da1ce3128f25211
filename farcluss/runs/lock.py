"""A lock on a run directory, so that only one run writes to it."""

import json
import os
import socket
import time
from pathlib import Path
from typing import IO

from farcluss.errors import RunError
from farcluss.runs.outputs import real

try:
    import fcntl
except ImportError:  # not on Windows: there, a second process is not detected
    fcntl = None  # type: ignore[assignment]


_held: set[Path] = set()
"""Files locked by this process; the system would let it lock them again."""


class Lock:
    """A lock file, which the system unlocks when the process ends in any way.

    It names the process and host that hold it. If it names one but is not locked, that process has died.
    """

    def __init__(self, path: Path) -> None:
        """Only sets the path; nothing is locked."""
        self.path = path
        self.file: IO[str] | None = None

    def acquire(self) -> str:
        """Take the lock.

        Returns:
            A message if the last holder died or locking is impossible, else an empty string.

        Raises:
            RunError: another process holds it, or it is a link.
        """
        if real(self.path) in _held:
            raise RunError(f"{self.path.parent} is in use by another run of this process; choose another folder.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_symlink():  # locking empties the file
            raise RunError(f"{self.path} is a link, to {real(self.path)}. Remove it, then start again.")
        file = self.path.open("a+", errors="replace")
        file.seek(0)
        before = file.read()
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.close()
            raise RunError(
                f"{self.path.parent} is in use by {_owner(before)}.\n"
                "Wait for it or stop it, or choose another folder with --output."
            ) from None
        except OSError:  # the file system has no locks
            file.close()
            return f"{self.path.parent} cannot be locked: make sure that no other run uses it."
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}))
        file.flush()
        self.file = file
        _held.add(real(self.path))
        return f"{_owner(before)} ended without unlocking {self.path.parent}; continuing." if before else ""

    def release(self) -> None:
        """Unlock. The file stays, empty: removing it could remove the lock of the next process."""
        if self.file:
            self.file.truncate(0)
            self.file.close()
            self.file = None
            _held.discard(real(self.path))


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        return f"process {owner['pid']} on {owner['host']}, since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
