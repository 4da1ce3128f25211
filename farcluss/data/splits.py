"""Which images are labeled, which are unlabeled and which are held out: from lists, shares and published names."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from farcluss.data import published
from farcluss.data.base import IGNORE, Dataset, Item, MissingMask, account_of, read_sample
from farcluss.errors import DataError, counted, short
from farcluss.recipes.model import Data
from farcluss.recipes.texts import read_text


@dataclass(frozen=True)
class Splits:
    """The three sets of a run, and the names of their lists (the published name of a list that equals one).

    Attributes:
        labeled: images whose masks are learned.
        unlabeled: images without, or with masks that are not looked at.
        val: images to score on.
        names: of the lists of these three.
        probe: labeled images that are among the unlabeled ones instead, to watch the pseudo-labels by.
    """

    labeled: list[Item]
    unlabeled: list[Item]
    val: list[Item]
    names: dict[str, str]
    probe: list[Item] = field(default_factory=list)


_SHARE = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?(/\d+)?", re.ASCII | re.IGNORECASE)


def parse_share(text: str, key: str) -> float | None:
    """The value of a share such as `"1/8"` or `"0.125"`, given as `key`; None for other texts.

    Raises:
        DataError: a share that is not in (0, 1].
    """
    if not _SHARE.fullmatch(text):
        return None
    part, _, whole = text.partition("/")
    try:
        share = float(part) / float(whole or 1)
    except (ValueError, ZeroDivisionError):
        return None
    if not 0 < share <= 1:
        raise DataError(f"{key}: a share must lie in (0, 1], not {short(text)}. Write it like 1/8.")
    return share


Unit = list[Item]
"""The items of one group, or a single item without one."""


def draw_share(items: Sequence[Item], share: float, seed: int, salt: str) -> list[Item]:
    """A share of the units of `items` (at least one) by a seeded hash: the order of the items does not matter."""
    units = hash_order(items, seed, salt)
    return [item for unit in units[: max(1, round(len(units) * share))] for item in unit]


def hash_order(items: Iterable[Item], seed: int, salt: str) -> list[Unit]:
    """The units of `items` in the order of a seeded hash of their names, or of the ids of items without a group."""
    units: dict[str, Unit] = {}
    for item in items:
        units.setdefault(item.unit, []).append(item)

    def key(unit: Unit) -> tuple[bytes, str]:  # two files may share an id: a.jpg and a.png
        return hashlib.sha256(f"{salt}:{seed}:{unit[0].group or unit[0].id}".encode()).digest(), unit[0].image

    return sorted((sorted(unit, key=lambda item: item.id) for unit in units.values()), key=key)


def cover_classes(dataset: Dataset, drawn: list[Unit], rest: Sequence[Unit]) -> list[Unit]:
    """Swap drawn units until every class is in one of them, where possible.

    For each missing class, the first unit of `rest` that has it replaces the last drawn one that is not the
    only one with a class. Masks are read one by one, and only while a class is missing.
    """
    held: list[set[int]] = []
    found: set[int] = set()
    for unit in drawn:
        held.append(classes_of(dataset, unit))
        found |= held[-1]
        if len(found) == len(dataset.classes):
            return drawn
    for candidate in rest:
        missing = set(range(len(dataset.classes))) - set().union(*held)
        if not missing:
            break
        offered = classes_of(dataset, candidate)
        if not offered & missing:
            continue
        for place in reversed(range(len(drawn))):
            if set().union(offered, *held[:place], *held[place + 1 :]) >= set().union(*held):
                drawn[place], held[place] = candidate, offered
                break
    return drawn


def classes_of(dataset: Dataset, unit: Unit) -> set[int]:
    """The classes in the masks of a unit; none for one that cannot be read, which `check` and training report."""
    found: set[int] = set()
    for item in unit:
        try:
            mask = read_sample(dataset, item).mask
        except DataError:
            continue
        found |= set() if mask is None else set(np.unique(mask).tolist()) - {IGNORE}
        if len(found) == len(dataset.classes):
            break
    return found


LONGEST = 2 * 4096
"""Characters of a line of a list, image and mask; Linux has no longer paths."""


def read_list(path: Path, dataset: Dataset, need_masks: bool = True) -> list[Item]:
    """Items of a list file, one line each; blank lines are skipped.

    Args:
        path: of the list.
        dataset: parses the lines.
        need_masks: whether a listed mask that is missing is an error; else its image is taken without it.

    Raises:
        DataError: the list is unreadable or empty, or a line names no image; the message has the line number.
    """
    lines = read_text(path, DataError).split("\n")  # not splitlines: names may hold other line separators
    parse = getattr(dataset, "parse_group", lambda line: [dataset.parse(line)])
    items: list[Item] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                if len(line) > LONGEST:
                    raise DataError(f"{short(line, 80)!r} is longer than any two paths. Write one image per line.")
                items += parse(line)
            except MissingMask as error:
                if need_masks:
                    raise DataError(f"{path}, line {number}: {error}") from None
                items += error.items
            except DataError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
            except OSError as error:  # such as a name that no file system takes
                raise DataError(f"{path}, line {number}: {short(line, 80)!r}: {error.strerror}.") from None
    if not items:
        raise DataError(f"List {path} is empty. Each line names an image, or an image and its mask.")
    _refuse_repeated(path, items)
    return items


def _refuse_repeated(path: Path, items: Sequence[Item]) -> None:
    """Raise DataError for images that a list names more than once: they would count more often than others."""
    counts = Counter(item.image for item in items)
    if repeated := [image for image, count in counts.items() if count > 1]:
        number = f"{len(repeated)} images" if repeated[1:] else "an image"
        raise DataError(
            f"List {path} names {number} more than once, the first is {repeated[0]} ({counts[repeated[0]]} times).\n"
            "Remove the repeated lines."
        )


def find_list(text: str, data: Data) -> Path | None:
    """A list file relative to the working directory or to the data set's root."""
    return next((path for path in (Path(text), data.root / text) if os.path.isfile(path)), None)


