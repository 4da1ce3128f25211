"""Images and masks in files: Pillow for pictures, NumPy for `.npy` arrays with any number of channels.

From a `.npy` array only the window is read. Pictures are decoded whole and cut before any conversion: PNG is one
compressed stream, and Pillow decodes JPEG and TIFF only as a whole. Where a window is at least twice as large as its
crop, a JPEG can be decoded at lower resolution, which is faster and changes pixels. If decoding limits training speed,
use `farcluss pack`.
"""

import os
import re
import stat
import struct
import warnings
from dataclasses import dataclass
from math import ceil, floor
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from farcluss.data.base import Item, Reduced, Sample, Window
from farcluss.data.masks import MaskMap, whole_numbers
from farcluss.errors import DataError, not_a_file

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What Pillow may open. It knows others, such as EPS, for which it starts another program."""
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
# Pillow warns of half as many pixels as it refuses; whoever has such images knows.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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
        return self.masks.apply(read_mask(item.mask, self.masks.colors, window, self.masks.white), item.mask)


def check_file(path: str) -> None:
    """Raise DataError unless `path` is a file with content."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist. Check data.root and the lists.") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        raise _unreadable(path, error) from None
    if not stat.S_ISREG(found.st_mode):
        raise _unreadable(path, f"it is {not_a_file(path)}")
    if not found.st_size:
        raise _unreadable(path, "it is empty (0 bytes)")


def _unreadable(path: str, reason: str | Exception, otherwise: str = "its name is not valid") -> DataError:
    """The error for a file: with the system's reason, or `otherwise` for an error without one."""
    if isinstance(reason, Exception):
        text = getattr(reason, "strerror", None)
        reason = text[0].lower() + text[1:] if text else otherwise
    return DataError(f"{path} cannot be read: {reason}. Replace the file or take it out of the lists.")


def open_picture(path: str) -> Image.Image:
    """Open one of `FORMATS`, without decoding it. Raises DataError that says what the file is instead."""
    check_file(path)
    try:
        return Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        raise DataError(
            f"{path} has more pixels than Pillow will open. Cut it into tiles, or store it as a .npy array."
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path, error, f"it is damaged or not an image of {', '.join(FORMATS)}") from None


def orientation(image: Image.Image) -> int:
    """EXIF orientation, from the header alone: the `getexif` of PNG files would decode all pixels first."""
    try:
        return int(Image.Image.getexif(image).get(_EXIF_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, TypeError, struct.error):  # a damaged EXIF block says nothing
        return 1


def _array(path: str) -> NDArray[Any]:
    """A `.npy` file of numbers as a memory-mapped array `(H, W, C)`, none of which is 0."""
    check_file(path)
    try:
        with np.errstate(over="ignore"):  # a damaged header may claim any size
            array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, SyntaxError, TokenError, OverflowError, TypeError) as error:
        with open(path, "rb") as file:
            ours = file.read(6) == np.lib.format.MAGIC_PREFIX
        reason = "it is truncated, damaged or holds Python objects" if ours else "it is not a .npy array"
        raise _unreadable(path, error, reason) from None
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path} holds values of type {array.dtype}, not numbers. Convert it.")
    if array.ndim not in (2, 3):
        raise DataError(f"{path} has shape {array.shape}; an image is (H, W) or (H, W, channels).")
    if not array.size:
        size = " x ".join(map(str, array.shape))
        raise DataError(f"{path} has no pixels: its size is {size}. Take it out of the lists.")
    return array[..., None] if array.ndim == 2 else array


def image_size(path: str) -> tuple[int, int]:
    """`(H, W)` of an image or mask as displayed, without decoding it. Raises DataError."""
    if path.lower().endswith(".npy"):
        return _array(path).shape[:2]
    with open_picture(path) as image:
        # Of TIFF files Pillow gives the stored or the displayed size, depending on its version: take the tags.
        tags = getattr(image, "tag_v2", None)
        width, height = (tags[_WIDTH], tags[_HEIGHT]) if tags else image.size
        return (width, height) if orientation(image) in (5, 6, 7, 8) else (height, width)


def array_channels(path: str) -> int | None:
    """Channels of a `.npy` image other than gray or RGB; None for pictures, which are read as either."""
    if not path.lower().endswith(".npy"):
        return None
    channels = _array(path).shape[2]
    return None if channels in (1, 3) else channels


def _upright(image: Image.Image, path: str, window: Window | None) -> Image.Image:
    try:
        turn = None if image.format == "TIFF" else _UPRIGHT.get(orientation(image))  # Pillow turns TIFF itself
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
    with open_picture(path) as image:
        return from_picture(image, channels, path, window)


def from_picture(
    image: Image.Image, channels: int, name: str, window: Window | None = None
) -> NDArray[np.uint8] | NDArray[np.float32]:
    """A picture as `read_image` returns it; `name` is for errors. Raises DataError."""
    if image.mode == "I" and image.format not in ("PNG", "PPM"):  # those two have 16 bits all the same
        raise DataError(f"{name} has signed or 32-bit integers; images are uint8, uint16, or floats in [0, 1].")
    return _with_channels(_pixels(_upright(image, name, window), channels, name), channels, name)


