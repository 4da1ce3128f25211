"""nnU-Net's U-Net with a residual encoder, for images or volumes, with the names of its published weights.

Isensee et al. (arXiv 2404.09556, 2024). nnU-Net's own package for it would bring an older timm.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.init import kaiming_normal_, zeros_

from farcluss.errors import PluginError
from farcluss.networks.bands import Bands
from farcluss.plugins.options import PositiveInt
from farcluss_medical.walked import Architecture, Change, WalkedNetwork, load, measure

Sizes = tuple[int, ...]
"""Pixels per axis."""


def resenc(
    in_channels: int,
    classes: int,
    dim: int,
    pretrained: bool | str,
    bands: Bands | None = None,
    *,
    features: tuple[PositiveInt, ...] = (32, 64, 128, 256, 320, 320),
    blocks: tuple[PositiveInt, ...] = (1, 3, 4, 6, 6, 6),
    strides: tuple[PositiveInt | list[PositiveInt], ...] = (1, 2, 2, 2, 2, 2),
    kernels: tuple[PositiveInt | list[PositiveInt], ...] = (3, 3, 3, 3, 3, 3),
    spatial_dims: Literal[2, 3] = 3,
    embed_stride: Literal[2, 4] = 4,
    part: Literal["all", "encoder"] = "encoder",
) -> WalkedNetwork:
    """nnU-Net's U-Net with a residual encoder, for images or volumes of any size; as it stands, that of ResEnc-L.

    Instance norm, leaky ReLU, one convolution per level of the decoder. With two classes it has 102.35 M parameters in
    3-D, without the embedding head; files of nnU-Net and nnssl, such as OpenMind's, load by their own names.

    Args:
        in_channels: image channels.
        classes: number of classes.
        dim: embedding size; 0 builds no embedding head.
        pretrained: a path reads a checkpoint of nnssl or nnU-Net; False starts from scratch; True is an error.
        bands: which bands of the weights the channels of the images are.
        features: channels of each level, from fine to coarse.
        blocks: residual blocks of each level.
        strides: of each level, for all axes or for each; the first is usually 1.
        kernels: sizes of the kernels of each level, for all axes or for each; odd.
        spatial_dims: 3 for volumes, 2 for images and single slices.
        embed_stride: stride of the decoder map that embeddings are computed from; where strides differ by axis, the
            largest counts.
        part: what `pretrained` gives: the `encoder`, as self-supervised files have it, or `all` but the output layer;
            the decoder of an encoder starts from scratch, and learns at train.head_lr.

    Raises:
        PluginError: the lists differ in length, a kernel is even, or `pretrained` is True.
        WeightsError: the file is unreadable or does not fit.
    """
    if pretrained is True:
        raise PluginError(
            "network resenc: there are no weights that are downloaded by themselves.\n"
            "Set network.pretrained to a file, such as one of OpenMind (docs/medical.md), or to false."
        )
    steps, sizes = (_per_axis(values, spatial_dims) for values in (strides, kernels))
    _check(features, blocks, steps, sizes)
    model = ResEncUNet(in_channels, classes, features, blocks, steps, sizes)
    multiple = tuple(math.prod(step) for step in zip(*steps, strict=True))
    parts = Architecture(_walk, lambda _, __: multiple, "classify", ("encoder",), _names)
    report = load(model, "resenc", parts, pretrained, part, bands)
    maps, points = measure(model, "network resenc", parts, spatial_dims, in_channels, classes)
    return WalkedNetwork(model, parts, maps, points, dim, embed_stride, part, report)


class ResEncUNet(nn.Module):
    """Encoder, decoder and output layer; `_walk` runs it."""

    def __init__(
        self,
        in_channels: int,
        classes: int,
        features: Sizes,
        blocks: Sizes,
        strides: list[Sizes],
        kernels: list[Sizes],
    ) -> None:
        super().__init__()
        self.encoder = Encoder(in_channels, features, blocks, strides, kernels)
        self.decoder = Decoder(features, strides, kernels)
        self.classify = _kinds(len(strides[0]))[0](features[0], classes, 1)
        self.apply(_initialize)


class Encoder(nn.Module):
    """A convolution, then levels of residual blocks."""

    def __init__(
        self, in_channels: int, features: Sizes, blocks: Sizes, strides: list[Sizes], kernels: list[Sizes]
    ) -> None:
        super().__init__()
        one = (1,) * len(strides[0])
        self.stem = Convolutions(ConvNorm(in_channels, features[0], kernels[0], one))
        before = (features[0], *features)
        self.stages = nn.Sequential(
            *(
                Blocks(inputs, outputs, count, kernel, stride)
                for inputs, outputs, count, kernel, stride in zip(
                    before, features, blocks, kernels, strides, strict=False
                )
            )
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps of all levels, from fine to coarse."""
        maps, features = [], self.stem(images)
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return maps


class Decoder(nn.Module):
    """Levels from coarse to fine: a transposed convolution, then one over it and the encoder's map."""

    def __init__(self, features: Sizes, strides: list[Sizes], kernels: list[Sizes]) -> None:
        super().__init__()
        transposed, one = _kinds(len(strides[0]))[1], (1,) * len(strides[0])
        levels = range(len(features) - 2, -1, -1)
        self.transpconvs = nn.ModuleList(
            transposed(features[level + 1], features[level], strides[level + 1], strides[level + 1]) for level in levels
        )
        self.stages = nn.ModuleList(
            Convolutions(ConvNorm(2 * features[level], features[level], kernels[level], one)) for level in levels
        )


