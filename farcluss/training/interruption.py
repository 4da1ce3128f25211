"""Signals that stop a run after the current step and a checkpoint."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from farcluss.tensors.distributed import all_sum

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Interruption:
    """Records the first of `SIGNALS` received inside the context; a later SIGINT stops at once.

    Outside the main thread, where Python handles no signals, it does nothing.
    """

    def __init__(self, shown: bool = False) -> None:
        """`shown`: acknowledge a signal with a line on stderr."""
        self.shown = shown
        self.signal = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        """Install the signal handlers."""
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            return
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.shown:
            name = signal.Signals(number).name
            text = f"\n{name}: finishing the step, then writing a checkpoint. Press Ctrl-C to stop at once.\n"
            os.write(2, text.encode())

    def flags(self, device: torch.device) -> Tensor:
        """`(len(SIGNALS),)` float32, 1 for the signal that this process received; needs no copy from the host."""
        return torch.stack([torch.full((), float(self.signal == number), device=device) for number in SIGNALS])

    def agreed(self, device: torch.device) -> int:
        """The signal that any process received, 0 for none. Every process must call it; waits for the device."""
        return first_signal(all_sum(self.flags(device)).tolist())


def first_signal(counts: list[float]) -> int:
    """The signal in `flags` summed over processes, 0 for none."""
    return next((int(number) for number, count in zip(SIGNALS, counts, strict=True) if count), 0)
