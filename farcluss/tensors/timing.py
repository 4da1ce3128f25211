"""Timing the parts of a step: named spans, which cost nothing unless a `Stopwatch` is active."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds per span; use it as a context manager.

    On an asynchronous device it synchronizes at each end of a span, so that it measures the work of the device.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock
        self._device = device
        self._names = ["other"]
        self._since = 0.0

    def __enter__(self) -> "Stopwatch":
        """Start timing; time outside of spans is `other`."""
        global _listener
        _listener, self._since = self, self._now()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop timing."""
        global _listener
        self._turn()
        _listener = None

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time a block as `name`, without the spans inside it."""
        self._turn()
        self._names.append(name)
        try:
            yield
        finally:
            self._turn()
            self._names.pop()

    def _turn(self) -> None:
        now = self._now()
        self.seconds[self._names[-1]] += now - self._since
        self._since = now

    def _now(self) -> float:
        wait_for(self._device)
        return self._clock()


def wait_for(device: torch.device) -> None:
    """Wait until a device has finished its queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


_listener: Stopwatch | None = None


@contextmanager
def span(name: str) -> Iterator[None]:
    """Time a block as `name`, if a `Stopwatch` is active."""
    if _listener is None:
        yield
        return
    with _listener.span(name):
        yield
