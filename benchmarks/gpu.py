"""What there is to know of one GPU, in ten minutes: correctness, speed, memory; then CamVid for the time that is left.

python benchmarks/gpu.py [--data DATA] [--minutes 10]
python benchmarks/gpu.py --dry          # on a CPU, with tiny networks: that all of it runs

Parts, each in processes of its own, so that a peak of memory is its own; what does not fit into the time is left out
and named. The figures go to `results/gpu.jsonl`.

- right: a short run in float32, bf16 and fp16 against the CPU's losses; one that is stopped and resumed; one compiled.
- step: `farcluss bench` of ResNet-50 and 101 at 321, 513, 801 and of DINOv2-S and -B at 518 (plain, frozen,
  checkpointed), 8 labeled and 8 unlabeled images, bf16: images/s, share of the networks in a step, memory.
- field: the loop of the field's FixMatch, written here from its description, beside the same step of farcluss.
- loader, scoring: `loader.py` and `evaluation.py`, short.
- camvid: seeds of `real.py`, as many as there is time for.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recording import record

HERE = Path(__file__).parent
DRAWN = 'data.layout={ name = "shapes", train = 24, val = 2, size = 64 }'
SHORT = ["train.steps=6", "train.log_every=1", "loss.warmup_steps=0", "loss.ramp_steps=0", "eval.every=6", DRAWN]
CNN = [(f"{name}, {crop}", [f"network.encoder={name}", f"data.crop={crop}"])
       for name in ("resnet50s", "resnet101s") for crop in (321, 513, 801)]  # fmt: skip
WAYS = {"": "", ", frozen": ", frozen = true", ", checkpointed": ", checkpointing = true"}
VIT = [
    (f"{name}{way}", [f'network={{ name = "dpt", encoder = "{name}"{more} }}', "data.crop=518"])
    for name in ("vit_small_patch14_dinov2", "vit_base_patch14_dinov2")
    for way, more in WAYS.items()
]
FULL = ['network={ name = "deeplabv3plus" }', "train.batch=8"]
DRY = [
    ("test_resnet, 65", ["network.encoder=test_resnet", "data.crop=65"]),
    ("test_vit", ['network={ name = "dpt", encoder = "test_vit" }', "data.crop=64"]),
]


class Clock:
    """The time that is left."""

    def __init__(self, minutes: float) -> None:
        self.end = time.monotonic() + 60 * minutes
        self.left_out: list[str] = []

    @property
    def left(self) -> float:
        """Seconds."""
        return self.end - time.monotonic()

    def call(
        self, name: str, words: list[str], environment: dict[str, str] | None = None, most: float = 90
    ) -> str | None:
        """Output of a command; None, and noted, where there is no time for it, or it fails."""
        if self.left < 15:
            self.left_out.append(f"{name}: no time")
            return None
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=min(most, self.left), cwd=HERE.parent,
                                  env=os.environ | (environment or {}))  # fmt: skip
        except subprocess.TimeoutExpired:
            self.left_out.append(f"{name}: no time")
            return None
        if done.returncode:
            self.left_out.append(f"{name}: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}")
            return None
        return done.stdout


def farcluss(*words: str) -> list[str]:
    return [sys.executable, "-m", "farcluss", *words]


def script(name: str) -> list[str]:
    return [sys.executable, f"benchmarks/{name}.py"]


def settings(given: list[str]) -> list[str]:
    return [word for each in given for word in ("--set", each)]


def right(clock: Clock, folder: Path, compiled: bool) -> dict[str, Any]:
    """Largest relative difference of the logged losses from those of the CPU in float32, by kind of run."""

    def losses(name: str, more: list[str], environment: dict[str, str] | None = None) -> list[float] | None:
        words = farcluss("run", "quickstart", "-o", str(folder / name), *settings([*SHORT, *more]), "--resume", "auto")
        if clock.call(f"right: {name}", words, environment) is None:
            return None
        lines = map(json.loads, (folder / name / "metrics.jsonl").read_text().splitlines())
        return [line["total"] for line in lines if line["kind"] == "train"]

    wanted = losses("cpu", [], {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""})
    kinds = {name: [f"train.mixed_precision={name}"] for name in ("bf16", "fp16")}
    kinds |= {"float32": []} | ({"compiled": ["train.compile=true"]} if compiled else {})
    losses("resumed", ["train.checkpoint_every=3"])
    found = {name: losses(name, more) for name, more in kinds.items()}
    checkpoints = folder / "resumed" / "checkpoints"
    for path in checkpoints.glob("step-00000006.*") if checkpoints.is_dir() else ():
        path.unlink()  # as if it had been killed after step 3
    found["resumed"] = losses("resumed", ["train.checkpoint_every=3"])
    return {
        name: max(abs(a - b) / abs(b) for a, b in zip(values, wanted, strict=False))
        for name, values in found.items()
        if values and wanted
    }


def step(clock: Clock, cases: list[tuple[str, list[str]]], common: list[str]) -> dict[str, Any]:
    """Figures of `farcluss bench`, by network."""
    found = {}
    for name, own in cases:
        words = farcluss("bench", "quickstart", "--json", "--steps", "6", *settings([DRAWN, *common, *own]))
        if (text := clock.call(f"step: {name}", words)) is not None:
            facts = json.loads(text)
            parts = facts["parts"]
            networks = sum(parts[key] for key in ("teacher", "student", "backward", "optimizer"))
            keep = {key: facts[key] for key in ("images_per_second", "memory_gib", "memory_share")}
            found[name] = keep | {"networks_share": networks / sum(parts.values())}
    return found


def field_loop(encoder: str, crop: int, batch: int, steps: int = 6) -> dict[str, float | None]:
    """The field's FixMatch: weak view by the student in evaluation mode, then labeled and strong images, dense losses.

    As UniMatch's repository describes it, without the weak images in the second forward, which get no gradient there.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from farcluss.networks.deeplabv3plus import deeplabv3plus

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = deeplabv3plus(3, 6, 0, False, encoder=encoder).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, 0.9, weight_decay=1e-4)
    images, weak, strong = (torch.randn(batch, 3, crop, crop, device=device) for _ in range(3))
    masks, times = torch.randint(0, 6, (batch, crop, crop), device=device), []
    for _ in range(steps):
        begin = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            with torch.no_grad():
                probs, labels = network.eval()(weak).logits.softmax(1).max(1)
            logits, views = network.train()(torch.cat([images, strong])).logits.chunk(2)
            supervised = cross_entropy(logits, masks)
            unsupervised = (cross_entropy(views, labels, reduction="none") * (probs >= 0.95)).mean()
        optimizer.zero_grad()
        ((supervised + unsupervised) / 2).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    return {"images_per_second": 2 * batch / sorted(times)[len(times) // 2], "memory_gib": memory}


def field(clock: Clock, encoder: str, crop: int, batch: int) -> dict[str, Any]:
    """The field's loop beside the step of farcluss with the same encoder, crop and batch."""
    code = f"import gpu, json; print(json.dumps(gpu.field_loop({encoder!r}, {crop}, {batch})))"
    text = clock.call("field", [sys.executable, "-c", code], {"PYTHONPATH": str(HERE)})
    common = ["train.mixed_precision=bf16", f"train.batch={batch}", *FULL[:1]]
    own = step(
        clock, [("farcluss", [f"network.encoder={encoder}", f"data.crop={crop}"])], [*common, "loss.contrastive=0"]
    )
    return own | ({"field": json.loads(text)} if text else {})


def device_name() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


@contextmanager
def told(name: str, clock: Clock) -> Iterator[None]:
    begin = time.monotonic()
    yield
    print(f"{name}: {time.monotonic() - begin:.0f} s, {clock.left:.0f} s left", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of real data, as of real.py")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args()
    if device_name() == "cpu" and not given.dry:
        print("There is no GPU: nothing was measured. --dry tries all parts on the CPU.")
        return
    clock, figures = Clock(given.minutes), dict[str, Any]()
    cases, common = ([*CNN, *VIT], [*FULL, "train.mixed_precision=bf16"]) if not given.dry else (DRY, ["train.batch=2"])
    small = ("test_resnet", 65, 2) if given.dry else ("resnet50s", 321, 8)
    brief = ["--rounds", "1"] if given.dry else ["--rounds", "2"]
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], Any]] = {
            "right": lambda: right(clock, Path(folder), not given.dry),
            "step": lambda: step(clock, cases, common),
            "field": lambda: field(clock, *small),
            "loader": lambda: clock.call("loader", [*script("loader"), "--samples", "5", *brief]),
            "scoring": lambda: clock.call(
                "scoring", [*script("evaluation"), "--images", "20", "--networks", "test_resnet", *brief]
            ),
        }
        for name, part in parts.items():
            with told(name, clock):
                figures[name] = part()
    print(json.dumps(figures, indent=2))
    print("\n".join(["left out:", *clock.left_out]) if clock.left_out else "nothing was left out")
    if not given.dry:
        record("gpu", figures | {"left_out": clock.left_out})
    if given.data and clock.left > 60 and not given.dry:
        clock.call("camvid", [*script("real"), "--data", str(given.data), "--sets", "camvid_1_16"], most=clock.left)


if __name__ == "__main__":
    main()
