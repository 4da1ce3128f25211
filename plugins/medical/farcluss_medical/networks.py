"""MONAI's segmentation networks, in two and three dimensions, behind farcluss's contract.

Notation used for shapes: B images, Cin image channels, C classes, D embedding size, *S full spatial size, *s spatial
size of the embedding map.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from farcluss.errors import PluginError, suggestion
from farcluss.networks.base import Perturbation, Prediction, perturbed
from farcluss.networks.pretrained import load_pretrained

Maps = tuple[Tensor, ...]
Change = Callable[[Maps, str], Maps]
"""Changes maps at a point, see `farcluss.networks.base.perturbed`."""
Walk = Callable[[Any, Tensor, Change], tuple[Tensor, list[Tensor]]]
"""A model's forward, module by module: returns logits, and the decoder's feature maps from coarse to fine."""

_OURS = ("spatial_dims", "in_channels", "out_channels", "deep_supervision", "deep_supr_num", "use_conv_final")


def monai(
    in_channels: int,
    classes: int,
    dim: int,
    pretrained: bool | str,
    *,
    architecture: Literal["UNet", "BasicUNet", "DynUNet", "SegResNet", "VNet", "SwinUNETR"] = "BasicUNet",
    spatial_dims: Literal[2, 3] = 3,
    embed_stride: Literal[2, 4] = 4,
    arguments: dict[str, Any] = {},  # noqa: B006 (options have literal defaults; nothing writes to it)
) -> "MonaiNetwork":
    """A network of MONAI, for images or volumes of any size.

    Normalization is instance norm unless `arguments` set another, as batches of volumes are small; VNet always has
    batch norm. Defaults are MONAI's where it has them, except SegResNet's init_filters, which is 16. UNet gets
    channels from 16 to 256, strides of 2 and two residual units; DynUNet kernels of 3 and strides 1, 2, 2, 2, 2.

    Args:
        in_channels: image channels.
        classes: number of classes.
        dim: embedding size; 0 builds no embedding head.
        pretrained: a path reads a file with MONAI's parameter names, except the output layer; `arguments` must match.
            False starts from scratch; True is an error.
        architecture: name of MONAI's class.
        spatial_dims: 3 for volumes, 2 for images and single slices.
        embed_stride: stride of the decoder map that embeddings are computed from; where strides differ by axis, the
            largest counts.
        arguments: of the class, by MONAI's names, such as { features = [16, 16, 32, 64, 128, 16], dropout = 0.1 }.

    Raises:
        PluginError: MONAI has no such argument, rejects it or builds a network that does not run; or `pretrained` is
            True.
        WeightsError: the file is unreadable or does not fit.
    """
    if pretrained is True:
        raise PluginError(
            "network monai: there are no weights to download for it.\n"
            "Set network.pretrained to a file of such weights, or to false to start from scratch."
        )
    parts = _ARCHITECTURES[architecture]
    model = _build(architecture, parts, spatial_dims, in_channels, classes, arguments)
    report = load_pretrained(_without(model, parts.classifier), architecture, pretrained).summary()
    maps, points = _measure(model, architecture, parts, spatial_dims, in_channels, classes)
    return MonaiNetwork(model, parts, maps, points, dim, embed_stride, report)


class MonaiNetwork(nn.Module):
    """A network of MONAI, run module by module, so that one forward gives logits and embeddings.

    A forward stores no state, so several threads may use the network at once.

    Attributes:
        pretrained_report: one line on where the weights come from.
        stride: of the embedding map, per axis.
        points: `encoder`, the maps that skip to the decoder and the coarsest; `fused`, the input of the output layer.

    Convention:
        Images are padded at the end of each axis, by replication, to a multiple of the coarsest stride, and to at least
        two cells of it along one axis, as normalization needs several values. Where the embedding stride does not
        divide the image, whole cells do not cover it: cell `i` of the embedding map is then the one with the pixel
        nearest to the center of the i-th of `floor(S / stride)` equal parts, from which its label is taken.
    """

    def __init__(
        self,
        model: Any,
        parts: "_Architecture",
        maps: list["_Map"],
        points: dict[str, tuple[int, ...]],
        dim: int,
        embed_stride: int,
        report: str = "",
    ) -> None:
        super().__init__()
        self.model, self.points, self.pretrained_report = model, points, report
        self._walk, self._classifier = parts.walk, parts.classifier
        self._multiple = parts.multiple(model, len(maps[0].stride))
        self.embed = None
        if dim:
            self._level = _level(maps, embed_stride)
            self.stride = maps[self._level].stride
            self.embed = _embedding_head(len(self.stride), maps[self._level].channels, dim)

    def forward(self, images: Tensor, perturbation: Perturbation | None = None) -> Prediction:
        """Logits and embeddings of images of any size.

        Shape:
            images `(B, Cin, *S)` -> logits `(B, C, *S)`, embeddings `(B, D, *s)` with `s = max(1, floor(S / stride))`.

        Raises:
            PluginError: the number of spatial axes differs from `spatial_dims`.
        """
        size = images.shape[2:]
        if len(size) != len(self._multiple):
            raise PluginError(
                f"network monai was built for {len(self._multiple)} spatial axes; these images have {len(size)}.\n"
                f"Set network.spatial_dims = {len(size)}."
            )
        change = partial(perturbed, perturbation=perturbation)
        logits, maps = self._walk(self.model, _extend(images, self._multiple), change)
        logits = logits[:, :, *(slice(extent) for extent in size)]
        if self.embed is None:
            return Prediction(logits, None)
        features = maps[self._level]
        for axis, (extent, stride) in enumerate(zip(size, self.stride, strict=True), 2):
            features = _cells(features, axis, extent, stride)
        return Prediction(logits, self.embed(features))

    def head_parameters(self) -> list[str]:
        """Names of the parameters that are never pretrained: those of the output layer and the embedding head."""
        heads = (f"model.{self._classifier}.", "embed.")
        return [name for name, _ in self.named_parameters() if name.startswith(heads)]


@dataclass(frozen=True)
class _Architecture:
    """What differs between MONAI's classes.

    Attributes:
        walk: its forward.
        multiple: from the model and the number of axes, the number per axis that sizes must be a multiple of.
        classifier: name of its output layer.
        norm: name of the argument for norms; empty where there is none.
        defaults: arguments where MONAI has no default or an unsuitable one.
    """

    walk: Walk
    multiple: Callable[[Any, int], tuple[int, ...]]
    classifier: str
    norm: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Map:
    """Stride per axis and channels of a map of the decoder."""

    stride: tuple[int, ...]
    channels: int


def _build(
    architecture: str, parts: _Architecture, axes: int, in_channels: int, classes: int, given: dict[str, Any]
) -> Any:
    """MONAI's module. Raises PluginError for arguments that it does not know or rejects."""
    from monai.networks import nets

    kind = getattr(nets, architecture)
    known = [name for name in inspect.signature(kind).parameters if name not in _OURS]
    for name in given:
        if name in _OURS:
            raise PluginError(f"network.arguments: {name} cannot be set; farcluss sets it or does not use it.")
        if name not in known:
            raise PluginError(f"network.arguments: {architecture} has no argument {name!r}{suggestion(name, known)}\n"
                              f"Known: {', '.join(known)}.")  # fmt: skip
    arguments = {**parts.defaults, **_tuples(given)}
    if parts.norm:
        arguments = {parts.norm: ("instance", {"affine": True}), **arguments}
    if architecture == "DynUNet":
        strides = arguments["strides"]
        arguments = {"kernel_size": (3,) * len(strides), "upsample_kernel_size": tuple(strides[1:]), **arguments}
    try:
        model = kind(spatial_dims=axes, in_channels=in_channels, out_channels=classes, **arguments)
    except Exception as error:
        raise _refused(architecture, error) from error
    if axes == 2:
        _fix_dropout(model)
    return model


