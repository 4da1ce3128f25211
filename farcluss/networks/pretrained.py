"""Pretrained encoder weights: read without running code, and matched by name.

Supports files from timm and torchvision, the common deep-stem ResNets, also with MMSegmentation's names, and whole
segmentation checkpoints, as long as they contain every tensor of the encoder.
"""

import pickle
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor, nn

from farcluss.errors import WeightsError, counted, short, some
from farcluss.networks.bands import Bands, adapt_channels, refused_channels

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_NESTS = ("state_dict_ema", "state_dict", "model", "teacher", "network_weights", "net")  # EMA weights first
_PREFIXES = ("module.", "backbone.", "encoder.", "model.")
_SCALAR: list[Any] = [(np.float64(0).__reduce__()[0], f"numpy.{name}.multiarray.scalar") for name in ("_core", "core")]
"""The function that NumPy's numbers are pickled with, by its names in NumPy 2 and 1."""
_COUNTER = "num_batches_tracked"  # of batch norms; old files lack it, and it is not used here


class Facts(NamedTuple):
    """What timm says of an encoder's pretrained weights; of a file it is a guess by the encoder's name.

    Attributes:
        mean: of the channels that they were trained with, of images in [0, 1].
        std: likewise.
        license: of the weights, as timm calls it; empty if it does not say.
    """

    mean: list[float]
    std: list[float]
    license: str

    def summary(self) -> str:
        """A part of a line for the log."""
        numbers = ", ".join(f"{name} {' '.join(f'{each:.3g}' for each in values)}" for name, values in
                            (("mean", self.mean), ("std", self.std)))  # fmt: skip
        return f"timm's weights: {numbers}, license {self.license or 'unknown'}"


def facts_of(encoder: str) -> Facts | None:
    """What timm says of the weights of an encoder, `tu-NAME` too; None where it has none."""
    name = encoder.removeprefix("tu-")
    config = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    if config is None or not config.has_weights:
        return None
    return Facts(list(config.mean), list(config.std), config.license or "")


@dataclass(frozen=True)
class MatchReport:
    """Which tensors of an encoder were found in a weights file.

    Attributes:
        encoder: name of the encoder.
        source: file or repository; empty if training starts from scratch.
        matched: number of the encoder's tensors that were found with the right shape.
        total: number of the encoder's tensors, without batch counters.
        missing: names of the encoder that were not found.
        unexpected: names of the source that the encoder lacks, such as a classifier's.
        mismatched: names found with another shape or type, and both; or with values that are not finite.
        adapted: how first convolutions were adapted to the image channels; empty if they were not.
        facts: what timm says of the weights; None if it says nothing, or they are for bands that it does not know.
    """

    encoder: str
    source: str
    matched: int
    total: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    adapted: str = ""
    facts: Facts | None = None

    def summary(self) -> str:
        """One line for the log."""
        if not self.source:
            return f"encoder {self.encoder}: from scratch"
        text = f"encoder {self.encoder}: {self.matched} of {self.total} tensors from {self.source}"
        parts = [text, self.adapted, f"ignored {some(self.unexpected)}" if self.unexpected else ""]
        return "; ".join(filter(None, [*parts, self.facts.summary() if self.facts else ""]))