def resolve(dataset: Dataset, data: Data) -> Splits:
    """The three sets of a recipe.

    Raises:
        DataError: a list is missing, empty or contradictory, a set is empty, sets overlap, or a mask is missing.
    """
    val = resolve_val(dataset, data)
    held_out = {item.unit for item in val}
    labeled, companion = _resolve_labeled(dataset, data, held_out)
    taken = {item.image for item in labeled}
    if data.unlabeled == "none":
        unlabeled = []
    elif data.unlabeled != "rest":
        path = _required(data.unlabeled, "data.unlabeled", data, '"rest" or "none"')
        unlabeled = read_list(path, dataset, need_masks=False)
    elif companion is not None:
        unlabeled = read_list(companion, dataset, need_masks=False)
    else:
        train = dataset.items("train")
        unlabeled = [item for item in train if item.image not in taken and item.unit not in held_out]
    for key, items in (("labeled", labeled), ("val", val)):
        bare = [item for item in items if item.mask is None]
        if bare:
            raise DataError(
                f"data.{key} has {counted(len(bare), 'image')} of {len(items):,} without a mask, the first is "
                f"{bare[0].image}.\n"
                "Check the layout's masks option, or remove them from the list."
            )
    if not labeled:
        raise DataError(
            f"There are no labeled images: data.val takes all that have a mask.\n{_first_line(dataset, val)}"
            "Give it a smaller share."
        )
    if not data.allow_overlap:
        _check_disjoint({"labeled": labeled, "unlabeled": unlabeled, "val": val})
    names = {"labeled": data.labeled, "unlabeled": data.unlabeled, "val": data.val}
    for key, items in (("labeled", labeled), ("unlabeled", unlabeled), ("val", val)):
        if items and (known := published.recognize(published.identifier(item.image) for item in items)):
            names[key] = known
    return hold_back(Splits(labeled, unlabeled, val, names), data)


