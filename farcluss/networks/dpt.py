"""DPT head over any timm vision transformer, as Yang et al. (arXiv 2410.10777, 2024) have it over DINOv2.

Notation used for shapes: B images, Cin image channels, C classes, D embedding size, H, W image size, p patch size,
h = ceil(H / p), w = ceil(W / p), E channels of the encoder.
"""

from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from farcluss.errors import PluginError, short
from farcluss.networks.bands import Bands
from farcluss.networks.base import CoarsePrediction, Perturbation, Prediction, perturbed
from farcluss.networks.deeplabv3plus import check_timm, embedding_head, extend, freeze_unused, resize
from farcluss.networks.pretrained import load_pretrained
from farcluss.plugins.options import Count, Literal, PositiveInt
from farcluss.tensors.upsampling import Upsampling, upsampled

TAPS = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23), 40: (9, 19, 29, 39)}
"""Blocks whose outputs DINOv2's authors use for dense tasks, by the number of blocks."""
SIZES = {384: (64, (48, 96, 192, 384)), 768: (128, (96, 192, 384, 768)), 1024: (256, (256, 512, 1024, 1024))}
"""Features and widths of Yang et al., by the channels of the encoder."""


def dpt(
    in_channels: int,
    classes: int,
    dim: int,
    pretrained: bool | str,
    bands: Bands | None = None,
    *,
    encoder: str = "vit_small_patch14_dinov2",
    taps: tuple[Count, Count, Count, Count] | None = None,
    features: PositiveInt | None = None,
    widths: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] | None = None,
    fit: Literal["extend", "resize"] = "extend",
    frozen: bool | Count = False,
    checkpointing: bool = False,
) -> "DPT":
    """DPT head over a timm vision transformer, such as DINOv2 or DINOv3.

    At 21 classes it has 24.721 M parameters with vit_small_patch14_dinov2, 97.233 M with vit_base_patch14_dinov2,
    without the embedding head. There is no batch norm.

    Args:
        in_channels: image channels.
        classes: number of classes.
        dim: embedding size; 0 builds no embedding head.
        pretrained: True downloads timm's weights, a path reads a file, also an official one of DINOv2 or DINOv3; False
            starts from scratch.
        bands: which bands of the weights the channels of the images are.
        encoder: timm name of a vision transformer, such as vit_base_patch14_dinov2 or vit_small_patch16_dinov3.
        taps: four blocks, counted from 0, whose outputs are read; by default those of the authors of DINOv2, of other
            depths the last of each quarter.
        features: channels of the head's maps; by default 64, 128 or 256 for encoders of 384, 768 or 1024 channels, of
            other encoders an eighth of theirs.
        widths: channels that the four outputs are projected to; by default of Yang et al. (2024), of other encoders an
            eighth, a quarter, a half and all of theirs.
        fit: extend: pad images to a multiple of the patch; resize: scale them to the nearest one, as the field scores.
        frozen: true: the encoder does not learn; a number: neither patches and tokens nor so many blocks do.
        checkpointing: compute activations of the encoder twice rather than store them, which takes less memory.

    Raises:
        PluginError: the encoder is unknown or no vision transformer for images of any size; or a tap or a frozen block
            that it lacks.
        WeightsError: the pretrained weights are missing or do not fit.
    """
    vit = build_vit(encoder, in_channels)
    depth, width = len(vit.blocks), int(vit.embed_dim)
    blocks = taps or TAPS.get(depth) or tuple((quarter + 1) * depth // 4 - 1 for quarter in range(4))
    _check_blocks(encoder, depth, blocks, frozen)
    report = load_pretrained(vit, encoder, pretrained, bands)
    usual = SIZES.get(width, (max(1, width // 8), tuple(max(1, width * share // 8) for share in (1, 2, 4, 8))))
    head = Head(width, widths or usual[1], features or usual[0], classes)
    embed = embedding_head(features or usual[0], dim) if dim else None
    network = DPT(vit, head, embed, blocks, fit, report.summary())
    freeze_unused(network, in_channels)
    freeze(vit, frozen)
    network.frozen = frozen is True
    if checkpointing:
        vit.set_grad_checkpointing()
    return network


class DPT(nn.Module):
    """Encoder, head and embedding head.

    Attributes:
        pretrained_report: one line on the source of the encoder's weights.
        frozen: whether the whole encoder is: then `encode` need not be called twice for the same images.
        read: gives the four outputs of an encoder for images, see `read_blocks`; other networks made of this one may
            read them in another way.
        patch: pixels per side of a patch.
        points: `encoder`, the four outputs of the encoder; `fused`, the map that classifier and embedding head read.
    """

    def __init__(
        self, encoder: Any, head: "Head", embed: nn.Module | None, taps: tuple[int, ...], fit: str, report: str = ""
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.embed = encoder, head, embed
        self.taps, self.fit, self.pretrained_report = list(taps), fit, report
        self.frozen, self.read = False, read_blocks
        self.patch = int(encoder.patch_embed.patch_size[0])
        self.points = {"encoder": (int(encoder.embed_dim),) * len(taps), "fused": (head.features,)}

    coarse_logits = True

    def forward(
        self,
        images: Tensor,
        perturbation: Perturbation | None = None,
        maps: tuple[Tensor, ...] | None = None,
        coarse: bool = False,
    ) -> Prediction | CoarsePrediction:
        """Logits and embeddings of images of any size; `maps` are what `encode` has made of them.

        With `coarse`, logits are of the decoder's size where the image is of whole patches, or extended to them.

        Shape:
            images `(B, Cin, H, W)` -> logits `(B, C, H, W)`, embeddings `(B, D, 4 h, 4 w)`: cells of a quarter of a
            patch.
        """
        height, width = images.shape[-2:]
        fitted = self._fitted(images)
        maps = perturbed(maps or self.read(self.encoder, fitted, self.taps), "encoder", perturbation)
        (fused,) = perturbed((self.head.fuse(maps),), "fused", perturbation)
        logits, full = self.head.classify(upsample(fused)), tuple(fitted.shape[-2:])
        twice = self.fit == "resize" and full != (height, width)
        how: Upsampling | None = Upsampling(full, full if twice else (height, width), True)
        if not coarse or twice:
            logits, how = resize(upsampled(logits, how), (height, width)), None
        embeddings = None if self.embed is None else self.embed(self._inside(fused, (height, width), full))
        return CoarsePrediction(logits, embeddings, how) if coarse else Prediction(logits, embeddings)

    def _inside(self, fused: Tensor, size: tuple[int, int], full: tuple[int, ...]) -> Tensor:
        """The cells of the fused map that cover an image of `size` within its `full` extension."""
        if self.fit == "resize":
            return fused
        rows, columns = (-(-extent * cells // whole) for extent, cells, whole in
                         zip(size, fused.shape[-2:], full, strict=True))  # fmt: skip
        return fused[..., :rows, :columns]

    def encode(self, images: Tensor) -> tuple[Tensor, ...]:
        """The four outputs of the encoder for images `(B, Cin, H, W)`, as `forward` takes them."""
        return self.read(self.encoder, self._fitted(images), self.taps)

    def head_parameters(self) -> list[str]:
        """Names of all parameters outside the encoder."""
        return [name for name, _ in self.named_parameters() if not name.startswith("encoder.")]

    def depths(self) -> dict[str, int]:
        """Depth of each parameter of the encoder by name: 0 for patches and tokens, then one more for each block."""
        depths: dict[str, int] = group_parameters(self.encoder, self.encoder.group_matcher(coarse=False), reverse=True)
        return {f"encoder.{name}": depth for name, depth in depths.items()}

    def no_weight_decay(self) -> set[str]:
        """Names of tokens and positions."""
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()}

    def _fitted(self, images: Tensor) -> Tensor:
        """Images of a multiple of the patch."""
        if self.fit == "resize":
            nearest = (max(1, int(size / self.patch + 0.5)) * self.patch for size in images.shape[-2:])
            return resize(images, tuple(nearest))
        height, width = (-(-size // self.patch) * self.patch for size in images.shape[-2:])
        return extend(images, height, width)


def read_blocks(encoder: Any, images: Tensor, taps: list[int]) -> tuple[Tensor, ...]:
    """Maps `(B, E, h, w)` of some blocks of a transformer, each behind its last norm, without its tokens."""
    return tuple(encoder.forward_intermediates(images, taps, norm=True, intermediates_only=True))


class Head(nn.Module):
    """Four maps at strides of a quarter, a half, one and two patches, fused from coarse to fine (Ranftl et al. 2021).

    1x1 convolutions are applied before bilinear interpolation, with which they commute, as that is cheaper.
    """

    def __init__(self, channels: int, widths: tuple[int, ...], features: int, classes: int) -> None:
        super().__init__()
        self.features = features
        self.project = nn.ModuleList(nn.Conv2d(channels, width, 1) for width in widths)
        self.scale = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        self.reduce = nn.ModuleList(nn.Conv2d(width, features, 3, padding=1, bias=False) for width in widths)
        self.merge = nn.ModuleList(Residual(features) for _ in widths[:-1])  # the coarsest has nothing to merge with
        self.refine = nn.ModuleList(Residual(features) for _ in widths)
        self.mix = nn.ModuleList(nn.Conv2d(features, features, 1) for _ in widths)
        self.classify = nn.Sequential(
            nn.Conv2d(features, features, 3, padding=1), nn.ReLU(), nn.Conv2d(features, classes, 1)
        )

    def fuse(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Four maps `(B, E, h, w)` -> `(B, features, 4 h, 4 w)`."""
        stages = zip(maps, self.project, self.scale, self.reduce, strict=True)
        scaled = [reduce(scale(project(each))) for each, project, scale, reduce in stages]
        fused: Tensor = self.mix[3](self.refine[3](scaled[3]))
        for level in (2, 1, 0):
            finer = scaled[level]
            fused = resize(fused, finer.shape[-2:]) + self.merge[level](finer)
            fused = self.mix[level](self.refine[level](fused))
        return fused


class Residual(nn.Module):
    """Two 3x3 convolutions, each behind a ReLU, beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, features: Tensor) -> Tensor:
        """`(B, channels, h, w)` -> the same shape."""
        changed: Tensor = self.second(relu(self.first(relu(features))))
        return features + changed


def upsample(maps: Tensor) -> Tensor:
    """`(B, C, h, w)` -> `(B, C, 2 h, 2 w)`, bilinear with aligned corners."""
    return interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)


def build_vit(name: str, in_channels: int) -> Any:
    """A timm vision transformer that takes images of any multiple of its patch, without a classifier.

    Raises:
        PluginError: the encoder is unknown, or is no such.
    """
    check_timm(name)
    given = {"num_classes": 0, "in_chans": in_channels}
    try:
        try:
            vit: Any = timm.create_model(name, dynamic_img_size=True, **given)
        except TypeError:  # those that take any size by themselves have no such option
            vit = timm.create_model(name, **given)
        patch = int(vit.patch_embed.patch_size[0])
        with torch.no_grad():
            image = torch.zeros(1, in_channels, 2 * patch, 3 * patch)
            maps = vit.eval().forward_intermediates(image, norm=True, intermediates_only=True)
        shapes = sorted({tuple(each.shape[1:]) for each in maps})
        alike = shapes == [(vit.embed_dim, 2, 3)] and len(maps) == len(vit.blocks)
        refused = "" if alike else f"it gives {len(maps)} maps {', '.join(map(str, shapes))}"
    except Exception as error:  # other networks fail in any way
        refused = f"{type(error).__name__}: {short(error).rstrip('.')}"
    if refused:
        raise PluginError(
            f"network.encoder: {name} is no vision transformer for images of any size ({refused}).\n"
            'Use one such as vit_small_patch14_dinov2; other encoders with network.name = "deeplabv3plus".'
        )
    return vit.train()


def freeze(vit: Any, frozen: bool | int) -> None:
    """Take a whole vision transformer, or all up to some blocks, out of training."""
    if frozen is False:
        return
    if frozen is True:
        vit.requires_grad_(False)
        return
    kept = {parameter for block in vit.blocks[frozen:] for parameter in block.parameters()}
    kept |= set(vit.norm.parameters())
    for parameter in vit.parameters():
        parameter.requires_grad_(parameter.requires_grad and parameter in kept)


def _check_blocks(name: str, depth: int, taps: tuple[int, ...], frozen: bool | int) -> None:
    if taps != tuple(sorted(set(taps))) or taps[-1] >= depth:
        raise PluginError(
            f"network.taps: {name} has blocks 0 to {depth - 1}, of which four in rising order are needed."
        )
    if frozen > depth:
        raise PluginError(f"network.frozen: {name} has {depth} blocks. Give as many at most, or true for the encoder.")
