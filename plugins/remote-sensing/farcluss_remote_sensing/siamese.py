"""Change detection: one encoder for both dates, and the differences of its feature maps.

Notation used for shapes: B images, n channels of one date, H, W image size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from farcluss.errors import PluginError
from farcluss.networks.bands import Bands
from farcluss.networks.deeplabv3plus import DeepLabV3Plus, deeplabv3plus
from farcluss.networks.dpt import DPT, dpt, read_blocks
from farcluss.plugins.sharing import with_options_of


@with_options_of(deeplabv3plus)
def siamese(
    in_channels: int, classes: int, dim: int, pretrained: bool | str, bands: Bands | None = None, **options: Any
) -> DeepLabV3Plus:
    """DeepLabV3+ for pairs of images, for change detection: its decoder reads the differences of the two dates' maps.

    The first half of the channels is the earlier image, the second half the later one. Both go through one encoder,
    whose first convolution is made, and its pretrained weights are fitted, for the channels of one date. The decoder
    reads the absolute differences, so the order of the dates does not matter, and unchanged places are zero.

    Args:
        in_channels: channels of both images together, the earlier one first.
        classes: number of classes.
        dim: embedding size; 0 builds no embedding head.
        pretrained: True downloads timm's weights, a path reads a file, False starts from scratch.
        bands: which bands of the weights the channels of the images are.

    Raises:
        PluginError: the number of channels is odd; or the encoder is unknown, gives no pyramid, or refuses the output
            stride.
        WeightsError: the pretrained weights are missing or do not fit.
    """
    channels, bands = of_one("siamese", in_channels, bands)
    single = deeplabv3plus(channels, classes, dim, pretrained, bands, **options)
    both, report = Difference(single.encoder), single.pretrained_report
    heads = single.classifier, single.embed
    return DeepLabV3Plus(both, single.decoder, *heads, single.centers, single.extended, report)


@with_options_of(dpt)
def siamese_dpt(
    in_channels: int, classes: int, dim: int, pretrained: bool | str, bands: Bands | None = None, **options: Any
) -> DPT:
    """DPT over a vision transformer for pairs of images, for change detection, as `siamese` is DeepLabV3+ for them.

    The head reads the absolute differences of the encoder's four maps of both dates.

    Args:
        in_channels: channels of both images together, the earlier one first.
        classes: number of classes.
        dim: embedding size; 0 builds no embedding head.
        pretrained: True downloads timm's weights, a path reads a file, False starts from scratch.
        bands: which bands of the weights the channels of the images are.

    Raises:
        PluginError: the number of channels is odd; or see network/dpt.
        WeightsError: the pretrained weights are missing or do not fit.
    """
    channels, bands = of_one("siamese-dpt", in_channels, bands)
    network = dpt(channels, classes, dim, pretrained, bands, **options)
    network.read = read_differences
    return network


def read_differences(encoder: Any, images: Tensor, taps: list[int]) -> tuple[Tensor, ...]:
    """Absolute differences of an encoder's maps of pairs `(B, 2n, H, W)`; both dates go forward as one batch."""
    maps = [each.chunk(2) for each in read_blocks(encoder, torch.cat(images.chunk(2, dim=1)), taps)]
    return tuple((later - earlier).abs() for earlier, later in maps)


def of_one(network: str, in_channels: int, bands: Bands | None) -> tuple[int, Bands | None]:
    """Channels and bands of one date.

    Raises:
        PluginError: the number of channels of both is odd, or their bands differ.
    """
    if in_channels % 2:
        raise PluginError(
            f"network {network} compares two images, whose channels are an even number together, not {in_channels}.\n"
            "Set data.channels to twice the channels of one date, or take another network for single images."
        )
    if bands is not None and bands.halved() is None:
        raise PluginError(
            f"network {network} compares two images of the same bands; by data.channel_names they differ.\n"
            "Name the channels of the earlier image, then those of the later one in the same order."
        )
    return in_channels // 2, bands and bands.halved()


class Difference(nn.Module):
    """An encoder for pairs of images, whose maps are the absolute differences of a shared encoder's.

    Attributes:
        feature_info: the shared encoder's: channels and strides of the maps.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.feature_info: Any = encoder.feature_info

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps `(B, *)` of pairs `(B, 2n, H, W)`; both dates go forward as one batch, so batch norm sees both."""
        dates = torch.cat(images.chunk(2, dim=1))
        earlier_and_later = [maps.chunk(2) for maps in self.encoder(dates)]
        return [(later - earlier).abs() for earlier, later in earlier_and_later]
