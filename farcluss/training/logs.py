"""What a run says: losses and diagnostics of logged steps, skipped steps, its first and last lines."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from farcluss.errors import RunError, SampleError
from farcluss.tensors.distributed import all_sum
from farcluss.training.display import Display
from farcluss.training.state import Run
from farcluss.training.watch import Outcome

NAMED = 8
"""How many images an error names."""


def log_step(run: Run, display: Display, losses: dict[str, Tensor], statistics: dict[str, Tensor]) -> None:
    """Write losses and diagnostics of a step to metrics.jsonl, trackers and display."""
    values: dict[str, Any] = {name: float(all_sum(value)) for name, value in losses.items()}
    values["skipped_steps"] = run.skipped
    values["lr"] = run.optimizer.param_groups[0]["lr"]
    values["memory_gib"] = memory_gib(run.accelerator.device)
    values["images_per_second"] = run.images / max(time.perf_counter() - run.clock, 1e-9)
    run.images, run.clock = 0, time.perf_counter()
    values |= diagnostics(run, statistics)
    if not run.accelerator.is_main_process:
        return
    run.folder.record("train", run.step, values)
    scalars = {name: value for name, value in values.items() if isinstance(value, float)}
    if run.recipe.train.trackers:
        run.accelerator.log(scalars, step=run.step)
    display.step(run.step, values)


def note_outcomes(run: Run, display: Display, wait: bool) -> None:
    """Learn how the last steps went: count those that were skipped, and notice a signal.

    Raises:
        RunError: too many in a row were not finite; SampleError where this process knows in which images.
    """
    if run.accelerator.num_processes == 1:  # nobody to agree with
        run.stop = run.interruption.signal
    for outcome in run.watch.ready(wait):
        run.stop = run.stop or outcome.signal
        if not outcome.broken:
            run.skipped_in_row = 0
            continue
        run.skipped += 1
        run.skipped_in_row += 1
        if run.accelerator.is_main_process:
            run.folder.record("skip", outcome.step, {"parts": list(outcome.broken)})
        if run.skipped_in_row == 1:
            display.say(f"step {outcome.step} is skipped, as its {broken_parts(outcome)} is not finite")
        if run.skipped_in_row >= run.recipe.train.max_skipped:
            raise give_up(run, outcome)


def broken_parts(outcome: Outcome) -> str:
    """What was not finite in a step, in words."""
    return " and the ".join(f"{part} loss" if part != "gradient" else part for part in outcome.broken)


def give_up(run: Run, outcome: Outcome) -> RunError | SampleError:
    """The error for too many steps that were not finite; writes the images of this process if they are to blame."""
    text = (
        f"The {broken_parts(outcome)} of {run.skipped_in_row} steps in a row, up to step {outcome.step}, "
        "were not finite: the training has diverged, or images are broken."
    )
    if not outcome.own:
        return RunError(f"{text}\nAnother process says in which images.")
    path = run.folder.save_broken(outcome.step, run.accelerator.process_index, outcome.host)
    images = ", ".join(outcome.host.ids[:NAMED]) + (" ..." if len(outcome.host.ids) > NAMED else "")
    advice = "Lower train.lr, set train.clip, or look at these images with `farcluss check`."
    return SampleError(f"{text}\nLast images: {images}; they have been written to {path}.\n{advice}")


def diagnostics(run: Run, statistics: dict[str, Tensor]) -> dict[str, Any]:
    """Facts about the pseudo-labels of a step, as plain numbers."""
    if "histogram" not in statistics:
        return {}
    table: dict[str, Any] = {name: value.tolist() for name, value in statistics.items()}
    seen, known = max(table["seen"], 1), table["known"]
    values = {
        "high_entropy": table["high_entropy"] / seen,
        "mean_weight": table["weight"] / seen,
        "histogram": [count / seen for count in table["histogram"]],
        "class_weights": run.parts.stages.rebalance(statistics["rebalance"]).tolist(),
    }
    return values | ({"pseudo_label_accuracy": table["right"] / known} if known else {})


def memory_gib(device: torch.device) -> float:
    """Peak memory so far: of the device on CUDA, of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        import psutil

        return float(psutil.Process().memory_info().peak_wset / 2**30)
    import resource

    unit = 1 if sys.platform == "darwin" else 2**10  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def announce(run: Run, display: Display, remarks: Sequence[str]) -> None:
    """Say what is about to run."""
    splits, network, train = run.parts.splits, run.networks["student"], run.recipe.train
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    names = ", ".join(f"{name} {len(getattr(splits, name))} ({splits.names[name]})" for name in splits.names)
    for remark in remarks:
        display.say(remark)
    display.say(f"{run.recipe.name}: {names}; {len(run.parts.dataset.classes)} classes")
    display.say(
        f"{run.recipe.network.name} {millions:.3f} M parameters on {run.accelerator.device} x "
        f"{run.accelerator.num_processes}, {run.steps} steps, run directory {run.folder.path}"
    )
    if report := getattr(network, "pretrained_report", ""):
        display.say(report)
    if train.scaled_lr != train.lr:
        display.say(f"train.lr {train.lr:g} -> {train.scaled_lr:g}, as train.batch {train.scale_lr} -> {train.batch}")
    alone = run.accelerator.num_processes > 1 and run.accelerator.device.type != "cuda"
    apart = train.split_backward and run.recipe.semi_supervised
    if (alone or apart or train.accumulate > 1) and _batch_norms(network):
        part = "micro-batch's labeled or unlabeled images" if apart else "micro-batch's images"
        seen = "one process's images, as on CUDA it would not" if alone else f"one {part}"
        display.say(f"Batch norm sees {seen}: here the result depends on how a batch is split.")
    if run.step:
        display.say(f"resumed at step {run.step} of {run.steps}")


def _batch_norms(network: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def conclude(run: Run, display: Display) -> None:
    """Say what has to be known of the whole run."""
    if run.skipped:
        display.say(f"{run.skipped} steps were skipped, as a loss or a gradient was not finite; see metrics.jsonl")
    if run.replaced:
        display.say(f"{len(run.replaced)} images could not be read, and others were taken instead:")
        for text, times in sorted(run.replaced.items()):
            display.say(f"  {times} x {text}")
