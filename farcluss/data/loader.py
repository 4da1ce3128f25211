"""One loader of paired samples whose every draw is a function of (seed, step, place).

The order of samples is arithmetic on the step, so a run resumes by starting at another step: there is no random state
to save, and neither the number of processes nor of workers changes what a step sees.
"""

import multiprocessing.queues
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from farcluss.data.base import IGNORE, Dataset, Item
from farcluss.data.crops import draw_crop
from farcluss.data.weighting import Chances, multiplicities
from farcluss.errors import FarclussError, RunError, SampleError
from farcluss.recipes.model import Data

LABELED, UNLABELED = 0, 1
REPLACEMENTS = 10
"""How many images are tried in place of one that cannot be read."""


PATIENCE = 20
"""Seconds that a loader process keeps running after a SIGTERM."""
LONGEST_SOCKET, SOCKET_NAME = 107 if sys.platform == "linux" else 103, len("/pymp-xxxxxxxx/listener-xxxxxxxx")
"""Most bytes of a socket's path, and those of Python's own names for the sockets that loader processes send by."""


class Address(NamedTuple):
    """Address of a sample: labeled or unlabeled stream, step, and place in the global batch."""

    stream: int
    step: int
    place: int


@lru_cache(maxsize=4)
def _order(count: int, seed: int, stream: int, epoch: int, chances: Chances | None) -> NDArray[np.int64]:
    rng = np.random.default_rng([seed, stream, epoch])
    order = rng.permutation(count)
    if chances is None:
        return order
    # The offset is drawn after the order, so that equal chances give the same order as no chances.
    offset = float(rng.random(dtype=np.float32))
    return np.repeat(np.arange(count), multiplicities(chances.shares, offset))[order]


