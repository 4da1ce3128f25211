"""The index that a plugin's layout builds: access to its splits, and errors about missing or wrong files."""

from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol, TypeVar

from farcluss.errors import DataError
from farcluss.recipes.model import Data

Entry = TypeVar("Entry", covariant=True)


class Index(Protocol[Entry]):
    """Entries, such as scans or scenes, by split; and problems of other entries, which are in no split."""

    @property
    def splits(self) -> Mapping[str, Sequence[Entry]]:
        """Entries by split: train (labeled and unlabeled), val, test."""

    @property
    def problems(self) -> Sequence[str]:
        """What is missing or contradictory."""


def in_split(index: Index[Entry], split: str, data: Data, thing: str) -> Sequence[Entry]:
    """The entries of a split; `thing` names one in messages. Raises DataError: no such split, or `refuse_problems`."""
    if split not in index.splits:
        known = ", ".join(index.splits)
        raise DataError(f"The data set has no split {split!r}; it has {known}. Set data.val to a share or a list.")
    refuse_problems(index, data, thing)
    return index.splits[split]


def refuse_problems(index: Index[Entry], data: Data, thing: str) -> None:
    """Raise DataError with the first problem and what to do, unless `data.on_error` allows leaving entries out."""
    problems = index.problems
    if not problems or data.on_error != "stop":
        return
    more = f" And {len(problems) - 1} more." if len(problems) > 1 else ""
    raise DataError(
        f"{' '.join(problems[0].split())}{more}\nFix {'them' if more else 'it'} (`farcluss check` lists all), or "
        f"leave these {thing}s out with --set data.on_error=skip."
    )


def refuse_name(name: str, index: Index[Entry], data: Data, thing: str, example: str) -> NoReturn:
    """Raise DataError for a name in a list that no entry has; `example` is a name that exists."""
    refuse_problems(index, data, thing)
    left_out = " (or it was left out: `farcluss check` says why)" if index.problems else ""
    raise DataError(f"{name!r} is not a {thing} of this data set{left_out}; write {example}.")
