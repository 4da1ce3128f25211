"""A first recipe for a folder of images: what is there, and what suits it."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from statistics import median
from typing import Any

import numpy as np
import torch

from farcluss.annotations.formats import FORMATS, formats_in
from farcluss.data.base import IGNORE, Dataset, Item
from farcluss.data.files import SUFFIXES, image_size
from farcluss.data.proposals import Proposal
from farcluss.data.searching import search
from farcluss.errors import DataError, counted, some
from farcluss.jobs.arrangement import Pairs, Rule, find_pairs, options
from farcluss.jobs.codes import Codes, classes_of, read_codes, share_text
from farcluss.jobs.importing import open_export
from farcluss.learning.build import build_dataset
from farcluss.plugins import registry
from farcluss.recipes.model import Data
from farcluss.recipes.reading import recipe_folder
from farcluss.runs.outputs import write_output

LOOKED_AT, FEW = 200, 40
"""Images whose size is read; masks of exports that are drawn."""
TRIED = 4
"""Rules of names that are tried."""
NEARLY_ALL = 0.9
"""Share of the pixels of a class beside which rebalancing would make the others too large: docs/results.md."""


Tracked = Callable[[Sequence[Path]], Iterable[Path]]
"""Shows how far an iteration is."""


def look(source: Path, tracked: Tracked) -> Proposal:
    """What a folder is: something that a plugin knows, an annotation export, or images with masks.

    Raises:
        DataError: it is nothing of these.
    """
    for plugin in registry.find("init"):
        found: Proposal | None = plugin.load()(source)
        if found is not None:
            return found
    if formats := formats_in(source):
        return _export(source, formats[0].layout, [each.title for each in formats])
    return _photos(source, tracked)


def _export(source: Path, layout: str, titles: Sequence[str]) -> Proposal:
    settings: dict[str, Any] = {"empty": "unlabeled"} if FORMATS[layout].drawn else {}
    dataset, splits = open_export(layout, source, settings)
    items = splits["train"]
    masked = [item for item in items if item.mask]
    if not masked:
        raise DataError(f"The {titles[0]} export in {source} has no annotated image. Annotate some of them first.")
    notes = [f"several formats are there: {some(titles)}; {titles[0]} is taken"] if len(titles) > 1 else []
    if settings:
        notes.append("images without any area are taken as unlabeled, not as empty: see data.layout.empty")
    data: dict[str, Any] = {"layout": {"name": layout, **settings}, "val": _val(len(masked), "val" in splits)}
    data |= {"classes": list(dataset.classes)} if settings else {}  # else their values are in the export
    notes.append(f"classes: {some(list(dataset.classes), 8)}")
    size = _typical([Path(item.image) for item in items])
    what, unlabeled = f"an export of {FORMATS[layout].title}", len(items) - len(masked)
    return Proposal(what, data, len(masked), unlabeled, size, _largest(dataset, masked), notes)


def _photos(source: Path, tracked: Tracked) -> Proposal:
    files = [path.relative_to(source).as_posix() for path in search(source, SUFFIXES).files]
    if not files:
        raise DataError(f"There are no images in {source}, and no annotation export that is known.\n"
                        f"Images end in {', '.join(sorted(SUFFIXES))}; formats: {', '.join(FORMATS)}.")  # fmt: skip
    pairs, codes = _masks(source, files, tracked)
    classes, notes = classes_of(codes, source)
    found = options(pairs)
    found = found if found and _finds(source, found, classes, pairs) else None
    by_split = Counter((pairs.split(image), image in pairs.masks) for image in pairs.images)
    layout: dict[str, Any] = {"name": "folder", **(found or {"images": "train.txt"})}
    lists = {} if found else _lists(pairs, source)
    layout |= {f"{split}_images": f"{split}.txt" for split in ("val", "test") if f"{split}.txt" in lists}
    labeled = by_split["train", True]
    if not labeled:
        raise DataError(f"No image in {source} that is not of val or test has a mask. Move some of them, or draw some.")
    if labeled + by_split["train", False] < 2:
        raise DataError(f"{source} has a single image to train on. Add images, with or without masks.")
    data = {"layout": layout, **classes, "val": _val(labeled, by_split["val", True] > 0)}
    notes = [*_told_of(pairs, files), *notes, *codes.notes, f"share of the pixels: {share_text(codes, data)}"]
    size = _typical([source / image for image in pairs.images])
    largest = max(codes.shares.values())
    return Proposal("images and masks", data, labeled, by_split["train", False], size, largest, notes, lists=lists)


def _told_of(pairs: Pairs, files: Sequence[str]) -> list[str]:
    """How masks were found, what was left out, and whether names look like groups."""
    rule = pairs.rule or Rule(".", ".", "")
    where = "beside them" if rule.masks == rule.images else f"in {rule.masks}"
    named = f", named with {rule.end}" if rule.end else ""
    notes = [f"{len(pairs.masks):,} of {counted(len(pairs.images), 'image')} have a mask {where}{named}"]
    places = {PurePosixPath(name).parent for name in (*pairs.images, *pairs.masks.values())}
    if left := sum(PurePosixPath(name).parent not in places for name in files):
        notes.append(f"{counted(left, 'image')} in other folders are not used; see data.layout.images")
    if pattern := groups(PurePosixPath(image).stem for image in pairs.masks):
        notes.append(f"names look like groups, as of one video or plant; if so: data.layout.group = '{pattern}'")
    return notes


def _masks(source: Path, files: Sequence[str], tracked: Tracked) -> tuple[Pairs, Codes]:
    """Which files are masks, and what they hold; names may fit the wrong way round, which the pixels tell."""
    refused: dict[Rule, DataError] = {}
    while (pairs := find_pairs(files, refused)).rule and len(refused) < TRIED:
        try:
            return pairs, read_codes([source / mask for mask in dict.fromkeys(pairs.masks.values())], tracked)
        except DataError as error:
            refused[pairs.rule] = error
    if refused:
        raise next(iter(refused.values()))
    raise DataError(f"None of the {counted(len(files), 'image')} in {source} has a mask of the same name.\n"
                    "Draw some, and put them into a folder masks, named as their images.")  # fmt: skip


def _largest(dataset: Dataset, items: Sequence[Item]) -> float:
    """Share of the pixels of the most frequent class, in some images."""
    counts = np.zeros(IGNORE + 1, np.int64)
    for item in items[:: max(1, len(items) // FEW)]:
        mask = dataset.read(item).mask
        assert mask is not None
        counts += np.bincount(mask.ravel(), minlength=IGNORE + 1)
    return float(counts[:IGNORE].max() / max(counts[:IGNORE].sum(), 1))


def _val(labeled: int, known: bool) -> str:
    if known:
        return "val"
    return "none" if labeled < 2 else "1/5"


def _finds(source: Path, found: Mapping[str, str], classes: Mapping[str, Any], pairs: Pairs) -> bool:
    """Whether the layout `folder` with these options finds the pairs, no more and no less."""
    section = Data.model_validate({"root": source, "layout": {"name": "folder", **found}, **classes})
    wanted = {split: set(each) for split, each in pairs.by_split(os.path.abspath(source)).items()}
    try:
        dataset = build_dataset(section)
        return all({(item.image, item.mask) for item in dataset.items(split)} == wanted[split] for split in wanted)
    except DataError:
        return False


def _lists(pairs: Pairs, source: Path) -> dict[str, str]:
    """List files by name, with absolute paths, where no pattern says what belongs together."""
    return {
        f"{split}.txt": "".join("\t".join(filter(None, pair)) + "\n" for pair in each)
        for split, each in pairs.by_split(os.path.abspath(source)).items()
    }


def _typical(paths: Sequence[Path]) -> tuple[int, int]:
    """The median height and width of some images."""
    chosen = [paths[index * len(paths) // min(len(paths), LOOKED_AT)] for index in range(min(len(paths), LOOKED_AT))]
    sizes = [image_size(str(path)) for path in chosen]
    return int(median(size[0] for size in sizes)), int(median(size[1] for size in sizes))


def groups(stems: Any) -> str | None:
    """A pattern for the groups that names tell: what stands before their last number, where that repeats."""
    pattern = r"(.*\D)\d+$"
    found = Counter(match[1] for stem in stems if (match := re.match(pattern, stem)))
    several = [name for name, count in found.items() if count > 1]
    telling = len(found) > 1 and any(char.isdigit() for name in several for char in name)
    return "(.*[^0-9])[0-9]+$" if telling and len(several) >= len(found) / 2 else None


@dataclass(frozen=True)
class Machine:
    """What there is to train on.

    Attributes:
        gib: memory of the GPU, or of the machine without one.
        gpu: whether there is one.
    """

    gib: float
    gpu: bool

    @classmethod
    def here(cls) -> "Machine":
        """This machine."""
        if torch.cuda.is_available():
            return cls(torch.cuda.get_device_properties(0).total_memory / 2**30, True)
        return cls(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, False)


@dataclass(frozen=True)
class Plan:
    """What suits images, labels and machine."""

    crop: int | list[int]
    batch: int
    encoder: str
    steps: int
    every: int
    ema: float
    warmup: int
    labeled: str
    workers: int
    rebalanced: bool


def plan(proposal: Proposal, machine: Machine, settings: Mapping[str, Any]) -> Plan:
    """Sizes by rule of thumb: a crop shows most of a usual photo, a step fits the memory, a run ends within hours.

    On a CPU, everything is small, and a run of few labels ends within minutes. What is set, by section and key, counts,
    and the rest follows it.
    """
    data, network, train = (settings.get(name, {}) for name in ("data", "network", "train"))
    most = (513 if machine.gib >= 16 else 321) if machine.gpu else 161
    crop: int | list[int] = max(33, min(most, (min(proposal.size) - 1) // 16 * 16 + 1))
    batch = (8 if machine.gpu else 4) if proposal.labeled >= 4 else 2
    if len(proposal.size) == 3:
        crop, batch = [side if machine.gpu else min(side, 64) for side in proposal.data["crop"]], 2
    encoder = "resnet50" if machine.gpu and machine.gib >= 8 else "resnet18"
    steps = min(max(40 * proposal.labeled, 2000), 20000) if machine.gpu else min(max(20 * proposal.labeled, 200), 1000)
    steps = train.get("steps", -(-steps // 100) * 100)
    ema = 0.999 if steps >= 4000 else 0.99
    return Plan(
        data.get("crop", crop),
        train.get("batch", batch),
        network.get("encoder", encoder),
        steps,
        max(steps // 10, 50),
        ema,
        steps // 5,
        "all" if proposal.unlabeled else "1/4",
        min(4, max(0, (os.cpu_count() or 1) - 1)),
        proposal.largest < NEARLY_ALL,
    )


def told(proposal: Proposal, plan: Plan, machine: Machine) -> list[str]:
    """What was decided, and why, in a few lines."""
    place = f"a GPU of {machine.gib:.0f} GiB" if machine.gpu else "no GPU"
    held = proposal.data.get("val")
    lines = [f"found: {proposal.what}; {proposal.labeled:,} with a mask, {proposal.unlabeled:,} without",
             *proposal.notes]  # fmt: skip
    if held == "1/5":
        lines.append("held out to score on: a fifth of those with a mask (data.val)")
    elif held == "none":
        lines.append("nothing is held out to score on, as a single image has a mask: label more of them")
    if plan.labeled != "all":
        lines.append(
            f"all images have a mask: {plan.labeled} of the masks are used, the rest trains without (data.labeled)"
        )
    if not plan.rebalanced:
        lines.append(
            f"one class covers {100 * proposal.largest:.0f} % of the pixels: no rebalancing, which would make "
            "the others too large; CutMix"
        )
    extent = " x ".join(map(str, reversed(proposal.size)))
    network = "" if proposal.base else f"{plan.encoder}, "
    lines.append(
        f"images are some {extent} pixels, and here is {place}: crops of {plan.crop}, "
        f"{plan.batch} + {plan.batch} images a step, {network}{plan.steps:,} steps"
    )
    return lines


def write(folder: Path, name: str, proposal: Proposal, text: str) -> None:
    """Write the recipe, lists beside it, and the shipped recipe that it extends. Raises DataError."""
    files = {name: text.encode()} | {key: value.encode() for key, value in proposal.lists.items()}
    if proposal.base:
        files[proposal.base] = (recipe_folder() / proposal.base).read_bytes()
    for place, content in files.items():
        write_output(folder / place, content)
