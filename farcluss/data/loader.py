"""One loader of paired samples whose every draw is a function of (seed, step, slot).

The order of samples is arithmetic on the step, so a run resumes by starting at another step: there is no random state
to save, and neither the number of processes nor of workers changes what a step sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from farcluss.data.base import IGNORE, Dataset, Item
from farcluss.data.crops import draw_crop
from farcluss.errors import FarclussError, PluginError, SampleError
from farcluss.recipe import Data

LABELED, UNLABELED = 0, 1


class Address(NamedTuple):
    """Which sample: of the labeled or unlabeled stream, at which step, in which place of the global batch."""

    stream: int
    step: int
    slot: int


@lru_cache(maxsize=4)
def _order(count: int, seed: int, stream: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, stream, epoch]).permutation(count)


def item_index(count: int, seed: int, stream: int, position: int) -> int:
    """Index of the item at `position` of an endless stream that shuffles `count` items anew each epoch."""
    return int(_order(count, seed, stream, position // count)[position % count])


@dataclass(frozen=True)
class PairedCrops:
    """Map-style data set of training crops, by `Address`."""

    dataset: Dataset
    items: tuple[list[Item], list[Item]]
    data: Data
    crop: tuple[int, ...]
    batch: int
    seed: int
    truth_every: tuple[int, ...] = (1,)
    """Periods of the steps in which masks of unlabeled images are read, where they exist: for diagnostics alone."""

    def __getitem__(self, address: Address) -> tuple[Address, str, Any]:
        """The crop at an address with its item's id; an error travels as a value, so that its text stays readable."""
        items = self.items[address.stream]
        item = items[item_index(len(items), self.seed, address.stream, address.step * self.batch + address.slot)]
        if address.stream == UNLABELED and all((address.step + 1) % period for period in self.truth_every):
            item = replace(item, mask=None)
        rng = np.random.default_rng([self.seed, *address])
        try:
            sample = draw_crop(
                self.dataset, item, self.crop, self.data.scale, self.data.flip, self.data.channel_mean, rng
            )
        except FarclussError as error:
            return address, item.id, error
        if len(sample.image) != self.data.channels:
            text = (
                f"{item.image} gives {len(sample.image)} channels, the recipe's data.channels is {self.data.channels}."
            )
            return address, item.id, PluginError(text)
        return address, item.id, sample


def step_addresses(
    first: int, last: int, batch: int, streams: tuple[int, ...], rank: int, world: int, micro_batches: int
) -> Iterator[list[Address]]:
    """The addresses of each micro-batch of this process, steps `first` to `last` (exclusive).

    The global batch is cut into `world` times `micro_batches` equal runs of slots.
    """
    size = batch // (world * micro_batches)
    for step in range(first, last):
        for micro in range(micro_batches):
            start = (rank * micro_batches + micro) * size
            yield [Address(stream, step, slot) for stream in streams for slot in range(start, start + size)]


class HostBatch(NamedTuple):
    """One micro-batch on the host: what workers hand over.

    Attributes:
        images: `(B, Cin, *S)` uint8 or float32; labeled images first, then the unlabeled.
        masks: `(B, *S)` uint8, `IGNORE` where there is no mask.
        valid: `(B, *S)` bool.
        labeled: number of labeled images.
        ids: identifiers.
        error: the first error of a worker, with the file's name; the tensors are empty then.
    """

    images: Tensor
    masks: Tensor
    valid: Tensor
    labeled: int
    ids: list[str]
    error: str = ""


def collate(samples: list[tuple[Address, str, Any]]) -> HostBatch:
    """Stack the samples of one micro-batch."""
    empty = torch.empty(0)
    for _, name, sample in samples:
        if isinstance(sample, FarclussError):
            return HostBatch(empty, empty, empty, 0, [name], str(sample))
    images, masks, valid = [], [], []
    for _, _, sample in samples:
        images.append(np.ascontiguousarray(sample.image))
        shape = sample.image.shape[1:]
        masks.append(np.full(shape, IGNORE, np.uint8) if sample.mask is None else np.ascontiguousarray(sample.mask))
        valid.append(np.ascontiguousarray(sample.valid))
    if len({image.dtype for image in images}) > 1:  # 8-bit files among deeper ones
        images = [image / np.float32(255) if image.dtype == np.uint8 else image for image in images]
    labeled = sum(address.stream == LABELED for address, _, _ in samples)
    stacked = [torch.from_numpy(np.stack(arrays)) for arrays in (images, masks, valid)]
    return HostBatch(stacked[0], stacked[1], stacked[2], labeled, [name for _, name, _ in samples])


def micro_batches(
    crops: PairedCrops, addresses: Iterator[list[Address]], workers: int, pin_memory: bool
) -> Iterator[HostBatch]:
    """Load the micro-batches at `addresses`, in order.

    Raises:
        SampleError: an item cannot be read; or a worker died.
    """
    loader: DataLoader[Any] = DataLoader(
        crops,  # type: ignore[arg-type]
        batch_sampler=addresses,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_one_thread,
    )
    try:
        for batch in loader:
            if batch.error:
                raise SampleError(batch.error)
            yield batch
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise SampleError(f"A loader process died: {error}\nIf memory ran out, set data.workers lower.") from error


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
