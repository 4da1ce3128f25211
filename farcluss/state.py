"""A run in progress."""

import time
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from farcluss.build import Parts
from farcluss.learner import Learner
from farcluss.recipe import Recipe
from farcluss.runs import RunFolder


@dataclass
class Run:
    """Everything a step needs."""

    recipe: Recipe
    parts: Parts
    accelerator: Any
    learner: Learner
    optimizer: Any
    folder: RunFolder
    steps: int
    step: int = 0
    best: dict[str, Any] = field(default_factory=dict)
    images: int = 0
    """Images seen since the last log, over all processes."""
    clock: float = field(default_factory=time.perf_counter)
    """When that was."""

    @property
    def networks(self) -> dict[str, nn.Module]:
        """Teacher and student, unwrapped."""
        return {"teacher": self.learner.teacher, "student": self.accelerator.unwrap_model(self.learner.student)}
