"""The training loop: trains with Accelerate, logs, evaluates, writes checkpoints, resumes and stops.

Accelerate wraps the student and the optimizer; it does not handle the loader, the learning rate or the teacher,
which are functions of the step. Only the main process accesses the run directory, which machines need not share.
"""

import math
import os
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType, GradientAccumulationPlugin

from farcluss.data.labels import refuse_unlabeled
from farcluss.data.loader import (
    LABELED,
    UNLABELED,
    HostBatch,
    PairedCrops,
    host_batches,
    loader_processes,
    step_addresses,
)
from farcluss.errors import PluginError, RunError, Stopped, WeightsError, some
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
from farcluss.training.advice import Advisor
from farcluss.training.checkpointing import restore, save_checkpoint
from farcluss.training.display import Display
from farcluss.training.interruption import Interruption
from farcluss.training.logs import failed_training, log_end, log_start, log_step, note_classes, note_outcomes
from farcluss.training.optimization import build_optimizer
from farcluss.training.startup import gc_paused
from farcluss.training.state import Run
from farcluss.training.steps import one_step, to_device
from farcluss.training.validation import nonfinite_tensors, save_picture, score
from farcluss.training.watch import Watch

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
SHARDED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""Environment variables that `accelerate launch` sets for configurations that shard the model."""


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
        resume: a checkpoint; `"newest"` for the newest intact one of the run; `"auto"` for that if there is one.
        overwrite: replace an existing run.
        allow_changes: resume although keys that affect training differ from the checkpoint's.

    Raises:
        FarclussError: anything that the user can fix.
        Stopped: a signal has stopped the run, after a checkpoint.
    """
    folder = RunFolder(Path(output) if output else Path("runs") / recipe.name)
    with gc_paused():
        accelerator = make_accelerator(recipe, folder.path)
        on_main(folder.refuse_special)
        if resume is None:
            on_main(lambda: folder.refuse_existing(overwrite))
        parts = build_parts(recipe)
        recipe = parts.recipe
        for name in ("labeled", "val"):
            refuse_unlabeled(parts.dataset, getattr(parts.splits, name), f"data.{name}")
        expected = fingerprint(recipe, parts.splits, parts.steps(), accelerator.mixed_precision)
        start = on_main(lambda: find_start(folder, recipe, resume, expected, allow_changes))
        run = prepare(recipe, parts, accelerator, folder)
    if start.checkpoint is not None:
        restore(run, start.checkpoint)
    start = start.without_tensors()
    lock = Lock(folder.path / "lock")
    try:
        notes = on_main(lambda: [*start.notes, *_open_folder(run, lock, start)])
        _train(run, notes)
    except OSError as error:
        if not folder.concerns(error):
            raise
        raise folder.write_error(error, started=folder.exists()) from error
    finally:
        lock.release()
    if run.stop:
        raise Stopped(folder.how_to_resume(run.step, run.stop), run.stop)
    if not run.trained:
        raise failed_training(run)
    return folder.path


def leave_group() -> None:
    """Leave a group of processes on CPUs that an error has left: its threads would abort this one as it ends."""
    if dist.is_initialized() and dist.get_backend() == "gloo":
        dist.destroy_process_group()


def _open_folder(run: Run, lock: Lock, start: Start) -> list[str]:
    """Lock the run directory and bring it to the state of the run, on the main process. Returns messages."""
    folder = run.folder
    note = lock.acquire()
    if folder.newest() != start.newest:
        raise RunError(f"Another run has written to {folder.path} since this one started. Start again.")
    folder.create(run.recipe, fresh=start.step is None)
    folder.discard_after(run.step, run.scored)
    if run.best and _step_of(folder.best) > run.step:
        run.best = {}  # the file is of a later step, which this run may never reach
    folder.write_environment(str(run.accelerator.device), run.accelerator.num_processes, run.parts.splits)
    return [note] if note else []