def item_index(count: int, seed: int, stream: int, position: int, chances: Chances | None = None) -> int:
    """Index of the item at `position` of an endless stream that shuffles `count` items again in each epoch.

    With `chances`, an epoch has as many positions, and each item occurs as often as its share, rounded at random.
    """
    return int(_order(count, seed, stream, position // count, chances)[position % count])


class Drawn(NamedTuple):
    """A crop with its address and its item's id; `unreadable` has the errors of the images that it replaces."""

    address: Address
    id: str
    sample: Any
    unreadable: tuple[str, ...] = ()


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
    """Periods, in steps, at which existing masks of unlabeled images are read, only for diagnostics."""
    diary: "Diary" = field(default_factory=lambda: Diary(0))
    chances: tuple[Chances | None, Chances | None] = (None, None)
    """How often the items of each stream are drawn; None for uniform sampling."""

    def __getitem__(self, address: Address) -> Drawn:
        """The crop at an address; an error is returned as a value, so that its text stays readable.

        With `data.on_error = "skip"`, an unreadable image is replaced; the replacement is a function of the address.
        """
        items = self.items[address.stream]
        position = address.step * self.batch + address.place
        index = item_index(len(items), self.seed, address.stream, position, self.chances[address.stream])
        sample = self._draw(address, index)
        if self.data.on_error == "stop" or not isinstance(sample, FarclussError):
            return Drawn(address, items[index].id, sample)
        unreadable = [_first_line(sample)]
        others = np.random.default_rng([self.seed, *address, 1]).permutation(len(items))
        for other in map(int, others[others != index][:REPLACEMENTS]):
            replacement = self._draw(address, other)
            if not isinstance(replacement, FarclussError):
                return Drawn(address, items[other].id, replacement, tuple(unreadable))
            unreadable.append(_first_line(replacement))
        return Drawn(address, items[index].id, sample, tuple(unreadable))

    def _draw(self, address: Address, index: int) -> Any:
        """The crop of an item, or the error."""
        item = self.items[address.stream][index]
        if address.stream == UNLABELED and all((address.step + 1) % period for period in self.truth_every):
            item = replace(item, mask=None)
        rng = np.random.default_rng([self.seed, *address])
        try:
            with self.diary.reading(address.stream, index):
                blind = address.stream == UNLABELED
                sample = draw_crop(self.dataset, item, self.crop, self.data, rng, blind)
        except FarclussError as error:
            return error
        return sample


class Diary:
    """What each loader process is reading, in shared memory: it tells what a process that died was doing."""

    def __init__(self, workers: int) -> None:
        self.pages = torch.full((max(workers, 1), 3), -1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    @contextmanager
    def reading(self, stream: int, index: int) -> Iterator[None]:
        """Record, in a loader process, which item is being read."""
        info = get_worker_info()
        if info:
            self.pages[info.id] = torch.tensor([os.getpid(), stream, index])
        try:
            yield
        finally:
            if info:
                self.pages[info.id] = -1

    def last(self, text: str) -> tuple[int, int] | None:
        """Stream and index of the item read by the process whose ID is in `text`."""
        numbers = {int(number) for number in re.findall(r"\d+", text)}
        return next(((stream, index) for pid, stream, index in self.pages.tolist() if pid in numbers), None)


def _first_line(error: FarclussError) -> str:
    return str(error).partition("\n")[0]


def step_addresses(
    first: int, last: int, batch: int, streams: tuple[int, ...], rank: int, world: int
) -> Iterator[list[Address]]:
    """The addresses of this process's samples, steps `first` to `last` (exclusive): equal slices by rank."""
    size = batch // world
    for step in range(first, last):
        yield [Address(stream, step, place) for stream in streams for place in range(rank * size, (rank + 1) * size)]


class HostBatch(NamedTuple):
    """The images of this process in one step, on the host, as returned by workers.

    Attributes:
        images: `(B, Cin, *S)` uint8 or float32; labeled images first, then the unlabeled.
        masks: `(B, *S)` uint8, `IGNORE` where there is no mask.
        valid: `(B, *S)` bool.
        labeled: number of labeled images.
        ids: identifiers.
        error: the first error of a worker, with the file's name; the tensors are empty then.
        unreadable: errors of images that were replaced by others.
    """

    images: Tensor
    masks: Tensor
    valid: Tensor
    labeled: int
    ids: list[str]
    error: str = ""
    unreadable: tuple[str, ...] = ()


def collate(samples: list[Drawn]) -> HostBatch:
    """Stack the samples of one step."""
    empty = torch.empty(0)
    for drawn in samples:
        if isinstance(drawn.sample, FarclussError):
            return HostBatch(empty, empty, empty, 0, [drawn.id], str(drawn.sample))
    images, masks, valid = [], [], []
    for sample in (drawn.sample for drawn in samples):
        images.append(np.ascontiguousarray(sample.image))
        shape = sample.image.shape[1:]
        masks.append(np.full(shape, IGNORE, np.uint8) if sample.mask is None else np.ascontiguousarray(sample.mask))
        valid.append(np.ascontiguousarray(sample.valid))
    if len({image.dtype for image in images}) > 1:  # 8-bit files among deeper ones
        images = [image / np.float32(255) if image.dtype == np.uint8 else image for image in images]
    labeled = sum(drawn.address.stream == LABELED for drawn in samples)
    stacked = [torch.from_numpy(np.stack(arrays)) for arrays in (images, masks, valid)]
    unreadable = tuple(text for drawn in samples for text in drawn.unreadable)
    return HostBatch(stacked[0], stacked[1], stacked[2], labeled, [drawn.id for drawn in samples], "", unreadable)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loader_processes(workers: int) -> int:
    """How many loader processes to start where `workers` are wanted: not more than there are cores.

    Raises:
        RunError: the folder for temporary files has a name too long for the sockets that they send by.
    """
    folder = tempfile.gettempdir()
    if workers and hasattr(socket, "AF_UNIX") and len(os.fsencode(folder)) > LONGEST_SOCKET - SOCKET_NAME:
        raise RunError(
            f"The folder for temporary files, {folder}, has a name too long for the sockets of loader processes.\n"
            f"Set TMPDIR to one of at most {LONGEST_SOCKET - SOCKET_NAME} bytes, such as /tmp; or set data.workers = 0."
        )
    return min(workers, cores())


def host_batches(
    crops: PairedCrops, addresses: Iterator[list[Address]], workers: int, pin_memory: bool
) -> Generator[HostBatch, None, None]:
    """Load the batches at `addresses`, in order. Close it: loader processes left running would delay the exit.

    Raises:
        SampleError: an item cannot be read; or a worker died.
    """
    workers = loader_processes(workers)
    crops = replace(crops, diary=Diary(workers))
    loader: DataLoader[Any] = DataLoader(
        crops,  # type: ignore[arg-type]
        batch_sampler=addresses,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
    )
    for batch in guarded(loader, crops.diary, lambda stream, index: crops.items[stream][index].image):
        if batch.error:
            raise SampleError(batch.error)
        yield batch


def guarded(loader: DataLoader[Any], diary: Diary, name: Callable[[int, int], str]) -> Generator[Any, None, None]:
    """The batches of a loader. Close it: processes left running would delay the exit.

    Args:
        loader: whose processes write a diary.
        diary: written by those processes.
        name: returns the file name of a stream and index in the diary.

    Raises:
        SampleError: a loader process died; names what it was reading.
    """
    try:
        yield from quiet(loader)
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        place = diary.last(str(error))
        reading = f" while reading {name(*place)}" if place else ""
        raise SampleError(
            f"A loader process died{reading}: {str(error).partition(chr(10))[0]}\n"
            "If memory ran out, lower data.workers; if that file is broken, take it out of the lists."
        ) from error


def quiet(loader: DataLoader[Any]) -> Iterator[Any]:
    """An iterator of a loader that reports a dead process when its batch is due.

    PyTorch would raise at once, wherever the training process is: in the middle of a step, or in a plugin.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return iter(loader)
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    signal.signal(signal.SIGCHLD, before)
    return iterator


def start_worker(worker: int) -> None:
    """Set up a loader process: one thread, signals left to the training process, and exit when that process does.

    A scheduler signals all processes of a job. A loader process that died of the signal would end the run before its
    checkpoint. So SIGTERM ends it only after the training process has had time to stop it properly.
    """
    torch.set_num_threads(1)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_die)  # type: ignore[attr-defined]
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(PATIENCE))
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _die(error: Exception, batch: object) -> None:
    """End a loader process that cannot send a batch: without, the training process would wait for it forever."""
    os.write(2, f"A loader process cannot send its batch: {type(error).__name__}: {error}\n".encode())
    _kill_oneself()


def _end_with(parent: int) -> None:
    """Exit when the parent does: if it is killed, nobody reads the pipe, and this process would wait forever."""
    while os.getppid() == parent:
        time.sleep(1)
    _kill_oneself()


def _kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
