"""What happens between steps: log, score, draw, checkpoint, restore."""

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from farcluss.data.base import Item
from farcluss.display import Display
from farcluss.distributed import all_sum
from farcluss.errors import RunError
from farcluss.evaluation import Scores, evaluate
from farcluss.learner import Batch
from farcluss.panels import draw_panel, save_panel
from farcluss.state import Run
from farcluss.weights import Model, save_weights

PICTURES = 4


def log_step(run: Run, display: Display, losses: dict[str, Tensor], statistics: dict[str, Tensor]) -> None:
    """Write losses and diagnostics of a step to metrics.jsonl, trackers and display."""
    values: dict[str, Any] = {name: float(all_sum(value)) for name, value in losses.items()}
    refuse_divergence(run, values)
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


def refuse_divergence(run: Run, losses: dict[str, float]) -> None:
    """Raise RunError when a loss is not finite: whatever would be learned from it is lost."""
    broken = [name for name, value in losses.items() if name != "total" and not math.isfinite(value)]
    if broken:
        raise RunError(
            f"The {' and '.join(broken)} loss is not finite at step {run.step}: the training has diverged.\n"
            "Lower train.lr, set train.clip, or look for broken images with `farcluss check`."
        )


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


def score(run: Run, display: Display) -> None:
    """Evaluate teacher and student on the validation set; write weights/last, and weights/best when it is."""
    start, kind = time.perf_counter(), run.recipe.eval.network
    scores = {name: _evaluate(run, network, run.parts.splits.val) for name, network in run.networks.items()}
    summary: dict[str, Any] = {}
    if scores[kind] is not None:
        summary = {f"{name}_miou": value.miou for name, value in scores.items() if value is not None}
        known = {name: value.to_json() for name, value in scores.items() if value is not None}
        if run.accelerator.is_main_process:
            run.folder.record("eval", run.step, {**summary, "scores": known})
            if run.recipe.train.trackers:
                run.accelerator.log(summary, step=run.step)
        text = ", ".join(f"{name} mIoU {100 * value.miou:.2f}" for name, value in scores.items() if value is not None)
        better = not run.best or scores[kind].miou > run.best["miou"]  # type: ignore[union-attr]
        display.scored(f"step {run.step}: {text}{' (best)' if better else ''}")
    else:
        better = False
    facts = {"network": kind, "step": run.step, "selection": "last", **summary}
    _save(run, run.folder.last, facts, scores[kind])
    if better:
        run.best = {"step": run.step, "miou": summary[f"{kind}_miou"]}
        _save(run, run.folder.best, facts | {"selection": f"best {kind} mIoU on data.val"}, scores[kind])
    run.clock += time.perf_counter() - start  # the speed that is shown is that of training


def save_picture(run: Run, batch: Batch) -> None:
    """Write pictures/step-*.png: what the teacher says about a batch. Two-dimensional data only."""
    if len(run.parts.crop) == 2:
        shown = Batch(*(tensor[:PICTURES] for tensor in batch))  # type: ignore[index]
        grid, columns = draw_panel(run.learner, shown, run.parts.dataset.palette)
        save_panel(run.folder.path / "pictures" / f"step-{run.step:08d}.png", grid, columns)


def _evaluate(run: Run, network: nn.Module, items: list[Item]) -> Scores | None:
    if not items:
        return None
    accelerator = run.accelerator
    model = Model(network, run.parts.card())
    return evaluate(
        model,
        run.parts.dataset,
        items,
        workers=run.recipe.data.workers,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )


def _save(run: Run, path: Path, facts: dict[str, Any], scores: Scores | None) -> None:
    if run.accelerator.is_main_process:
        kind = run.recipe.eval.network
        detail = {} if scores is None else {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}
        card = run.parts.card().model_copy(update={"source": kind, "step": run.step, "scores": {**facts, **detail}})
        save_weights(path, run.networks[kind], card)


def save_checkpoint(run: Run) -> None:
    """Write everything that another process needs to go on as if nothing had happened."""
    if run.accelerator.is_main_process:
        scaler = run.accelerator.scaler
        state = {
            "step": run.step,
            "best": run.best,
            "optimizer": run.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else {},
            "stages": {name: stage.state_dict() for name, stage in run.parts.stages.modules().items()},
            **{name: network.state_dict() for name, network in run.networks.items()},
        }
        run.folder.save_checkpoint(run.step, state, run.recipe.train.keep_checkpoints)
    run.accelerator.wait_for_everyone()


def restore(run: Run, state: dict[str, Any]) -> None:
    """Put a checkpoint's state into a freshly prepared run. Raises RunError when it does not fit."""
    try:
        for name, network in run.networks.items():
            network.load_state_dict(state[name])
        for name, stage in run.parts.stages.modules().items():
            stage.load_state_dict(state["stages"][name])
        run.optimizer.load_state_dict(state["optimizer"])
        if run.accelerator.scaler and state["scaler"]:
            run.accelerator.scaler.load_state_dict(state["scaler"])
    except (KeyError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(
            f"The checkpoint does not fit this recipe: {reason}\nResume with the recipe of the run."
        ) from None
    run.step, run.best = state["step"], dict(state["best"])
