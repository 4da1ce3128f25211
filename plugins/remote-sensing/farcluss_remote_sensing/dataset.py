"""Scenes as a data set of farcluss: their windows are its items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE, Item, Palette, Sample, Window
from farcluss.errors import DataError
from farcluss.recipe import Data
from farcluss_remote_sensing.files import Stack
from farcluss_remote_sensing.labels import LabelReader
from farcluss_remote_sensing.scaling import Scaling
from farcluss_remote_sensing.scenes import Index, Scene, find_by_id, refusal
from farcluss_remote_sensing.tiles import name_of, parse_name, tiles, whole

SHRINK = 8
"""Every so manieth row and column is looked at where pixels are counted."""


@dataclass(frozen=True)
class SceneDataset:
    """Windows of scenes, read when they are needed.

    Attributes:
        data: section of the recipe.
        index: of the scenes that can be used.
        stacks: their bands, by scene.
        labels: reads labels.
        palette: one color per class.
        scaling: of the bands.
        side: pixels per axis of a window, at most.
        min_valid: share of valid pixels that an unlabeled training window has at least.
    """

    data: Data
    index: Index
    stacks: Mapping[str, Stack]
    labels: LabelReader
    palette: Palette
    scaling: Scaling
    side: int
    min_valid: float

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in order of index."""
        return self.labels.masks.names

    @property
    def carried(self) -> Data:
        """The section as weights files have it: usable where neither the statistics' file nor the data is."""
        values: dict[int, list[int | str]] = {}
        masks = self.labels.masks
        for code, target in zip(masks.codes.tolist(), masks.targets.tolist(), strict=True):
            values.setdefault(target, []).append(f"#{code:06x}" if masks.colors else code)
        options = {**self.index.options, "stats": [dict(band) for band in self.scaling.stats]}
        facts = {
            "layout": self.data.layout.model_copy(update=options),
            "classes": {name: values[index] for index, name in enumerate(self.classes)},
            "ignore_index": values.get(IGNORE),
            "reduce_zero_label": False,
        }
        return self.data.model_copy(update=facts)

    def findings(self) -> list[str]:
        """What is missing or contradictory among the files, and what would leak between the sets."""
        from farcluss_remote_sensing.checks import inspect

        return [*self.index.problems, *inspect(self)]

    def items(self, split: str) -> list[Item]:
        """Windows of a split. Raises DataError when files are missing or contradictory."""
        if split not in self.index.splits:
            known = ", ".join(self.index.splits)
            raise DataError(f"The data set has no split {split!r}; it has {known}. Set data.val to a share or a list.")
        if self.index.problems and self.data.on_error == "stop":
            raise DataError(refusal(self.index.problems))
        found = [item for scene in self.index.splits[split] for item in self._items(scene)]
        return self._without_empty(found) if split == "train" else found

    def parse_group(self, line: str) -> list[Item]:
        """The windows of a line: those of a scene, or with `SCENE[rows,columns]` those of a part of it."""
        name, box = parse_name(line)
        scene = self._scenes.get(name)
        if scene is None and self.index.problems and self.data.on_error == "stop":
            raise DataError(refusal(self.index.problems))
        if scene is None:
            left_out = ", or one that is left out: `farcluss check` says why" if self.index.problems else ""
            example = next(iter(self._scenes), "SCENE")
            raise DataError(
                f"{name!r} is no scene of this data set{left_out}; write {example}, or {example}[0:512,0:512]."
            )
        height, width = self.stacks[name].grid.size
        if box and (box[0].stop > height or box[1].stop > width):
            raise DataError(f"{line.strip()!r} reaches beyond the scene, which has {height} rows and {width} columns.")
        return self._items(scene, box)

    def parse(self, line: str) -> Item:
        """The window of a line that names one. Raises DataError: it names several."""
        items = self.parse_group(line)
        if len(items) > 1:
            raise DataError(f"{line.strip()!r} has {len(items)} windows; name one as {items[0].id}.")
        return items[0]

    def size(self, item: Item) -> tuple[int, ...]:
        """Rows and columns of a window; opens nothing."""
        return tuple(part.stop - part.start for part in self.find(item)[1])

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Scaled bands of a window or of a part of it, classes, and where pixels are valid. Raises DataError."""
        scene, box = self.find(item)
        part = box if window is None else inner(box, window)
        stack = self.stacks[scene.id]
        values, valid = stack.read(part)
        mask = None if item.mask is None or scene.label is None else self.labels.read(scene.label, stack.grid, part)
        return Sample(self.scaling(values, valid), mask, None if valid.all() else valid)

    def pixel_counts(self, item: Item) -> NDArray[np.int64]:
        """`(1 + classes,)` valid pixels of a window, and those of each class, both from one pixel in 64."""
        scene, box = self.find(item)
        valid = self._seen(scene, box)
        counts = np.zeros(1 + len(self.classes), np.int64)
        if item.mask is not None and scene.label is not None:
            mask = self.labels.read(scene.label, self.stacks[scene.id].grid, box, SHRINK)
            counts[1:] = np.bincount(mask[valid], minlength=256)[: len(self.classes)]
        counts[0] = valid.sum()
        return counts * SHRINK**2

    def find(self, item: Item) -> tuple[Scene, Window]:
        """The scene of a window, and which part of it."""
        name, box = parse_name(item.id)
        scene = self._scenes[name]
        return scene, box or whole(self.stacks[name].grid.size)

    @cached_property
    def _scenes(self) -> dict[str, Scene]:
        return find_by_id(scene for scenes in self.index.splits.values() for scene in scenes)

    def _items(self, scene: Scene, box: Window | None = None) -> list[Item]:
        """The windows of a scene, which belong together; those of a part belong to the part."""
        everything = whole(self.stacks[scene.id].grid.size)
        found = tiles(box or everything, self.side)
        names = [scene.id if part == everything else name_of(scene.id, part) for part in found]
        group = scene.group if box else scene.place
        path, label = scene.images[0], scene.label
        ends = [name.removeprefix(scene.id) for name in names]
        return [Item(name, path + end, label and label + end, group) for name, end in zip(names, ends, strict=True)]

    def _without_empty(self, items: Sequence[Item]) -> list[Item]:
        """Training windows without those that are unlabeled and nearly nothing but invalid pixels."""
        return [item for item in items if item.mask is not None or self._valid_share(item) >= self.min_valid]

    def _valid_share(self, item: Item) -> float:
        scene, box = self.find(item)
        return float(self._seen(scene, box).mean()) if self.stacks[scene.id].masked else 1.0

    def _seen(self, scene: Scene, box: Window) -> NDArray[np.bool_]:
        """Where a window is valid, of every `SHRINK`th row and column."""
        return self.stacks[scene.id].read(box, SHRINK)[1]


def inner(box: Window, part: Window) -> Window:
    """A part of a window, counted from the window's corner, as a window of the scene."""
    return tuple(slice(outer.start + own.start, outer.start + own.stop) for outer, own in zip(box, part, strict=True))