def _measure(
    model: Any, architecture: str, parts: _Architecture, axes: int, in_channels: int, classes: int
) -> tuple[list[_Map], dict[str, tuple[int, ...]]]:
    """The decoder's maps and the points, found by a forward of the smallest image. Raises PluginError if that fails."""
    points: dict[str, tuple[int, ...]] = {}

    def seen(maps: Maps, point: str) -> Maps:
        points[point] = tuple(each.shape[1] for each in maps)
        return maps

    model.eval()
    try:
        with torch.no_grad():
            smallest = _extend(torch.zeros(1, in_channels, *[1] * axes), parts.multiple(model, axes))
            logits, maps = parts.walk(model, smallest, seen)
    except Exception as error:
        raise _refused(architecture, error) from error
    model.train()
    size = smallest.shape[2:]
    if logits.shape != (1, classes, *size):
        raise PluginError(
            f"network monai: {architecture} with these arguments turns images {tuple(smallest.shape)} into "
            f"logits {tuple(logits.shape)}.\nIts decoder must restore the size of the image: "
            "check the strides and the numbers of blocks in network.arguments."
        )
    strides = [tuple(whole // part for whole, part in zip(size, each.shape[2:], strict=True)) for each in maps]
    return [_Map(stride, each.shape[1]) for stride, each in zip(strides, maps, strict=True)], points


def _fix_dropout(model: nn.Module) -> None:
    """Use Dropout2d for images: VNet has Dropout3d also in two dimensions, which would drop whole images."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout3d):
                setattr(parent, name, nn.Dropout2d(child.p))


def _refused(architecture: str, error: Exception) -> PluginError:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    return PluginError(f"network monai: {architecture} cannot be built:\n{reason}\nCheck network.arguments.")


def _level(maps: list[_Map], stride: int) -> int:
    """Index of the finest map of at least this stride."""
    for index in reversed(range(len(maps))):
        if max(maps[index].stride) >= stride:
            return index
    coarsest = max(max(each.stride) for each in maps)
    raise PluginError(f"network.embed_stride: the decoder has no map of stride {stride}; its coarsest has {coarsest}.")


def _tuples(value: Any) -> Any:
    """Recipes have lists where MONAI wants tuples."""
    if isinstance(value, dict):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def _without(module: nn.Module, path: str) -> nn.Module:
    """A module's children by name, without the one at `path`."""
    first, _, rest = path.partition(".")
    kept = nn.Module()
    for name, child in module.named_children():
        if name != first:
            kept.add_module(name, child)
        elif rest:
            kept.add_module(name, _without(child, rest))
    return kept


def _embedding_head(axes: int, channels: int, dim: int) -> nn.Module:
    """Two convolutions of size 1 with a ReLU between, like those of farcluss's own networks."""
    convolution = nn.Conv2d if axes == 2 else nn.Conv3d
    return nn.Sequential(convolution(channels, channels, 1), nn.ReLU(), convolution(channels, dim, 1))


def _extend(images: Tensor, multiple: tuple[int, ...]) -> Tensor:
    """Pad each axis by replication to a multiple, with at least two cells along one axis."""
    cells = [-(-extent // each) for extent, each in zip(images.shape[2:], multiple, strict=True)]
    if max(cells) == 1:
        cells[-1] = 2
    missing = [n * each - extent for n, each, extent in zip(cells, multiple, images.shape[2:], strict=True)]
    if not any(missing):
        return images
    ends = [end for axis in reversed(missing) for end in (0, axis)]  # torch counts axes from the last
    return functional.pad(images, ends, mode="replicate")


def _cells(features: Tensor, axis: int, extent: int, stride: int) -> Tensor:
    """One axis of the embedding map of an image of `extent` pixels; see the convention of MonaiNetwork."""
    count = max(1, extent // stride)
    if extent == count * stride:
        return features.narrow(axis, 0, count)
    pixels = (torch.arange(count, device=features.device) + 0.5) * (extent / count)
    return features.index_select(axis, pixels.long() // stride)


def _product(strides: Any, axes: int) -> tuple[int, ...]:
    """Strides of all levels together, per axis; a level has one for all axes or one for each."""
    return tuple(math.prod(each if isinstance(each, int) else each[axis] for each in strides) for axis in range(axes))


def _walk_unet(model: Any, images: Tensor, change: Change) -> tuple[Tensor, list[Tensor]]:
    block, features, skips, ups, maps = model.model, images, [], [], []
    for _ in model.channels[1:]:
        down, skip, up = block
        features, block = down(features), skip.submodule
        skips.append(features)
        ups.append(up)
    *skips, features = change((*skips, block(features)), "encoder")
    for up in reversed(ups):
        joined = torch.cat([skips.pop(), features], 1)
        features = up(joined if skips else change((joined,), "fused")[0])
        maps.append(features)
    return maps.pop(), maps


def _walk_basic_unet(model: Any, images: Tensor, change: Change) -> tuple[Tensor, list[Tensor]]:
    features, skips, maps = model.conv_0(images), [], []
    for down in (model.down_1, model.down_2, model.down_3, model.down_4):
        skips.append(features)
        features = down(features)
    *skips, features = change((*skips, features), "encoder")
    for up in (model.upcat_4, model.upcat_3, model.upcat_2, model.upcat_1):
        # The parts of MONAI's block, whose own forward checks types with TorchScript, which torch.compile cannot trace.
        features = up.convs(torch.cat([skips.pop(), up.upsample(features)], 1))
        maps.append(features)
    return model.final_conv(*change((features,), "fused")), maps


def _walk_dynunet(model: Any, images: Tensor, change: Change) -> tuple[Tensor, list[Tensor]]:
    features, skips, maps = images, [], []
    for down in (model.input_block, *model.downsamples):
        features = down(features)
        skips.append(features)
    *skips, features = change((*skips, model.bottleneck(features)), "encoder")
    for up in model.upsamples:
        features = up(features, skips.pop())
        maps.append(features)
    return model.output_block(*change((features,), "fused")), maps


def _walk_segresnet(model: Any, images: Tensor, change: Change) -> tuple[Tensor, list[Tensor]]:
    _, skips = model.encode(images)  # whose last is the coarsest
    *skips, features = change(tuple(skips), "encoder")
    maps = []
    for up, layer in zip(model.up_samples, model.up_layers, strict=True):
        features = layer(up(features) + skips.pop())
        maps.append(features)
    return model.conv_final(*change((features,), "fused")), maps


def _walk_vnet(model: Any, images: Tensor, change: Change) -> tuple[Tensor, list[Tensor]]:
    features, skips, maps = model.in_tr(images), [], []
    for down in (model.down_tr32, model.down_tr64, model.down_tr128, model.down_tr256):
        skips.append(features)
        features = down(features)
    *skips, features = change((*skips, features), "encoder")
    for up in (model.up_tr256, model.up_tr128, model.up_tr64, model.up_tr32):
        features = up(features, skips.pop())
        maps.append(features)
    return model.out_tr(*change((features,), "fused")), maps


def _walk_swin_unetr(model: Any, images: Tensor, change: Change) -> tuple[Tensor, list[Tensor]]:
    first, second, third, fourth, last = model.swinViT(images, model.normalize)
    skips = [model.encoder1(images), model.encoder2(first), model.encoder3(second), model.encoder4(third), fourth]
    *skips, features = change((*skips, model.encoder10(last)), "encoder")
    maps = []
    for up in (model.decoder5, model.decoder4, model.decoder3, model.decoder2, model.decoder1):
        features = up(features, skips.pop())
        maps.append(features)
    return model.out(*change((features,), "fused")), maps


_UNET = {"channels": (16, 32, 64, 128, 256), "strides": (2, 2, 2, 2), "num_res_units": 2}
_ARCHITECTURES = {
    "UNet": _Architecture(
        _walk_unet,
        lambda model, axes: _product(model.strides[: len(model.channels) - 1], axes),
        "model.2",
        "norm",
        _UNET,
    ),
    "BasicUNet": _Architecture(_walk_basic_unet, lambda _, axes: (16,) * axes, "final_conv", "norm"),
    "DynUNet": _Architecture(
        _walk_dynunet,
        lambda model, axes: _product(model.strides, axes),
        "output_block",
        "norm_name",
        {"strides": (1, 2, 2, 2, 2)},
    ),
    "SegResNet": _Architecture(
        _walk_segresnet,
        lambda model, axes: (2 ** (len(model.blocks_down) - 1),) * axes,
        "conv_final",
        "norm",
        {"init_filters": 16},
    ),
    "VNet": _Architecture(_walk_vnet, lambda _, axes: (16,) * axes, "out_tr"),
    "SwinUNETR": _Architecture(_walk_swin_unetr, lambda model, axes: (model.patch_size**5,) * axes, "out", "norm_name"),
}
