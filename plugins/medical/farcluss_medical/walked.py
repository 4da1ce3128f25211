"""Networks of other libraries, run module by module, behind farcluss's contract: images or volumes of any size.

Notation used for shapes: B images, Cin image channels, C classes, D embedding size, *S full spatial size, *s spatial
size of the embedding map.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from farcluss.errors import PluginError
from farcluss.networks.bands import Bands
from farcluss.networks.base import Perturbation, Prediction, perturbed
from farcluss.networks.pretrained import load_pretrained

Maps = tuple[Tensor, ...]
Change = Callable[[Maps, str], Maps]
"""Changes maps at a point, see `farcluss.networks.base.perturbed`."""
Walk = Callable[[Any, Tensor, Change], tuple[Tensor, list[Tensor]]]
"""A model's forward, module by module: returns logits, and the decoder's feature maps from coarse to fine."""


Part = Literal["all", "encoder"]
"""What a file of pretrained weights holds: a whole network but its output layer, or its encoder alone."""


@dataclass(frozen=True)
class Architecture:
    """What differs between networks.

    Attributes:
        walk: its forward.
        multiple: from the model and the number of axes, the number per axis that sizes must be a multiple of.
        classifier: name of its output layer.
        encoder: names of the modules that files of encoders hold; none where there are no such files.
        rename: turns the state dict of a file into one with the model's names, where they differ.
    """

    walk: Walk
    multiple: Callable[[Any, int], tuple[int, ...]]
    classifier: str
    encoder: tuple[str, ...] = ()
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict


@dataclass(frozen=True)
class Map:
    """Stride per axis and channels of a map of the decoder."""

    stride: tuple[int, ...]
    channels: int


class WalkedNetwork(nn.Module):
    """A network of another library, run module by module, so that one forward gives logits and embeddings.

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
        parts: "Architecture",
        maps: list["Map"],
        points: dict[str, tuple[int, ...]],
        dim: int,
        embed_stride: int,
        part: Part = "all",
        report: str = "",
    ) -> None:
        super().__init__()
        self.model, self.points, self.pretrained_report = model, points, report
        self._walk = parts.walk
        every = {name.partition(".")[0] for name, _ in model.named_parameters()}
        heads = every - {*parts.encoder} if part == "encoder" else {parts.classifier}
        self._heads = ("embed.", *(f"model.{name}." for name in sorted(heads)))
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
                f"The network was built for {len(self._multiple)} spatial axes; these images have {len(size)}.\n"
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
        """Names of the parameters that no file gives: those of the output layer and the embedding head.

        With a file of an encoder, all others.
        """
        return [name for name, _ in self.named_parameters() if name.startswith(self._heads)]


def load(
    model: nn.Module,
    name: str,
    parts: Architecture,
    pretrained: bool | str,
    part: Part,
    bands: Bands | None = None,
    inputs: Sequence[str] = (),
) -> str:
    """Load pretrained weights into a model.

    Args:
        model: of the architecture.
        name: of the architecture, for messages.
        parts: of the architecture.
        pretrained: a path, or False.
        part: what the file holds, at least.
        bands: which bands of the weights the channels of the images are.
        inputs: names of the weights that images meet, where there are several.

    Returns:
        One line on where the weights come from, and which modules start from scratch.

    Raises:
        WeightsError: the file is unreadable or does not fit.
    """
    kept = without(model, parts.classifier)
    if part == "encoder":
        kept = nn.ModuleDict({each: model.get_submodule(each) for each in parts.encoder})
    report = load_pretrained(kept, name, pretrained, bands, parts.rename, inputs).summary()
    if pretrained is False or part == "all":
        return report
    scratch = [each for each, child in model.named_children() if each not in parts.encoder and list(child.parameters())]
    return f"{report}; from scratch: {', '.join(scratch)}"


def measure(
    model: Any, title: str, parts: Architecture, axes: int, in_channels: int, classes: int
) -> tuple[list[Map], dict[str, tuple[int, ...]]]:
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
        raise refused(title, error) from error
    model.train()
    size = smallest.shape[2:]
    if logits.shape != (1, classes, *size):
        raise PluginError(
            f"{title} with these options turns images {tuple(smallest.shape)} into logits {tuple(logits.shape)}.\n"
            "Its decoder must restore the size of the image: check the strides and the numbers of blocks in [network]."
        )
    strides = [tuple(whole // part for whole, part in zip(size, each.shape[2:], strict=True)) for each in maps]
    return [Map(stride, each.shape[1]) for stride, each in zip(strides, maps, strict=True)], points


def refused(title: str, error: Exception) -> PluginError:
    """The error for a network that its library does not build."""
    reason = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
    return PluginError(f"{title} cannot be built:\n{reason}\nCheck the options of [network].")


def _level(maps: list[Map], stride: int) -> int:
    """Index of the finest map of at least this stride."""
    for index in reversed(range(len(maps))):
        if max(maps[index].stride) >= stride:
            return index
    coarsest = max(max(each.stride) for each in maps)
    raise PluginError(f"network.embed_stride: the decoder has no map of stride {stride}; its coarsest has {coarsest}.")


def without(module: nn.Module, path: str) -> nn.Module:
    """A module's children by name, without the one at `path`."""
    first, _, rest = path.partition(".")
    kept = nn.Module()
    for name, child in module.named_children():
        if name != first:
            kept.add_module(name, child)
        elif rest:
            kept.add_module(name, without(child, rest))
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
    """One axis of the embedding map of an image of `extent` pixels; see the convention of WalkedNetwork."""
    count = max(1, extent // stride)
    if extent == count * stride:
        return features.narrow(axis, 0, count)
    pixels = (torch.arange(count, device=features.device) + 0.5) * (extent / count)
    return features.index_select(axis, pixels.long() // stride)
