"""Splits scenes, or blocks of them, into sets that share no place and do not touch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from farcluss.data.base import IGNORE, Window
from farcluss.data.indexes import refuse_problems
from farcluss.data.splits import Unit, cover_classes, hash_order
from farcluss.errors import DataError
from farcluss_remote_sensing.boxes import area, bounds_of, trim
from farcluss_remote_sensing.dataset import SceneDataset
from farcluss_remote_sensing.scenes import Scene
from farcluss_remote_sensing.tiles import name_of, parse_name, tiles, whole

SETS = ("labeled", "unlabeled", "val", "test")
LEAST = 4
"""A trimmed block is dropped if less than 1/4 of a side is left."""


@dataclass(frozen=True)
class Shares:
    """Shares to draw: of the labeled scenes or blocks for `val` and `test`, and of the others for `labeled`."""

    val: float
    test: float
    labeled: float


@dataclass(frozen=True)
class Division:
    """Lines of lists.

    Attributes:
        sets: lines by set: labeled, unlabeled, val, test; a set may be empty.
        left_out: scenes and blocks that are in no set.
        lost: share of the blocks' pixels lost to the buffer.
    """

    sets: dict[str, list[str]]
    left_out: list[str]
    lost: float = 0.0


def by_scene(dataset: SceneDataset, shares: Shares, seed: int) -> Division:
    """Draw whole scenes; those of one group stay together, and unlabeled ones of a held-out group are left out.

    Raises:
        DataError: files are missing or contradictory, or there are too few labeled scenes.
    """
    scenes = _training_scenes(dataset)
    labeled = [scene for scene in scenes if scene.label]
    units = _ordered([dataset.parse_group(scene.id) for scene in labeled], seed)
    train, held_out = _hold_out(dataset, units, shares, "scenes or groups")
    known, others = _choose_labeled(dataset, train, shares)
    drawn = {"labeled": known, "unlabeled": others, **held_out}
    sets = {name: {dataset.find(item)[0].id for unit in drawn[name] for item in unit} for name in SETS}
    closed = {scene.place for scene in labeled if scene.id in sets["val"] | sets["test"]}
    bare = {scene.id: scene.place in closed for scene in scenes if not scene.label}
    sets["unlabeled"] |= {name for name, shut in bare.items() if not shut}
    return Division({name: sorted(sets[name]) for name in SETS}, sorted(name for name, shut in bare.items() if shut))


def by_block(dataset: SceneDataset, shares: Shares, seed: int, side: int, buffer: int) -> Division:
    """Draw blocks of labeled scenes. Unlabeled scenes are not divided: they are trained on.

    Training blocks are cut so that at least `buffer` pixels lie between them and every held-out block of their scene.

    Args:
        dataset: of the scenes.
        shares: of the blocks.
        seed: of the random split.
        side: maximum pixels per axis of a block.
        buffer: minimum distance in pixels between training and held-out blocks.

    Raises:
        DataError: files are missing or contradictory, a labeled scene has a group, or there are too few blocks.
    """
    scenes = _training_scenes(dataset)
    blocks, blank = _blocks(dataset, [scene for scene in scenes if scene.label], side)
    train, held_out = _hold_out(dataset, _ordered(blocks, seed), shares, "blocks with a label")
    closed: dict[str, list[Window]] = {}
    for unit in held_out["val"] + held_out["test"]:
        name, box = _place(dataset, unit)
        closed.setdefault(name, []).append(tuple(slice(part.start - buffer, part.stop + buffer) for part in box))
    cut = [_cut(dataset, unit, closed) for unit in train]
    known, others = _choose_labeled(dataset, [unit for unit in cut if unit], shares)
    spare = [_cut(dataset, unit, closed) for unit in blank]
    drawn = {"labeled": known, "unlabeled": others + [unit for unit in spare if unit], **held_out}
    sets = {name: _lines(_extent(dataset, unit) for unit in drawn[name]) for name in SETS}
    before, after = train + blank, [unit for unit in cut + spare if unit]
    lost = _pixels(dataset, before) - _pixels(dataset, after)
    kept = {unit[0].group for unit in after}
    sets["unlabeled"] = sorted(scene.id for scene in scenes if not scene.label) + sets["unlabeled"]
    dropped = _lines(_place(dataset, unit) for unit in before if unit[0].group not in kept)
    return Division(sets, dropped, lost / _pixels(dataset, blocks + blank))


def undivided(dataset: SceneDataset, side: int) -> str:
    """A warning about labeled scenes that are not larger than a block, in which no buffer is; empty without any."""
    labeled = [scene for scene in dataset.index.splits.get("train", ()) if scene.label]
    sizes = [dataset.stacks[scene.id].grid.size for scene in labeled]
    small = [size for size in sizes if max(size) <= side]
    if not small:
        return ""
    who = "No labeled scene is" if len(small) == len(sizes) else f"{len(small)} of {len(sizes)} labeled scenes are not"
    return (
        f"{who} larger than a block of {side} pixels: each is one block, and --buffer divides nothing in it. "
        f"Give a smaller --block-size, such as {max(1, max(map(max, small)) // 4)}, and a --buffer below it."
    )


def _training_scenes(dataset: SceneDataset) -> Sequence[Scene]:
    refuse_problems(dataset.index, dataset.data, "scene")
    scenes = dataset.index.splits.get("train", ())
    if not any(scene.label for scene in scenes):
        raise DataError(f"None of the {len(scenes)} training scenes has a label. Check the layout's labels option.")
    return scenes


def _ordered(units: Iterable[Unit], seed: int) -> list[Unit]:
    """Units in random order; a group is one unit."""
    return hash_order((item for unit in units for item in unit), seed, "split")


def _hold_out(
    dataset: SceneDataset, units: Sequence[Unit], shares: Shares, what: str
) -> tuple[list[Unit], dict[str, list[Unit]]]:
    """Units to train on, and those of val and test.

    Which are held out does not depend on the labeled share; training has every class that any of them has.
    """
    counts = {name: share and max(1, round(share * len(units))) for name, share in vars(shares).items()}
    count = int(counts["val"] + counts["test"])
    if count >= len(units):
        raise DataError(
            f"{len(units)} labeled {what} cannot be divided into training, {counts['val']} for validation and "
            f"{counts['test']} for tests.\nGive smaller shares, or smaller blocks with --by block."
        )
    train = _cover(dataset, units[count:], units[:count])
    taken = {unit[0].unit for unit in train}
    others = [unit for unit in units if unit[0].unit not in taken]
    return train, {"val": others[: int(counts["val"])], "test": others[int(counts["val"]) :]}


def _choose_labeled(dataset: SceneDataset, train: list[Unit], shares: Shares) -> tuple[list[Unit], list[Unit]]:
    """The units whose labels are used, with every class where possible, and the others."""
    if not train:
        raise DataError("The buffer leaves nothing to train on. Give a smaller --buffer, or larger blocks.")
    count = max(1, round(shares.labeled * len(train)))
    known = _cover(dataset, train[:count], train[count:])
    names = {unit[0].unit for unit in known}
    return known, [unit for unit in train if unit[0].unit not in names]


def _cover(dataset: SceneDataset, drawn: Sequence[Unit], rest: Sequence[Unit]) -> list[Unit]:
    """The drawn units, some of them swapped for others to cover missing classes."""
    return cover_classes(dataset, list(drawn), rest) if rest else list(drawn)


def _blocks(dataset: SceneDataset, scenes: Iterable[Scene], side: int) -> tuple[list[Unit], list[Unit]]:
    """Blocks with and without a labeled pixel. Raises DataError: a scene has a group."""
    found: dict[bool, list[Unit]] = {True: [], False: []}
    for scene in scenes:
        if scene.group:
            raise DataError(
                f"Scene {scene.id} belongs to the group {scene.group}, which blocks would split: its other scenes show "
                "the same place.\nUse --by scene, which keeps groups together."
            )
        for box in tiles(whole(dataset.stacks[scene.id].grid.size), side):
            unit = _unit(dataset, scene.id, box, name_of(scene.id, box))
            found[_has_label(dataset, unit)].append(unit)
    if not found[True]:
        raise DataError("No pixel of the training scenes has a label. Check data.classes and data.ignore_index.")
    return found[True], found[False]


def _unit(dataset: SceneDataset, scene: str, box: Window, name: str) -> Unit:
    """The windows of a box; their group is the name of its block."""
    return [replace(item, group=name) for item in dataset.parse_group(name_of(scene, box))]


def _has_label(dataset: SceneDataset, unit: Unit) -> bool:
    """Whether any pixel of a unit has a class, in a window with enough valid pixels."""
    for item in unit:
        scene, box = dataset.find(item)
        if scene.label is None or not dataset.pixel_counts(replace(item, mask=None))[0]:
            continue
        if (dataset.labels.read(scene.label, dataset.stacks[scene.id].grid, box) != IGNORE).any():
            return True
    return False


def _place(dataset: SceneDataset, unit: Unit) -> tuple[str, Window]:
    """Scene and box of a unit's original block."""
    name, box = parse_name(unit[0].group)
    return name, box or whole(dataset.stacks[name].grid.size)


