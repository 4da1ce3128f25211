"""First layers of pretrained weights for images of other channels: by the names of the bands, or by repetition."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from farcluss.errors import RecipeError, counted, some


class Bands(NamedTuple):
    """Which of the bands of a weights file the channels of the images are.

    Attributes:
        names: of the file's bands, in its order.
        rows: index into them for each channel of the images.
    """

    names: tuple[str, ...]
    rows: tuple[int, ...]

    def halved(self) -> "Bands | None":
        """Those of one of two images that are stacked; None if both halves differ."""
        first, second = self.rows[: len(self.rows) // 2], self.rows[len(self.rows) // 2 :]
        return self._replace(rows=first) if first == second else None


def bands_of(names: Sequence[str], channels: Sequence[str]) -> Bands:
    """The bands of a weights file by which images are read.

    Names are compared as people write them: B02, b2 and _B02 are one band.

    Args:
        names: of the file's bands, in its order.
        channels: names of the channels of the images, in their order.

    Raises:
        RecipeError: a name of the file's is there twice, or a channel is none of its bands.
    """
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if (other := places.setdefault(_key(name), place)) != place:
            raise RecipeError(f"network.pretrained_bands: {names[other]!r} and {name!r} are one band. Name each once.")
    if unknown := [name for name in channels if _key(name) not in places]:
        raise RecipeError(
            f"network.pretrained_bands: the images have {some(unknown)}, which the weights were not trained with; "
            f"they have {', '.join(names)}.\n"
            "Check both lists of names (data.channel_names), read other bands, or take other weights."
        )
    return Bands(tuple(names), tuple(places[_key(name)] for name in channels))


def adapt_channels(weight: Tensor, channels: int, bands: Bands | None = None) -> Tensor:
    """Adapt a first convolution to other image channels, keeping the scale of its response by given / wanted.

    By bands, each channel gets the weights of its own. Without, the channels are repeated cyclically; for one channel
    they are summed, which is the response to a gray image.

    Shape:
        weight `(O, I, *k)` -> `(O, channels, *k)`.
    """
    given = weight.shape[1]
    if bands is not None:
        return weight[:, list(bands.rows)] * (given / channels)
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, torch.arange(channels) % given] * (given / channels)


def refused_channels(given: int, channels: int, bands: Bands | None) -> str:
    """Why weights for images of `given` channels do not fit those of another number; empty if they can be adapted.

    The channels of more than three are bands, each with a meaning of its own; repeated, or left out, they would be
    others.
    """
    if bands is not None and len(bands.names) != given:
        return (
            f"network.pretrained_bands names {counted(len(bands.names), 'band')}, the weights are for images of "
            f"{given}.\nName all of them, in the order of the file."
        )
    if bands is None and given != channels and given > 3:
        return (
            f"the weights are for images of {given} bands, these have {counted(channels, 'channel')}.\n"
            "Say which are which: name the bands of the file by network.pretrained_bands, those of the images by "
            "data.channel_names."
        )
    return ""


def _key(name: str) -> str:
    """A name without case, signs and leading zeros."""
    return re.sub(r"(?<!\d)0+(?=\d)", "", re.sub(r"[^0-9a-z]", "", name.casefold()))
