"""A run in progress."""

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
from farcluss.training.interruption import Interruption
from farcluss.training.watch import Watch

PROGRESS = ("step", "best", "scored", "skipped", "skipped_in_row", "replaced")
"""What a manifest keeps of a `Run`, by attribute."""


@dataclass
class Run:
    """Everything a step needs, and what has come of the steps so far."""

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
    """Whether the evaluation that is due at this step has been done."""
    saved: bool = False
    """Whether a checkpoint of this step has been written, or is being written."""
    skipped: int = 0
    skipped_in_row: int = 0
    replaced: dict[str, int] = field(default_factory=dict)
    """How often each sample could not be read and was replaced: of all processes on the main one, at checkpoints."""
    fresh: Counter[str] = field(default_factory=Counter)
    """The same of this process since the last checkpoint."""
    stop: int = 0
    """The signal that has asked for the end."""
    images: int = 0
    """Images seen since the last log, over all processes."""
    clock: float = field(default_factory=time.perf_counter)
    """When that was."""
    interruption: Interruption = field(default_factory=Interruption)
    writer: Background = field(default_factory=Background)
    """Writes the checkpoints, on the main process."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Teacher and student, unwrapped."""
        return {"teacher": self.learner.teacher, "student": self.accelerator.unwrap_model(self.learner.student)}

    @property
    def kept(self) -> list[Tensor]:
        """What a step that is not finite leaves as it was, besides weights: buffers of the student and of stages."""
        return [*self.buffers, *(b for stage in self.parts.stages.modules().values() for b in stage.buffers())]

    @property
    def progress(self) -> dict[str, Any]:
        """What a manifest keeps."""
        return {name: getattr(self, name) for name in PROGRESS}

    def evaluation_due(self) -> bool:
        """Whether this step is to be evaluated."""
        return self.step > 0 and (self.step == self.steps or self.step % self.recipe.eval.every == 0)

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint of this step is to be written and has not been."""
        every = self.recipe.train.checkpoint_every
        return not self.saved and self.step > 0 and (self.step == self.steps or self.step % every == 0)

    def advance(self, images: int, unreadable: tuple[str, ...]) -> None:
        """One step more, of which nothing is scored or saved yet."""
        self.step += 1
        self.images += images
        self.fresh.update(unreadable)
        self.scored = self.saved = False
