"""Progress of a run: a live panel on a terminal, plain lines elsewhere."""

import sys
import time
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from farcluss.errors import shown
from farcluss.runs.folder import RunFolder

QUIET = 30.0
"""Seconds after which a line shows that a run is alive, where there is no panel."""
LOSSES = ("total", "supervised", "unsupervised", "unsupervised_dice", "contrastive")


class Display:
    """Shows the progress of a run on the main process. Use it as a context manager."""

    def __init__(self, folder: RunFolder, first: int, steps: int, shown: bool) -> None:
        """`shown` is False on all but the main process; they print nothing."""
        self.folder, self.first, self.steps, self.shown = folder, first, steps, shown
        self.start = self.spoke = time.perf_counter()
        self.score = ""
        console = Console(stderr=False)
        live = shown and console.is_terminal
        self.live = Live(console=console, refresh_per_second=4, transient=True) if live else None

    def __enter__(self) -> "Display":
        """Start the panel."""
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the panel; printed lines stay."""
        if self.live:
            self.live.stop()

    def log(self, text: str) -> None:
        """Print a line, and append it to log.txt."""
        if not self.shown:
            return
        self.folder.log(text)
        self.spoke = time.perf_counter()
        if self.live:
            self.live.console.print(shown(text), highlight=False, markup=False)
        else:
            print(shown(text))
            sys.stdout.flush()

    def log_scores(self, text: str) -> None:
        """Log the scores of an evaluation, and keep them on the panel."""
        self.score = text
        self.log(text)

    def show_life(self, step: int) -> None:
        """Log that the first step is done, and without a panel, a line every half minute in which no other is logged.

        It reads nothing from the device, so a step need not have ended there.
        """
        now = time.perf_counter()
        if step == self.first + 1 or (not self.live and now - self.spoke > QUIET):
            each = (now - self.start) / (step - self.first)
            left = timedelta(seconds=int((self.steps - step) * each))
            self.log(f"step {step}/{self.steps}  {each:.2f} s per step  left {left}")

    def log_step(self, step: int, values: dict[str, Any]) -> None:
        """Log a step: losses, learning rate, speed, time left, memory."""
        if not self.shown:
            return
        rate = (step - self.first) / max(time.perf_counter() - self.start, 1e-9)
        left = str(timedelta(seconds=int((self.steps - step) / rate))) if rate else "-"
        parts = " ".join(f"{name} {values[name]:.4f}" for name in LOSSES if name in values)
        speed = f"{values['images_per_second']:.1f} images/s"
        line = f"step {step}/{self.steps}  {parts}  lr {values['lr']:.2e}  {speed}  left {left}"
        self.folder.log(line)
        self.spoke = time.perf_counter()
        if self.live:
            self.live.update(self._panel(step, values, speed, left))
        else:
            print(line)
            sys.stdout.flush()

    def _panel(self, step: int, values: dict[str, Any], speed: str, left: str) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_row("step", f"{step} / {self.steps}", "left", left)
        table.add_row("speed", speed, "memory", f"{values['memory_gib']:.2f} GiB")
        for name in LOSSES:
            if name in values:
                table.add_row(name, f"{values[name]:.4f}")
        if self.score:
            table.add_row("last score", Text(shown(self.score)))
        return table
