"""The state of a run in progress."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from farcluss.learning.build import Parts
from farcluss.learning.learner import Learner
from farcluss.recipes.model import Recipe
from farcluss.runs.background import Background
from farcluss.runs.folder import RunFolder
from farcluss.training.advice import Advisor
from farcluss.training.interruption import Interruption
from farcluss.training.watch import Watch

PROGRESS = ("step", "best", "scored", "skipped", "skipped_in_row", "replaced", "broken")
"""Attributes of a `Run` that a checkpoint's manifest stores."""


@dataclass
class Run:
    """Everything that a step needs, and the progress so far."""

    recipe: Recipe
    parts: Parts
    accelerator: Any
    learner: Learner
    optimizer: Any
    buffers: list[Tensor]
    """The student's buffers, see `farcluss.learning.averaging.join_buffers`."""
    folder: RunFolder
    steps: int
    fingerprint: dict[str, Any]
    watch: Watch
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    scored: bool = False
    """Whether the evaluation due at this step has been done."""
    saved: bool = False
    """Whether a checkpoint of this step has been or is being written."""
    skipped: int = 0
    skipped_in_row: int = 0
    broken: bool = False
    """Whether the last evaluation found weights, or output of the network to be kept, that are not finite."""
    unseen: set[int] | None = None
    """Classes without a pixel in the labeled crops of this process so far; None before the first."""
    looked_at: int = 0
    """Steps whose labeled crops were searched for them."""
    advisor: Advisor | None = None
    """Warns of what the figures say, on the main process."""
    replaced: dict[str, int] = field(default_factory=dict)
    """How often each unreadable sample was replaced, summed over processes on the main one at each checkpoint."""
    newly_replaced: Counter[str] = field(default_factory=Counter)
    """The same for this process alone, since the last checkpoint."""
    stop: int = 0
    """The signal that stops the run; 0 for none."""
    images: int = 0
    """Images seen since the last log, over all processes."""
    clock: float = field(default_factory=time.perf_counter)
    """Time of the last log."""
    interruption: Interruption = field(default_factory=Interruption)
    writer: Background = field(default_factory=Background)
    """Writes checkpoints, on the main process."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Teacher and student, unwrapped."""
        return {"teacher": self.learner.teacher, "student": self.accelerator.unwrap_model(self.learner.student)}

    @property
    def trained(self) -> bool:
        """Whether at least half of the steps counted, the others were skipped, and the result is finite."""
        return self.step > 0 and 2 * self.skipped <= self.step and not self.broken

    @property
    def rollback(self) -> list[Tensor]:
        """Buffers of the student and the stages, which are restored after a skipped step."""
        return [*self.buffers, *(b for stage in self.parts.stages.modules().values() for b in stage.buffers())]

    @property
    def progress(self) -> dict[str, Any]:
        """What a manifest stores."""
        return {name: getattr(self, name) for name in PROGRESS}

    def evaluation_due(self) -> bool:
        """Whether an evaluation is due at this step."""
        return self.step > 0 and (self.step == self.steps or self.step % self.recipe.eval.every == 0)

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint is due at this step and has not been written."""
        every = self.recipe.train.checkpoint_every
        return not self.saved and self.step > 0 and (self.step == self.steps or self.step % every == 0)

    def advance(self, images: int, unreadable: tuple[str, ...]) -> None:
        """Count one more step, not yet evaluated or saved."""
        self.step += 1
        self.images += images
        self.newly_replaced.update(unreadable)
        self.scored = self.saved = False
