"""Errors meant for the user: what is wrong, where, and what to do, in one to three lines."""

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path


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


FAILURES = (Exception, SystemExit)
"""How code of a plugin fails: one that calls `sys.exit` must not end the command, least of all as a success."""


def not_a_file(path: str | os.PathLike[str]) -> str:
    """What a path is that exists but is no regular file: a folder, or a pipe, from which reading may never end."""
    if os.path.isdir(path):
        return "a folder"
    return "a pipe, socket or device" if os.path.exists(path) and not os.path.isfile(path) else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy or PyTorch says that memory is used up, of the host or of a device."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or "allocate memory" in str(error)


def failure(name: object, error: BaseException) -> str:
    """What to say of one file whose processing failed, with its name; what nobody foresaw is to be reported."""
    if isinstance(error, FarclussError):
        return str(error)
    if is_out_of_memory(error):
        return f"{name}: memory is used up. Give smaller pieces of it, or use a machine with more memory."
    text = str(error).strip().partition("\n")[0]
    if isinstance(error, OSError):
        return f"{name}: {error.strerror or text}{f': {error.filename}' if error.filename else ''}."
    return (
        f"{name}: unexpected {type(error).__name__}: {text:.200}\n"
        "Run `farcluss --debug ...` on it alone for the traceback, and report it."
    )


def by_cause(errors: Iterable[tuple[str, str]]) -> list[str]:
    """One text per cause, of errors given as name of the file and text: the first, and how many more are like it.

    Texts are alike without the name, and without the names of files that are made of it.
    """
    causes: dict[str, list[str]] = {}
    for name, text in errors:
        made = rf"[^\s/]*/{re.escape(Path(name).stem)}[^\s/]*" if name else "$^"
        causes.setdefault(re.sub(made, "", text.replace(name, "") if name else text), []).append(text)
    return [
        texts[0] + (f"\nThe same holds for {len(texts) - 1:,} more." if len(texts) > 1 else "")
        for texts in causes.values()
    ]


def shown(text: str) -> str:
    """A text with control characters, which names from elsewhere may have, as escapes: terminals obey the others."""
    return "".join(each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in text)


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
