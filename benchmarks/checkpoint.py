"""Measure how long a checkpoint holds up the loop: written at once, and copied for a thread that writes it.

python benchmarks/checkpoint.py                       # student, teacher and momentum of a DeepLabV3+
python benchmarks/checkpoint.py --encoder resnet101s --device cuda
"""

import argparse
import hashlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from recording import record

from farcluss.networks.deeplabv3plus import deeplabv3plus
from farcluss.runs import checkpoints
from farcluss.runs.background import Background


def make_state(encoder: str, device: str) -> dict[str, Any]:
    network = deeplabv3plus(3, 21, 128, False, encoder=encoder).to(device)
    slots = {number: {"momentum_buffer": torch.randn_like(p)} for number, p in enumerate(network.parameters())}
    weights = network.state_dict()
    teacher = {name: tensor.clone() for name, tensor in weights.items()}
    return {"student": weights, "teacher": teacher, "optimizer": {"state": slots, "param_groups": []}}


class _Nowhere:
    def write(self, content: Any) -> int:
        return len(content)

    def flush(self) -> None:
        pass


def seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def probe() -> float:
    """Seconds of a fixed piece of Python and torch, such as a loop does."""
    small = torch.ones(64, 64)

    def work() -> None:
        for _ in range(20):
            small @ small

    return seconds(work)


def probe_beside(job: Callable[[], object]) -> list[float]:
    """Seconds of each such piece while a job goes on."""
    done = threading.Event()
    pieces = []
    with Background() as background:
        background.submit(lambda: (job(), done.set()))
        while not pieces or not done.is_set():
            pieces.append(probe())
    return pieces


def one_round(state: dict[str, Any], folder: Path) -> dict[str, float]:
    path = folder / "checkpoints" / "step-00000001.pt"

    def write(of: dict[str, Any]) -> None:
        checkpoints.save(path, 1, of, {}, {}, 2)

    if state["student"]["classifier.weight"].is_cuda:
        torch.cuda.synchronize()
    row = {"at once": seconds(lambda: write(state))}
    start = time.perf_counter()
    copied = checkpoints.snapshot(state)
    row["copied"] = time.perf_counter() - start
    content = path.read_bytes()
    start = time.perf_counter()
    pieces = probe_beside(lambda: write(copied))
    row["written beside"] = time.perf_counter() - start
    # A thread that holds no lock of Python's takes its share of the processor too: that much is not the writer's doing.
    row["loop slower beside"] = mean(pieces) / mean(probe_beside(lambda: hashlib.sha256(content)))
    row["longest piece beside"] = max(pieces)
    row["part: torch.save"] = seconds(lambda: torch.save(copied, _Nowhere()))  # type: ignore[arg-type]
    row["part: SHA-256"] = seconds(lambda: hashlib.sha256(content))
    with (folder / "probe").open("wb") as file:
        row["part: write"] = seconds(lambda: (file.write(content), file.flush()))
        row["part: fsync"] = seconds(lambda: os.fsync(file.fileno()))
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50s")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    state = make_state(arguments.encoder, arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        one_round(state, Path(folder))  # warms up
        rows = [one_round(state, Path(folder)) for _ in range(arguments.rounds)]
        size = (Path(folder) / "checkpoints" / "step-00000001.pt").stat().st_size
    table = {name: round(median(row[name] for row in rows), 4) for name in rows[0]}
    print(f"{arguments.encoder} on {arguments.device}, {size / 2**20:.0f} MiB; seconds")
    for name, value in table.items():
        print(f"{name:22}{value:9.3f}{' times' if name.startswith('loop') else ''}")
    figures = {
        "encoder": arguments.encoder,
        "bytes": size,
        "rounds": arguments.rounds,
        "seconds": table,
    }
    record("checkpoint", figures)


if __name__ == "__main__":
    main()