def _step_of(weights: Path) -> int:
    """Step of a weights file; 0 if there is none, `sys.maxsize` if it cannot be read."""
    try:
        return read_card(weights).step if weights.exists() else 0
    except WeightsError:
        return sys.maxsize


def _train(run: Run, notes: list[str]) -> None:
    """Train with display, trackers and signal handlers, from the first log line to the last."""
    accelerator, trackers = run.accelerator, run.recipe.train.trackers
    if trackers:
        accelerator.init_trackers(run.recipe.name)
    with Display(run.folder, run.step, run.steps, accelerator.is_main_process) as display:
        log_start(run, display, notes)
        with Interruption(accelerator.is_main_process) as run.interruption, run.writer:
            run_steps(run, display)
        log_end(run, display)
    if trackers:
        accelerator.end_training()


def make_accelerator(recipe: Recipe, folder: Path) -> Accelerator:
    """The Accelerator of a recipe.

    Raises:
        RunError: FSDP or DeepSpeed is configured, the device lacks the precision, or the batch cannot be split.
        PluginError: a tracker is not installed.
    """
    refuse_configuration(recipe)
    accelerator = Accelerator(
        mixed_precision=recipe.train.mixed_precision,
        log_with=list(recipe.train.trackers) or None,
        project_dir=str(folder),
        # This loop accumulates gradients itself: whatever the environment says, Accelerate must not scale them.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1, sync_with_dataloader=False),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    if accelerator.mixed_precision != "no" and not accelerator.native_amp:
        raise RunError(
            f"{accelerator.mixed_precision} is not available on {accelerator.device}.\n"
            "Set train.mixed_precision to no or bf16, or use another device."
        )
    if accelerator.distributed_type not in SUPPORTED:
        raise _sharding_error(accelerator.distributed_type.value)
    if world_size() != accelerator.num_processes:
        raise RunError(
            f"{world_size()} processes were started, but Accelerate sees {accelerator.num_processes}: each would train "
            "by itself.\nWithout a GPU, set ACCELERATE_USE_CPU=true in the environment of the launcher."
        )
    share = accelerator.num_processes * recipe.train.accumulate
    if recipe.train.batch % share:
        raise RunError(
            f"train.batch = {recipe.train.batch} cannot be split over {accelerator.num_processes} processes and "
            f"{recipe.train.accumulate} micro-batches.\nUse a multiple of {share}."
        )
    return accelerator


def refuse_configuration(recipe: Recipe) -> None:
    """Refuse what this machine lacks, and Accelerate configurations that this loop does not support.

    Raises:
        PluginError: a tracker is not installed.
        RunError: the model would be sharded, trained in fp8, or loader processes could not send.
    """
    loader_processes(recipe.data.workers)
    for tracker in recipe.train.trackers:
        if find_spec(tracker) is None:
            raise PluginError(
                f"train.trackers names {tracker}, which is not installed: pip install 'farcluss[{tracker}]'"
            )
    for variable, name in SHARDED.items():
        if os.environ.get(variable, "false").lower() in ("1", "true"):
            raise _sharding_error(name)
    if not recipe.train.mixed_precision and os.environ.get("ACCELERATE_MIXED_PRECISION", "no") == "fp8":
        raise RunError("farcluss does not train in fp8.\nSet train.mixed_precision to no, bf16 or fp16.")


def _sharding_error(name: str) -> RunError:
    return RunError(
        f"farcluss trains with plain data parallelism, not {name}: the teacher would have to be sharded with the "
        "student.\nChoose multi-GPU or no distribution in `accelerate config`."
    )


def refuse_batch(parts: Parts, processes: int) -> None:
    """Raise RunError when the images of a step alone do not fit into this machine's memory, as 32-bit numbers."""
    batch, channels = parts.recipe.train.batch, parts.recipe.data.channel_count
    images = batch // processes * (2 if parts.recipe.semi_supervised else 1)
    needed = 4 * images * channels * math.prod(parts.crop) / 2**30
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else math.inf
    if needed > have:
        raise RunError(
            f"A step of train.batch = {batch} and data.crop = {' x '.join(map(str, parts.crop))} has images of "
            f"{needed:,.0f} GiB, this machine has {have:,.0f} GiB of memory.\nLower train.batch or data.crop."
        )


def prepare(recipe: Recipe, parts: Parts, accelerator: Accelerator, folder: RunFolder) -> Run:
    """Build networks, optimizer and learner on the device.

    Raises:
        RunError: a batch does not fit into memory, or `train.compile` does not work here.
        WeightsError: the initial weights are missing, do not fit, or are not finite.
    """
    refuse_batch(parts, accelerator.num_processes)
    torch.manual_seed(recipe.train.seed)
    student, teacher = parts.build_networks()
    if broken := nonfinite_tensors(student):
        raise WeightsError(
            f"The initial weights of {recipe.network.name} are not finite: {some(broken)}.\n"
            "Check the file of network.pretrained, or set it to false."
        )
    if accelerator.device.type == "cuda" and accelerator.num_processes > 1:
        student = synchronize_batch_norm(student)
    optimizer = build_optimizer(student, recipe.train)
    wrapped, prepared = accelerator.prepare(student, optimizer)
    # The step enters autocast itself; with the wrapper, networks would also be evaluated in half precision.
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
        advisor=Advisor(recipe, parts.dataset.classes) if accelerator.is_main_process else None,
    )