def hold_back(splits: Splits, data: Data) -> Splits:
    """The sets with `data.probe` units of the labeled images among the unlabeled ones. Raises DataError: too many."""
    if not data.probe:
        return splits
    units = hash_order(splits.labeled, data.draw_seed, "probe")
    if data.probe >= len(units):
        raise DataError(
            f"data.probe = {data.probe} would leave no labeled image of {counted(len(units), 'image or group')}.\n"
            "Lower it, or label more images."
        )
    probe = [item for unit in units[: data.probe] for item in unit]
    held = {item.image for item in probe}
    unlabeled = splits.unlabeled if data.unlabeled == "none" else [*splits.unlabeled, *probe]
    return replace(splits, labeled=[item for item in splits.labeled if item.image not in held],
                   unlabeled=unlabeled, probe=probe)  # fmt: skip


def resolve_val(dataset: Dataset, data: Data) -> list[Item]:
    """The images that are scored; the lists of those to train on are not needed. Raises DataError, see `resolve`."""
    if data.val == "none":
        return []
    if data.val in ("val", "test"):
        return dataset.items(data.val)
    if share := parse_share(data.val, "data.val"):
        return draw_share(_masked(dataset), share, data.draw_seed, "val")
    path = _required(data.val, "data.val", data, 'a share such as "1/5", "val", "test" or "none"')
    return read_list(path, dataset)


def _resolve_labeled(dataset: Dataset, data: Data, held_out: set[str]) -> tuple[list[Item], Path | None]:
    """Labeled items, and the list of unlabeled ones where a published list has one."""
    if data.labeled == "all":
        return [item for item in _masked(dataset) if item.unit not in held_out], None
    if share := parse_share(data.labeled, "data.labeled"):
        pool = [item for item in _masked(dataset) if item.unit not in held_out]
        units = hash_order(pool, data.draw_seed, "labeled")
        count = max(1, round(len(units) * share))
        return [item for unit in cover_classes(dataset, units[:count], units[count:]) for item in unit], None
    if path := find_list(data.labeled, data):
        return read_list(path, dataset), None
    if data.labeled not in published.PUBLISHED and (Path(data.labeled).suffix or "/" in data.labeled):
        _required(data.labeled, "data.labeled", data, 'a share such as "1/8", or "all"')
    labeled, unlabeled = published.local(data.labeled)
    return read_list(labeled, dataset), unlabeled


def _masked(dataset: Dataset) -> list[Item]:
    items = dataset.items("train")
    masked = [item for item in items if item.mask is not None]
    if not masked:
        raise DataError(
            f"None of the {len(items)} training images has a mask.\n{_first_line(dataset, items)}"
            "Check data.root and the layout's masks option, or name a list file in data.labeled."
        )
    return masked


def _first_line(dataset: Dataset, items: Sequence[Item]) -> str:
    """What is passed over first, as a line; empty where nothing is."""
    return "".join(f"{line}\n" for line in account_of(dataset, items).lines()[:1])


def _required(text: str, key: str, data: Data, others: str) -> Path:
    path = find_list(text, data)
    if path is None:
        raise DataError(
            f"{key}: there is no list file {short(text)}, neither here nor in {data.root}.\n"
            f"Give the path of one, or {others}."
        )
    return path


def _check_disjoint(sets: dict[str, list[Item]]) -> None:
    names = list(sets)
    for index, first in enumerate(names):
        images = {item.image for item in sets[first]}
        for second in names[index + 1 :]:
            shared = [item.image for item in sets[second] if item.image in images]
            if shared:
                raise DataError(
                    f"data.{first} and data.{second} share {counted(len(shared), 'image')}, the first is {shared[0]}.\n"
                    "Take them out of one list, or set data.allow_overlap = true."
                )
    held_out = {item.group for item in sets["val"]} - {""}
    for name in ("labeled", "unlabeled"):
        shared = sorted({item.group for item in sets[name]} & held_out)
        if shared:
            raise DataError(
                f"data.{name} and data.val share {counted(len(shared), 'group')}, the first is {shared[0]}: "
                "scores would be computed on training data.\n"
                "Keep each group in one set, or set data.allow_overlap = true."
            )
