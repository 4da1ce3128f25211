"""Random draws as functions of seed and step, so that neither interruptions nor the number of processes matter.

Each process holds some rows of the global batch. Its own draws are a function of (seed, step, rank). Per-sample draws
are made for the global batch, identically on every process; each uses its own rows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from farcluss.tensors.distributed import all_sum


@dataclass
class _Place:
    seed: int = 0
    step: int = 0
    rank: int = 0
    world: int = 1
    part: int = 0
    uses: int = 0


_place: _Place | None = None


def _manual_seed(*address: int) -> None:
    seed = int(np.random.SeedSequence(address).generate_state(1, np.uint64)[0])
    if _has_accelerator():
        torch.manual_seed(seed)
    else:  # the same, without a stack trace per device that torch keeps for later: a hundred times as fast
        torch.default_generator.manual_seed(seed)


@cache
def _has_accelerator() -> bool:
    return torch.accelerator.is_available()


@contextmanager
def addressed(seed: int, step: int, rank: int = 0, world: int = 1, part: int = 0) -> Iterator[None]:
    """Context in which draws from torch's global generator are a function of the arguments.

    Args:
        seed: seed of the run.
        step: training step.
        rank: rank of this process.
        world: number of processes.
        part: part of the step: 0 for the pseudo-labels, then 1, 2, ... for the forward of each micro-batch.
    """
    global _place
    before, _place = _place, _Place(seed, step, rank, world, part)
    _manual_seed(seed, step, part, rank + 1)
    try:
        yield
    finally:
        _place = before


def rows(count: int) -> tuple[int, slice]:
    """Size of the global batch, and the slice of it that holds this process's `count` samples."""
    rank, world = (_place.rank, _place.world) if _place else (0, 1)
    return count * world, slice(rank * count, (rank + 1) * count)


def sum_rows(tensor: Tensor) -> Tensor:
    """Sum of `tensor` over the processes that share the global batch; of this one alone where none is shared."""
    return tensor if _place is None or _place.world == 1 else all_sum(tensor)


@contextmanager
def common_draws() -> Iterator[None]:
    """Context in which all processes draw the same numbers: draw for the global batch, then take your `rows`."""
    if _place is None:
        yield
        return
    _place.uses += 1
    _manual_seed(_place.seed, _place.step, _place.part, 0, _place.uses)
    try:
        yield
    finally:
        _manual_seed(_place.seed, _place.step, _place.part, _place.rank + 1, _place.uses)


def roll_rows(tensor: Tensor, by: int = 1) -> Tensor:
    """`(B, ...)` rolled by some rows within the global batch: row i holds what row i - by held, of whatever process.

    Every process of a step must call it, with the same `by`; no gradient flows.
    """
    if _place is None or _place.world == 1:
        return tensor.roll(by, 0)
    count = len(tensor)
    away, extra = divmod(by % (count * _place.world), count)
    # The first rows of the result come from the process before the one that all others come from.
    parts = [(away + 1, tensor[count - extra :]), (away, tensor[: count - extra])]
    return torch.cat([_pass_on(part, distance) for distance, part in parts])


def flip_rows(tensor: Tensor) -> Tensor:
    """`(B, ...)` in reverse order within the global batch. Every process of a step must call it; no gradient flows."""
    flipped = tensor.flip(0)
    if _place is None or _place.world == 1:
        return flipped
    return _exchange(flipped, _place.world - 1 - _place.rank, _place.world - 1 - _place.rank)


def _pass_on(tensor: Tensor, distance: int) -> Tensor:
    """What the process `distance` ranks before this one passes on, as this one passes on its own."""
    assert _place is not None
    return _exchange(tensor, (_place.rank + distance) % _place.world, (_place.rank - distance) % _place.world)


def _exchange(tensor: Tensor, to: int, source: int) -> Tensor:
    """Send a tensor to a process, and return that of the same shape from another one."""
    assert _place is not None
    if to == _place.rank or not tensor.numel():
        return tensor
    mine = tensor.contiguous()
    sent = mine.view(torch.uint8) if mine.dtype == torch.bool else mine
    received = torch.empty_like(sent)
    for request in dist.batch_isend_irecv([dist.P2POp(dist.isend, sent, to), dist.P2POp(dist.irecv, received, source)]):
        request.wait()
    return received.view(tensor.dtype)
