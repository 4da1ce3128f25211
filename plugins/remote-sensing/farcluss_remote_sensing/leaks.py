"""Ground that two sets of a recipe share: overlapping windows of a scene, and scenes of the same place."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Item, Window
from farcluss.data.splits import Splits, find_list, resolve
from farcluss.errors import FarclussError, counted
from farcluss_remote_sensing.boxes import area, bounds_of, overlaps
from farcluss_remote_sensing.dataset import SceneDataset
from farcluss_remote_sensing.files import Grid
from farcluss_remote_sensing.matching import moved
from farcluss_remote_sensing.scenes import Scene
from farcluss_remote_sensing.tiles import name_of, whole

ADVICE = "Split again (`farcluss rs split`), or set data.allow_overlap = true."
WORLD = "EPSG:4326"
"""Longitude and latitude, to compare scenes of different reference systems."""


@dataclass(frozen=True)
class Cover:
    """The part of a scene that a set contains.

    Attributes:
        scene: of the data set.
        grid: of its pixels.
        boxes: windows of it; the whole scene as one.
    """

    scene: Scene
    grid: Grid
    boxes: tuple[Window, ...]


Covers = dict[str, Cover]
"""By scene."""


def leaks(dataset: SceneDataset, splits: Splits | None = None) -> list[str]:
    """Leaks that would inflate scores: ground that is both trained on and held out, a text per kind.

    Args:
        dataset: of scenes.
        splits: its sets in the recipe; None: find them.
    """
    if dataset.data.allow_overlap:
        return []
    try:
        splits = splits or resolve(dataset, dataset.data)
    except FarclussError:  # reported by training
        return []
    sets = {name: _covers(dataset, getattr(splits, name)) for name in ("labeled", "unlabeled", "val")}
    own = _own_splits(dataset, splits)
    groups, divided, ground = list[str](), list[str](), list[str]()
    for held, scenes in ({"val": sets["val"]} | own).items():
        for name, covers in sets.items():
            if name == held:
                continue
            divided += _divided_scenes(name, covers, held, scenes) if name != "val" else []
            ground += _shared_ground(name, covers, held, scenes)
            if held != "val" and name != "val":
                groups += _shared_groups(name, covers, held, scenes)
    scored = f": scores would be computed on training data. {ADVICE}"
    return [*groups, *together(divided, "scene", scored), *together(ground, "pair", scored)]


def together(facts: Sequence[str], noun: str, rest: str) -> list[str]:
    """Facts of one kind as one text: the first, how many more there are, and the rest of the sentence; then the others.

    Nothing without facts.
    """
    more = f" (and {counted(len(facts) - 1, f'more {noun}')})" if len(facts) > 1 else ""
    return ["\n".join([f"{facts[0]}{more}{rest}", *facts[1:]])] if facts else []


def _own_splits(dataset: SceneDataset, splits: Splits) -> dict[str, Covers]:
    """Held-out splits of the layout that the recipe does not use, unless it uses lists."""
    data = dataset.data
    if any(find_list(text, data) for text in (data.labeled, data.unlabeled, data.val)):
        return {}
    found = {}
    for name, scenes in dataset.index.splits.items():
        if name not in ("train", data.val):
            grids = {scene.id: dataset.stacks[scene.id].grid for scene in scenes}
            covers = {one.id: Cover(one, grids[one.id], (whole(grids[one.id].size),)) for one in scenes}
            found[f"split {name}"] = covers
    return found


def _covers(dataset: SceneDataset, items: Iterable[Item]) -> Covers:
    boxes: dict[str, list[Window]] = {}
    scenes: dict[str, Scene] = {}
    for item in items:
        scene, box = dataset.find(item)
        scenes[scene.id] = scene
        boxes.setdefault(scene.id, []).append(box)
    found = {}
    for name, windows in boxes.items():
        grid = dataset.stacks[name].grid
        full = sum(map(area, windows)) >= grid.height * grid.width
        found[name] = Cover(scenes[name], grid, (whole(grid.size),) if full else tuple(windows))
    return found


def _divided_scenes(name: str, covers: Covers, held: str, others: Covers) -> Iterator[str]:
    """Scenes with overlapping windows in two sets."""
    for scene in sorted(covers.keys() & others.keys()):
        bounds = bounds_of(covers[scene].boxes)
        shared = [(box, overlaps(box, bounds)) for box in others[scene].boxes]
        if total := sum(int(pixels.sum()) for _, pixels in shared):
            box, pixels = next((box, pixels) for box, pixels in shared if pixels.any())
            first = name_of(scene, covers[scene].boxes[int(pixels.argmax())])
            yield (
                f"Windows of {scene} in {name} and in {held} overlap by {total:,} pixels, the first {first} and "
                f"{name_of(scene, box)}"
            )


def _shared_groups(name: str, covers: Covers, held: str, others: Covers) -> list[str]:
    groups = {cover.scene.group for cover in covers.values()} & {cover.scene.group for cover in others.values()} - {""}
    if not groups:
        return []
    return [f"{len(groups)} groups are both in {name} and in the {held}, the first is {min(groups)}. {ADVICE}"]


def _shared_ground(name: str, covers: Covers, held: str, others: Covers) -> Iterator[str]:
    """Different scenes that show the same ground."""
    found: dict[tuple[str, str], float] = {}
    for crs, some in _by_crs(covers).items():
        for other, rest in _by_crs(others).items():
            if crs == other or (crs and other):
                for key, pixels in _overlapping(some, rest, "" if crs == other else WORLD):
                    found[key] = found.get(key, 0.0) + pixels
    for (first, second), pixels in sorted(found.items()):
        where = f"Scene {first} in {name} and scene {second} in {held}"
        yield f"{where} show the same ground, {pixels:,.0f} pixels of {second}"


def _by_crs(covers: Covers) -> dict[str, list[Cover]]:
    """Georeferenced scenes by reference system."""
    found: dict[str, list[Cover]] = {}
    for cover in covers.values():
        if cover.grid.placed:
            found.setdefault(cover.grid.crs, []).append(cover)
    return found


def _overlapping(
    covers: Sequence[Cover], others: Sequence[Cover], target: str
) -> Iterator[tuple[tuple[str, str], float]]:
    """Pairs of scenes, and the area that two windows share in pixels of the second, if more than half a pixel."""
    import shapely

    names, shapes, units = _shapes(covers, target)
    if target:  # a scene across the 180th meridian may overlap others only after a shift by 360 degrees
        turns = [shapely.transform(shapes, lambda places, by=by: np.add(places, (by, 0))) for by in (-360, 0, 360)]
        names, shapes, units = names * 3, np.concatenate(turns), np.tile(units, 3)
    other_names, other_shapes, other_units = _shapes(others, target)
    first, second = shapely.STRtree(other_shapes).query(shapes, predicate="intersects")
    apart = np.array([names[a] != other_names[b] for a, b in zip(first, second, strict=True)], bool)
    first, second = first[apart], second[apart]
    shared = shapely.area(shapely.intersection(shapes[first], other_shapes[second]))
    enough = shared > np.minimum(units[first], other_units[second]) / 2
    for a, b, pixels in zip(first[enough], second[enough], (shared / other_units[second])[enough], strict=True):
        yield (names[a], other_names[b]), float(pixels)


def _shapes(covers: Sequence[Cover], target: str) -> tuple[list[str], NDArray[Any], NDArray[np.float64]]:
    """Scene, outline and area of a pixel of each window; in `target`, or unchanged if it is empty."""
    import shapely

    windows = [(cover, box) for cover in covers for box in cover.boxes]
    shapes = shapely.polygons([cover.grid.corners(box) for cover, box in windows])
    if target:
        shapes = np.array([_unwrapped(shape) for shape in moved(shapes, covers[0].grid.crs, target)], object)
    sizes = [area(box) for _, box in windows]
    return [cover.scene.id for cover, _ in windows], shapes, shapely.area(shapes) / sizes


def _unwrapped(shape: Any) -> Any:
    """A shape in degrees, in one piece where it crosses the 180th meridian."""
    import shapely

    if shape.is_empty or shape.bounds[2] - shape.bounds[0] <= 180:
        return shape
    return shapely.transform(shape, lambda xy: np.column_stack([xy[:, 0] % 360, xy[:, 1]]))
