"""MONAI's segmentation networks, in two and three dimensions."""

import inspect
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from farcluss.errors import PluginError, suggestion
from farcluss.networks.bands import Bands
from farcluss_medical.walked import Architecture, Change, WalkedNetwork, load, measure, refused

_OURS = ("spatial_dims", "in_channels", "out_channels", "deep_supervision", "deep_supr_num", "use_conv_final")


def monai(
    in_channels: int,
    classes: int,
    dim: int,
    pretrained: bool | str,
    bands: Bands | None = None,
    *,
    architecture: Literal["UNet", "BasicUNet", "DynUNet", "SegResNet", "VNet", "SwinUNETR"] = "BasicUNet",
    spatial_dims: Literal[2, 3] = 3,
    part: Literal["all", "encoder"] = "all",
    embed_stride: Literal[2, 4] = 4,
    arguments: dict[str, Any] = {},  # noqa: B006 (options have literal defaults; nothing writes to it)
) -> WalkedNetwork:
    """A network of MONAI, for images or volumes of any size.

    Normalization is instance norm unless `arguments` set another, as batches of volumes are small; VNet always has
    batch norm. Defaults are MONAI's where it has them, except SegResNet's init_filters, which is 16. UNet gets
    channels from 16 to 256, strides of 2 and two residual units; DynUNet kernels of 3 and strides 1, 2, 2, 2, 2.

    Args:
        in_channels: image channels.
        classes: number of classes.
        dim: embedding size; 0 builds no embedding head.
        pretrained: a path reads a file with MONAI's parameter names; `arguments` must match. False starts from scratch;
            True is an error.
        bands: which bands of the weights the channels of the images are.
        architecture: name of MONAI's class.
        spatial_dims: 3 for volumes, 2 for images and single slices.
        part: what `pretrained` gives: `all` but the output layer, or the `encoder` of a SwinUNETR (its Swin
            transformer, as self-supervised files have it) or a SegResNet; all else starts from scratch then, and learns
            at train.head_lr.
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
    kind = _CLASSES[architecture]
    parts, title = kind.parts, f"network monai: {architecture}"
    if part == "encoder" and not parts.encoder:
        others = ", ".join(name for name, other in _CLASSES.items() if other.parts.encoder)
        raise PluginError(f'network.part = "encoder": {architecture} is read as a whole; {others} have such files.\n'
                          'Set network.part = "all", or network.architecture to one of these.')  # fmt: skip
    model = _build(architecture, kind, spatial_dims, in_channels, classes, arguments)
    inputs = []
    if pretrained is not False:  # images may meet several convolutions: those that another number of channels changes
        with torch.random.fork_rng(devices=[]):  # what is drawn from scratch stays what it is without a file
            other = _build(architecture, kind, spatial_dims, 1 + (in_channels == 1), classes, arguments).state_dict()
        inputs = [name for name, tensor in model.state_dict().items() if tensor.shape != other[name].shape]
    report = load(model, architecture, parts, pretrained, part, bands, inputs)
    maps, points = measure(model, title, parts, spatial_dims, in_channels, classes)
    return WalkedNetwork(model, parts, maps, points, dim, embed_stride, part, report)


@dataclass(frozen=True)
class _Class:
    """A class of MONAI.

    Attributes:
        parts: of its models.
        norm: name of the argument for norms; empty where there is none.
        defaults: arguments where MONAI has no default or an unsuitable one.
    """

    parts: Architecture
    norm: str = ""
    defaults: dict[str, Any] = field(default_factory=dict)


def _build(architecture: str, own: _Class, axes: int, in_channels: int, classes: int, given: dict[str, Any]) -> Any:
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
    arguments = {**own.defaults, **_tuples(given)}
    if own.norm:
        arguments = {own.norm: ("instance", {"affine": True}), **arguments}
    if architecture == "DynUNet":
        strides = arguments["strides"]
        arguments = {"kernel_size": (3,) * len(strides), "upsample_kernel_size": tuple(strides[1:]), **arguments}
    try:
        model = kind(spatial_dims=axes, in_channels=in_channels, out_channels=classes, **arguments)
    except Exception as error:
        raise refused(f"network monai: {architecture}", error) from error
    if axes == 2:
        _fix_dropout(model)
    return model


def _fix_dropout(model: nn.Module) -> None:
    """Use Dropout2d for images: VNet has Dropout3d also in two dimensions, which would drop whole images."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Dropout3d):
                setattr(parent, name, nn.Dropout2d(child.p))


def _tuples(value: Any) -> Any:
    """Recipes have lists where MONAI wants tuples."""
    if isinstance(value, dict):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(_tuples(each) for each in value) if isinstance(value, list | tuple) else value


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


def _swin_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """MONAI's names for a Swin transformer, whose self-supervised files call it, and its parts, in several ways."""
    found = {}
    for name, tensor in state.items():
        if place := re.search(r"(?:^|\.)((?:patch_embed|layers\dc?)\..*)", name):
            own = re.sub(r"^(layers\dc?\.0)\.0\.", r"\1.", place[1])
            name = "swinViT." + re.sub(r"\.mlp\.fc(\d)\.", r".mlp.linear\1.", own)
        found[name] = tensor
    return found


_UNET = {"channels": (16, 32, 64, 128, 256), "strides": (2, 2, 2, 2), "num_res_units": 2}
_CLASSES = {
    "UNet": _Class(
        Architecture(
            _walk_unet, lambda model, axes: _product(model.strides[: len(model.channels) - 1], axes), "model.2"
        ),
        "norm",
        _UNET,
    ),
    "BasicUNet": _Class(Architecture(_walk_basic_unet, lambda _, axes: (16,) * axes, "final_conv"), "norm"),
    "DynUNet": _Class(
        Architecture(_walk_dynunet, lambda model, axes: _product(model.strides, axes), "output_block"),
        "norm_name",
        {"strides": (1, 2, 2, 2, 2)},
    ),
    "SegResNet": _Class(
        Architecture(
            _walk_segresnet,
            lambda model, axes: (2 ** (len(model.blocks_down) - 1),) * axes,
            "conv_final",
            ("convInit", "down_layers"),
        ),
        "norm",
        {"init_filters": 16},
    ),
    "VNet": _Class(Architecture(_walk_vnet, lambda _, axes: (16,) * axes, "out_tr")),
    "SwinUNETR": _Class(
        Architecture(
            _walk_swin_unetr, lambda model, axes: (model.patch_size**5,) * axes, "out", ("swinViT",), _swin_names
        ),
        "norm_name",
    ),
}
