"""The options that all layouts of scenes share."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from farcluss.data.base import Data, Defaults, Palette
from farcluss.data.layouts import built_by, read_option
from farcluss.data.masks import build_mask_map, choose_palette, rgb, voc_colors
from farcluss.errors import RecipeError
from farcluss.plugins.options import Positive, PositiveInt, Share
from farcluss_remote_sensing.checks import inspect, scalable, usable
from farcluss_remote_sensing.dataset import SceneDataset
from farcluss_remote_sensing.files import Stack
from farcluss_remote_sensing.labels import LabelReader
from farcluss_remote_sensing.scaling import Mode, build_scaling
from farcluss_remote_sensing.scenes import Index
from farcluss_remote_sensing.vectors import Overlap, Rules


def scene_dataset(
    data: Data,
    index: Index,
    *,
    window: PositiveInt = 1024,
    bands: list[PositiveInt] = [],  # noqa: B006
    scaling: Mode = "zscore",
    factor: Positive = 10000.0,
    stats: str | list[dict[str, Any]] = "",
    field: str = "",
    outside: str = "",
    all_touched: bool = False,
    overlap: Overlap = "feature",
    warp: bool = False,
    min_valid: Share = 0.5,
    nodata: float | None = None,
    label_nodata: float | None = None,
    label_band: PositiveInt | None = None,
) -> SceneDataset:
    """A data set of the scenes of an index.

    Args:
        window: maximum pixels per side of the windows that scenes are divided into; crops lie inside a window.
        bands: numbers (from 1) of the bands to use from each file; default: all but alpha.
        scaling: `zscore` by the mean and standard deviation of each band, `percentile` by its percentiles 0.5 and 99.5
            to [0, 1], `scale` by `factor`, `imagenet` for 8-bit colors, normalized by data.mean and data.std.
        factor: value that `scale` maps to 1; 10000 for reflectances as Sentinel-2 and Landsat store them.
        stats: file of `farcluss rs stats`; weights files carry its content.
        field: attribute of polygons that names their class, by name or by value; unset: all have one class, the first
            that is not `outside`.
        outside: class of pixels that no polygon covers; unset: they are ignored.
        all_touched: a polygon covers each pixel that it touches, as for roads thinner than a pixel; else those whose
            center lies inside.
        overlap: what a pixel is that several polygons cover: the later `feature` of the file counts, or the one whose
            `class` is later in data.classes.
        warp: resample files and labels onto the grid of the scene's first file where theirs differs, instead of
            reporting an error.
        min_valid: share of valid pixels below which an unlabeled window is left out of training.
        nodata: value of images that means no data, besides those that files declare.
        label_nodata: value of labels that means no label, in place of those that files declare.
        label_band: number (from 1) of the band with the labels, in files of several bands.
    """
    masks = build_mask_map(_with_ignored(data, index), index.classes)
    if outside and outside not in masks.names:
        raise RecipeError(f"data.layout.outside = {outside!r} is no class; classes are {', '.join(masks.names)}.")
    known = _read_stats(stats, data) if isinstance(stats, str) else stats
    index, stacks, channels = usable(index, data, tuple(bands), warp, nodata)
    defaults = _defaults(channels, _names(stacks.values(), index, channels), scaling, masks.values)
    data = data.with_defaults(defaults)
    built = build_scaling(scaling, factor, known, channels, data.channel_mean)
    index, stacks = scalable(index, stacks, built)
    palette = choose_palette(data, _palette(index, len(masks.names)), len(masks.names), masks)
    labels = LabelReader(masks, Rules(field, outside, all_touched, overlap), warp, label_nodata, label_band)
    # Stored in weights, as defaults may change in later versions.
    carried = {"window": window, "bands": bands, "scaling": scaling, "factor": factor, "warp": warp}
    carried |= {"field": field, "outside": outside, "all_touched": all_touched, "overlap": overlap}
    carried |= {"min_valid": min_valid, "nodata": nodata, "label_nodata": label_nodata, "label_band": label_band}
    index = replace(index, options={**index.options, **carried})
    return SceneDataset(data, index, stacks, labels, palette, built, window, min_valid, inspect, defaults)


with_scene_options = built_by(scene_dataset)
"""Turns a function `layout(data, *, options) -> Index` into a data set plugin with `scene_dataset`'s options too."""


def _defaults(channels: int, names: list[str] | None, scaling: Mode, values: list[int | str]) -> Defaults:
    """Defaults for scenes: nadir views have no up and down; zscore bands need no mean and std."""
    mean, std = (0.0, 1.0) if scaling == "zscore" else (None, None)
    bounds = (0.0, 1.0) if scaling in ("imagenet", "percentile") else None
    return Defaults(channels, names, mean, std, [0, 1], [(0, 1)], "geotiff", bounds, mask_values=values)


def _names(stacks: Iterable[Stack], index: Index, channels: int) -> list[str] | None:
    """The names of the bands that all scenes have in common, else the endings of their files; None for unnamed ones."""
    described = {stack.names for stack in stacks}
    if len(described) == 1 and all(names := min(described)):
        return list(names)
    ends = [end.strip("_-.") for end in index.options.get("band_files", ())]
    return ends if len(ends) == channels and all(ends) else None


def _with_ignored(data: Data, index: Index) -> Data:
    """The section with the data set's own ignored values, where the recipe sets neither classes nor ignore_index."""
    if data.classes is not None or data.ignore_index is not None or not index.ignored:
        return data
    return data.model_copy(update={"ignore_index": list(index.ignored)})


def _palette(index: Index, classes: int) -> Palette:
    """The layout's colors; else generated ones without black, which would look like nodata on a map."""
    own = tuple(rgb(int(color.removeprefix("#"), 16)) for color in index.palette)
    return own if len(own) == classes else voc_colors(classes + 1)[1:]


def _read_stats(name: str, data: Data) -> list[Mapping[str, Any]]:
    """The tables of bands in a statistics file; empty without a file. Raises RecipeError."""
    if not name:
        return []
    return read_option("stats", name, data, _bands, what="file of statistics", command="farcluss rs stats")


def _bands(statistics: Any) -> list[Mapping[str, Any]]:
    bands = statistics["bands"]
    if not isinstance(bands, list) or not all(isinstance(band, dict) for band in bands):
        raise TypeError
    return bands
