"""Outcomes of steps, read by the host without waiting for the device."""

import itertools
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from farcluss.data.loader import HostBatch
from farcluss.training.interruption import SIGNALS, first_signal

LOSSES = ("supervised", "unsupervised", "contrastive")
PARTS = (*LOSSES, "gradient")


class Outcome(NamedTuple):
    """The outcome of a step.

    Attributes:
        step: its number, counted from 1.
        nonfinite: the `PARTS` that were not finite on any process; if there are any, the step was skipped.
        local: those that were not finite on this process.
        signal: the stop signal that any process received; 0 for none.
        host: the batch of this process.
    """

    step: int
    nonfinite: tuple[str, ...]
    local: tuple[str, ...]
    signal: int
    host: HostBatch


class _Pending(NamedTuple):
    step: int
    flags: Tensor
    arrived: torch.cuda.Event | None
    host: HostBatch


class Watch:
    """Queue of the flags of steps, returned once they can be read: at once on a CPU, a step later on CUDA.

    So the host prepares the next step while the device still computes this one.
    """

    def __init__(self) -> None:
        self.pending: deque[_Pending] = deque()

    def push(self, step: int, flags: Tensor, host: HostBatch) -> None:
        """Queue the flags of a step: `PARTS` on any process, `PARTS` on this process, `SIGNALS` on any process."""
        arrived = None
        if flags.is_cuda:
            flags, device = torch.empty_like(flags, device="cpu", pin_memory=True), flags
            flags.copy_(device, non_blocking=True)
            arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            arrived.record()
        self.pending.append(_Pending(step, flags, arrived, host))

    def ready(self, wait: bool) -> Iterator[Outcome]:
        """The outcomes that can be read; with `wait`, all of them."""
        while self.pending and (wait or self.pending[0].arrived is None or len(self.pending) > 1):
            step, flags, arrived, host = self.pending.popleft()
            if arrived is not None:
                arrived.synchronize()
            counts = flags.tolist()
            everywhere, here, signals = (counts[a:b] for a, b in itertools.pairwise(_EDGES))
            yield Outcome(step, _named(everywhere), _named(here), first_signal(signals), host)


_EDGES = (0, len(PARTS), 2 * len(PARTS), 2 * len(PARTS) + len(SIGNALS))


def _named(flags: list[float]) -> tuple[str, ...]:
    return tuple(name for name, flag in zip(PARTS, flags, strict=True) if flag)