class Convolutions(nn.Module):
    """Convolutions one after the other."""

    def __init__(self, *convs: nn.Module) -> None:
        super().__init__()
        self.convs = nn.Sequential(*convs)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, Cin, *S)` -> `(B, C, *s)`."""
        convolved: Tensor = self.convs(features)
        return convolved


class Blocks(nn.Module):
    """Residual blocks, of which the first has the stride."""

    def __init__(self, inputs: int, outputs: int, count: int, kernel: Sizes, stride: Sizes) -> None:
        super().__init__()
        first, one = Residual(inputs, outputs, kernel, stride), (1,) * len(stride)
        self.blocks = nn.Sequential(first, *(Residual(outputs, outputs, kernel, one) for _ in range(count - 1)))

    def forward(self, features: Tensor) -> Tensor:
        """`(B, Cin, *S)` -> `(B, C, *s)`."""
        convolved: Tensor = self.blocks(features)
        return convolved


class Residual(nn.Module):
    """Two convolutions beside an average over the stride and a projection, where they are needed (ResNet-D)."""

    def __init__(self, inputs: int, outputs: int, kernel: Sizes, stride: Sizes) -> None:
        super().__init__()
        one = (1,) * len(stride)
        self.conv1 = ConvNorm(inputs, outputs, kernel, stride)
        self.conv2 = ConvNorm(outputs, outputs, kernel, one, activated=False)
        pool = [_kinds(len(stride))[2](stride, stride)] if max(stride) > 1 else []
        project = [ConvNorm(inputs, outputs, one, one, bias=False, activated=False)] if inputs != outputs else []
        self.skip = nn.Sequential(*pool, *project)
        self.activate = nn.LeakyReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        """`(B, Cin, *S)` -> `(B, C, *s)`."""
        joined: Tensor = self.activate(self.conv2(self.conv1(features)) + self.skip(features))
        return joined


class ConvNorm(nn.Module):
    """Convolution, instance norm, leaky ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Sizes, stride: Sizes, bias: bool = True, activated: bool = True
    ) -> None:
        super().__init__()
        convolution, _, _, norm = _kinds(len(kernel))
        padding = tuple(size // 2 for size in kernel)
        self.conv = convolution(inputs, outputs, kernel, stride, padding, bias=bias)
        self.norm = norm(outputs, affine=True)
        self.activate = nn.LeakyReLU(inplace=True) if activated else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """`(B, Cin, *S)` -> `(B, C, *s)`."""
        convolved: Tensor = self.activate(self.norm(self.conv(features)))
        return convolved


def _kinds(axes: int) -> tuple[Any, Any, Any, Any]:
    """Convolution, transposed convolution, average pooling and norm."""
    if axes == 2:
        return nn.Conv2d, nn.ConvTranspose2d, nn.AvgPool2d, nn.InstanceNorm2d
    return nn.Conv3d, nn.ConvTranspose3d, nn.AvgPool3d, nn.InstanceNorm3d


def _walk(model: ResEncUNet, images: Tensor, change: Change) -> tuple[Tensor, list[Tensor]]:
    *skips, features = change(tuple(model.encoder(images)), "encoder")
    maps = []
    for up, stage in zip(model.decoder.transpconvs, model.decoder.stages, strict=True):
        features = stage(torch.cat([up(features), skips.pop()], 1))
        maps.append(features)
    return model.classify(*change((features,), "fused")), maps


def _names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint without the second names of its tensors; of an encoder alone, with the name of it."""
    own = {
        name: tensor for name, tensor in state.items() if ".all_modules." not in name and "decoder.encoder." not in name
    }
    whole = any("encoder." in name for name in own)
    return own if whole else {f"encoder.{name}": tensor for name, tensor in own.items()}


def _initialize(module: nn.Module) -> None:
    """As nnU-Net begins: He et al. for leaky ReLUs, and residual blocks that first do nothing."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            zeros_(module.bias)
    if isinstance(module, Residual):
        zeros_(module.conv2.norm.weight)


def _per_axis(values: tuple[Any, ...], axes: int) -> list[Sizes]:
    """A number for all axes, or one for each, as one for each."""
    return [(value,) * axes if isinstance(value, int) else tuple(value) for value in values]


def _check(features: Sizes, blocks: Sizes, strides: list[Sizes], kernels: list[Sizes]) -> None:
    counts = {"features": len(features), "blocks": len(blocks), "strides": len(strides), "kernels": len(kernels)}
    if len(set(counts.values())) > 1 or len(features) < 2:
        raise PluginError(
            f"network resenc: {', '.join(f'{key} has {count}' for key, count in counts.items())} values.\n"
            "Give one per level, for two levels at least."
        )
    axes = {len(value) for value in (*strides, *kernels)}
    if len(axes) > 1 or any(size % 2 == 0 for kernel in kernels for size in kernel):
        raise PluginError(
            "network resenc: strides and kernels are numbers, or lists of one for each axis; kernels are odd.\n"
            "Check network.strides and network.kernels."
        )