def _extent(dataset: SceneDataset, unit: Unit) -> tuple[str, Window]:
    """Scene and box of a unit, possibly trimmed."""
    found = [dataset.find(item) for item in unit]
    bounds = bounds_of(box for _, box in found)
    low, high = bounds.min(0).tolist(), bounds.max(0).tolist()
    return found[0][0].id, (slice(low[0], high[1]), slice(low[2], high[3]))


def _cut(dataset: SceneDataset, unit: Unit, closed: dict[str, list[Window]]) -> Unit | None:
    """A training block without the buffer around held-out blocks; None if too little is left."""
    name, box = _place(dataset, unit)
    left = trim(box, bounds_of(closed.get(name, [])))
    if left == box:
        return unit
    if left is None or any(
        LEAST * (new.stop - new.start) < old.stop - old.start for new, old in zip(left, box, strict=True)
    ):
        return None
    return _unit(dataset, name, left, unit[0].group)


def _pixels(dataset: SceneDataset, units: Iterable[Unit]) -> int:
    return sum(area(_extent(dataset, unit)[1]) for unit in units)


def _lines(places: Iterable[tuple[str, Window]]) -> list[str]:
    """Lines of a list, scene by scene and row by row."""
    ordered = sorted(places, key=lambda place: (place[0], *((part.start, part.stop) for part in place[1])))
    return [name_of(*place) for place in ordered]
