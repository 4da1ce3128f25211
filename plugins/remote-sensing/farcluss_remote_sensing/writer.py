"""Predictions as maps on the grid of their scene, and as polygons."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from farcluss.data.pairing import Pattern
from farcluss.errors import DataError, RecipeError, WeightsError
from farcluss.inference.writers import Case, Step
from farcluss.plugins.options import NonNegative, PositiveInt
from farcluss.runs.atomic import rename_durably, write_atomically
from farcluss_remote_sensing.files import SUFFIXES, Grid, Stack
from farcluss_remote_sensing.folders import LABELS, band_files_of, group_bands
from farcluss_remote_sensing.scaling import Scaling, build_scaling
from farcluss_remote_sensing.stitching import plan_axis
from farcluss_remote_sensing.strips import Strips

if TYPE_CHECKING:
    from farcluss.inference.card import Card, Inference
    from farcluss.inference.weights import Model
    from farcluss_remote_sensing.whole_scenes import Task

ROWS = 512
"""Rows of a strip are a multiple of this, the side of a file's blocks."""

PREDICTING = 0.95
"""Approximate share of the time spent before files are written."""

LABEL_OPTIONS = ("labels", "val_labels", "test_labels")
"""Options of layouts that may be patterns."""

FAR = 3
"""Maximum deviation of a band's mean in a scene from that in training, in standard deviations."""


