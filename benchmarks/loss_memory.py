"""Memory and time of the losses, forward and backward: in chunks, and as one would write them, dense and at once.

python benchmarks/loss_memory.py                # 4 images of 801 x 801, 19 classes
python benchmarks/loss_memory.py --small        # 2 images of 257 x 257

Memory is what exists at most above logits and labels, in units of the logits; on a CPU it is counted from the
allocator's events, on CUDA it is what PyTorch counts. Time is that of the process on a CPU, that of the device on CUDA.
The dense forms are those that the tests hold the losses against. Both take turns in every round; the median counts.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from recording import record, small_or_whole
from torch import Tensor

from farcluss.data.base import IGNORE
from farcluss.learning.losses import divergences, fuzzy_target, hard_pixels, pixel_cross_entropy, true_target
from farcluss.stages.base import PseudoLabels
from farcluss.stages.pseudo_label import fuzzy_labels

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import memory
import oracles

THRESHOLD, SHARE_KEPT = 0.7, 1 / 16


def kl(logits: Tensor, labels: PseudoLabels, pixel_weight: Tensor) -> Tensor:
    return divergences(logits, [fuzzy_target(labels, pixel_weight)])[0]


def ohem(logits: Tensor, masks: Tensor, min_kept: int) -> Tensor:
    kept = hard_pixels(pixel_cross_entropy(logits, masks), masks, threshold=THRESHOLD, min_kept=min_kept)
    return divergences(logits, [true_target(torch.where(kept, masks, IGNORE))])[0]


def plain_ohem(logits: Tensor, masks: Tensor, min_kept: int) -> Tensor:
    return oracles.plain_ohem(logits, masks, THRESHOLD, min_kept)[0]


def draw(batch: int, classes: int, crop: int, device: str) -> tuple[Tensor, PseudoLabels, Tensor, Tensor]:
    """Logits, pseudo-labels, pixel weights and masks."""
    torch.manual_seed(0)
    shape = batch, classes, crop, crop
    share = torch.rand(batch, crop, crop, device=device)
    fuzzy = fuzzy_labels((3 * torch.randn(shape, device=device)).softmax(1), 3)
    labels = PseudoLabels(*fuzzy, share, share, share > 0.1)
    masks = torch.randint(0, classes, (batch, crop, crop), dtype=torch.uint8, device=device)
    logits = (3 * torch.randn(shape, device=device)).requires_grad_()
    return logits, labels, 3 * share, masks.masked_fill_(share < 0.1, IGNORE)


def peak(function: Callable[[], object], device: str) -> int:
    """Bytes that exist at once while it runs, above those before."""
    if device == "cpu":
        return memory.peak(function)[0]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    return torch.cuda.max_memory_allocated() - before


def milliseconds(function: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        function()
        return 1000 * (time.process_time() - start)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    function()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last)


def measure(batch: int, classes: int, crop: int, device: str, rounds: int) -> dict[str, dict[str, dict[str, float]]]:
    """Memory in units of the logits and milliseconds, by loss and way."""
    logits, labels, omega, masks = draw(batch, classes, crop, device)
    ohem_known = masks, int(SHARE_KEPT * masks.numel())
    losses = {"unsupervised": (oracles.plain_kl, kl, (labels, omega)), "ohem": (plain_ohem, ohem, ohem_known)}
    table: dict[str, dict[str, dict[str, float]]] = {}
    for name, (plain, chunked, known) in losses.items():
        ways = {"plain": plain, "farcluss": chunked}
        steps = {
            way: lambda loss=loss, known=known: torch.autograd.grad(loss(logits, *known), logits)
            for way, loss in ways.items()
        }
        times: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(rounds + 1):
            for way, step in steps.items():
                taken = milliseconds(step, device)
                if turn:  # the first round warms up
                    times[way].append(taken)
        size = logits.numel() * logits.element_size()
        table[name] = {
            way: {"memory": round(peak(step, device) / size, 3), "milliseconds": round(median(times[way]), 2)}
            for way, step in steps.items()
        }
    return table


def main() -> None:
    arguments = small_or_whole(__doc__)
    batch, classes, crop = (2, 19, 257) if arguments.small else (4, 19, 801)
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    table = {device: measure(batch, classes, crop, device, arguments.rounds) for device in devices}
    print(f"{batch} images, {classes} classes, {crop} x {crop}; memory above the logits, in units of the logits")
    print(
        f"{'device':8}{'loss':14}{'plain':>9}{'farcluss':>10}{'ratio':>8}{'plain ms':>11}{'farcluss':>10}{'ratio':>8}"
    )
    for device, losses in table.items():
        for name, ways in losses.items():
            cells = f"{device:8}{name:14}"
            for key, shape in (("memory", "9.2f"), ("milliseconds", "11.1f")):
                plain, ours = ways["plain"][key], ways["farcluss"][key]
                cells += f"{plain:{shape}}{ours:10.2f}{ours / plain:8.2f}"
            print(cells)
    record(
        "loss_memory", {"batch": batch, "classes": classes, "crop": crop, "rounds": arguments.rounds, "table": table}
    )


if __name__ == "__main__":
    main()