def compiler(device: torch.device) -> Callable[[Any], Any]:
    """`torch.compile`. Raises RunError where it does not work on a device."""
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
    """Train until the last step or the first signal; log, draw, save and evaluate at the steps where that is due."""
    train = run.recipe.train
    do_what_is_due(run, display, None)  # a run may have been stopped between a checkpoint and the evaluation there
    on_main(run.writer.wait)  # do not fork loader processes while a thread runs
    with closing(load_batches(run)) as batches:
        while run.step < run.steps and not run.stop:
            logging = (run.step + 1) % train.log_every == 0 or run.step + 1 == run.steps
            semi = run.recipe.semi_supervised and run.step >= run.recipe.loss.warmup_steps
            host = next(batches)
            note_classes(run, display, host)
            done = one_step(run, host, semi, logging)
            run.advance(run.accelerator.num_processes * len(host.images), host.unreadable)
            run.watch.push(run.step, done.flags, host)
            note_outcomes(run, display, wait=logging or run.evaluation_due() or run.checkpoint_due())
            if logging:
                log_step(run, display, done.losses, done.statistics)
            else:
                display.show_life(run.step)
            do_what_is_due(run, display, host if semi else None)
    note_outcomes(run, display, wait=True)
    if not run.saved:
        save_checkpoint(run)
    on_main(run.writer.wait)


def do_what_is_due(run: Run, display: Display, host: HostBatch | None) -> None:
    """Do what is due at this step: a picture, a checkpoint, then the evaluation, which may take a while.

    Args:
        run: after a step, or resumed.
        display: logs the scores.
        host: the images of the step, for the picture; None for none.
    """
    if run.stop:
        return
    if run.evaluation_due() and host is not None and run.accelerator.is_main_process:
        save_picture(run, to_device(host, run.accelerator.device, semi=True, logging=True))
    if run.checkpoint_due():
        save_checkpoint(run)
    if run.evaluation_due() and not run.scored:
        score(run, display)


def load_batches(run: Run) -> Generator[HostBatch, None, None]:
    """The batches of this process from the run's step on, without unlabeled images during the supervised warm-up."""
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
    switch = min(max(recipe.loss.warmup_steps, run.step), run.steps) if recipe.semi_supervised else run.steps

    def addresses() -> Iterator[Any]:
        process = (accelerator.process_index, accelerator.num_processes)
        yield from step_addresses(run.step, switch, recipe.train.batch, (LABELED,), *process)
        yield from step_addresses(switch, run.steps, recipe.train.batch, (LABELED, UNLABELED), *process)

    return host_batches(crops, addresses(), recipe.data.workers, accelerator.device.type == "cuda")
