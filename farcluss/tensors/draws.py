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


def roll_rows(tensor: Tensor) -> Tensor:
    """`(B, ...)` rolled by one row within the global batch: the first row is the last one of the previous process.

    Every process of a step must call it; no gradient flows.
    """
    rolled = tensor.roll(1, 0)
    if _place is None or _place.world == 1:
        return rolled
    view = rolled.view(torch.uint8) if rolled.dtype == torch.bool else rolled
    mine, theirs = view[:1].contiguous(), torch.empty_like(view[:1])
    after, before = (_place.rank + 1) % _place.world, (_place.rank - 1) % _place.world
    exchange = [dist.P2POp(dist.isend, mine, after), dist.P2POp(dist.irecv, theirs, before)]
    for request in dist.batch_isend_irecv(exchange):
        request.wait()
    view[:1] = theirs
    return rolled
