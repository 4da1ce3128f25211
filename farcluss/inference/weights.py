"""Weights files: a `.safetensors` file with the weights and, in its metadata, all that is needed to use them.

The metadata have one entry, as safetensors has no order of entries: `farcluss`, a `Card` as JSON. Its last key is a
`checksum` over the JSON without it and the tensors.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from farcluss.data.files import finite_floats, from_picture, read_image, to_eight_bit_or_unit
from farcluss.errors import DataError, PluginError, WeightsError, not_a_file, some
from farcluss.inference.card import Card, Inference
from farcluss.inference.probs import BROKEN, Forward, not_finite, predict_classes, predict_probs
from farcluss.networks.bands import Bands
from farcluss.networks.fitting import misfit
from farcluss.networks.normalize import Normalize
from farcluss.plugins import registry
from farcluss.runs.atomic import unwritable, write_atomically
from farcluss.tensors.precision import wide_softmax

Picture: TypeAlias = NDArray[Any] | Image.Image | str | os.PathLike[str]
"""An image, see `Model.probs`."""
SEAL, END = ',"checksum":"', '"}'
"""Around the checksum, at the end of the card's JSON."""
SPARE = 10**8
"""Parameters that a network may have while it is built beyond twice those of its file."""


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

    def probs(self, image: Picture) -> Tensor:
        """Probabilities `(C, *S)` float32 of one image.

        Args:
            image: path of a file, a PIL image, or an array `(Cin, *S)`: uint8, uint16, or floats in the range of the
                training images, which is [0, 1] unless the data set says otherwise.

        Raises:
            DataError: the file cannot be read, or the array has values of another type or range.
            WeightsError: the number of channels or axes is not that of the network.
        """
        return self.batch_probs(self._batch(image))[0]

    def batch_probs(self, images: Tensor) -> Tensor:
        """Probabilities `(B, C, *S)` float32 of images of one size `(B, Cin, *S)`, uint8 or float as in training.

        They are not finite where the network's output is not, see `farcluss.inference.probs.check_finite`.

        Raises:
            WeightsError: the number of channels is not that of the network.
        """
        return self._infer(predict_probs, lambda views: wide_softmax(self._logits(views)), images)

    def classify(self, images: Tensor) -> Tensor:
        """Class index `(B, *S)` int64 of images of one size `(B, Cin, *S)`, uint8 or float as in training.

        It is `BROKEN` where the network's output is not finite. For a single view of each image, the softmax is
        skipped. The result may depend on the other images of the batch where two classes are equal up to rounding.

        Raises:
            WeightsError: the number of channels is not that of the network.
        """
        return self._infer(predict_classes, self._logits, images)

    def predict(self, image: Picture) -> NDArray[np.uint8]:
        """Class index `(*S)` uint8 of one image, see `probs`.

        Raises:
            DataError, WeightsError: see `probs`; or the network's output is not finite.
        """
        classes = self.classify(self._batch(image))[0].cpu().numpy()
        if (classes == BROKEN).any():
            raise not_finite("the image")
        return classes.astype(np.uint8)

    def _batch(self, image: Picture) -> Tensor:
        """`(1, Cin, *S)` uint8 or float32 of one image. Raises DataError, WeightsError."""
        channels, wanted = self.card.channels, f"({self.card.channels}, {'D, H, W'[3 * (3 - self.card.axes) :]})"
        if isinstance(image, str | os.PathLike):
            image = read_image(os.fspath(image), channels)
        elif isinstance(image, Image.Image):
            image = from_picture(image, channels, "The image")
        array = np.asarray(image)
        if array.ndim != 1 + self.card.axes or array.shape[0] != channels:
            move = array.ndim == 1 + self.card.axes and array.shape[-1] == channels
            advice = " Move its last axis to the front: numpy.moveaxis(image, -1, 0)." if move else ""
            raise WeightsError(f"The image has shape {array.shape}, the network takes {wanted}.{advice}")
        if not array.size:
            raise DataError(f"The image has no pixels: its shape is {array.shape}.")
        if self.card.value_range == (0.0, 1.0) or array.dtype.kind != "f":
            array = to_eight_bit_or_unit(array, "The image")
        else:
            array = finite_floats(array, "The image")
        return torch.from_numpy(np.array(array, order="C"))[None]  # PyTorch warns of arrays that it may not write

    @torch.no_grad()
    def _infer(self, predict: Callable[..., Tensor], forward: Forward, images: Tensor) -> Tensor:
        """Apply `predict` to normalized images, with the network in evaluation mode."""
        if images.shape[1] != self.card.channels:
            raise WeightsError(f"The image has {images.shape[1]} channels, the network takes {self.card.channels}.")
        with self.evaluating():
            normalized = self.normalize.to(self.device)(to_unit(images.to(self.device)))
            return predict(forward, normalized, **self.card.inference.settings)

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
        half = self.card.inference.precision == "bf16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            logits: Tensor = self.network(images).logits
        return logits.float() if half else logits


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
    text = card.model_dump_json()
    sealed = f"{text[:-1]}{SEAL}{checksum(text, tensors)}{END}"
    try:
        write_atomically(path, save(tensors, {"farcluss": sealed}))
    except OSError as error:
        raise WeightsError(unwritable(path, error, "path")) from None


