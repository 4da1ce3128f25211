"""Statistics of the bands of a recipe's training scenes, window by window: moments and exact percentiles."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import Data, Window
from farcluss.data.splits import resolve
from farcluss.errors import DataError, RecipeError
from farcluss.plugins import registry
from farcluss_remote_sensing.boxes import disjoint
from farcluss_remote_sensing.dataset import SceneDataset
from farcluss_remote_sensing.scenes import Scene
from farcluss_remote_sensing.tiles import tiles

SIDE = 1024
"""Maximum pixels per axis to read at once."""
BITS = 16
"""Half of a key: values are counted by the upper half first, then by the lower."""
PERCENTILES = {"low": 5, "high": 995}
"""In thousandths of the values."""

Part = tuple[Scene, Window]


def scenes_of(data: Data) -> SceneDataset:
    """The data set of a recipe that may have no statistics yet, with scaling by a factor.

    Raises:
        RecipeError: it is not a layout of scenes.
    """
    name = data.layout.name
    if not {"scaling", "stats"} <= set(registry.get("dataset", name).describe().options):
        raise RecipeError(
            f'data.layout = "{name}" is not a layout of scenes. Choose one of farcluss-remote-sensing: '
            "`farcluss plugins list`."
        )
    options = data.layout.options | {"scaling": "scale", "stats": ""}
    plain = data.model_copy(update={"mean": 0.0, "std": 1.0})
    dataset: SceneDataset = registry.build("dataset", name, options, plain, kind=SceneDataset)
    return dataset


def training_parts(dataset: SceneDataset, data: Data) -> list[Part]:
    """The training parts of a recipe, labeled or not: each pixel of a scene once, without validation pixels.

    Raises:
        DataError: see `farcluss.data.splits.resolve`.
    """
    splits = resolve(dataset, data)
    scenes: dict[str, Scene] = {}
    boxes: dict[str, dict[str, Window]] = {}
    held_out: dict[str, list[Window]] = {}
    for item in [] if data.allow_overlap else splits.val:
        scene, box = dataset.find(item)
        held_out.setdefault(scene.id, []).append(box)
    for item in (*splits.labeled, *splits.unlabeled):
        scene, box = dataset.find(item)
        scenes[scene.id] = scene
        boxes.setdefault(scene.id, {})[item.id] = box
    parts = [
        (scene, tile)
        for name, scene in scenes.items()
        for box in disjoint(list(boxes[name].values()), held_out.get(name, []))
        for tile in tiles(box, SIDE)
    ]
    if not parts:
        raise DataError("All training data lies in windows of data.val. Check the lists.")
    return parts


@dataclass
class Band:
    """Running statistics of a band.

    Percentiles are exact for all types whose values float32 holds: integers up to 24 bits and float32 itself; of other
    types (int32, float64) they are those of the values rounded to float32. Values are counted by the upper 16 bits of
    an order-preserving 32-bit key, then those near the percentiles by the lower 16: 65536 counters each, whatever the
    number of pixels.

    Attributes:
        dtype: of the files.
        count: valid pixels.
        mean: of their values.
        squares: sum of the squared differences from the mean.
        least: smallest value.
        most: largest value.
        upper: `(65536,)` values by the upper half of their keys.
        lower: for the upper halves in which percentiles lie, `(65536,)` values by the lower half.
    """

    dtype: str
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    least: float = math.inf
    most: float = -math.inf
    upper: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2**BITS, np.int64))
    lower: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def coarse(self) -> bool:
        """Whether the upper half of the keys distinguishes all values."""
        return fits(self.dtype)

    def add(self, values: NDArray[Any]) -> None:
        """Count values of the band `(n,)`; moments are merged as Chan, Golub and LeVeque (1979) do."""
        if not len(values):
            return
        exact = values.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):  # `to_text` refuses what is not finite
            mean, total = float(exact.mean()), self.count + len(values)
            apart = mean - self.mean
            self.squares += float(np.square(exact - mean).sum() + np.square(apart) * self.count * len(values) / total)
        self.mean += apart * len(values) / total
        self.count = total
        self.least, self.most = min(self.least, values.min().item()), max(self.most, values.max().item())
        self.upper += np.bincount(to_keys(values) >> BITS, minlength=2**BITS)

    def refine(self, values: NDArray[Any]) -> None:
        """Second pass, after all values were added: resolves the values near the percentiles."""
        keys = to_keys(values)
        halves = keys >> BITS
        for half in {self._find(share)[0] for share in PERCENTILES.values()}:
            counts = self.lower.setdefault(half, np.zeros(2**BITS, np.int64))
            counts += np.bincount(keys[halves == half] & 2**BITS - 1, minlength=2**BITS)

    def _find(self, share: int) -> tuple[int, int]:
        """The upper half in which a percentile lies, and the rank within it."""
        rank = (self.count - 1) * share // 1000
        ends = np.cumsum(self.upper)
        half = int(np.searchsorted(ends, rank, side="right"))
        return half, rank - int(ends[half] - self.upper[half])

    def percentile(self, share: int) -> float:
        """The value below which `share` thousandths lie: `numpy.percentile(..., method="lower")`."""
        half, rank = self._find(share)
        low = 0 if self.coarse else int(np.searchsorted(np.cumsum(self.lower[half]), rank, side="right"))
        return from_key(half << BITS | low, self.dtype)

    def apart(self) -> float | None:
        """The smallest or largest value, if it is farther from all others than those are from each other."""
        there = np.flatnonzero(self.upper).tolist()
        if len(there) < 3:
            return None
        first, second, before, last = (from_key(int(n) << BITS, self.dtype) for n in (*there[:2], *there[-2:]))
        if second - first > last - second:
            return self.least
        return self.most if last - before > before - first else None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        ends = {"min": self.least, "max": self.most}
        bounds = {key: self.percentile(share) for key, share in PERCENTILES.items()}
        moments = {"mean": self.mean, "std": math.sqrt(self.squares / self.count)}
        apart = self.apart()
        alone = {} if apart is None else {"apart": apart}
        return {"dtype": self.dtype, "count": self.count, **moments, **ends, **bounds, **alone}


def fits(dtype: str) -> bool:
    """Whether half of a key distinguishes all values of a type."""
    return np.dtype(dtype).kind in "iu" and np.dtype(dtype).itemsize * 8 <= BITS


def to_keys(values: NDArray[Any]) -> NDArray[np.uint32]:
    """Keys `(n,)` in the order of the values `(n,)`, rounded to float32 unless they are of 16 bits or less."""
    if fits(values.dtype.name):
        shifted = values.astype(np.int64) - np.iinfo(values.dtype).min << BITS
        return shifted.astype(np.uint32)
    with np.errstate(over="ignore"):
        bits = (values.astype(np.float32) + np.float32(0)).view(np.uint32)  # negative zero is zero
    # Of negative numbers, the larger bits are the smaller number; positive ones come after them.
    return np.where(bits >> 31, ~bits, bits | np.uint32(2**31))


def from_key(key: int, dtype: str) -> float:
    """The value of a key; a whole number for integer types."""
    if fits(dtype):
        return (key >> BITS) + int(np.iinfo(dtype).min)
    bits = key - 2**31 if key >> 31 else 2**32 - 1 - key
    value = float(np.uint32(bits).view(np.float32))
    return int(value) if np.dtype(dtype).kind in "iu" else value


def empty_bands(dataset: SceneDataset, parts: Sequence[Part]) -> list[Band]:
    """One for each band of the scenes. Raises DataError: the scenes differ in type."""
    first = parts[0][0]
    dtypes = dataset.stacks[first.id].dtypes
    for scene, _ in parts:
        others = dataset.stacks[scene.id].dtypes
        if others != dtypes:
            band = next(n for n, (one, other) in enumerate(zip(dtypes, others, strict=True)) if one != other)
            raise DataError(
                f"Band {band + 1} is {dtypes[band]} in {first.id}, but {others[band]} in {scene.id}: units differ.\n"
                "Convert the files to one type and scale, or take one of the scenes out of the lists."
            )
    return [Band(dtype) for dtype in dtypes]


def passes(bands: Sequence[Band]) -> int:
    """Number of passes over all pixels."""
    return 1 if all(band.coarse for band in bands) else 2


def measure(dataset: SceneDataset, parts: Sequence[Part], bands: Sequence[Band]) -> Iterator[int]:
    """Read parts of scenes into `bands`, as often as `passes` says; yields the number of parts read so far.

    Raises:
        DataError: a file cannot be read, or no pixel is valid.
    """
    done = 0
    for second in range(passes(bands)):
        for scene, box in parts:
            values, valid = dataset.stacks[scene.id].read(box)
            for band, image in zip(bands, values, strict=True):
                if second and band.coarse:
                    continue
                (band.refine if second else band.add)(image[valid].astype(band.dtype, copy=False))
            done += 1
            yield done
        if not bands[0].count:
            raise DataError("No pixel of the training scenes is valid. Check their nodata values and masks.")


def to_text(scenes: int, bands: Sequence[Band]) -> str:
    """The text of the statistics file, a line per band.

    Raises:
        DataError: values of a band are too large to be measurements.
    """
    tables = [band.to_json() for band in bands]
    for number, table in enumerate(tables, 1):
        if not all(math.isfinite(value) for value in table.values() if not isinstance(value, str)):
            raise DataError(
                f"Band {number} has values from {table['min']:g} to {table['max']:g}, which float32 cannot hold.\n"
                "If one of them means missing data, set data.layout.nodata to it."
            )
    lines = ",\n  ".join(map(json.dumps, tables))
    return f'{{\n "scenes": {scenes},\n "bands": [\n  {lines}\n ]\n}}\n'
