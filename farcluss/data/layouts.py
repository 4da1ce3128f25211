"""What layouts, also those of plugins, share: root, tables, option files, common options, data stored in weights."""

import csv
import functools
import inspect
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from farcluss.data.base import IGNORE
from farcluss.data.masks import MaskMap
from farcluss.data.splits import find_list
from farcluss.errors import DataError, RecipeError
from farcluss.plugins.sharing import announce
from farcluss.recipes.model import Data
from farcluss.recipes.texts import read_text

T = TypeVar("T")


def root_of(data: Data) -> Path:
    """The data set's root, absolute. Raises DataError when it is not a folder."""
    root = Path(os.path.abspath(data.root))
    if not root.is_dir():
        raise DataError(f"data.root = {data.root} is not a folder. Set it with --set data.root=FOLDER.")
    return root


def read_table(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """Rows of a CSV file with their line numbers, and its columns; surplus values are in the column "".

    Raises:
        DataError: it cannot be read; names `data.layout.file` as the key to look at.
    """
    text = read_text(path, DataError, "Check data.root and data.layout.file.")
    try:
        reader = csv.DictReader(io.StringIO(text), restkey="", restval="")
        rows = [(reader.line_num, row) for row in reader]
        columns = list(reader.fieldnames or [])
    except csv.Error as error:
        raise DataError(f"{path} cannot be read: {error}.") from None
    return [(n, {key: str(value).strip() for key, value in row.items()}) for n, row in rows], columns


def settle_channels(data: Data, counts: Mapping[str, int]) -> tuple[int, list[str]]:
    """The number of channels of images: from the recipe, else the most frequent one.

    Args:
        data: section of the recipe.
        counts: channels of each image, by its file.

    Returns:
        The number, and one problem text for each other number that occurs.
    """
    found = Counter(counts.values())
    wanted = data.channels or max(found, key=lambda count: (found[count], -count), default=data.channel_count)
    problems = []
    for count in sorted(found.keys() - {wanted}):
        first, *more = [path for path, own in counts.items() if own == count]
        text = f"{first} and {len(more)} more have {count} channels" if more else f"{first} has {count} channels"
        if data.channels is None:
            problems.append(f"{text}, but most images have {wanted}. Put each kind in a data set of its own.")
        else:
            problems.append(f"{text}, but data.channels is {wanted}. Remove that key, or set it to {count}.")
    return wanted, problems


def read_option(option: str, name: str, data: Data, take: Callable[[Any], T], *, what: str, command: str) -> T:
    """The value that a layout takes from a JSON file named by an option, relative to the working directory or the root.

    Args:
        option: key of the layout.
        name: of the file.
        data: section of the recipe.
        take: extracts the value from the parsed file; may raise LookupError, TypeError or ValueError.
        what: kind of file, for messages.
        command: the command that writes such a file.

    Raises:
        RecipeError: there is no such file, or that command did not write it.
    """
    path = find_list(name, data)
    if path is None:
        raise RecipeError(f"data.layout.{option}: there is no file {name}, neither here nor in {data.root}.")
    try:
        return take(json.loads(read_text(path, RecipeError)))
    except (ValueError, LookupError, TypeError, RecursionError):
        raise RecipeError(f"{path} is not a {what}. Write it with `{command}`.") from None


def carry(data: Data, masks: MaskMap, options: Mapping[str, Any]) -> Data:
    """The section as stored in weights files, with the layout's options and the classes resolved."""
    values: dict[int, list[int | str]] = {}
    for code, target in zip(masks.codes.tolist(), masks.targets.tolist(), strict=True):
        values.setdefault(target, []).append(f"#{code:06x}" if masks.colors else code)
    facts = {
        "layout": data.layout.model_copy(update=dict(options)),
        "classes": {name: values[index] for index, name in enumerate(masks.names)},
        "ignore_index": values.get(IGNORE),
        "reduce_zero_label": False,
    }
    return data.model_copy(update=facts)


def built_by(shared: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Turn functions `layout(data, *, options) -> index` into data set plugins that also have the options of `shared`.

    `shared(data, index, *, options)` builds the data set. The plugin's signature and documentation cover both, as with
    `farcluss.plugins.sharing.with_options_of`. An option of both has the layout's default and is passed to both.
    """
    theirs = _options(shared)

    def decorate(layout: Callable[..., Any]) -> Callable[..., Any]:
        mine = _options(layout)

        @functools.wraps(layout)
        def build(data: Data, **options: Any) -> Any:
            own = {name: value for name, value in options.items() if name in mine}
            return shared(data, layout(data, **own), **{n: v for n, v in options.items() if n in theirs})

        announce(build, layout, shared)
        return build

    return decorate


def _options(function: Callable[..., Any]) -> set[str]:
    """Names of the keyword-only parameters of a function."""
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
