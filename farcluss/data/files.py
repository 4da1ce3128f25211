"""Images and masks in files: Pillow for pictures, NumPy for `.npy` arrays with any number of channels.

From a `.npy` array only the window is read. Pictures are decoded whole and cut before any conversion: PNG is one
compressed stream, and Pillow decodes JPEG and TIFF only as a whole. Where a window is at least twice as large as its
crop, a JPEG can be decoded at lower resolution, which is faster and changes pixels. If decoding limits training speed,
use `farcluss pack`.
"""

import struct
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from farcluss.data.base import Item, Reduced, Sample, Window
from farcluss.data.masks import MaskMap
from farcluss.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".npy"})
_EXIF_ORIENTATION, _WIDTH, _HEIGHT = 0x0112, 0x0100, 0x0101
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition that makes an image of each EXIF orientation upright; 1 is upright."""
_MIRRORED = {2: (0, 1), 3: (1, 1), 4: (1, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}
"""By EXIF orientation, for each axis of the upright image, whether it is reversed in the stored image."""
_DEEP = {"I;16", "I;16B", "I;16L", "I"}


@dataclass(frozen=True)
class FileReader:
    """Reads items whose image and mask are files.

    Attributes:
        channels: image channels wanted.
        masks: which mask value is which class.
    """

    channels: int
    masks: MaskMap

    def size(self, item: Item) -> tuple[int, ...]:
        """`(H, W)` as displayed, from the file's header."""
        return image_size(item.image)

    def read(self, item: Item, window: Window | None = None) -> Sample:
        """Image and mask of an item, or of a window of it.

        Raises:
            DataError: a file is missing or damaged, has other channels than wanted, unknown mask values, or the mask
                has another size than the image.
        """
        return Sample(read_image(item.image, self.channels, window), self._mask(item, window))

    def read_reduced(self, item: Item, window: Window, factor: int) -> Reduced | None:
        """A window of an item whose image, a JPEG, is decoded 2, 4 or 8 times smaller, at most `factor` times.

        Returns:
            The mask of `read`, and an image of about the means over squares. None for other formats than JPEG.

        Raises:
            DataError: as `read`.
        """
        found = read_draft(item.image, self.channels, window, factor)
        return found and Reduced(*found, self._mask(item, window))

    def _mask(self, item: Item, window: Window | None) -> NDArray[np.uint8] | None:
        if item.mask is None:
            return None
        sizes = image_size(item.image), image_size(item.mask)
        if sizes[0] != sizes[1]:
            (height, width), (mask_height, mask_width) = sizes
            raise DataError(
                f"{item.mask} is {mask_width} x {mask_height} pixels, its image {item.image} is {width} x {height}.\n"
                "Every mask must have the size of its image."
            )
        return self.masks.apply(read_mask(item.mask, self.masks.colors, window), item.mask)


def _open(path: str) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check data.root and the lists.") from None
    except Image.DecompressionBombError:
        raise DataError(
            f"{path} has more pixels than Pillow will open. Cut it into tiles, or store it as a .npy array."
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        empty = Path(path).is_file() and Path(path).stat().st_size == 0
        reason = "it is empty (0 bytes)" if empty else f"it is damaged or not an image ({type(error).__name__})"
        raise DataError(f"{path} cannot be read: {reason}. Replace the file or take it out of the lists.") from None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, from the header alone: the `getexif` of PNG files would decode all pixels first."""
    try:
        return int(Image.Image.getexif(image).get(_EXIF_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):  # a damaged EXIF block says nothing
        return 1


def _array(path: str) -> NDArray[Any]:
    """A `.npy` file as a memory-mapped array `(H, W, C)`."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check data.root and the lists.") from None
    except (ValueError, OSError, SyntaxError, TokenError):
        raise DataError(
            f"{path} cannot be read: it is not a .npy array. Replace it or take it out of the lists."
        ) from None
    if array.ndim not in (2, 3):
        raise DataError(f"{path} has shape {array.shape}; an image is (H, W) or (H, W, channels).")
    return array[..., None] if array.ndim == 2 else array


def image_size(path: str) -> tuple[int, int]:
    """`(H, W)` of an image or mask as displayed, without decoding it. Raises DataError."""
    if path.lower().endswith(".npy"):
        return _array(path).shape[:2]
    with _open(path) as image:
        # Of TIFF files Pillow gives the stored or the displayed size, depending on its version: take the tags.
        tags = getattr(image, "tag_v2", None)
        width, height = (tags[_WIDTH], tags[_HEIGHT]) if tags else image.size
        return (width, height) if _orientation(image) in (5, 6, 7, 8) else (height, width)


def array_channels(path: str) -> int | None:
    """Channels of a `.npy` image other than gray or RGB; None for pictures, which are read as either."""
    if not path.lower().endswith(".npy"):
        return None
    channels = _array(path).shape[2]
    return None if channels in (1, 3) else channels


def _decode(path: str, window: Window | None) -> Image.Image:
    """An image upright, cropped to the window. Raises DataError for a damaged file."""
    with _open(path) as image:
        return _upright(image, path, window)


def _upright(image: Image.Image, path: str, window: Window | None) -> Image.Image:
    try:
        turn = None if image.format == "TIFF" else _UPRIGHT.get(_orientation(image))  # Pillow turns TIFF itself
        upright = image if turn is None else image.transpose(turn)
        if window is not None:
            rows, columns = window
            upright = upright.crop((columns.start, rows.start, columns.stop, rows.stop))
        upright.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DataError(
            f"{path} cannot be decoded: {error}. It is probably truncated.\n"
            "Replace the file or take it out of the lists."
        ) from None
    return upright


