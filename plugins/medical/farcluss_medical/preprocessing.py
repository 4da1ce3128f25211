"""From the voxels of a file to the input of a network.

The order is orientation, normalization, resampling. The result depends only on the case and `Preprocessing`.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from farcluss.data.base import IGNORE
from farcluss.errors import DataError
from farcluss_medical.volumes import Header, Orientation, Volume

ANISOTROPIC = 3.0
"""Ratio of the largest to the smallest spacing above which the coarse axis is resampled by nearest neighbor."""
MOST = 2**30
"""Voxels of a resampled case above which its header or the spacing is wrong: 4 GiB per channel."""
Normalization = Literal["zscore", "ct", "none"]


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of every case.

    Attributes:
        normalize: `zscore` per case and channel over its nonzero voxels (MR); `ct` clips to the fingerprint's
            percentiles and applies its mean and standard deviation; `none` keeps the values.
        spacing: millimeters per voxel in the order right, anterior, superior; None keeps each case's own.
        fingerprint: for `ct`: per channel `low`, `high`, `mean` and `std`, see `farcluss_medical.fingerprint`.
        clip: for `zscore`: percentiles of the nonzero voxels that these are clipped to before.
        zero_nan: whether NaN in files means 0.
    """

    normalize: Normalization = "zscore"
    spacing: tuple[float, ...] | None = None
    fingerprint: tuple[dict[str, float], ...] = ()
    clip: tuple[float, float] | None = None
    zero_nan: bool = False

    def facts(self) -> dict[str, Any]:
        """All settings that the voxels depend on, as plain values."""
        return asdict(self)

    def size(self, header: Header) -> tuple[int, ...]:
        """Shape of a preprocessed case. Raises DataError for more than `MOST` voxels, if it is resampled."""
        orientation = Orientation.of(header)
        return self._resampled(orientation.size(), orientation.spacing(header.affine))

    def image(self, volume: Volume) -> NDArray[np.float32]:
        """The network input of a case: `(C, *S)` float32."""
        orientation, spacing = self._geometry(volume)
        voxels = orientation.apply(volume.voxels).astype(np.float32, copy=False)
        size = self._resampled(voxels.shape[1:], spacing)
        image = resample_image(self._normalized(voxels), size, spacing)
        if self.normalize == "zscore" and image.shape != voxels.shape:
            # Splines ring far into empty regions. These must stay 0, as crops are drawn in the box of nonzero voxels.
            for channel, before in zip(image, voxels, strict=True):
                channel[resample_mask((before != 0).astype(np.uint8), size, spacing) == 0] = 0
        return image

    def mask(self, classes: NDArray[np.uint8], affine: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A mask `(*S)` of class indices in the order of the file, on the grid of `image`."""
        orientation, spacing = self._geometry(Volume(classes[None], affine))
        turned = orientation.apply(classes[None])[0]
        return resample_mask(turned, self._resampled(turned.shape, spacing), spacing)

    def _geometry(self, volume: Volume) -> tuple[Orientation, tuple[float, ...]]:
        header = Header(volume.voxels.shape[1:], len(volume.voxels), volume.affine)
        orientation = Orientation.of(header)
        return orientation, orientation.spacing(volume.affine)

    def _resampled(self, size: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[int, ...]:
        if self.spacing is None:
            return size
        new = tuple(max(1, round(n * old / step)) for n, old, step in zip(size, spacing, self.spacing, strict=True))
        if new != size and math.prod(new) > MOST:
            raise DataError(
                f"{_by(size)} voxels of {_by(spacing)} mm would become {_by(new)} voxels of {_by(self.spacing)} mm.\n"
                f"The most is {MOST:,} voxels. Check the voxel size in the header and data.layout.spacing."
            )
        return new

    def _normalized(self, voxels: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.normalize == "zscore":
            return np.stack([zscore(channel, self.clip) for channel in voxels])
        if self.normalize == "none":
            return voxels
        if len(self.fingerprint) != len(voxels):
            raise DataError(
                f"The fingerprint has {len(self.fingerprint)} channels, but the image has {len(voxels)}.\n"
                "Measure it again with `farcluss medical fingerprint RECIPE`."
            )
        facts = zip(voxels, self.fingerprint, strict=True)
        scaled = [(v.clip(f["low"], f["high"]) - f["mean"]) / (f["std"] or 1.0) for v, f in facts]
        return np.stack(scaled).astype(np.float32)


def _by(values: Sequence[float]) -> str:
    return "x".join(f"{value:.6g}" for value in values)


def zscore(channel: NDArray[np.float32], clip: tuple[float, float] | None = None) -> NDArray[np.float32]:
    """A channel `(*S)` with mean 0 and standard deviation 1 over its nonzero voxels; the others stay 0.

    With `clip`, two percentiles, the nonzero voxels are first clipped to these.
    """
    inside = channel != 0
    values = channel[inside].astype(np.float64)
    if not len(values):
        return channel
    if clip is not None:
        values = values.clip(*np.percentile(values, clip))
    deviation = values.std()
    scaled = np.zeros_like(channel)
    scaled[inside] = (values - values.mean()) / (deviation if deviation > 0 else 1.0)
    return scaled


def coarse_axis(spacing: tuple[float, ...]) -> int | None:
    """The axis along which voxels are too long to interpolate between them; None if there is none."""
    largest = int(np.argmax(spacing))
    return largest if spacing[largest] > ANISOTROPIC * min(spacing) else None


def resample_image(
    image: NDArray[np.float32], size: tuple[int, ...], spacing: tuple[float, ...]
) -> NDArray[np.float32]:
    """An image `(C, *S)` on a grid of `size` voxels over the same extent.

    Cubic splines; nearest neighbor along an axis that is much coarser than the others.
    """
    return np.stack([_zoom(channel, size, spacing, order=3) for channel in image]) if image.shape[1:] != size else image


def resample_mask(mask: NDArray[np.uint8], size: tuple[int, ...], spacing: tuple[float, ...]) -> NDArray[np.uint8]:
    """A mask `(*S)` on another grid: the class whose linearly interpolated indicator is largest."""
    if mask.shape == size:
        return mask
    best, result = np.full(size, -1, np.float32), np.full(size, IGNORE, np.uint8)
    for index in np.unique(mask):  # offline, once per case
        share = _zoom((mask == index).astype(np.float32), size, spacing, order=1)
        result[share > best], best = index, np.maximum(best, share)
    return result


def _zoom(array: NDArray[Any], size: tuple[int, ...], spacing: tuple[float, ...], order: int) -> NDArray[Any]:
    from scipy.ndimage import zoom

    if (coarse := coarse_axis(spacing)) is not None:
        old, new = array.shape[coarse], size[coarse]
        array = array.take(((np.arange(new) + 0.5) * old / new).astype(np.int64), axis=coarse)
    factors = [new / old for new, old in zip(size, array.shape, strict=True)]
    return np.asarray(zoom(array, factors, order=order, mode="nearest", grid_mode=True))
