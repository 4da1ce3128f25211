"""The options that all layouts of volumes share."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from farcluss.data.base import Data, Defaults
from farcluss.data.layouts import built_by, read_option
from farcluss.data.masks import build_mask_map, choose_palette
from farcluss.errors import DataError, RecipeError, short
from farcluss.plugins.options import Positive, Share
from farcluss_medical.cache import Cache
from farcluss_medical.cases import Index, verify
from farcluss_medical.dataset import VolumeDataset
from farcluss_medical.preprocessing import Normalization, Preprocessing
from farcluss_medical.volumes import Header, Orientation

Fingerprint = list[dict[str, float]]


def volumes(
    data: Data,
    index: Index,
    *,
    dimensions: Literal[2, 3] = 3,
    slice_axis: Literal["auto", 0, 1, 2] = "auto",
    normalize: Normalization = "zscore",
    spacing: list[Positive] | Literal["fingerprint"] | None = None,
    fingerprint: str | Fingerprint = "",
    clip: list[float] | None = None,
    nan: Literal["refuse", "zero"] = "refuse",
    foreground: Share = 1 / 3,
    cache: str = "farcluss-cache",
) -> VolumeDataset:
    """A data set of the cases of an index.

    Args:
        dimensions: 3 for patches of volumes, 2 for their slices.
        slice_axis: axis along which volumes are sliced: 0 right, 1 anterior, 2 superior; `auto`: the one with the
            largest spacing, among equals the one with the fewest voxels.
        normalize: `zscore` per case and channel over nonzero voxels (MR), `ct` by the fingerprint, `none`.
        spacing: millimeters per voxel (right, anterior, superior) that cases are resampled to, or `fingerprint` for the
            spacing that the fingerprint suggests; unset: keep the spacing of each case.
        fingerprint: file of `farcluss medical fingerprint`; weights files carry its content.
        clip: percentiles of the nonzero voxels that `zscore` clips each channel of each case to first, such as
            `[0.5, 99.5]` for MR with outliers; unset: no clipping.
        nan: `zero` reads NaN as 0, for images with a border of NaN; `refuse` reports such images.
        foreground: probability that a labeled crop contains a voxel of a class other than the first.
        cache: folder for preprocessed volumes, relative to the working directory.
    """
    index, headers, channels = verify(index, data)
    # Cases are normalized already; flips along all axes are common for volumes.
    names = list(map(str, index.channels)) if len(index.channels) == channels else None
    defaults = Defaults(channels, names, 0.0, 1.0, list(range(dimensions)), [], "nifti", value_range=None)
    data = data.with_defaults(defaults)
    masks = build_mask_map(data, {name: _values(value) for name, value in index.classes.items()})
    if masks.colors:
        raise RecipeError("data.classes gives colors; labels of volumes are whole numbers.")
    preprocessing = replace(
        _preprocessing(data, normalize, spacing, fingerprint),
        clip=_percentiles(clip, normalize),
        zero_nan=nan == "zero",
    )
    index = _without_oversized(index, headers, preprocessing)
    axis = None
    if dimensions == 2:
        axis = _coarsest(headers) if slice_axis == "auto" else slice_axis
    palette = choose_palette(data, None, len(masks.names), masks)
    folder = Path(os.path.abspath(cache))
    cached = Cache(folder, axis)
    return VolumeDataset(data, index, headers, masks, palette, preprocessing, axis, foreground, cached, defaults)


with_volume_options = built_by(volumes)
"""Turns a function `layout(data, *, options) -> Index` into a data set plugin that also has `volumes`' options."""


def check_channels(data: Data, source: str, channels: Sequence[str]) -> None:
    """Raise RecipeError unless the channels are as many as the recipe says, if it does."""
    if data.channels is not None and len(channels) != data.channels:
        raise RecipeError(
            f"{source} {len(channels)} channels ({', '.join(channels)}), but data.channels is {data.channels}.\n"
            "Remove data.channels, or choose other channels."
        )