def read_draft(
    path: str, channels: int, window: Window, factor: int
) -> tuple[NDArray[Any], tuple[tuple[float, float], ...]] | None:
    """A window of a JPEG decoded smaller, see `FileReader.read_reduced`: image and box."""
    if not path.lower().endswith((".jpg", ".jpeg")):
        return None
    factor = min(8, 1 << factor.bit_length() - 1)  # the factors of libjpeg; for others, Pillow may use a larger one
    with open_picture(path) as image:
        width, height = image.size
        turn = orientation(image)
        drafted = image.draft(None, (max(width // factor, 1), max(height // factor, 1)))
        if drafted is None:
            return None
        reduction = width / drafted[1][2]
        # The last pixel of a row stands for fewer where the factor does not divide it; mirrored, that is the first.
        extents = (width, height) if turn in (5, 6, 7, 8) else (height, width)
        missing = [
            -extent % reduction if mirrored else 0.0
            for extent, mirrored in zip(extents, _MIRRORED.get(turn, (0, 0)), strict=True)
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
    array = array.astype(np.uint16) if image.mode == "I" else array
    return array[..., None] if array.ndim == 2 else array


def _with_channels(array: NDArray[Any], channels: int, path: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    if array.shape[2] == 1 and channels == 3:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] != channels:
        raise DataError(
            f"{path} has {array.shape[2]} channels, the network takes {channels}.\n"
            f"Convert the images, or train a network with data.channels = {array.shape[2]}."
        )
    # A copy in this order is writable and contiguous, as PyTorch wants it; Pillow's and mapped arrays are neither.
    return to_eight_bit_or_unit(np.moveaxis(np.asarray(array), 2, 0), path).copy(order="C")


def to_eight_bit_or_unit(array: NDArray[Any], path: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    """uint8 as it is, uint16 as float32 over its range, floats in [0, 1] as float32. Raises DataError for others."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.newbyteorder("=") == np.uint16:
        return array.astype(np.float32) / np.float32(65535)
    if array.dtype.kind != "f":
        raise DataError(f"{path} has values of type {array.dtype}; images are uint8, uint16, or floats in [0, 1].")
    floats = finite_floats(array, path)
    low, high = floats.min(), floats.max()
    if low < 0 or high > 1:
        raise DataError(f"{path} holds values from {low:g} to {high:g}; float images must lie in [0, 1]. Rescale them.")
    return floats


def finite_floats(array: NDArray[Any], path: str) -> NDArray[np.float32]:
    """Values as float32. Raises DataError for those that are not finite, or not in float32."""
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32)
    if not np.isfinite(floats).all():
        raise DataError(f"{path} holds values that are not finite, such as {array[~np.isfinite(floats)][0]:g}.")
    return floats


def read_mask(path: str, colors: bool, window: Window | None = None, white: int = 1) -> NDArray[np.integer]:
    """A mask's values `(H, W)` as they are stored, or its colors `(H, W, 3)`.

    Palette images give their indices, or, for `colors`, the colors of the indices in that file's own palette.

    Args:
        path: the file.
        colors: whether the colors are wanted.
        window: part to read; None for the whole mask.
        white: value of the white pixels of files with one bit per pixel.

    Raises:
        DataError: the file is unreadable, has colors where values are expected, or anything but whole numbers.
    """
    if path.lower().endswith(".npy"):
        array = np.asarray(_array(path) if window is None else _array(path)[window])
    else:
        with open_picture(path) as image:
            most = _stretched(image)  # known before it is decoded
            array = _mask_array(_upright(image, path, window), colors, white, most)
    if colors and array.shape[2] < 3:
        raise DataError(f"{path} holds values, but the classes of this recipe are colors; give values in data.classes.")
    values = whole_numbers(array, path)
    if colors:
        return values[..., :3]
    if (values != values[..., :1]).any():
        raise DataError(
            f"{path} is a color mask, but the classes of this recipe are values.\n"
            'Give the colors: [data.classes] with name = "#rrggbb".'
        )
    return np.asarray(values[..., 0])


def _stretched(image: Image.Image) -> float:
    """The largest value of a gray file, as a share of that to which Pillow stretches it; 1 where it does not."""
    arguments: Any = image.tile[0][3] if image.tile else ()
    raw, *rest = (arguments,) if isinstance(arguments, str) else arguments or ("",)
    if isinstance(raw, str) and (bits := re.match("L;([24])", raw)):
        return ((1 << int(bits[1])) - 1) / 255
    if image.format == "PPM" and rest and image.mode in ("L", "I"):
        return float(rest[0] / (255 if image.mode == "L" else 65535))
    return 1.0


def _mask_array(image: Image.Image, colors: bool, white: int, most: float) -> NDArray[Any]:
    """A mask `(H, W, bands)` without alpha; palette images as colors or as indices, others as stored."""
    if colors and image.mode not in _DEEP and image.mode != "F":
        return np.asarray(image.convert("RGB"))
    array = np.atleast_3d(np.asarray(image))
    if image.mode == "1":
        return array * np.uint8(white)
    if most != 1:
        return (array * most).round().astype(array.dtype)
    return array[..., :1] if image.mode in ("LA", "PA") else array[..., :3]
