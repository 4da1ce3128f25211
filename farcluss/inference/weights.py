"""Weights files: a `.safetensors` file with the weights and, in its metadata, all that is needed to use them."""

import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import farcluss
from farcluss.data.base import Palette
from farcluss.errors import WeightsError
from farcluss.inference.probs import Blend, Forward, predict_classes, predict_probs
from farcluss.networks.normalize import Normalize
from farcluss.plugins import registry
from farcluss.recipes.model import Eval, Recipe
from farcluss.runs.atomic import write_atomically
from farcluss.tensors.precision import wide_softmax


class Inference(BaseModel):
    """Options of `farcluss.inference.probs.predict_probs`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: tuple[int, ...] | None = None
    stride: float = 2 / 3
    blend: Blend = "mean"
    flip: bool = False
    scales: tuple[float, ...] = (1.0,)


def inference_of(settings: Eval, crop: tuple[int, ...]) -> Inference:
    """The inference options of a recipe's `[eval]`; the window defaults to the training crop."""
    side = settings.window or list(crop)
    window = (side,) * len(crop) if isinstance(side, int) else tuple(side)
    sliding = settings.mode == "sliding"
    return Inference(
        window=window if sliding else None,
        stride=settings.stride,
        blend=settings.blend,
        flip=settings.flip,
        scales=tuple(settings.scales),
    )


class Card(BaseModel):
    """The metadata of a weights file: the network, its classes and inference options, and its origin."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    network: str
    options: dict[str, Any]
    channels: int
    dim: int
    classes: list[str]
    palette: Palette
    mean: list[float]
    std: list[float]
    inference: Inference
    source: str = ""
    step: int = 0
    scores: dict[str, Any] = {}
    recipe: dict[str, Any] = {}
    versions: dict[str, str] = {}


def card_of(recipe: Recipe, classes: tuple[str, ...], palette: Palette, dim: int, crop: tuple[int, ...]) -> Card:
    """The metadata of a recipe's network, without scores."""
    return Card(
        network=recipe.network.name,
        options=recipe.network.options,
        channels=recipe.data.channel_count,
        dim=dim,
        classes=list(classes),
        palette=palette,
        mean=recipe.data.channel_mean,
        std=recipe.data.channel_std,
        inference=inference_of(recipe.eval, crop),
        recipe=recipe.model_dump(mode="json"),
        versions={"farcluss": farcluss.__version__, "torch": torch.__version__, "python": platform.python_version()},
    )


class Model:
    """A trained network with its metadata: predicts probabilities and classes of images."""

    def __init__(self, network: nn.Module, card: Card) -> None:
        """Wrap a network, without copying or moving it."""
        self.network, self.card = network, card
        self.normalize = Normalize(card.mean, card.std)

    @property
    def classes(self) -> list[str]:
        """Class names by index."""
        return self.card.classes

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    def with_inference(self, inference: Inference) -> "Model":
        """The same network with other inference options."""
        return Model(self.network, self.card.model_copy(update={"inference": inference}))

    def to(self, device: str | torch.device) -> "Model":
        """Move the network; returns self."""
        self.network.to(device)
        return self

    def probs(self, image: NDArray[Any]) -> Tensor:
        """Probabilities `(C, *S)` float32 of one image `(Cin, *S)`, uint8 or float in the range of `mean`.

        Raises:
            WeightsError: the number of channels is not that of the network.
        """
        return self.batch_probs(_as_batch(image))[0]

    def batch_probs(self, images: Tensor) -> Tensor:
        """Probabilities `(B, C, *S)` float32 of images of one size `(B, Cin, *S)`, uint8 or float, see `probs`.

        Raises:
            WeightsError: the number of channels is not that of the network.
        """
        return self._infer(predict_probs, lambda views: wide_softmax(self._logits(views)), images)

    def classify(self, images: Tensor) -> Tensor:
        """Class index `(B, *S)` int64 of images of one size `(B, Cin, *S)`, uint8 or float, see `probs`.

        For a single view of each image, the softmax is skipped. The result may depend on the other images of the batch
        where two classes are equal up to rounding.

        Raises:
            WeightsError: the number of channels is not that of the network.
        """
        return self._infer(predict_classes, self._logits, images)

    def predict(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """Class index `(*S)` uint8 of one image `(Cin, *S)`, uint8 or float in the range of `mean`."""
        return self.classify(_as_batch(image))[0].to(torch.uint8).cpu().numpy()

    @torch.no_grad()
    def _infer(self, predict: Callable[..., Tensor], forward: Forward, images: Tensor) -> Tensor:
        """Apply `predict` to normalized images, with the network in evaluation mode."""
        if images.shape[1] != self.card.channels:
            raise WeightsError(f"The image has {images.shape[1]} channels, the network takes {self.card.channels}.")
        with self.evaluating():
            normalized = self.normalize.to(self.device)(to_unit(images.to(self.device)))
            return predict(forward, normalized, **dict(self.card.inference))

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the network in evaluation mode; enter once before several threads use the model."""
        training = self.network.training
        if training:
            self.network.eval()
        try:
            yield
        finally:
            if training:
                self.network.train()

    def _logits(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images).logits
        return logits


def _as_batch(image: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image))[None]


def to_unit(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1]; float images unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def save_weights(path: Path, network: nn.Module, card: Card) -> None:
    """Write a network and its metadata to one file, atomically. Raises WeightsError when it cannot be written."""
    # Buffers may be views of one tensor, which safetensors refuses.
    tensors = {
        name: tensor.detach().clone(memory_format=torch.contiguous_format).cpu()
        for name, tensor in network.state_dict().items()
    }
    try:
        write_atomically(path, save(tensors, {"farcluss": card.model_dump_json()}))
    except OSError as error:
        raise WeightsError(f"{path} cannot be written: {error.strerror}. Choose another path, or free space.") from None


def read_card(path: str | os.PathLike[str]) -> Card:
    """The metadata of a weights file, without reading its tensors.

    Raises:
        WeightsError: no such file, not safetensors, or not written by farcluss.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
        return Card.model_validate(json.loads(metadata["farcluss"]))
    except FileNotFoundError:
        raise WeightsError(f"There is no weights file {path}. A run writes them to RUN/weights/.") from None
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a readable safetensors file: {error}.") from None
    except (KeyError, ValueError, ValidationError):
        raise WeightsError(
            f"{path} is not a farcluss model: its metadata does not describe the network.\n"
            "To initialize training from it, set network.pretrained to its path; `farcluss export` writes models."
        ) from None


def build_network(name: str, options: dict[str, Any], channels: int, classes: int, dim: int, pretrained: Any) -> Any:
    """Build a network plugin, channels last if it is two-dimensional, which makes convolutions faster.

    Raises:
        PluginError, WeightsError: with what to fix.
    """
    network = registry.build("network", name, options, channels, classes, dim, pretrained, kind=nn.Module)
    flat = all(parameter.dim() < 5 for parameter in network.parameters())
    return network.to(memory_format=torch.channels_last) if flat else network


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Model:
    """Load a model from a weights file.

    No code is run: the file is safetensors with JSON metadata.

    Raises:
        WeightsError: see `read_card`; or the tensors do not fit the network.
        PluginError: the network's plugin is not installed.
    """
    card = read_card(path)
    network = build_network(card.network, card.options, card.channels, len(card.classes), card.dim, False)
    with safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise WeightsError(
            f"{path} does not fit network {card.network!r}: {str(error).splitlines()[1].strip()}"
        ) from None
    return Model(network.eval(), card).to(device)