def _without_oversized(index: Index, headers: dict[str, Header], preprocessing: Preprocessing) -> Index:
    """The index without cases that resampling would make too large; they become problems."""
    problems: dict[str, str] = {}
    for case in (case for cases in index.splits.values() for case in cases):
        try:
            preprocessing.size(headers[case.id])
        except DataError as error:
            problems[case.id] = f"{case.images[0]}: {error}"
    splits = {split: [case for case in cases if case.id not in problems] for split, cases in index.splits.items()}
    return replace(index, splits=splits, problems=[*index.problems, *problems.values()])


def _values(value: int | list[int]) -> list[Any]:
    return [value] if isinstance(value, int) else list(value)


def _preprocessing(
    data: Data, normalize: Normalization, spacing: list[float] | str | None, fingerprint: str | Fingerprint
) -> Preprocessing:
    facts: dict[str, Any] = {}
    if isinstance(fingerprint, str) and fingerprint:
        facts = _read_fingerprint(fingerprint, data)
    channels = facts.get("intensities", []) if isinstance(fingerprint, str) else fingerprint
    if normalize == "ct" and not channels:
        raise RecipeError(
            'data.layout.normalize = "ct" needs a fingerprint: `farcluss medical fingerprint RECIPE -o FILE`,\n'
            "then --set data.layout.fingerprint=FILE."
        )
    if spacing == "fingerprint":
        if not facts:
            raise RecipeError('data.layout.spacing = "fingerprint" needs a file in data.layout.fingerprint.')
        spacing = facts["spacing"]
    if spacing is not None and len(spacing) != 3:
        raise RecipeError(f"data.layout.spacing has {len(spacing)} values; a volume has three axes.")
    target = None if spacing is None else tuple(float(step) for step in spacing)
    return Preprocessing(normalize, target, tuple(map(_used, channels)) if normalize == "ct" else ())


def _percentiles(clip: list[float] | None, normalize: Normalization) -> tuple[float, float] | None:
    """The option `clip`. Raises RecipeError."""
    if clip is None:
        return None
    if len(clip) != 2 or not 0 <= clip[0] < clip[1] <= 100:
        raise RecipeError(f"data.layout.clip = {clip} must be two percentiles, such as [0.5, 99.5].")
    if normalize != "zscore":
        raise RecipeError(f'data.layout.clip is for normalize = "zscore", not "{normalize}". Remove it.')
    return clip[0], clip[1]


def _used(facts: dict[str, float]) -> dict[str, float]:
    """The intensity statistics of a channel that normalization needs. Raises RecipeError."""
    try:
        return {key: float(facts[key]) for key in ("low", "high", "mean", "std")}
    except (KeyError, TypeError, ValueError):
        raise RecipeError(
            f"data.layout.fingerprint: {short(repr(facts))} lacks low, high, mean or std of a channel.\n"
            "Write it with `farcluss medical fingerprint`."
        ) from None


def _read_fingerprint(name: str, data: Data) -> dict[str, Any]:
    what, command = "fingerprint", "farcluss medical fingerprint"
    return read_option("fingerprint", name, data, _facts, what=what, command=command)


def _facts(facts: Any) -> dict[str, Any]:
    """A fingerprint, if it is one. Raises KeyError, TypeError."""
    if not isinstance(facts["intensities"], list) or not all(step > 0 for step in facts["spacing"]):
        raise TypeError
    return dict(facts)


def _coarsest(headers: dict[str, Header]) -> int:
    """The axis with the largest median spacing; of equals the one with the fewest voxels, then the last."""
    if not headers:
        return 2
    orientations = {name: Orientation.of(header) for name, header in headers.items()}
    spacing = np.median([orientations[name].spacing(header.affine) for name, header in headers.items()], axis=0)
    size = np.median([orientation.size() for orientation in orientations.values()], axis=0)
    return max(range(3), key=lambda axis: (round(float(spacing[axis]), 3), -size[axis], axis))
