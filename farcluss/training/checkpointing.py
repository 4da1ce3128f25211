"""Checkpoints of a run in progress: written in the background, and restored."""

from collections import Counter
from typing import Any

from farcluss.errors import RunError, short
from farcluss.networks.fitting import misfit
from farcluss.runs import checkpoints
from farcluss.runs.checkpoints import Checkpoint
from farcluss.runs.outputs import real
from farcluss.tensors.distributed import gather_on_main, on_main
from farcluss.training.state import PROGRESS, Run


def save_checkpoint(run: Run) -> None:
    """Write a checkpoint in the background; training waits only for a copy of the state.

    Raises:
        RunError: the previous checkpoint could not be written.
    """
    for counts in gather_on_main(run.newly_replaced):
        run.replaced = dict(Counter(run.replaced) + counts)
    run.newly_replaced = Counter()
    on_main(lambda: _submit_checkpoint(run))
    run.saved = True


def _submit_checkpoint(run: Run) -> None:
    run.writer.wait()  # first, so that there is only one copy in memory
    scaler = run.accelerator.scaler
    state = {
        "optimizer": run.optimizer.state_dict(),
        "scaler": scaler.state_dict() if scaler else {},
        "stages": {name: stage.state_dict() for name, stage in run.parts.stages.modules().items()},
        **{name: network.state_dict() for name, network in run.networks.items()},
    }
    state, progress = checkpoints.snapshot((state, run.progress))
    keep = run.recipe.train.keep_checkpoints
    run.folder.flush()
    path, step = run.folder.checkpoint(run.step), run.step
    run.writer.submit(lambda: checkpoints.save(path, step, state, progress, run.fingerprint, keep))


def restore(run: Run, checkpoint: Checkpoint) -> None:
    """Load a checkpoint into a newly prepared run. Raises RunError when it does not fit."""
    state, progress = checkpoint.state, checkpoint.manifest.progress
    try:
        for name, network in run.networks.items():
            if wrong := misfit(network, state[name]):
                raise ValueError(f"{wrong} ({name})")
            network.load_state_dict(state[name])
        for name, stage in run.parts.stages.modules().items():
            stage.load_state_dict(state["stages"][name])
        load_optimizer(run.optimizer, state["optimizer"])
        if run.accelerator.scaler and state["scaler"]:
            run.accelerator.scaler.load_state_dict(state["scaler"])
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise RunError(
            f"Checkpoint {checkpoint.path} does not fit this recipe: {short(error)}.\n"
            "Resume with the recipe of the run."
        ) from None
    for name in PROGRESS:
        value = progress.get(name, getattr(run, name))
        if type(value) is not type(getattr(run, name)):
            manifest = checkpoint.path.with_suffix(".json")
            raise RunError(f"{manifest} is damaged: {name} is {value!r:.80}.\nGive --resume an earlier checkpoint.")
        setattr(run, name, value)
    run.saved = real(checkpoint.path) == real(run.folder.checkpoint(run.step))


def load_optimizer(optimizer: Any, state: dict[str, Any]) -> None:
    """Load an optimizer's state; its hyperparameters stay those of the recipe. Raises ValueError."""
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    if [group.keys() for group in settings] != [group.keys() - {"params"} for group in state["param_groups"]]:
        raise ValueError("it belongs to another optimizer")
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