class GeoTiffWriter:
    """Class maps as GeoTIFF on the scene's own grid, with class names and colors; probabilities and polygons by option.

    For a scene it writes `SCENE.tif`: the values that labels have for the classes (class indices where those are
    colors), 255 or the next value that is no class where the scene is not valid; and `SCENE.tif.aux.xml` with the names
    of the classes for GDAL and QGIS. Tiles overlap and are blended, with window and stride of the recipe's
    `[eval]`; an interrupted prediction resumes.

    Args:
        probs: also write the probabilities, float32, a band per class, as `SCENE_probs.tif`.
        entropy: also write the normalized entropy, 0 to 1, as `SCENE_entropy.tif`.
        cog: cloud-optimized files, with overviews.
        blend: how overlapping tiles are averaged: weights that fall from a tile's center as a squared sine, or as a
            Gaussian.
        qml: also write the colors and names of the classes for QGIS, as `SCENE.qml`.
        gpkg: also write polygons in the scene's coordinates, as `SCENE.gpkg`.
        geojson: also write polygons in degrees (EPSG:4326), as `SCENE.geojson`.
        min_area: smallest area of a polygon in square meters; smaller ones are left out.
        simplify: tolerance in pixels of simpler outlines of polygons, which neighbors go on to share: the root of the
            area of the largest triangle that is cut off. 0 for edges along pixels.
        processes: number of processes per scene; each needs memory for a network and a row of tiles. They are
            distributed over the GPUs.
        assets: assets of STAC items whose bands are stacked, in the order of the network's bands, by key or by the name
            of their only band; empty for those named like the bands of training, or for an item's only raster.
    """

    suffixes = SUFFIXES

    def __init__(
        self,
        card: "Card",
        *,
        probs: bool = False,
        entropy: bool = False,
        cog: bool = True,
        blend: Literal["hann", "gaussian"] = "hann",
        qml: bool = False,
        gpkg: bool = False,
        geojson: bool = False,
        min_area: NonNegative = 0.0,
        simplify: NonNegative = 0.0,
        processes: PositiveInt = 1,
        assets: list[str] = [],  # noqa: B006
    ) -> None:
        self.card, self.cog, self.processes, self.assets = card, cog, processes, assets
        self.blend: Literal["hann", "gaussian"] = blend
        wanted = {"probs": probs, "entropy": entropy}
        self.extras = [name for name, on in wanted.items() if on]
        forms: dict[Literal["gpkg", "geojson"], bool] = {"gpkg": gpkg, "geojson": geojson}
        self.vectors = [name for name, on in forms.items() if on]
        self.qml, self.min_area, self.simplify = qml, min_area, simplify
        try:
            self.layout: dict[str, Any] = card.recipe["data"]["layout"]
            self.scaling = _scaling_of(self.layout, card)
            self.bands, self.warp, self.window = (self.layout[key] for key in ("bands", "warp", "window"))
        except (KeyError, TypeError, AttributeError, RecipeError):
            raise WeightsError(
                "These weights were not trained on a layout of scenes, so they do not say how bands are scaled.\n"
                "Choose another --writer."
            ) from None

    @property
    def preparation(self) -> dict[str, Any]:
        """What is done to a scene before the network."""
        names = ("scaling", "factor", "stats", "bands", "warp", "band_files")
        return {name: self.layout.get(name) for name in names}

    def cases(self, files: Sequence[Path]) -> list[tuple[str, tuple[Path, ...]]]:
        """The files of a folder by scene: files with a band each are joined, and so are the dates of a pair.

        Labels beside the images, which the layout's pattern tells from them, are no scenes.
        """
        ends = [str(self.layout.get(key) or "").removeprefix("{dir}/") for key in LABEL_OPTIONS]
        beside = [end for end in ends if "{stem}" in end and "/" not in end]
        files = [path for path in files if not any(Pattern(path.parent, end, LABELS).claims(path) for end in beside)]
        if self.layout.get("name") == "change":
            return _pairs(files, self.layout.get("before", "A"), self.layout.get("after", "B"))
        scenes = group_bands(files, self._band_files)
        joined = [
            (base.absolute().name, tuple(path for end in self._band_files for path in bands.get(end, ())))
            for base, bands in scenes.items()
        ]
        return joined or [(path.stem, (path,)) for path in files]

    def named(self, text: str) -> list[Case] | None:
        """The scenes of a table, of STAC items, of `A.tif;B.tif` or of an address; None for other inputs."""
        from farcluss_remote_sensing.inputs import named_scenes

        known = self._names if all(self._names) else []
        return named_scenes(text, self.assets, known or [end.lstrip("_-.") for end in self._band_files])

    @property
    def _band_files(self) -> Sequence[str]:
        """Name endings of files with a band each; empty if files have all bands."""
        return tuple(self.layout.get("band_files", ()))

    @property
    def _names(self) -> list[str]:
        """The names of the bands in training; empty for bands without."""
        return [band.get("name", "") for band in self.scaling.stats]

    def outputs(self, target: Path) -> list[Path]:
        """The files that `predict` makes for `target`, a path without extension."""
        maps = (f"_{name}.tif" for name in self.extras)
        ends = (".tif", ".tif.aux.xml", *maps, *(f".{name}" for name in self.vectors), *([".qml"] if self.qml else []))
        return [target.with_name(target.name + end) for end in ends]

    def predict(self, model: "Model", files: tuple[Path | str, ...], target: Path) -> Iterator[Step]:
        """Predict a scene and write its maps, resuming an interrupted prediction.

        Raises:
            DataError: a file cannot be read or written, or does not fit the network.
        """
        stack = self._stack(files)
        if not stack.grid.crs and self.vectors and self.min_area:
            raise DataError(
                f"{files[0]} has no coordinate reference system, so its polygons have no area. Leave out min_area."
            )
        task = self._task(stack, model.card.inference, target)
        try:
            missing = task.strips.begin(self._key(model, files))
            yield from self._strips(model, task, missing, target.name)
            facts = task.strips.facts()
            self._write(task, target)
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{target.parent} cannot be written: {reason}. Choose another --output.") from None
        remarks = [_remark(target.name, facts, self.scaling), _renamed(target.name, stack.names, self._names)]
        if "geojson" in self.vectors and not stack.grid.crs:
            remarks.append(
                f"{files[0]} has no coordinate reference system, so there is no GeoJSON, which is in longitude and "
                "latitude. A GeoPackage has pixel coordinates then: --set gpkg=true."
            )
        yield Step(1.0, "\n".join(filter(None, remarks)))

    def _stack(self, files: tuple[Path | str, ...]) -> Stack:
        """The bands of a scene. Raises DataError: they do not fit the network."""
        from farcluss_remote_sensing.checks import BANDS, order_problem, problem
        from farcluss_remote_sensing.scenes import Scene

        paths = [path for path in files if isinstance(path, Path)]
        problems = band_files_of(paths, self._band_files)[1]
        if problems and len(group_bands(paths, self._band_files)) == 1:
            raise DataError(problems[0])
        stack = Stack(tuple(map(str, files)), tuple(self.bands), self.warp, self.layout.get("nodata"))
        if text := problem(Scene("", stack.files), stack):
            raise DataError(text)
        if stack.count != self.card.channels:
            raise DataError(
                f"{', '.join(stack.files)}: {stack.count} bands, but the network takes {self.card.channels}.\n{BANDS}\n"
                "Bands in several files are given together, as 'A.tif;B.tif' or by a table."
            )
        self.scaling.check(stack.dtypes, stack.sources)
        if text := order_problem(stack.names, self._names, ", ".join(stack.files)):
            raise DataError(text)
        return stack

    def _task(self, stack: Stack, settings: "Inference", target: Path) -> "Task":
        from farcluss_remote_sensing.whole_scenes import Task

        window = settings.window or (self.window,) * 2
        rows, columns = (
            plan_axis(extent, side, settings.stride, self.blend)
            for extent, side in zip(stack.grid.size, window, strict=True)
        )
        kinds: dict[str, tuple[int, str]] = {"classes": (1, "uint8")}
        kinds |= {name: (len(self.card.classes) if name == "probs" else 1, "float32") for name in self.extras}
        if self.vectors:
            kinds["confidence"] = (1, "float32")
        folder = target.with_name(f".{target.name}.parts")
        height = -(-rows.side // ROWS) * ROWS
        return Task(stack, self.scaling, rows, columns, Strips(folder, stack.grid.size, height, kinds))

    def _key(self, model: "Model", files: Sequence[Path | str]) -> str:
        """Everything that finished strips depend on, as text."""
        states = [_state(file) for file in files]
        facts = [_fingerprint(model), states, self.blend, self.extras, bool(self.vectors)]
        return json.dumps(facts, indent=1)

    def _strips(self, model: "Model", task: "Task", missing: Sequence[int], name: str) -> Iterator[Step]:
        """Predict the strips that are missing."""
        from farcluss_remote_sensing.whole_scenes import predict_in_processes, predict_strips

        strips = task.strips
        height = strips.size[0]
        done = height - sum(last - first for first, last in map(strips.bounds, missing))
        if done:
            yield Step(
                PREDICTING * done / height,
                f"{name}: resumed a prediction that was interrupted after {done} of {height} rows.",
            )
        if self.processes > 1 and len(missing) > 1:
            steps = predict_in_processes(model, task, missing, self.processes)
        else:
            steps = predict_strips(model, task, missing)
        for rows in steps:
            done += rows
            yield Step(PREDICTING * done / height)

    def _write(self, task: "Task", target: Path) -> None:
        """Join the strips in temporary files, then move all files to their places."""
        import rasterio

        from farcluss_remote_sensing.legend import category_names, legend_of, style
        from farcluss_remote_sensing.maps import beside, write_map
        from farcluss_remote_sensing.whole_scenes import CACHE

        folder, grid = task.strips.folder, task.stack.grid
        unplaced = {target.with_name(f"{target.name}.{kind}") for kind in {*self.vectors} - {*self._vectors(grid)}}
        made = {path: folder / path.name for path in self.outputs(target) if path not in unplaced}
        classes, names, *rest = made.values()
        for path in made.values():  # a partial one of an earlier attempt
            path.unlink(missing_ok=True)
            beside(path).unlink(missing_ok=True)
        with rasterio.Env(GDAL_CACHEMAX=CACHE):
            write_map(classes, task.strips, "classes", grid, self.card, self.cog)
            for name, path in zip(self.extras, rest, strict=False):
                write_map(path, task.strips, name, grid, self.card, self.cog)
            legend = legend_of(self.card)
            write_atomically(names, category_names(names, legend))
            if self.qml:
                write_atomically(rest[-1], style(legend))
            if vectors := {kind: folder / f"{target.name}.{kind}" for kind in self._vectors(grid)}:
                self._write_polygons(task, classes, vectors)
        also = {beside(path): beside(source) for path, source in made.items() if beside(source).is_file()}
        for path, source in (made | also).items():
            with source.open("rb+") as file:
                os.fsync(file.fileno())
            rename_durably(source, path)
        task.strips.remove()

    def _vectors(self, grid: Grid) -> list[Literal["gpkg", "geojson"]]:
        """The forms of polygons that a scene can have: GeoJSON has a place on Earth."""
        return [kind for kind in self.vectors if kind == "gpkg" or grid.crs]

    def _write_polygons(self, task: "Task", classes: Path, outputs: Mapping[Literal["gpkg", "geojson"], Path]) -> None:
        from farcluss_remote_sensing.legend import legend_of
        from farcluss_remote_sensing.maps import write_map
        from farcluss_remote_sensing.polygons import write_polygons

        confidence = task.strips.folder / "confidence.tif"
        write_map(confidence, task.strips, "confidence", task.stack.grid, self.card, cog=False)
        write_polygons(
            classes,
            confidence,
            self.card.classes,
            outputs,
            values=legend_of(self.card).values,
            min_area=self.min_area,
            simplify=self.simplify,
        )


def _pairs(files: Sequence[Path], before: str, after: str) -> list[tuple[str, tuple[Path, ...]]]:
    """The files of the folder of first dates, each with that of its name in the folder of second dates."""
    folder = Path(before).parts
    pairs: list[tuple[str, tuple[Path, ...]]] = []
    for path in files:
        place = path.absolute().parent
        if place.parts[-len(folder) :] == folder:
            there = place.parents[len(folder) - 1] / after
            names = [path.name, *(path.stem + end for end in SUFFIXES)]
            other = next((there / name for name in names if (there / name).is_file()), there / path.name)
            pairs.append((path.stem, (path, other)))
    return pairs


def _state(file: Path | str) -> tuple[object, ...]:
    """Identifies the content of a file as far as it costs nothing; of an address, nothing but that."""
    if isinstance(file, str):
        return (file,)
    facts = file.stat()
    return str(file.resolve()), facts.st_size, facts.st_mtime_ns


def _scaling_of(layout: Mapping[str, Any], card: "Card") -> Scaling:
    return build_scaling(layout["scaling"], layout["factor"], layout["stats"], card.channels, card.mean)


def _fingerprint(model: "Model") -> list[Any]:
    """Identifies a network: its card, and sums of its tensors' bits."""
    import torch

    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    tensors = model.network.state_dict().values()
    sums = [tensor.view(whole[tensor.element_size()]).sum(dtype=torch.int64) for tensor in tensors]
    return [hashlib.sha256(model.card.model_dump_json().encode()).hexdigest(), torch.stack(sums).tolist()]


def _renamed(name: str, names: Sequence[str], known: Sequence[str]) -> str:
    """A warning if the bands of a scene have other names than in training; else empty."""
    if list(names) == list(known) or not (known and all(names) and all(known)):
        return ""
    return f"{name}: the bands are named {', '.join(names)}, in training {', '.join(known)}: check which they are."


def _remark(name: str, facts: Sequence[tuple[int, Sequence[float]]], scaling: Scaling) -> str:
    """A warning if the bands of a scene differ much from training; else empty."""
    count = sum(number for number, _ in facts)
    if not count:
        return f"{name}: no pixel is valid, so its map is empty. Check the nodata value."
    means = np.sum([sums for _, sums in facts], axis=0) / count
    far = [
        f"{name}: band {band} has mean {mean:.4g}, in training it had {stats['mean']:.4g}"
        for band, (mean, stats) in enumerate(zip(means, scaling.stats, strict=False), 1)
        if {"mean", "std"} <= stats.keys() and abs(mean - stats["mean"]) > FAR * stats["std"]
    ]
    more = f" (and {len(far) - 1} more bands)" if len(far) > 1 else ""
    return f"{far[0]}{more}: check units and scaling." if far else ""
