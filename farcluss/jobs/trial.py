"""A short trial run of a recipe in a temporary folder, to test and to time its steps."""

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
def trial(parts: Parts, steps: int, workers: int, download: bool = False) -> Iterator[Run]:
    """A run of `steps` steps without warm-up or ramp.

    Args:
        parts: of the recipe.
        steps: length of the run.
        workers: loader processes.
        download: load pretrained weights as a run does; else those to download are left out.

    Raises:
        FarclussError: as at the start of a run.
    """
    recipe = parts.recipe
    network = recipe.network
    if network.pretrained is True and not download:
        network = network.model_copy(update={"pretrained": False})
    loss = recipe.loss.model_copy(update={"warmup_steps": 0, "ramp_steps": 0})
    train = recipe.train.model_copy(update={"steps": steps, "epochs": None, "trackers": []})
    data = recipe.data.model_copy(update={"workers": workers})
    short = recipe.model_copy(update={"network": network, "loss": loss, "train": train, "data": data})
    with tempfile.TemporaryDirectory() as folder:
        accelerator = make_accelerator(short, Path(folder))
        yield prepare(short, replace(parts, recipe=short), accelerator, RunFolder(Path(folder)))
