"""Measure steps per second on several CPU ranks, count what they send to each other, and estimate many GPUs.

python benchmarks/scaling.py                   # 1 and 2 ranks: the same batch for all, then the same batch for each
python benchmarks/scaling.py --ranks 1 2 4
python benchmarks/scaling.py --model           # no measurement: the table of docs/scaling.md, from stated assumptions
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median, quantiles

import torch
from recording import record
from torch import nn

from farcluss import load_recipe, train
from farcluss.learning.build import build_dataset, build_network
from farcluss.learning.losses import OHEM_BINS
from farcluss.recipes.model import Recipe
from farcluss.training.interruption import SIGNALS
from farcluss.training.watch import LOSSES

# What is measured: the recipe that draws its own images, without warm-up, and with all that is reduced.
MEASURED = "quickstart"
SETTINGS = [
    "data.layout.val=2", "data.layout.test=1", "data.workers=0",
    "loss.warmup_steps=0", "loss.ramp_steps=0", 'loss.supervised="ohem"', "train.checkpoint_every=1000000",
    "train.log_every=1000000", "eval.every=1000000",
]  # fmt: skip
SKIPPED = 5  # steps that warm up


# --------------------------------------------------------------------------------------------------------------------
# Measuring: a process of a group


def worker(arguments: argparse.Namespace) -> None:
    """Train, and write the time of every step; with --count also what was sent in it, instead."""
    from torch.optim.optimizer import register_optimizer_step_post_hook

    sent: Counter[str] = Counter()
    if arguments.count:
        count_traffic(sent)
    times, totals = [], []

    def after_step(*_: object) -> None:
        times.append(time.perf_counter())
        totals.append(dict(sent))

    register_optimizer_step_post_hook(after_step)
    with tempfile.TemporaryDirectory() as folder:
        train(load_recipe(MEASURED, [], [*SETTINGS, *arguments.settings]), Path(folder) / "run")
    if int(os.environ["RANK"]) == 0:
        # The last step logs, and with it sends more than the others.
        steps = [last - first for first, last in zip(times[SKIPPED:-2], times[SKIPPED + 1 : -1], strict=True)]
        one = Counter(totals[-2])
        one.subtract(totals[-3])
        world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        # Other work on the machine only ever adds time: the lower quartile stands for the step, the median for noise.
        seconds = {"seconds": quantiles(steps, n=4)[0], "median": median(steps)}
        result = {"ranks": world, **seconds, "sent": {key: n for key, n in one.items() if n}}
        arguments.report.write_text(json.dumps(result))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def count_traffic(sent: Counter[str]) -> None:
    """From now on, count calls and bytes of all reductions of this process; DDP's go through a hook that counts."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel

    reduce, build = torch.distributed.all_reduce, DistributedDataParallel.__init__

    def counted_reduce(tensor: torch.Tensor, *rest: object, **options: object) -> object:
        sent["calls"] += 1
        sent["bytes"] += tensor.numel() * tensor.element_size()
        return reduce(tensor, *rest, **options)

    def counted_hook(state, bucket):  # torch wants its own annotations here, or none
        sent["gradient bytes"] += bucket.buffer().numel() * bucket.buffer().element_size()
        return allreduce_hook(None, bucket)

    def build_counted(self: DistributedDataParallel, *rest: object, **options: object) -> None:
        build(self, *rest, **options)
        self.register_comm_hook(None, counted_hook)

    torch.distributed.all_reduce = counted_reduce
    DistributedDataParallel.__init__ = build_counted


