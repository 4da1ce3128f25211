"""Where the time of a step goes: named spans, which cost nothing unless somebody listens."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds per span; within `with stopwatch:` it is the one that listens.

    On a device that works on its own, the clock is read when it has done all that was asked of it: what is measured is
    its work, at the price of a wait per span.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._clock = clock
        self._device = device
        self._names = ["other"]
        self._since = 0.0

    def __enter__(self) -> "Stopwatch":
        """Begin to listen; what no span covers is `other`."""
        global _listener
        _listener, self._since = self, self._now()
        return self

    def __exit__(self, *_: object) -> None:
        """Listen no more."""
        global _listener
        self._turn()
        _listener = None

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time goes to `name`, but for that of spans within."""
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
    """Return when a device has done all that was asked of it."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


_listener: Stopwatch | None = None


@contextmanager
def span(name: str) -> Iterator[None]:
    """A part of a step that has a name."""
    if _listener is None:
        yield
        return
    with _listener.span(name):
        yield
