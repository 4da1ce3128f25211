"""Signals that ask a run to stop: the step is finished and a checkpoint written first."""

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
    """Remembers the first of `SIGNALS` that comes while it is entered; SIGINT after that stops at once.

    Outside the main thread, where Python takes no signals, nothing is remembered.
    """

    def __init__(self, shown: bool = False) -> None:
        """`shown`: answer a signal with a line on stderr."""
        self.shown = shown
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        """Begin to listen."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._remember) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        """Put back what was there."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal:
            return
        self.signal = number
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.shown:
            name = signal.Signals(number).name
            text = f"\n{name}: finishing the step, then writing a checkpoint. Ctrl-C from now on stops at once.\n"
            os.write(2, text.encode())

    def flags(self, device: torch.device) -> Tensor:
        """`(len(SIGNALS),)` float32, 1 for the signal that came to this process; made without a copy from the host."""
        return torch.stack([torch.full((), float(self.signal == number), device=device) for number in SIGNALS])

    def agreed(self, device: torch.device) -> int:
        """The signal that came to any process, 0 for none. All must call it; waits for the device."""
        return first_signal(all_sum(self.flags(device)).tolist())


def first_signal(counts: list[float]) -> int:
    """The signal that summed `flags` tell of, 0 for none."""
    return next((int(number) for number, count in zip(SIGNALS, counts, strict=True) if count), 0)