def start(ranks: int, batch: int, steps: int, count: bool) -> dict:
    """What `worker` reports of a group that torchrun starts."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        command += [__file__, "--report", str(report), *(["--count"] if count else [])]
        command += ["--set", f"train.batch={batch}", "--set", f"train.steps={steps}"]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
        result = json.loads(report.read_text())
    if result["ranks"] != ranks:
        raise SystemExit(f"{ranks} ranks were asked for, {result['ranks']} trained.")
    return result


def measure(arguments: argparse.Namespace) -> None:
    rows = []
    for kind in ("strong", "weak"):
        for ranks in arguments.ranks:
            batch = arguments.batch if kind == "strong" else arguments.batch_per_rank * ranks
            timed = start(ranks, batch, arguments.steps, count=False)
            rows.append({"kind": kind, "ranks": ranks, "batch": batch, "seconds_per_step": round(timed["seconds"], 4),
                         "median": round(timed["median"], 4),
                         "images_per_second": round(2 * batch / timed["seconds"], 2)})  # fmt: skip
            base = next(row for row in rows if row["kind"] == kind)
            gain = rows[-1]["images_per_second"] / base["images_per_second"]
            rows[-1]["speedup"], rows[-1]["efficiency"] = round(gain, 3), round(gain * base["ranks"] / ranks, 3)
    sent = start(2, arguments.batch, SKIPPED + 5, count=True)["sent"]
    recipe = load_recipe(MEASURED, [], SETTINGS)
    network = build(recipe, len(recipe_classes(recipe)), "cpu")
    formula = bytes_per_step(recipe, network, len(recipe_classes(recipe)))
    figures = {
        "recipe": MEASURED,
        "settings": SETTINGS,
        "steps": arguments.steps - SKIPPED - 2,
        "threads_per_rank": 1,
        "rows": rows,
        "sent_per_step": sent,
        "formula_bytes": formula,
    }
    record("scaling", figures)
    print("kind    ranks  batch  s/step  (median)  images/s  speedup  efficiency")
    for row in rows:
        shapes = {"kind": "6", "ranks": "5", "batch": "5", "seconds_per_step": "6.3f", "median": "8.3f",
                  "images_per_second": "8.1f", "speedup": "7.2f", "efficiency": "10.2f"}  # fmt: skip
        print("  ".join(format(row[key], shape) for key, shape in shapes.items()))
    print(f"\nreduced in a step, counted: {sent['bytes']:,} bytes in {sent['calls']} calls; by the formula: "
          + ", ".join(f"{name} {size:,}" for name, size in formula.items())
          + f", together {sum(formula.values()):,}")  # fmt: skip


# --------------------------------------------------------------------------------------------------------------------
# Formulas


def recipe_classes(recipe: Recipe) -> list[str]:
    """Names of the classes, for data sets that know them without a disk."""
    known = {"voc": 21, "cityscapes": 19}
    if recipe.data.layout.name in known:
        return [str(number) for number in range(known[recipe.data.layout.name])]
    return list(build_dataset(recipe.data).classes)


def build(recipe: Recipe, classes: int, device: str) -> nn.Module:
    """The network of a recipe, from scratch; on "meta" it has shapes and no numbers."""
    network = recipe.network
    with torch.device(device):
        return build_network(
            network.name, network.options, recipe.data.channel_count, classes, embedding_size(recipe), pretrained=False
        )


def embedding_size(recipe: Recipe) -> int:
    contrast = recipe.stages.contrast
    return contrast.options.get("dim", 128) if contrast.name == "prototype" and recipe.loss.contrastive else 0


def norms(network: nn.Module) -> list[int]:
    """Channels of each batch-norm layer."""
    kind = nn.modules.batchnorm._BatchNorm
    return [module.num_features for module in network.modules() if isinstance(module, kind)]


def bytes_per_step(recipe: Recipe, network: nn.Module, classes: int, cuda: bool = False) -> dict[str, int]:
    """Bytes that each process gives to reductions in an ordinary step, by purpose."""
    dim = embedding_size(recipe)
    sizes = {
        "gradients": 4 * sum(p.numel() for p in network.parameters() if p.requires_grad),
        # labeled pixels and N; N_c, and the mass behind each class weight: float64, in one table
        "statistics": 8 * (2 + 2 * classes),
        # sums of embeddings and numbers of pixels, forward; with detached prototypes nothing comes back
        "prototypes": 4 * classes * (dim + 1) if dim else 0,
        # which losses are not finite, and which signals have come
        "flags": 4 * (len(LOSSES) + len(SIGNALS)),
        # histogram of probabilities in float64, and how many are kept
        "hard pixels": 8 * (OHEM_BINS + 1) if recipe.loss.supervised == "ohem" else 0,
    }
    if cuda:  # forward (mean, deviation, count), backward (two sums), for each layer
        sizes["batch norm"] = sum(4 * (2 * channels + 1) + 4 * 2 * channels for channels in norms(network))
    else:  # running means and variances, averaged after the step in float64
        sizes["batch norm"] = sum(8 * 2 * channels for channels in norms(network))
    return {name: size for name, size in sizes.items() if size}


# --------------------------------------------------------------------------------------------------------------------
# Many GPUs: an estimate

MACHINE = 8  # GPUs that NVLink joins
PEAK, REACHED = 312e12, 0.25  # A100, bf16, dense, operations per second; the share that convolutions reach here
UPDATE = 0.002  # seconds for clipping, optimizer and teacher
NVLINK = 230e9  # bytes per second that an all-reduce moves inside a machine ("bus bandwidth")
NETWORKS = {"8 x 200 Gb/s": 8 * 25e9 * 0.8, "1 x 100 Gb/s": 12.5e9 * 0.8}  # of a machine; 0.8 of the line rate
BUCKET = 25 * 2**20  # DDP reduces gradients in pieces of this size; the last one has nothing left to hide behind
# Latencies in microseconds, as NCCL's own tuning table has them for its low-latency protocol: start of a ring, start of
# a tree, a step of each over NVLink (1.8 times that with several machines), a step of each over the network.
START, TREE_START, HOP, TREE_HOP, WIRE, TREE_WIRE = 3.6, 4.4, 0.47, 0.52, 2.7, 5.0
LAUNCH = 10.0  # microseconds to start a collective from Python


def small_gather(gpus: int) -> float:
    """Seconds of an all-gather of a few values: a ring visits every process."""
    machines = math.ceil(gpus / MACHINE)
    hop = HOP * (1.8 if machines > 1 else 1)
    return 0.0 if gpus == 1 else 1e-6 * (LAUNCH + START + (gpus - machines) * hop + (machines - 1) * WIRE)


def small_reduce(gpus: int) -> float:
    """Seconds of an all-reduce of a few values: up and down a tree."""
    machines = math.ceil(gpus / MACHINE)
    hop = TREE_HOP * (1.8 if machines > 1 else 1)
    inside = min(gpus, MACHINE) - 1
    return 0.0 if gpus == 1 else 1e-6 * (LAUNCH + TREE_START + 2 * (inside * hop + math.log2(machines) * TREE_WIRE))


def slowest(gpus: int, network: float) -> float:
    """Bytes per second of the slowest link of a ring."""
    return NVLINK if gpus <= MACHINE else min(NVLINK, network)


def ring(size: float, gpus: int, network: float) -> float:
    """Seconds of an all-reduce of `size` bytes: each link carries 2 (n - 1) / n times as many."""
    return 2 * (gpus - 1) / gpus * size / slowest(gpus, network)


def estimate(facts: dict, gpus: int, batch: int, network: float) -> dict[str, float]:
    """Seconds of the parts of a step.

    An image of the labeled and one of the unlabeled stream cost seven forwards: one of the teacher, two of the student,
    and twice those two for the backward pass, behind which the gradients travel.
    """
    forward = facts["operations"] / (PEAK * REACHED) * batch / gpus
    travel = ring(facts["gradients"], gpus, network) + math.ceil(facts["gradients"] / BUCKET) * small_reduce(gpus)
    tail = ring(min(BUCKET, facts["gradients"]), gpus, network)
    # SyncBatchNorm: a gather forward, of which every process gets all, and a reduction backward, both waited for.
    norms = facts["norms"] * (small_gather(gpus) + small_reduce(gpus))
    norms += (gpus - 1) * facts["gathered"] / slowest(gpus, network) + ring(facts["gathered"], gpus, network)
    parts = {
        "compute": 7 * forward + UPDATE,
        "gradients": travel,
        "waiting": max(tail, travel - 4 * forward) if gpus > 1 else 0.0,
        "norms": norms,
        "sums": facts["sums"] * small_reduce(gpus),
    }
    return parts | {"step": parts["compute"] + parts["waiting"] + parts["norms"] + parts["sums"]}


def recipe_facts(name: str) -> tuple[dict, Recipe]:
    from torch.utils.flop_counter import FlopCounterMode

    recipe = load_recipe(name, [], ["network.pretrained=false", "data.root=/"])
    classes = len(recipe_classes(recipe))
    network = build(recipe, classes, "meta").eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, recipe.data.channel_count, recipe.data.crop, recipe.data.crop, device="meta"))
    sizes = bytes_per_step(recipe, network, classes, cuda=True)
    sums = 2 + 2 * ("prototypes" in sizes) + 2 * ("hard pixels" in sizes)
    facts = {
        "operations": counter.get_total_flops(),
        "gradients": sizes["gradients"],
        "norms": len(norms(network)),
        "gathered": sizes["batch norm"] / 2,
        "sums": sums,
        "small_bytes": sum(sizes.values()) - sizes["gradients"],
    }
    return facts, recipe


def model(name: str) -> None:
    facts, recipe = recipe_facts(name)
    print(f"{name}: {facts['gradients'] / 4e6:.1f} M parameters, {facts['operations'] / 1e9:.0f} G operations per "
          f"forward of a crop of {recipe.data.crop}, {facts['gradients'] / 1e6:.0f} MB of gradients, {facts['norms']} "
          f"batch norms,\n{facts['small_bytes'] / 1e3:.0f} kB of other reductions; one GPU: "
          f"{PEAK * REACHED / 1e12:.0f} T operations per second")  # fmt: skip
    batch = recipe.train.batch
    alone = estimate(facts, 1, batch, math.inf)["step"] / batch
    print("\n| GPUs | batch | network | compute | gradients | waiting for them | batch norm | sums | step | images/s "
          "| efficiency |\n|---|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    rows = [(gpus, batch, "NVLink") for gpus in (1, 2, 4, 8)]
    rows += [(gpus, gpus * share, network) for gpus in (64, 512) for share in (1, 8) for network in NETWORKS]
    rows.insert(4, (8, 8 * batch, "NVLink"))
    for gpus, whole, network in rows:
        parts = estimate(facts, gpus, whole, NETWORKS.get(network, math.inf))
        cells = [f"{1e3 * parts[key]:.1f}" for key in ("compute", "gradients", "waiting", "norms", "sums", "step")]
        speed = 2 * whole / parts["step"]
        efficiency = alone * whole / gpus / parts["step"]
        print(f"| {gpus} | {whole} | {network} | {' | '.join(cells)} | {speed:,.0f} | {100 * efficiency:.0f} % |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--batch", type=int, default=8, help="of all ranks together, while ranks are added")
    parser.add_argument("--batch-per-rank", type=int, default=4, help="where the batch grows with the ranks")
    parser.add_argument("--steps", type=int, default=22)
    parser.add_argument("--model", nargs="?", const="voc_blended513_r101_1_8", metavar="RECIPE",
                        help="estimate many GPUs for a shipped recipe of VOC or Cityscapes")  # fmt: skip
    parser.add_argument("--report", type=Path, help=argparse.SUPPRESS)  # the three below are for its own processes
    parser.add_argument("--count", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--set", dest="settings", action="append", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.report:
        worker(arguments)
    elif arguments.model:
        model(arguments.model)
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
