"""The loop: steps a learner through Accelerate, logs, evaluates, checkpoints, resumes, stops.

Accelerate wraps the student and moves tensors; it does not touch the loader, the learning rate or the teacher, which
are functions of the step. Only the main process reads and writes the run directory, which machines need not share.
"""

import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, GradientAccumulationPlugin

from farcluss.data.loader import LABELED, UNLABELED, HostBatch, PairedCrops, host_batches, step_addresses
from farcluss.errors import PluginError, RunError, Stopped, WeightsError
from farcluss.inference.weights import read_card
from farcluss.learning.averaging import join_buffers
from farcluss.learning.build import Parts, build_parts
from farcluss.learning.learner import Learner
from farcluss.networks.base import synchronize_batch_norm
from farcluss.recipes.model import Recipe
from farcluss.runs.folder import RunFolder
from farcluss.runs.lock import Lock
from farcluss.runs.resuming import Start, find_start, fingerprint
from farcluss.tensors.distributed import on_main, world_size
from farcluss.training.display import Display
from farcluss.training.interruption import Interruption
from farcluss.training.logs import announce, conclude, log_step, note_outcomes
from farcluss.training.milestones import do_what_is_due
from farcluss.training.optimization import build_optimizer
from farcluss.training.saving import restore, save_checkpoint
from farcluss.training.startup import gc_paused
from farcluss.training.state import Run
from farcluss.training.steps import one_step
from farcluss.training.watch import Watch

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""What `accelerate launch` sets for a configuration that shards the model."""


def train(
    recipe: Recipe,
    output: str | Path | None = None,
    *,
    resume: str | Path | None = None,
    overwrite: bool = False,
    allow_changes: bool = False,
) -> Path:
    """Train a recipe and return the run directory.

    Args:
        recipe: see `farcluss.load_recipe`.
        output: run directory; default `runs/NAME`.
        resume: a checkpoint; `"newest"` for the run's own newest whole one; `"auto"` for that, or a start without one.
        overwrite: replace a run that is there already.
        allow_changes: resume although the recipe differs from the checkpoint's in what affects training.

    Raises:
        FarclussError: anything a user can mend.
        Stopped: a signal has asked for the end; a checkpoint has been written.
    """
    folder = RunFolder(Path(output) if output else Path("runs") / recipe.name)
    with gc_paused():
        accelerator = make_accelerator(recipe, folder.path)
        if resume is None:
            on_main(lambda: folder.refuse_existing(overwrite))
        parts = build_parts(recipe)
        marks = fingerprint(recipe, parts.splits, parts.steps(), accelerator.mixed_precision)
        start = on_main(lambda: find_start(folder, recipe, resume, marks, allow_changes))
        run = prepare(recipe, parts, accelerator, folder)
    if start.checkpoint is not None:
        restore(run, start.checkpoint)
    start = start.begun()  # without the checkpoint's tensors
    lock = Lock(folder.path / "lock")
    try:
        remarks = on_main(lambda: [*start.remarks, *_open(run, lock, start)])
        _train(run, remarks)
    except OSError as error:
        if not folder.is_to_blame(error):
            raise
        raise folder.unwritable(error, begun=folder.exists()) from error
    finally:
        lock.release()
    if run.stop:
        raise Stopped(folder.how_to_resume(run.step, run.stop), run.stop)
    return folder.path


def _open(run: Run, lock: Lock, start: Start) -> list[str]:
    """Lock the run directory and bring it to the state of the run; gives lines to be told. For the main process."""
    folder = run.folder
    remark = lock.acquire()
    if folder.newest() != start.newest:
        raise RunError(f"Another run has written to {folder.path} meanwhile. Start again.")
    folder.create(run.recipe, fresh=start.step is None)
    folder.forget_after(run.step, run.scored)
    if run.best and _step_of(folder.best) > run.step:
        run.best = {}  # the file is of a later step, which this run may never come to
    folder.describe(str(run.accelerator.device), run.accelerator.num_processes, run.parts.splits)
    return [remark] if remark else []


def _step_of(weights: Path) -> int:
    """Step of a weights file; 0 for none, the largest number for a file that cannot be read."""
    try:
        return read_card(weights).step if weights.exists() else 0
    except WeightsError:
        return sys.maxsize


def _train(run: Run, remarks: list[str]) -> None:
    """Everything from the first line that is said to the last."""
    accelerator, trackers = run.accelerator, run.recipe.train.trackers
    if trackers:
        accelerator.init_trackers(run.recipe.name)
    with Display(run.folder, run.step, run.steps, accelerator.is_main_process) as display:
        announce(run, display, remarks)
        with Interruption(accelerator.is_main_process) as run.interruption, run.writer:
            run_steps(run, display)
        conclude(run, display)
    if trackers:
        accelerator.end_training()


def make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """The Accelerator of a recipe.

    Raises:
        RunError: FSDP or DeepSpeed is configured, the precision is not to be had, or the batch cannot be split.
        PluginError: a tracker is not installed.
    """
    _refuse_configuration(recipe)
    accelerator = Accelerator(
        mixed_precision=recipe.train.mixed_precision,
        log_with=list(recipe.train.trackers) or None,
        project_dir=str(folder),
        # Micro-batches are this loop's own: whatever the environment says, Accelerate must not divide by them.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.mixed_precision != "no" and not accelerator.native_amp:
        raise RunError(
            f"{accelerator.mixed_precision} is not to be had on {accelerator.device}.\n"
            "Set train.mixed_precision to no or bf16, or use another device."
        )
    if accelerator.distributed_type not in SUPPORTED:
        raise _sharded(accelerator.distributed_type.value)
    if world_size() != accelerator.num_processes:
        raise RunError(
            f"{world_size()} processes were started, but Accelerate sees {accelerator.num_processes}: each would train "
            "alone.\nWithout a GPU, set ACCELERATE_USE_CPU=true in the environment of the launcher."
        )
    share = accelerator.num_processes * recipe.train.accumulate
    if recipe.train.batch % share:
        raise RunError(
            f"train.batch = {recipe.train.batch} cannot be split over {accelerator.num_processes} processes and "
            f"{recipe.train.accumulate} micro-batches.\nUse a multiple of {share}."
        )
    return accelerator


def _refuse_configuration(recipe: Recipe) -> None:
    """Refuse what Accelerate is configured for and this loop cannot do, before Accelerate tries."""
    for tracker in recipe.train.trackers:
        if find_spec(tracker) is None:
            raise PluginError(
                f"train.trackers names {tracker}, which is not installed: pip install 'farcluss[{tracker}]'"
            )
    for variable, name in SHARDED.items():
        if os.environ.get(variable, "false").lower() in ("1", "true"):
            raise _sharded(name)
    if not recipe.train.mixed_precision and os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "fp8":
        raise RunError("farcluss does not train in fp8.\nSet train.mixed_precision to no, bf16 or fp16.")


def _sharded(name: str) -> RunError:
    return RunError(
        f"farcluss trains with plain data parallelism, not {name}: the teacher would have to be sharded with the "
        "student.\nChoose multi-GPU or no distribution in `accelerate config`."
    )


def prepare(recipe: Recipe, parts: Parts, accelerator: Accelerator, folder: RunFolder) -> Run:
    """Build networks, optimizer and learner on the device."""
    torch.manual_seed(recipe.train.seed)
    student, teacher = parts.build_networks()
    if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
        student = synchronize_batch_norm(student)
    optimizer = build_optimizer(student, recipe.train)
    wrapped, prepared = accelerator.prepare(student, optimizer)
    # The step enters autocast itself; without this a network is also scored in half precision, unlike by `eval`.
    bare = accelerator.unwrap_model(wrapped, keep_fp32_wrapper=False)
    for module in (teacher, parts.normalize, *parts.stages.modules().values()):
        module.to(accelerator.device)
    learner = Learner(
        wrapped,
        teacher,
        parts.stages,
        parts.normalize,
        recipe.loss,
        len(parts.dataset.classes),
        accelerator.autocast,
        compiler(accelerator.device) if recipe.train.compile else lambda function: function,
    )
    return Run(
        recipe=recipe,
        parts=parts,
        accelerator=accelerator,
        learner=learner,
        optimizer=prepared,
        buffers=join_buffers(bare),
        folder=folder,
        steps=parts.steps(),
        fingerprint=fingerprint(recipe, parts.splits, parts.steps(), accelerator.mixed_precision),
        watch=Watch(),
    )


def compiler(device: torch.device) -> Callable[[Any], Any]:
    """`torch.compile`. Raises RunError where it has not what it needs for a device."""
    try:
        torch.compile(lambda tensor: tensor.sin().sum())(torch.zeros(2, device=device))
    except Exception as error:  # many kinds, by device and by what is missing
        reason = str(error).strip().partition("\n")[0]
        raise RunError(
            f"train.compile = true does not work here: {reason}\n"
            "On a CPU it needs a C++ compiler such as g++, on CUDA Triton; or set train.compile = false."
        ) from None
    return torch.compile


def run_steps(run: Run, display: Display) -> None:
    """Train to the last step or to the first signal: log, draw, save and score where it is due."""
    train = run.recipe.train
    do_what_is_due(run, display, None)  # a run may have been stopped between a checkpoint and the evaluation there
    on_main(run.writer.wait)  # no loader is forked beside a thread
    with closing(load_batches(run)) as batches:
        while run.step < run.steps and not run.stop:
            logging = (run.step + 1) % train.log_every == 0 or run.step + 1 == run.steps
            semi = run.recipe.semi_supervised and run.step >= run.recipe.loss.warmup_steps
            host = next(batches)
            done = one_step(run, host, semi, logging)
            run.advance(run.accelerator.num_processes * len(host.images), host.unreadable)
            run.watch.push(run.step, done.flags, host)
            note_outcomes(run, display, wait=logging or run.evaluation_due() or run.checkpoint_due())
            if logging:
                log_step(run, display, done.losses, done.statistics)
            do_what_is_due(run, display, host if semi else None)
    note_outcomes(run, display, wait=True)
    if not run.saved:
        save_checkpoint(run)
    on_main(run.writer.wait)


def load_batches(run: Run) -> Generator[HostBatch, None, None]:
    """The batches of this process from the run's step on; unlabeled images only from the step that needs them."""
    recipe, parts, accelerator = run.recipe, run.parts, run.accelerator
    crops = PairedCrops(
        parts.dataset,
        (parts.splits.labeled, parts.splits.unlabeled),
        recipe.data,
        parts.crop,
        recipe.train.batch,
        recipe.train.seed,
        truth_every=(recipe.train.log_every, recipe.eval.every, run.steps),
        chances=parts.chances(),
    )
    turn = min(max(recipe.loss.warmup_steps, run.step), run.steps) if recipe.semi_supervised else run.steps

    def addresses() -> Iterator[Any]:
        place = (accelerator.process_index, accelerator.num_processes)
        yield from step_addresses(run.step, turn, recipe.train.batch, (LABELED,), *place)
        yield from step_addresses(turn, run.steps, recipe.train.batch, (LABELED, UNLABELED), *place)

    return host_batches(crops, addresses(), recipe.data.workers, accelerator.device.type == "cuda")