def checksum(card: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over a card's JSON and tensors on the CPU, each with name, type and shape; in hexadecimal."""
    digest = hashlib.sha256(card.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def read_card(path: str | os.PathLike[str]) -> Card:
    """The metadata of a weights file, without reading its tensors.

    Raises:
        WeightsError: no such file, not safetensors, not written by farcluss, or with impossible values.
    """
    reason = "its metadata does not describe a network"
    try:
        return Card.model_validate(json.loads(_metadata(path)["farcluss"]))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        text = first["msg"].removeprefix("Value error, ").splitlines()[0]
        reason = f"{place}: {text}" if place else text
    except (KeyError, ValueError, RecursionError):
        pass
    raise WeightsError(
        f"{path} is not a farcluss model: {reason}.\n"
        "To initialize training from it, set network.pretrained to its path; `farcluss export` writes models."
    )


def _metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    if other := not_a_file(path):
        raise WeightsError(f"{path} is {other}, not a weights file. A run has its own in RUN/weights/.")
    try:
        with open(path, "rb"), safe_open(path, framework="numpy") as file:  # the first says why it cannot be opened
            return file.metadata() or {}
    except FileNotFoundError:
        raise WeightsError(f"There is no weights file {path}. A run writes them to RUN/weights/.") from None
    except (SafetensorError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path} is not a readable safetensors file: {reason}.") from None


def build_network(
    name: str,
    options: dict[str, Any],
    channels: int,
    classes: int,
    dim: int,
    pretrained: bool | str,
    bands: Bands | None = None,
) -> Any:
    """Build a network plugin, channels last if it is two-dimensional, which makes convolutions faster.

    A plugin is told of `bands` only where there are some, so that it need not take them.

    Raises:
        PluginError, WeightsError: with what to fix.
    """
    context = (channels, classes, dim, pretrained, *([bands] if bands else []))
    if bands and "bands" not in inspect.signature(registry.get("network", name).load()).parameters:
        raise PluginError(f"network {name} does not read pretrained weights by the names of their bands.\n"
                          "Remove network.pretrained_bands, or take another network.")  # fmt: skip
    network = registry.build("network", name, options, *context, kind=nn.Module)
    flat = all(parameter.dim() < 5 for parameter in network.parameters())
    return network.to(memory_format=torch.channels_last) if flat else network


def load(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Model:
    """Load a model from a weights file.

    No code is run: the file is safetensors with JSON metadata.

    Raises:
        WeightsError: see `read_card`; or the file is damaged, or its tensors are not finite or do not fit the network.
        PluginError: the network's plugin is not installed.
    """
    card = read_card(path)
    tensors = _read_tensors(path)
    with _limited(sum(tensor.numel() for tensor in tensors.values()), path):
        try:
            network = build_network(card.network, card.options, card.channels, len(card.classes), card.dim, False)
        except PluginError as error:
            if error.__cause__ is None:
                raise PluginError(f"{path}: {error}") from error
            reason = str(error.__cause__).partition("\n")[0][:200]
            raise WeightsError(f"{path} describes a {card.network} that cannot be built: {reason}.") from error
    if wrong := misfit(network, tensors):
        raise WeightsError(f"{path} does not fit network {card.network!r}: {wrong}.")
    network.load_state_dict(tensors)
    return Model(network.eval(), card).to(device)


def _read_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a weights file. Raises WeightsError: its checksum is another, or they are not finite."""
    with safe_open(path, framework="pt", device="cpu") as file:
        card, _, seal = file.metadata()["farcluss"].rpartition(SEAL)
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if seal != checksum(f"{card}}}", tensors) + END:
        raise WeightsError(f"{path} is damaged or was changed: its checksum is another. Copy or export it again.")
    if broken := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise WeightsError(
            f"{path} has values that are not finite, in {some(broken)}.\nIts training diverged; use other weights."
        )
    return tensors


@contextmanager
def _limited(size: int, path: str | os.PathLike[str]) -> Iterator[None]:
    """Refuse to build a network with far more parameters than the `size` of its file, which could fill the memory."""
    built = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal built
        built += parameter.numel() if parameter is not None else 0
        if built > 2 * size + SPARE:
            raise WeightsError(f"{path} describes a network of {built:,} or more parameters, but holds {size:,}.")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
