"""Score predicted maps against the labels of their scenes, window by window."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Data, Item, Window, read_sample
from farcluss.data.splits import find_list, read_list, resolve
from farcluss.errors import DataError, some
from farcluss.learning.build import build_dataset
from farcluss_remote_sensing.dataset import SceneDataset
from farcluss_remote_sensing.files import Grid, read_file, read_header, reading
from farcluss_remote_sensing.legend import indices, values_by_tags
from farcluss_remote_sensing.matching import difference
from farcluss_remote_sensing.scenes import Scene
from farcluss_remote_sensing.scores import CHANGE, MapScores


@dataclass(frozen=True)
class Evaluation:
    """What was scored.

    Attributes:
        total: scores of one confusion matrix over the pixels of all scenes.
        scenes: scores of each scene, by its id.
        missing: ids of the scenes without a map.
    """

    total: MapScores
    scenes: Mapping[str, MapScores]
    missing: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers; undefined scores are None."""
        scenes = [{"scene": name, **scores.to_json()} for name, scores in self.scenes.items()]
        return {**self.total.to_json(), "scenes": scenes, "missing": list(self.missing)}


def evaluate(
    data: Data,
    predictions: Path,
    split: str | None = None,
    progress: Callable[[Sequence[str]], Iterable[str]] = iter,
) -> Evaluation:
    """Score the maps of a folder.

    Args:
        data: section of a recipe with a layout of scenes: gives labels, classes and ignored values.
        predictions: folder of maps `.tif`, named like their scenes or the first files of those.
        split: `val`, `test` or a list; None for the recipe's own `val`.
        progress: iterates over the ids of scenes, and may show the progress.

    Raises:
        DataError: a file cannot be read, a map is not on the grid of its scene or holds values that no class has, a
            scene has no label, or no scene has a map.
    """
    dataset = build_dataset(data)
    if not isinstance(dataset, SceneDataset):
        raise DataError(
            f"{data.layout.name!r} is not a layout of scenes{', or data.pack is set' if data.pack else ''}.\n"
            "Maps are scored on the grids of scenes; `farcluss eval` scores weights on all layouts."
        )
    items = _items(dataset, data if split is None else data.model_copy(update={"val": split}))
    scenes: dict[str, list[Item]] = {}
    for item in items:
        scenes.setdefault(dataset.find(item)[0].id, []).append(item)
    maps = find_maps(predictions, [dataset.find(parts[0])[0] for parts in scenes.values()])
    change = len(dataset.classes) == 2 and (data.layout.name == "change" or dataset.classes == CHANGE)
    found = {
        name: MapScores(_confusion(dataset, scenes[name], maps[name]), dataset.classes, change)
        for name in progress(list(maps))
    }
    total = MapScores(np.sum([scores.confusion for scores in found.values()], axis=0), dataset.classes, change)
    return Evaluation(total, found, [name for name in scenes if name not in maps])


def _items(dataset: SceneDataset, data: Data) -> list[Item]:
    """The windows of data.val. Raises DataError: there are none, or one has no label."""
    if path := find_list(data.val, data):
        items = read_list(path, dataset)
    elif data.val in ("val", "test"):
        items = dataset.items(data.val)
    else:
        items = resolve(dataset, data).val
    if not items:
        raise DataError("There are no scenes to score; give --split val, test or a list file.")
    if bare := next((item for item in items if item.mask is None), None):
        raise DataError(f"{bare.id} has no label to score a map against. Remove it from the list.")
    return items


def find_maps(folder: Path, scenes: Sequence[Scene]) -> dict[str, Path]:
    """The map of each scene that has one, by id: `ID.tif`, or the name that `farcluss predict` gives it.

    Raises:
        DataError: there is none.
    """
    known = {scene.id: _map_names(scene) for scene in scenes}
    counts = Counter(name for names in known.values() for name in names)
    found = {}
    for scene in scenes:
        names = [scene.id.lstrip("/"), *(name for name in known[scene.id] if counts[name] == 1)]
        path = next((path for name in names if (path := folder / f"{name}.tif").is_file()), None)
        if path is not None:
            found[scene.id] = path
    if not found:
        raise DataError(
            f"{folder} has no map for any of the {len(scenes)} scenes; the first one would be {scenes[0].id}.tif.\n"
            "Write them with `farcluss predict`."
        )
    return found


def _map_names(scene: Scene) -> list[str]:
    """Relative paths that the map of a scene may have, the longest first."""
    first = Path(os.path.abspath(scene.images[0])).with_suffix("")
    bases = dict.fromkeys([first.with_name(Path(scene.id).name), first])
    return list(dict.fromkeys("/".join(base.parts[n:]) for n in range(1, len(first.parts)) for base in bases))


def _confusion(dataset: SceneDataset, items: Sequence[Item], path: Path) -> NDArray[np.int64]:
    """`(C, C + 1)` pixels of windows of one scene by true and mapped class. Raises DataError."""
    scene, _ = dataset.find(items[0])
    _check_grid(path, dataset.stacks[scene.id].grid, scene)
    count, values = len(dataset.classes), map_values(path, dataset)
    confusion = np.zeros(count * (count + 1), np.int64)
    for item in items:
        mask = read_sample(dataset, item).mask
        assert mask is not None  # checked in `_items`
        pairs = mask.astype(np.int64) * (count + 1) + read_map(path, dataset.find(item)[1], values)
        confusion += np.bincount(pairs[mask != IGNORE], minlength=len(confusion))
    return confusion.reshape(count, count + 1)


def map_values(path: Path, dataset: SceneDataset) -> list[int]:
    """The value of each class in a map: by its tags, else as in the labels, or indices if those are colors."""
    with reading(str(path)), rasterio.open(path) as file:
        tagged = values_by_tags(file.tags(), dataset.classes)
    masks = dataset.labels.masks
    return tagged or (list(range(len(masks.names))) if masks.colors else list(masks.first))


def read_map(path: Path, window: Window, known: Sequence[int]) -> NDArray[np.int64]:
    """Class indices `(h, w)` of a window of a map, their number for pixels without a class. Raises DataError."""
    (values,), valid = read_file(str(path), window, bands=[1])
    mapped = (values != IGNORE) | (IGNORE in known)
    mapped = mapped if valid is None else valid & mapped
    found = np.full(values.shape, len(known))
    if values.dtype.kind in "iu":
        found = indices(values, known, len(known))
    if (strange := values[mapped & (found == len(known))]).size:
        raise DataError(
            f"{path} holds the value {strange[0]} ({values.dtype}); a map of these classes holds "
            f"{some([str(value) for value in known], 6)}, and nodata or {IGNORE} where it has none.\n"
            "Predict with weights of this recipe."
        )
    return np.where(mapped, found, len(known))


def _check_grid(path: Path, grid: Grid, scene: Scene) -> None:
    """Refuse a map on another grid than its scene. Raises DataError."""
    if text := difference(read_header(str(path)).grid, grid):
        raise DataError(
            f"{path} is not on the grid of its scene, {scene.images[0]}: {text}.\n"
            "A map is scored on the grid of its scene: predict it again."
        )
