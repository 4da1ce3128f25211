"""A lock on a run directory, so that two processes never write into one."""

import json
import os
import socket
import time
from pathlib import Path
from typing import IO

from farcluss.errors import RunError

try:
    import fcntl
except ImportError:  # Windows has no such locks: there, a second process is not noticed
    fcntl = None  # type: ignore[assignment]


_held: set[Path] = set()
"""Files that this process has locked, which the system would let it lock again."""


class Lock:
    """A file that the system locks for one process, and lets go when that ends, however it ends.

    The file says which process on which host holds it. That of a process that died is recognized by being free.
    """

    def __init__(self, path: Path) -> None:
        """Name the file; nothing is locked yet."""
        self.path = path
        self.file: IO[str] | None = None

    def acquire(self) -> str:
        """Take the lock.

        Returns:
            A line about the process that died holding it or about locks being impossible, or nothing.

        Raises:
            RunError: another process holds it.
        """
        if self.path.resolve() in _held:
            raise RunError(f"{self.path.parent} is in use by this very process; choose another folder.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
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
            return f"{self.path.parent} cannot be locked: see to it that no other run uses it."
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.ctime()}))
        file.flush()
        self.file = file
        _held.add(self.path.resolve())
        return f"{_owner(before)} ended without unlocking {self.path.parent}; going on." if before else ""

    def release(self) -> None:
        """Let go. The file stays, empty: removing it could take it away from the next process."""
        if self.file:
            self.file.truncate(0)
            self.file.close()
            self.file = None
            _held.discard(self.path.resolve())


def _owner(text: str) -> str:
    try:
        facts = json.loads(text)
        return f"process {facts['pid']} on {facts['host']}, since {facts['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
