"""From band values in any unit to the input of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from farcluss.errors import DataError, RecipeError

Mode = Literal["zscore", "percentile", "scale", "imagenet"]
NEEDED = {"zscore": ("mean", "std"), "percentile": ("low", "high")}
"""The statistics of a band that each mode needs."""


@dataclass(frozen=True)
class Scaling:
    """The scaling of band values, the same in training and prediction.

    Attributes:
        mode: zscore `(x - mean) / std`; percentile `(x - low) / (high - low)`, clipped to [0, 1]; scale `x / factor`;
            imagenet: 8-bit colors unchanged, for data.mean and data.std.
        factor: of mode scale.
        stats: one table per band: dtype, mean, std, low and high.
        fill: value per band of invalid pixels, after scaling.
    """

    mode: Mode
    factor: float
    stats: tuple[Mapping[str, Any], ...]
    fill: tuple[float, ...]

    def __call__(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.float32] | NDArray[np.uint8]:
        """Scaled values `(C, h, w)`, float32 (uint8 for imagenet), finite everywhere; invalid pixels hold `fill`."""
        if self.mode == "imagenet":
            image = values.copy()
            fill = np.round(np.array(self.fill) * 255).astype(np.uint8)
        else:
            # Subtract in float64: with large offsets, such as elevations, float32 would lose digits.
            low, span = (np.array(bounds, np.float64)[:, None, None] for bounds in self._bounds(len(values)))
            with np.errstate(over="ignore", invalid="ignore"):  # in pixels that are not valid
                image = ((values - low) / span).astype(np.float32)
            if self.mode == "percentile":
                image = image.clip(0, 1)
            fill = np.array(self.fill, np.float32)
        if not valid.all():
            image[:, ~valid] = fill[:, None]
        return image

    def _bounds(self, count: int) -> tuple[list[float], list[float]]:
        """Offset and span per band."""
        if self.mode == "scale":
            return [0.0] * count, [self.factor] * count
        first, second = NEEDED[self.mode]
        low, high = ([float(band[key]) for band in self.stats] for key in (first, second))
        spans = high if self.mode == "zscore" else [top - bottom for bottom, top in zip(low, high, strict=True)]
        return low, [span or 1.0 for span in spans]  # a constant band stays constant

    def check(self, dtypes: Sequence[str], files: Sequence[str]) -> None:
        """Check that the scaling supports the types of the bands, given with the file of each.

        Raises:
            DataError: a band has another type than in the statistics, or is not 8-bit, as imagenet and division by 255
                require.
        """
        bands = list(zip(files, dtypes, strict=True))
        path, deep = next(((path, dtype) for path, dtype in bands if dtype != "uint8"), ("", ""))
        if self.mode == "imagenet" and deep:
            raise DataError(
                f'{path} has values of type {deep}; scaling = "imagenet" is only for 8-bit colors.\n'
                'Set data.layout.scaling = "zscore" and data.layout.stats to a file of `farcluss rs stats`.'
            )
        if self.mode == "scale" and self.factor == 255 and deep:
            raise DataError(
                f"{path} has values of type {deep}, but data.layout.factor = 255 is only for 8-bit values.\n"
                'Set data.layout.factor to the value that should become 1, or data.layout.scaling = "zscore".'
            )
        for number, ((path, dtype), band) in enumerate(zip(bands, self.stats, strict=False), 1):
            if band.get("dtype", dtype) != dtype:
                known = band["dtype"]
                raise DataError(
                    f"{path}: band {number} is {dtype}, but training and statistics are of {known}: the units differ.\n"
                    "Convert it, or measure again with `farcluss rs stats` and train again."
                )


def undeclared(stats: Sequence[Mapping[str, Any]]) -> str:
    """Why statistics contain missing data as measurements; empty without evidence."""
    values = {band.get("apart") for band in stats}
    if len(values) != 1 or (value := values.pop()) is None:
        return ""
    return (
        f"All bands have values of {value:g}, farther from all others than those are from each other: missing data, "
        f"measured as if they were valid.\nSet data.layout.nodata = {value:g}, and run `farcluss rs stats` again."
    )


def build_scaling(
    mode: Mode, factor: float, stats: Sequence[Mapping[str, Any]], channels: int, fill: Sequence[float]
) -> Scaling:
    """The scaling of a recipe. Raises RecipeError: statistics are missing, or have another number of bands."""
    if mode == "imagenet" and channels != 3:
        raise RecipeError(
            f'data.layout.scaling = "imagenet" is for 3 bands, but data.channels is {channels}. Use "zscore".'
        )
    needed = NEEDED.get(mode, ())
    if needed and not stats:
        raise RecipeError(
            f'data.layout.scaling = "{mode}" needs statistics of the bands: `farcluss rs stats RECIPE -o stats.json`,\n'
            "then --set data.layout.stats=stats.json."
        )
    if stats and len(stats) != channels:
        raise RecipeError(f"data.layout.stats has {len(stats)} bands, but data.channels is {channels}.")
    for band in stats:
        if missing := [key for key in needed if not isinstance(band.get(key), int | float)]:
            raise RecipeError(f"data.layout.stats lacks {missing[0]} of a band. Write it with `farcluss rs stats`.")
    return Scaling(mode, factor, tuple(stats), tuple(fill))
