"""Change detection: one encoder for both dates, and what differs between its maps.

Notation used for shapes: B images, n channels of one date, H, W image size.
"""

from typing import Any

import torch
from torch import Tensor, nn

from farcluss.errors import PluginError
from farcluss.networks.deeplabv3plus import DeepLabV3Plus, deeplabv3plus
from farcluss.plugins.options import Literal, PositiveInt, Share


def siamese(
    in_channels: int,
    classes: int,
    dim: int,
    pretrained: bool | str,
    *,
    encoder: str = "resnet50",
    output_stride: Literal[8, 16, 32] = 16,
    aspp_dilations: tuple[PositiveInt, ...] = (6, 12, 18),
    aspp_channels: PositiveInt = 256,
    low_level_channels: PositiveInt = 48,
    head_channels: PositiveInt = 256,
    dropout: Share = 0.0,
) -> DeepLabV3Plus:
    """DeepLabV3+ for pairs of images, for change detection: it reads how the encoder's maps of both dates differ.

    Of the channels the first half is the earlier image, the second half the later one. Both go through one encoder,
    whose first convolution is made, and its pretrained weights are fitted, for the channels of one date. The decoder
    reads the absolute differences, so that the order of the dates does not matter, and where nothing differs it sees
    zeros.

    Args:
        in_channels: channels of both images together, of the earlier one first.
        classes: number of classes.
        dim: embedding size; 0 builds no embedding head.
        pretrained: True downloads timm's weights, a path reads a file, False starts from scratch.
        encoder: timm name of a convolutional encoder; resnet50s and resnet101s have a deep stem.
        output_stride: stride of the coarsest feature map; 32 for encoders without dilation.
        aspp_dilations: dilation rates of the ASPP; double them for output_stride 8.
        aspp_channels: channels of each branch of the ASPP.
        low_level_channels: channels that the stride-4 map is reduced to.
        head_channels: channels of the decoder's features, the input of classifier and embedding head.
        dropout: dropout probability at the output of the ASPP.

    Raises:
        PluginError: the number of channels is odd; or the encoder is unknown, gives no pyramid, or refuses the output
            stride.
        WeightsError: the pretrained weights are missing or do not fit.
    """
    if in_channels % 2:
        raise PluginError(
            f"network siamese compares two images, whose channels are an even number together, not {in_channels}.\n"
            "Set data.channels to twice the channels of one date, or take another network for single images."
        )
    single = deeplabv3plus(
        in_channels // 2,
        classes,
        dim,
        pretrained,
        encoder=encoder,
        output_stride=output_stride,
        aspp_dilations=aspp_dilations,
        aspp_channels=aspp_channels,
        low_level_channels=low_level_channels,
        head_channels=head_channels,
        dropout=dropout,
    )
    both, report = Difference(single.encoder), single.pretrained_report
    return DeepLabV3Plus(both, single.decoder, single.classifier, single.embed, single.centers, report)


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
        """Maps `(B, *)` of pairs `(B, 2n, H, W)`; both dates go forward as one batch, which batch norms see whole."""
        dates = torch.cat(images.chunk(2, dim=1))
        earlier_and_later = [maps.chunk(2) for maps in self.encoder(dates)]
        return [(later - earlier).abs() for earlier, later in earlier_and_later]