def read_image(path: str, channels: int, window: Window | None = None) -> NDArray[np.uint8] | NDArray[np.float32]:
    """An image `(channels, H, W)`: uint8, or float32 in [0, 1] for 16-bit and float files.

    For 3 channels, gray is repeated and the alpha of RGBA dropped; for 1 channel, RGB becomes gray.

    Raises:
        DataError: the file is unreadable, or has a number of channels that cannot be converted.
    """
    if path.lower().endswith(".npy"):
        array = _array(path)
        return _with_channels(array if window is None else array[window], channels, path)
    return _with_channels(_pixels(_decode(path, window), channels, path), channels, path)


def read_draft(
    path: str, channels: int, window: Window, factor: int
) -> tuple[NDArray[Any], tuple[tuple[float, float], ...]] | None:
    """A window of a JPEG decoded smaller, see `FileReader.read_reduced`: image and box."""
    if not path.lower().endswith((".jpg", ".jpeg")):
        return None
    factor = min(8, 1 << factor.bit_length() - 1)  # the factors of libjpeg; for others, Pillow may use a larger one
    with _open(path) as image:
        width, height = image.size
        orientation = _orientation(image)
        drafted = image.draft(None, (max(width // factor, 1), max(height // factor, 1)))
        if drafted is None:
            return None
        reduction = width / drafted[1][2]
        # The last pixel of a row stands for fewer where the factor does not divide it; mirrored, that is the first.
        extents = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
        missing = [
            -extent % reduction if mirrored else 0.0
            for extent, mirrored in zip(extents, _MIRRORED.get(orientation, (0, 0)), strict=True)
        ]
        spans = [((w.start + m) / reduction, (w.stop + m) / reduction) for w, m in zip(window, missing, strict=True)]
        picture = _upright(image, path, tuple(slice(floor(low), ceil(high)) for low, high in spans))
    pixels = _with_channels(_pixels(picture, channels, path), channels, path)
    return pixels, tuple((low - floor(low), high - floor(low)) for low, high in spans)


def _pixels(image: Image.Image, channels: int, path: str) -> NDArray[Any]:
    """A picture as `(H, W, bands)`, in the color mode that `channels` stands for."""
    if image.mode not in _DEEP and image.mode != "F":
        wanted = {1: "L", 3: "RGB", 4: "RGBA"}.get(channels)
        try:
            image = image.convert(wanted) if wanted else image
        except ValueError:
            raise DataError(f"{path} is in {image.mode} colors, which Pillow cannot convert to {wanted}.") from None
    array = np.asarray(image)
    if image.mode == "I":  # 16 bits, as some files and versions of Pillow have them
        array = array.clip(0, 65535).astype(np.uint16)
    return array[..., None] if array.ndim == 2 else array


def _with_channels(array: NDArray[Any], channels: int, path: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    if array.shape[2] == 1 and channels == 3:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] != channels:
        raise DataError(
            f"{path} has {array.shape[2]} channels, the recipe's network takes {channels}.\n"
            f"Set data.channels = {array.shape[2]}, or convert the images."
        )
    # A copy in this order is writable and contiguous, as PyTorch wants it; Pillow's and mapped arrays are neither.
    return to_eight_bit_or_unit(np.moveaxis(np.asarray(array), 2, 0), path).copy(order="C")


def to_eight_bit_or_unit(array: NDArray[Any], path: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    """uint8 as it is, uint16 as float32 over its range, floats in [0, 1] as float32. Raises DataError for others."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.uint16:
        return array.astype(np.float32) / np.float32(65535)
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{path} has values of type {array.dtype}; images are uint8, uint16, or floats in [0, 1].")
    floats = array.astype(np.float32)
    if not ((floats >= 0) & (floats <= 1)).all():  # not a number is neither
        low, high = floats.min(), floats.max()
        raise DataError(f"{path} holds values from {low:g} to {high:g}; float images must lie in [0, 1]. Rescale them.")
    return floats


def read_mask(path: str, colors: bool, window: Window | None = None) -> NDArray[np.integer]:
    """A mask's values `(H, W)`, or its colors `(H, W, 3)`.

    Palette images give their indices, or, for `colors`, the colors of the indices in that file's own palette.

    Raises:
        DataError: the file is unreadable, or has colors where values are expected.
    """
    if path.lower().endswith(".npy"):
        array = np.asarray(_array(path) if window is None else _array(path)[window])
    else:
        array = _mask_array(_decode(path, window), colors)
    if colors and array.shape[2] < 3:
        raise DataError(f"{path} holds values, but the classes of this recipe are colors; give values in data.classes.")
    if colors:
        return array[..., :3]
    if (array != array[..., :1]).any():
        raise DataError(
            f"{path} is a color mask, but the classes of this recipe are values.\n"
            'Give the colors: [data.classes] with name = "#rrggbb".'
        )
    return np.asarray(array[..., 0])


def _mask_array(image: Image.Image, colors: bool) -> NDArray[Any]:
    """A mask `(H, W, bands)` without alpha; palette images as colors or as indices, 1-bit images as 0 and 1."""
    if colors and image.mode not in _DEEP and image.mode != "F":
        return np.asarray(image.convert("RGB"))
    array = np.atleast_3d(np.asarray(image))
    return array[..., :1] if image.mode in ("LA", "PA") else array[..., :3]
