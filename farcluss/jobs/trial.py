"""A few full steps of a recipe, in a folder that goes away: to see whether they work, and what they cost."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from farcluss.learning.build import Parts
from farcluss.runs.folder import RunFolder
from farcluss.training.engine import make_accelerator, prepare
from farcluss.training.state import Run


@contextmanager
def trial(parts: Parts, steps: int, workers: int) -> Iterator[Run]:
    """A run of `steps` steps, past its warm-up, its encoder from scratch.

    Args:
        parts: of the recipe.
        steps: that the run is to have.
        workers: loader processes.
    """
    recipe = parts.recipe
    network = recipe.network
    if network.pretrained is True:
        network = network.model_copy(update={"pretrained": False})
    loss = recipe.loss.model_copy(update={"warmup_steps": 0, "ramp_steps": 0})
    train = recipe.train.model_copy(update={"steps": steps, "epochs": None, "trackers": []})
    data = recipe.data.model_copy(update={"workers": workers})
    tried = recipe.model_copy(update={"network": network, "loss": loss, "train": train, "data": data})
    with tempfile.TemporaryDirectory() as folder:
        accelerator = make_accelerator(tried, Path(folder))
        yield prepare(tried, replace(parts, recipe=tried), accelerator, RunFolder(Path(folder)))
