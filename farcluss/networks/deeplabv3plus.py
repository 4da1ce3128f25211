"""DeepLabV3+ with any timm encoder that returns feature maps of several strides.

Notation used for shapes: B images, Cin image channels, C classes, D embedding size, H, W image size, h, w size of the
encoder's stride-4 map.
"""

from functools import cache
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from farcluss.errors import PluginError, short, some, suggestion
from farcluss.networks.bands import Bands
from farcluss.networks.base import CoarsePrediction, Perturbation, Prediction, perturbed
from farcluss.networks.pretrained import load_pretrained
from farcluss.plugins.options import Literal, PositiveInt, Share
from farcluss.tensors.upsampling import Upsampling, upsampled


def deeplabv3plus(
    in_channels: int,
    classes: int,
    dim: int,
    pretrained: bool | str,
    bands: Bands | None = None,
    *,
    encoder: str = "resnet50",
    output_stride: Literal[8, 16, 32] = 16,
    aspp_dilations: tuple[PositiveInt, ...] = (6, 12, 18),
    aspp_channels: PositiveInt = 256,
    low_level_channels: PositiveInt = 48,
    head_channels: PositiveInt = 256,
    dropout: Share = 0.0,
    extend: bool = True,
) -> "DeepLabV3Plus":
    """DeepLabV3+ with a timm encoder.

    With `resnet101s` (the usual deep-stem ResNet-101) it has 59.468 M parameters at 21 classes, with `resnet50s`
    40.476 M, without the embedding head.

    Args:
        in_channels: image channels.
        classes: number of classes.
        dim: embedding size; 0 builds no embedding head.
        pretrained: True downloads timm's weights, a path reads a file, False starts from scratch.
        bands: which bands of the weights the channels of the images are.
        encoder: timm name of a convolutional encoder; resnet50s and resnet101s have a deep stem.
        output_stride: stride of the coarsest feature map; 32 for encoders without dilation.
        aspp_dilations: dilation rates of the ASPP; double them for output_stride 8.
        aspp_channels: channels of each branch of the ASPP.
        low_level_channels: channels that the stride-4 map is reduced to.
        head_channels: channels of the decoder's features, the input of classifier and embedding head.
        dropout: dropout probability at the output of the ASPP.
        extend: pad images to a size at which upsampling causes no shift; false scores any size as most published code
            does, for comparing weights that were trained there.

    Raises:
        PluginError: the encoder is unknown, returns no feature maps of several strides, lacks the output stride, or
            needs padded images.
        WeightsError: the pretrained weights are missing or do not fit.
    """
    backbone = build_encoder(encoder, in_channels, output_stride)
    report = load_pretrained(backbone, encoder, pretrained, bands)
    info: Any = backbone.feature_info
    low, high = info.channels()
    aspp = ASPP(high, aspp_channels, aspp_dilations, dropout)
    decoder = Decoder(aspp, low, aspp_channels, low_level_channels, head_channels)
    head = nn.Conv2d(head_channels, classes, 1)
    embed = embedding_head(head_channels, dim) if dim else None
    centers = _centers(backbone, in_channels)
    if not (extend or centers):
        raise PluginError(f"network.extend: {encoder} takes padded images only: its maps tile the image.\n"
                          "Remove network.extend, or set network.encoder to a ResNet, e.g. resnet50s.")  # fmt: skip
    network = DeepLabV3Plus(backbone, decoder, head, embed, centers, extend, report.summary())
    freeze_unused(network, in_channels)
    return network


