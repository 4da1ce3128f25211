"""What a layout has found, as plugins keep it: how its splits are asked for, and what is said of what it lacks."""

from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol, TypeVar

from farcluss.errors import DataError
from farcluss.recipes.model import Data

Entry = TypeVar("Entry", covariant=True)


class Index(Protocol[Entry]):
    """Entries, such as scans or scenes, by split; what is wrong with others, which are in no split."""

    @property
    def splits(self) -> Mapping[str, Sequence[Entry]]:
        """Entries by split: train (labeled and unlabeled), val, test."""

    @property
    def problems(self) -> Sequence[str]:
        """What is missing or contradictory."""


def in_split(index: Index[Entry], split: str, data: Data, thing: str) -> Sequence[Entry]:
    """The entries of a split, each of which is a `thing`. Raises DataError: no such split, or see `refuse_problems`."""
    if split not in index.splits:
        known = ", ".join(index.splits)
        raise DataError(f"The data set has no split {split!r}; it has {known}. Set data.val to a share or a list.")
    refuse_problems(index, data, thing)
    return index.splits[split]


def refuse_problems(index: Index[Entry], data: Data, thing: str) -> None:
    """Raise DataError when there are problems and nothing may be left out: the first of them, and how to go on."""
    problems = index.problems
    if not problems or data.on_error != "stop":
        return
    more = f" And {len(problems) - 1} more." if len(problems) > 1 else ""
    raise DataError(
        f"{' '.join(problems[0].split())}{more}\nFix {'them' if more else 'it'} (`farcluss check` lists all), or "
        f"leave these {thing}s out with --set data.on_error=skip."
    )


def refuse_name(name: str, index: Index[Entry], data: Data, thing: str, example: str) -> NoReturn:
    """Raise DataError for a name in a list that no entry has; `example` is one that there is."""
    refuse_problems(index, data, thing)
    left_out = " (or it was left out: `farcluss check` says why)" if index.problems else ""
    raise DataError(f"{name!r} is not a {thing} of this data set{left_out}; write {example}.")