def load_pretrained(
    encoder: nn.Module,
    name: str,
    pretrained: bool | str,
    bands: Bands | None = None,
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict,
    inputs: Collection[str] = (),
) -> MatchReport:
    """Load pretrained weights into an encoder.

    Args:
        encoder: a timm `features_only` network, or any module with matching names.
        name: the encoder's timm name, for downloads and messages.
        pretrained: True downloads timm's weights, a path reads a local file, False does nothing.
        bands: which of the weights' bands the channels of the images are, see `adapt_channels`.
        rename: turns the state dict of a file into one with the encoder's names, where they have others.
        inputs: the encoder's names of the weights that images meet; by default the first convolution's.

    Raises:
        WeightsError: no such weights, an unreadable or unsafe file, or one that lacks a tensor of the encoder, which
            then stays unchanged.
    """
    if pretrained is False:
        return MatchReport(name, "", 0, len(_tensors(encoder)))
    if pretrained is True:
        source, state = f"timm {name}", _download(name)
    else:
        source, state = pretrained, _converted(encoder, rename(read_weights(Path(pretrained))))
    report, found = match(encoder, name, source, state, bands, inputs)
    complete = report.matched == report.total
    deeper = _deeper(report, encoder) if complete and pretrained is not True else ()
    if not complete or deeper:
        raise WeightsError(_misfit(report, deeper))
    encoder.load_state_dict(found, strict=False)
    return report


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a `.safetensors` file or a PyTorch checkpoint, unwrapped from enclosing dictionaries.

    Raises:
        WeightsError: the file is missing, unreadable, of another kind, or would run code when loaded.
    """
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"network.pretrained: {path} is not one of {', '.join(SUFFIXES)}.")
    if not path.is_file():
        raise WeightsError(f"network.pretrained: there is no file {path}.")
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else load_checkpoint(path)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} was refused: it contains more than tensors or is not a checkpoint; no code in it was run.\n"
            "If you trust its source, load it yourself and save its state_dict() as .safetensors."
        ) from error
    except PermissionError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror}. Give it the right to be read.") from error
    except Exception as error:  # a damaged file makes the readers raise whatever its bytes lead to
        raise WeightsError(
            f"{path} cannot be read as weights: it is truncated, damaged or no checkpoint.\n"
            "Fetch or copy the file again."
        ) from error
    while isinstance(content, dict) and (nest := next((k for k in _NESTS if isinstance(content.get(k), dict)), None)):
        content = content[nest]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise WeightsError(f"{path} contains no named tensors. Give a file with a state_dict of the encoder.")
    return tensors


def load_checkpoint(path: Path) -> Any:
    """What a checkpoint of PyTorch holds: tensors and plain values, NumPy's numbers too, as scores often are.

    Raises:
        pickle.UnpicklingError: it holds other objects; no code in it was run.
        Exception: it is damaged; of any type.
    """
    numbers = [type(np.dtype(kind)) for kind in "?bhilqBHILQefd"]
    with torch.serialization.safe_globals([np.dtype, *_SCALAR, *numbers]):
        return torch.load(path, map_location="cpu", weights_only=True)


def match(
    encoder: nn.Module,
    name: str,
    source: str,
    state: dict[str, Tensor],
    bands: Bands | None = None,
    inputs: Collection[str] = (),
) -> tuple[MatchReport, dict[str, Tensor]]:
    """Compare weights with an encoder.

    Returns:
        the report, and the matching tensors by the encoder's own names.

    Raises:
        WeightsError: they are for images of other channels, and it is not known which are which.
    """
    wanted = _tensors(encoder)
    state = {k: v for k, v in _rename(state, wanted).items() if not k.endswith(_COUNTER)}
    # features_only networks flatten some names: `stages.0.x` becomes `stages_0.x`
    by_plain = {_plain(key): key for key in state}
    inputs = inputs or [key for key, tensor in wanted.items() if tensor.ndim > 3][:1]
    found, missing, mismatched, adapted = {}, [], [], ""
    for key, tensor in wanted.items():
        given = state.pop(by_plain.get(_plain(key), ""), None)
        if given is None:
            missing.append(key)
            continue
        if key in inputs and given.ndim == tensor.ndim and (bands or given.shape[1] != tensor.shape[1]):
            given, adapted = _fitted(given, tensor.shape[1], bands, source)
        if given.shape != tensor.shape:
            mismatched.append(f"{key} {tuple(given.shape)} instead of {tuple(tensor.shape)}")
        elif tensor.is_floating_point() and not given.is_floating_point():  # quantized: its scale is not in the file
            mismatched.append(f"{key} of {given.dtype} instead of {tensor.dtype}")
        elif not given.isfinite().all():
            mismatched.append(f"{key} with values that are not finite")
        else:
            found[key] = given
    names = tuple(missing), tuple(state), tuple(mismatched)
    facts = None if bands else facts_of(name)
    return MatchReport(name, source, len(found), len(wanted), *names, adapted, facts), found


def _fitted(given: Tensor, channels: int, bands: Bands | None, source: str) -> tuple[Tensor, str]:
    """A first convolution for images of other channels, and what was done. Raises WeightsError."""
    if refused := refused_channels(given.shape[1], channels, bands):
        raise WeightsError(f"{source}: {refused}")
    done = f"adapted from {given.shape[1]} to {channels} channels"
    if bands:
        done = f"reads {' '.join(bands.names[row] for row in bands.rows)} of {counted(len(bands.names), 'band')}"
    return adapt_channels(given, channels, bands), f"first convolution {done}"


def download_error(name: str, file: str, where: str, error: Exception) -> WeightsError:
    """The error for weights that cannot be downloaded."""
    reason = short(error)
    return WeightsError(
        f"The pretrained weights of {name} cannot be downloaded: {type(error).__name__}: {reason}.\n"
        f"Download {file} from {where} on another machine,\n"
        f'and set network.pretrained = "/path/to/{file}"; or set it to false to train from scratch.'
    )


@contextmanager
def quick_hub() -> Iterator[None]:
    """Within, what the hub is asked for comes from its cache alone if the hub cannot be reached.

    Its client would try again for half a minute per file, and warn each time.

    Raises:
        ConnectionError: the hub cannot be reached, and a file is not in the cache.
    """
    before, away = constants.HF_HUB_OFFLINE, not _reachable(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE = before or away
    try:
        yield
    except LocalEntryNotFoundError as error:
        if before or not away:
            raise
        raise ConnectionError(f"{constants.ENDPOINT} cannot be reached") from error
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    """Whether a server can be reached; behind a proxy, that is assumed."""
    place = urlsplit(url)
    if place.scheme in getproxies():
        return True
    try:
        create_connection((place.hostname or "", place.port or 443), timeout=5).close()
    except OSError:
        return False
    return True


def _download(name: str) -> dict[str, Tensor]:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise WeightsError(f"timm has no pretrained weights for {name}; set network.pretrained to a file or to false.")
    try:
        with quick_hub():
            state: dict[str, Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # timm, the hub client and the network raise different errors, with the same remedy
        file, where = str(config.url).rpartition("/")[2], str(config.url)
        if config.hf_hub_id:
            file = config.hf_hub_filename or "model.safetensors"
            where = f"the Hugging Face repository {config.hf_hub_id}"
        if config.license == "dinov3-license":
            where += " (gated: accept the dinov3-license there first)"
        raise download_error(name, file, where, error) from error
    return state


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in module.state_dict().items() if not key.endswith(_COUNTER)}


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _rename(state: dict[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """Rename to timm's names: without prefixes of wrappers, and the deep stem as conv1 and bn1."""
    wanted = tuple(wanted)
    prefixes = [prefix for prefix in _PREFIXES if not any(key.startswith(prefix) for key in wanted)]
    while prefix := next((p for p in prefixes if any(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    if "conv1.0.weight" in wanted and "stem.0.weight" in state:  # MMSegmentation: the stem's last norm is stem.7
        state = {re.sub(r"^stem\.(\d)", r"conv1.\1", re.sub(r"^stem\.7", "bn1", k)): v for k, v in state.items()}
    return state


def _converted(encoder: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights by timm's own conversion of the encoder's kind: official names, positions of another image size.

    Weights that it cannot convert stay as they are, so that the report of what matched says what is wrong.
    """
    convert = getattr(sys.modules[type(encoder).__module__], "checkpoint_filter_fn", None)
    if convert is None:  # of wrappers for feature maps, whose names differ from the model's
        return state
    try:
        converted: dict[str, Tensor] = convert(_rename(state, encoder.state_dict()), encoder)
    except Exception:  # whatever a file of another network leads to
        return state
    return converted


def _deeper(report: MatchReport, encoder: nn.Module) -> tuple[str, ...]:
    """Names of blocks beyond those of the encoder: the file belongs to a deeper network."""
    known = [_plain(key) for key in _tensors(encoder)]
    found = []
    for key in report.unexpected:
        row = re.match(r"(.+_)\d+_(?!.*_\d+_)", _plain(key))
        if row and any(name.startswith(row[1]) for name in known):
            found.append(key)
    return tuple(found)


def _misfit(report: MatchReport, deeper: tuple[str, ...]) -> str:
    lines = [f"{report.source} fits {report.matched} of {report.total} tensors of encoder {report.encoder}."]
    parts = {"Missing": report.missing, "other shape, type or values": report.mismatched}
    parts["deeper blocks than the encoder's" if deeper else "not in the encoder"] = deeper or report.unexpected
    lines.append("; ".join(f"{title}: {some(names)}" for title, names in parts.items() if names) + ".")
    return "\n".join([*lines, "Set network.encoder to the network that the file was made for, or give another file."])