class DeepLabV3Plus(nn.Module):
    """Encoder, decoder, classifier and embedding head.

    Attributes:
        pretrained_report: one line on the source of the encoder's weights.
        points: `encoder`, the finer and the coarser map; `fused`, both together as the decoder convolves them.

    Convention:
        Images are padded at the bottom and right, by replicating their edge, to a size at which upsampling causes no
        shift. In ResNets and similar encoders, cell `i` of a stride-s map is centered on pixel `s * i`: that size is a
        multiple of the output stride plus one (321, 513 and 801 need no padding at stride 16), and corners are
        aligned. In patch-based encoders such as ConvNeXt, the cells tile the image: that size is a multiple of the
        output stride, and corners are not aligned.

        Without `extended`, images keep their size and corners are aligned on it, which shifts maps by less than a cell
        where a side is not a multiple of the output stride plus one. Only sides of less than two cells are padded.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: "Decoder",
        classifier: nn.Module,
        embed: nn.Module | None,
        centers: bool,
        extended: bool = True,
        report: str = "",
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.classifier, self.embed = encoder, decoder, classifier, embed
        self.centers, self.extended, self.pretrained_report = centers, extended, report
        info: Any = encoder.feature_info
        self.fine_stride, self.coarse_stride = (int(stride) for stride in info.reduction())
        self.points = {"encoder": tuple(info.channels()), "fused": (decoder.fused_channels,)}

    coarse_logits = True

    def forward(
        self, images: Tensor, perturbation: Perturbation | None = None, coarse: bool = False
    ) -> Prediction | CoarsePrediction:
        """Logits and embeddings of images of any size; with `coarse`, logits of the decoder's size.

        Shape:
            images `(B, Cin, H, W)` -> logits `(B, C, H, W)`, embeddings `(B, D, ceil(H/4), ceil(W/4))`: cell `i` is
            pixel `4 * i`. (4 is the stride of the finest map used; few encoders have a larger one.)
        """
        height, width = images.shape[-2:]
        padded = extend(images, self._padded(height), self._padded(width))
        maps = perturbed(tuple(self.encoder(padded)), "encoder", perturbation)
        features = self.decoder(*maps, self.centers, perturbation)
        logits, how = self.classifier(features), Upsampling(tuple(padded.shape[-2:]), (height, width), self.centers)
        embeddings = None
        if self.embed is not None:
            rows, columns = -(-height // self.fine_stride), -(-width // self.fine_stride)
            embeddings = self.embed(features[..., :rows, :columns])
        if coarse:
            return CoarsePrediction(logits, embeddings, how)
        return Prediction(upsampled(logits, how), embeddings)

    def head_parameters(self) -> list[str]:
        """Names of all parameters outside the encoder."""
        return [name for name, _ in self.named_parameters() if not name.startswith("encoder.")]

    def _padded(self, size: int) -> int:
        """The padded size, see the convention; at least two cells, so that norms see several values."""
        stride = self.coarse_stride
        cells = -(-(size - self.centers) // stride) * stride + self.centers
        return max(2 * stride + self.centers, cells if self.extended else size)


class Decoder(nn.Module):
    """Fuses the upsampled ASPP output with the reduced stride-4 map by two 3x3 convolutions."""

    def __init__(self, aspp: nn.Module, low: int, context: int, reduced: int, channels: int) -> None:
        super().__init__()
        self.aspp = aspp
        self.reduce = _conv(low, reduced)
        self.fuse = nn.Sequential(_conv(context + reduced, channels, 3), _conv(channels, channels, 3))
        self.fused_channels = context + reduced

    def forward(
        self, fine: Tensor, coarse: Tensor, align_corners: bool, perturbation: Perturbation | None = None
    ) -> Tensor:
        """Fine `(B, Cl, h, w)` and coarse `(B, Ch, *)` maps of the encoder -> `(B, head_channels, h, w)`."""
        context = resize(self.aspp(coarse), fine.shape[-2:], align_corners)
        (joined,) = perturbed((torch.cat([context, self.reduce(fine)], dim=1),), "fused", perturbation)
        fused: Tensor = self.fuse(joined)
        return fused


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 convolution, dilated 3x3 convolutions and image pooling, in parallel."""

    def __init__(self, inputs: int, channels: int, dilations: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        dilated = [_conv(inputs, channels, 3, dilation) for dilation in dilations]
        self.branches = nn.ModuleList([_conv(inputs, channels), *dilated])
        pool, norm = nn.AdaptiveAvgPool2d(1), PooledNorm(nn.BatchNorm2d(channels))
        self.pool = nn.Sequential(pool, nn.Conv2d(inputs, channels, 1, bias=False), norm, nn.ReLU())
        self.project = nn.Sequential(_conv(channels * (len(dilations) + 2), channels), nn.Dropout(dropout))

    def forward(self, features: Tensor) -> Tensor:
        """`(B, inputs, h, w)` -> `(B, channels, h, w)`."""
        image = self.pool(features).expand(-1, -1, *features.shape[-2:])
        projected: Tensor = self.project(torch.cat([*(branch(features) for branch in self.branches), image], dim=1))
        return projected


class PooledNorm(nn.Module):
    """Batch norm of pooled features: with one value per channel it uses the running statistics.

    A single value has no statistics, and the running ones must not be updated by it.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, pooled: Tensor) -> Tensor:
        """`(B, C, h, w)` -> the same shape; after global pooling `h` and `w` are 1."""
        norm = self.norm
        if not norm.training or pooled.numel() > pooled.shape[1]:
            normed: Tensor = norm(pooled)
            return normed
        statistics = norm.running_mean, norm.running_var
        return functional.batch_norm(pooled, *statistics, norm.weight, norm.bias, training=False, eps=norm.eps)


def embedding_head(channels: int, dim: int) -> nn.Module:
    """Two 1x1 convolutions with a ReLU between, without a norm, so that any batch or image size works."""
    return nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, dim, 1))


def build_encoder(name: str, in_channels: int, output_stride: int) -> nn.Module:
    """A timm encoder that returns two maps: the finest of stride 4 or more, and the last.

    Raises:
        PluginError: the encoder is unknown, lacks feature maps for images of any size, or lacks the output stride.
    """
    check_timm(name)
    strides = _strides(name)
    fine = next((index for index, stride in enumerate(strides) if stride >= 4), 0)
    if strides[fine] >= strides[-1] or timm.get_pretrained_cfg(name).fixed_input_size:
        raise PluginError(
            f"network.encoder: {name} does not return a pyramid of feature maps for images of any size.\n"
            'Use one such as resnet50s or convnext_tiny; a vision transformer with network.name = "dpt".'
        )
    dilate = {} if output_stride == 32 else {"output_stride": output_stride}
    indices = (fine, len(strides) - 1)
    try:
        encoder: Any = timm.create_model(name, features_only=True, in_chans=in_channels, out_indices=indices, **dilate)
        refused = encoder.feature_info.reduction()[-1] > output_stride
    except (TypeError, AssertionError, ValueError, RuntimeError, NotImplementedError):
        refused = True
    if refused:
        raise PluginError(f"network.encoder: {name} does not support network.output_stride = {output_stride}.\n"
                          "Set network.output_stride = 32, or an encoder with dilation, e.g. resnet50s.")  # fmt: skip
    module: nn.Module = encoder
    return module


def check_timm(name: str) -> None:
    """Raise PluginError for a name that timm does not know; timm would look some of them up on the network."""
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        known = suggestion(base, timm.list_models())
        raise PluginError(
            f"network.encoder: timm has no encoder {short(base)!r}{known}\n`timm.list_models()` lists them."
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        hint = f"{suggestion(tag, tags)} Known: {some(tags, 8) or 'none'}."
        raise PluginError(f"network.encoder: timm has no weights {short(tag)!r} of {base}{hint}")


@cache
def _strides(name: str) -> list[int]:
    """Strides of all maps of an encoder; [0] if it does not return `(B, C, h, w)` maps. Leaves the generator alone."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                probe = timm.create_model(name, features_only=True)
        except Exception:  # not every encoder can be built on the meta device
            try:
                probe = timm.create_model(name, features_only=True)
            except Exception:
                return [0]
    return [0] if getattr(probe, "output_fmt", "NCHW") != "NCHW" else list(probe.feature_info.reduction())


def freeze_unused(network: nn.Module, in_channels: int) -> None:
    """Freeze parameters that do not affect the output, such as stages after the last map that the decoder uses.

    They get no gradient, which makes distributed training fail.
    """
    network.eval()
    outputs = [output for output in network(torch.zeros(1, in_channels, 1, 1)) if output is not None]
    parameters = list(network.parameters())
    total = torch.stack([output.sum() for output in outputs]).sum()
    for parameter, gradient in zip(parameters, torch.autograd.grad(total, parameters, allow_unused=True), strict=True):
        parameter.requires_grad_(gradient is not None)
    network.train()


def extend(images: Tensor, height: int, width: int) -> Tensor:
    """Pad `(B, Cin, H, W)` to `(B, Cin, height, width)` by replicating its last row and column."""
    below, right = height - images.shape[-2], width - images.shape[-1]
    return functional.pad(images, (0, right, 0, below), mode="replicate") if below or right else images


def resize(maps: Tensor, size: tuple[int, ...], align_corners: bool = True) -> Tensor:
    """Bilinear interpolation: `(B, C, *)` -> `(B, C, *size)`."""
    if maps.shape[-2:] == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)


def _centers(encoder: nn.Module, in_channels: int) -> bool:
    """Whether the cells of an encoder's maps are centered on pixels, so that one pixel more adds a cell."""
    info: Any = encoder.feature_info
    strides = info.reduction()
    size = 2 * strides[-1] + 1
    encoder.eval()
    try:
        with torch.no_grad():
            maps = encoder(torch.zeros(1, in_channels, size, size))
    except RuntimeError:  # some encoders merge maps of several strides, and need multiples of the stride
        return False
    finally:
        encoder.train()
    return all(m.shape[-1] == (size - 1) // stride + 1 for m, stride in zip(maps, strides, strict=True))


def _conv(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
