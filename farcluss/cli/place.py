"""The place where a command runs: its arguments, working directory and standard output."""

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from farcluss.errors import RunError, short

STDOUT = "standard output"


def require_place() -> None:
    """Raise RunError when the working directory is gone, in which libraries fail with messages of their own."""
    try:
        os.getcwd()
    except OSError as error:
        raise RunError(f"The working directory cannot be used: {error.strerror}. Change to another folder.") from None


def refuse_nul(words: Sequence[str]) -> None:
    """Raise UsageError for an argument with a NUL character, which no name of a file can hold."""
    if wrong := next((word for word in words if "\0" in word), None):
        raise click.UsageError(f"The argument {short(wrong)!r} holds a NUL character, which no name has.")


class _Output(io.FileIO):
    """Standard output that drops what nobody reads any more, and names itself in errors."""

    def write(self, content: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]
        try:
            return super().write(content)
        except BrokenPipeError:
            return len(memoryview(content).cast("B"))
        except OSError as error:
            error.filename = STDOUT
            raise


def outlive_reader() -> None:
    """Let the work go on when the reader of standard output leaves, as `head` does, and whatever its encoding lacks.

    Only the standard output of a process is replaced, no stream that stands in for it.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.stdout is None or sys.stdout is not sys.__stdout__ or not isinstance(sys.stdout, io.TextIOWrapper):
        return
    sys.stdout.flush()
    raw: Any = _Output(sys.stdout.fileno(), "w", closefd=False)
    encoding, lines = sys.stdout.encoding, sys.stdout.line_buffering
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), encoding, "backslashreplace", line_buffering=lines)
