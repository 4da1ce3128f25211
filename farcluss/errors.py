"""Errors meant for the user: what is wrong, where, and what to do, in one to three lines."""

import difflib
from collections.abc import Iterable, Sequence


class FarclussError(Exception):
    """Base of every error whose text is meant for the user; the CLI prints it without a traceback."""


class RecipeError(FarclussError):
    """A recipe that cannot be read or is invalid; lists all of its errors at once."""


class PluginError(FarclussError):
    """A plugin that is missing, broken, ambiguous, or violates the contract of its group."""


class DataError(FarclussError):
    """Files, lists or masks that are missing, unreadable or inconsistent."""


class SampleError(DataError):
    """A sample that failed in one of several processes; only that process can report it."""


class WeightsError(FarclussError):
    """Weights that are missing, unsafe, or do not fit the network."""


class RunError(FarclussError):
    """A run that cannot start, resume or continue."""


class Cancelled(RunError):
    """Work that was cancelled on request."""


class Stopped(RunError):
    """A run that a signal has ended cleanly, after writing a checkpoint."""

    def __init__(self, text: str, signal: int) -> None:
        super().__init__(text, signal)
        self.text, self.signal = text, signal

    def __str__(self) -> str:
        return self.text


def suggestion(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` when a known name is similar, else `"."`."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else "."


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counted(number: int, noun: str) -> str:
    """A number with its noun: `"1 image"`, `"3 images"`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def short(text: object, most: int = 200) -> str:
    """A text on one line with its middle left out where it is long, as texts of users and libraries may be."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else f"{line[: most * 2 // 3]} ... {line[-most // 4 :]}"
