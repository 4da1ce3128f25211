"""The errors that people see: what is wrong, where, and what to do, in one to three lines."""

import difflib
from collections.abc import Iterable, Sequence


class FarclussError(Exception):
    """Base of every error whose text is meant for the user; the CLI prints it without a traceback."""


class RecipeError(FarclussError):
    """A recipe that cannot be read or does not validate; carries every error of the recipe at once."""


class PluginError(FarclussError):
    """A plugin that is missing, broken, ambiguous, or that breaks the contract of its group."""


class DataError(FarclussError):
    """Files, lists or masks that are missing, unreadable or contradictory."""


class SampleError(DataError):
    """A sample that failed in one process of several, which alone knows of it and so must say so."""


class WeightsError(FarclussError):
    """Weights that are missing, unsafe, or do not fit the network."""


class RunError(FarclussError):
    """A run that cannot start, resume or go on."""


class Cancelled(RunError):
    """Work that was given up because something asked for it."""


class Stopped(RunError):
    """A run that a signal has ended in good order, after a checkpoint."""

    def __init__(self, text: str, signal: int) -> None:
        super().__init__(text, signal)
        self.text, self.signal = text, signal

    def __str__(self) -> str:
        return self.text


def suggestion(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` when something near is known, else `"."`."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else "."


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
