"""A data set of scenes: its items are their windows."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.accounting import Account, Reason
from farcluss.data.base import Data, Defaults, Item, MissingMask, Palette, Sample, Window
from farcluss.data.indexes import in_split, refuse_name
from farcluss.data.layouts import carry
from farcluss.data.splits import Splits
from farcluss.data.weighting import count_pixels
from farcluss.errors import DataError
from farcluss_remote_sensing.addresses import is_there
from farcluss_remote_sensing.files import Stack
from farcluss_remote_sensing.labels import LabelReader
from farcluss_remote_sensing.polygon_checks import polygon_remarks
from farcluss_remote_sensing.scaling import Scaling
from farcluss_remote_sensing.scenes import Index, Scene, by_path, find_by_id, find_by_path, label_file
from farcluss_remote_sensing.tiles import name_of, nth, parse_name, tiles, whole

SHRINK = 8
"""Pixels are counted in every 8th row and column."""


FEW = 16
"""Scenes whose pixels a run looks at before it trains."""


@dataclass(frozen=True)
class SceneDataset:
    """Windows of scenes, read on demand.

    Attributes:
        data: section of the recipe.
        index: of the scenes that can be used.
        stacks: their bands, by scene.
        labels: reads labels.
        palette: one color per class.
        scaling: of the bands.
        side: maximum pixels per axis of a window.
        min_valid: minimum share of valid pixels of an unlabeled training window.
        inspect: finds wrong metadata of files, and leaks between sets.
        defaults: values of recipe keys that are unset.
        lists_decide: whether a label that a list names goes before the scene's own.
    """

    data: Data
    index: Index
    stacks: Mapping[str, Stack]
    labels: LabelReader
    palette: Palette
    scaling: Scaling
    side: int
    min_valid: float
    inspect: Callable[..., list[str]]
    defaults: Defaults
    lists_decide: bool = True

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in order of index."""
        return self.labels.masks.names

    @property
    def carried(self) -> Data:
        """The section as stored in weights files: usable without the statistics file and without the data."""
        options = {**self.index.options, "stats": self._bands()}
        return carry(self.data, self.labels.masks, options)

    def _bands(self) -> list[dict[str, Any]]:
        """A table per band for weights files: its statistics, and the type and name that all scenes agree on."""
        scenes = list(self.stacks.values())
        tables: list[dict[str, Any]] = []
        for band in range(scenes[0].count if scenes else 0):
            facts = {"dtype": {one.dtypes[band] for one in scenes}, "name": {one.names[band] for one in scenes}}
            tables.append({key: min(values) for key, values in facts.items() if len(values) == 1 and min(values)})
        stats = self.scaling.stats or (self._sampled if self.scaling.mode == "scale" else ()) or [{}] * len(tables)
        return [table | dict(band) for table, band in zip(tables, stats, strict=False)]

    @cached_property
    def _sampled(self) -> list[dict[str, float]]:
        """Mean and standard deviation per band, estimated from the middle of a few training scenes; or nothing.

        They scale nothing: predictions notice by them when a scene is in another unit.
        """
        scenes = self.index.splits.get("train", ())
        parts = []
        for scene in scenes[:: max(1, len(scenes) // FEW)][:FEW]:
            stack = self.stacks[scene.id]
            box = tuple(slice((n - min(n, self.side)) // 2, (n + min(n, self.side)) // 2) for n in stack.grid.size)
            try:
                values, valid = stack.read(box, SHRINK)
            except DataError:  # reported where it is read to learn from it
                continue
            parts.append(values[:, valid].astype(np.float64))
        if not sum(part.shape[1] for part in parts):
            return []
        values = np.concatenate(parts, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            facts = np.stack([values.mean(1), values.std(1)], 1)
        return [{"mean": mean, "std": std} for mean, std in facts.tolist()] if np.isfinite(facts).all() else []

    def findings(self) -> list[str]:
        """Missing or contradictory files, and leaks between sets."""
        return [*self.index.problems, *self.inspect(self)]

    def risks(self, splits: Splits) -> list[str]:
        """The first line of each finding, as far as headers and the borders of a few scenes show it."""
        return [text.partition("\n")[0] for text in self.inspect(self, splits, FEW)]

    def oddities(self, items: Sequence[Item]) -> list[str]:
        """Polygons of these items that label nothing, or something else than is drawn."""
        found = [self.find(item) for item in items if item.mask is not None]
        places = [(scene.label, self.stacks[scene.id].grid, box) for scene, box in found if scene.label]
        return polygon_remarks(self.labels, places)

    def account(self, items: Sequence[Item]) -> Account:
        """What of the layout's folders is not used where these items are."""
        scenes = {scene.id: scene for item in items for scene in [self.find(item)[0]]}.values()
        used = {path for scene in scenes for path in (*scene.images, scene.label) if path}
        entries = self.index.passed
        return Account.of(used, (one for one in entries if one.reason is Reason.MASK or str(one.path) not in used))

    def items(self, split: str) -> list[Item]:
        """Windows of a split. Raises DataError when files are missing or contradictory."""
        scenes = in_split(self.index, split, self.data, "scene")
        found = [item for scene in scenes for item in self._items(scene)]
        return self._without_empty(found) if split == "train" else found

    def parse_group(self, line: str) -> list[Item]:
        """The windows of a line: those of a scene, or with `SCENE[rows,columns]` those of a part of it.

        A scene is named by its id, or as in public lists by `IMAGE` or `IMAGE LABEL`. Raises MissingMask when that
        label does not exist.
        """
        name, box = self._parse(line.strip())
        root = os.path.abspath(self.data.root)
        scene = self._scenes.get(name) or find_by_path(name, root, self._paths, self._scenes)
        if scene is None:
            example = next(iter(self._scenes), "SCENE")
            refuse_name(name, self.index, self.data, "scene", f"{example}, or {example}[0:512,0:512]")
        height, width = self.stacks[scene.id].grid.size
        if box and (box[0].stop > height or box[1].stop > width):
            raise DataError(f"{line.strip()!r} reaches beyond the scene, which has {height} rows and {width} columns.")
        if scene.label and not is_there(label_file(scene.label)):
            text = f"the label {scene.label} does not exist. Fix the list, or leave the label out of it."
            raise MissingMask(text, self._items(replace(scene, label=None), box))
        found = self._items(scene, box)  # keep at least one, as the line names it
        return self._without_empty(found) or found[:1] if len(found) > 1 else found

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
        mask = None if scene.label is None else self.labels.read(scene.label, stack.grid, part)
        return Sample(self.scaling(values, valid), mask, None if valid.all() else valid)

    def pixel_counts(self, item: Item) -> NDArray[np.int64]:
        """`(1 + classes,)` valid pixels of a window, and those of each class, both estimated from one pixel in 64.

        Zeros for an unlabeled window with too few valid pixels, also in labeled scenes whose labels are not used; zeros
        for a window that cannot be read if `data.on_error` allows skipping it.

        Raises:
            DataError: it cannot be read, and must not be skipped.
        """
        scene, box = self.find(item)
        try:
            valid = self._seen(scene.id, box)
            mask = (
                None if scene.label is None else self.labels.read(scene.label, self.stacks[scene.id].grid, box, SHRINK)
            )
        except DataError:
            if self.data.on_error == "stop":
                raise
            return np.zeros(1 + len(self.classes), np.int64)
        if item.mask is None and valid.mean() < self.min_valid:
            valid = np.zeros_like(valid)
        return count_pixels(valid.shape, mask, valid, len(self.classes)) * SHRINK**2

    def find(self, item: Item) -> tuple[Scene, Window]:
        """The scene of a window, with the label of the item, and which part of it."""
        name, box = self._parse(item.id)
        label = None if item.mask is None else parse_name(item.mask)[0]
        return replace(self._scenes[name], label=label), box or whole(self.stacks[name].grid.size)

    def _parse(self, text: str) -> tuple[str, Window | None]:
        """Scene and window of a name; the id of a scene may look like a window of another."""
        return (text, None) if text in self._scenes else parse_name(text)

    @cached_property
    def _scenes(self) -> dict[str, Scene]:
        return find_by_id(scene for scenes in self.index.splits.values() for scene in scenes)

    @cached_property
    def _paths(self) -> dict[str, Scene]:
        return by_path(self._scenes.values())

    def _items(self, scene: Scene, box: Window | None = None) -> list[Item]:
        """The windows of a scene, which form a group; those of a part form a group of their own."""
        everything = whole(self.stacks[scene.id].grid.size)
        found = tiles(box or everything, self.side)
        names = [scene.id if part == everything else name_of(scene.id, part) for part in found]
        group = scene.group if box else scene.place
        path, label = scene.images[0], scene.label
        ends = [name.removeprefix(scene.id) for name in names]
        return [Item(name, path + end, label and label + end, group) for name, end in zip(names, ends, strict=True)]

    def _without_empty(self, items: Sequence[Item]) -> list[Item]:
        """Training windows without unlabeled ones that have too few valid pixels."""
        return [item for item in items if item.mask is not None or self._valid_share(item) >= self.min_valid]

    def _valid_share(self, item: Item) -> float:
        """Share of valid pixels of a window; 1 if it cannot be read, as the error is reported on reading."""
        scene, box = self.find(item)
        try:
            return float(self._seen(scene.id, box).mean())
        except DataError:
            return 1.0

    def _seen(self, scene: str, box: Window) -> NDArray[np.bool_]:
        """Valid pixels of a window in every `SHRINK`th row and column; read once. Raises DataError."""
        stack, name = self.stacks[scene], name_of(scene, box)
        size = tuple(len(nth(part.stop - part.start, SHRINK)) for part in box)
        if not stack.masked:
            return np.ones(size, bool)
        if name not in self._known:
            self._known[name] = np.packbits(stack.read(box, SHRINK)[1])
        return np.unpackbits(self._known[name], count=prod(size)).reshape(size).astype(bool)

    @cached_property
    def _known(self) -> dict[str, NDArray[np.uint8]]:
        """Cache of valid pixels by window, as bits: lists, shares and draws need them repeatedly."""
        return {}


def inner(box: Window, part: Window) -> Window:
    """A part of a window, relative to the window's corner, as a window of the scene."""
    return tuple(slice(outer.start + own.start, outer.start + own.stop) for outer, own in zip(box, part, strict=True))
