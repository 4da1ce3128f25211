"""Measure seconds from process start to the end of the first step of the quickstart, and to the end of --help.

python benchmarks/start.py
python benchmarks/start.py --rounds 9 --set data.workers=0
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from statistics import median

from recording import record

RUN = ["run", "quickstart", "--set", "train.steps=2", "--set", "train.log_every=1", "--set", "eval.every=1000"]


def timed(words: list[str], mark: str = "") -> tuple[float, float]:
    """Wall and CPU seconds of a command: to its first line that begins with `mark`, when it is ended, or to its end."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "farcluss", *words]
    # Loader processes whose parent is ended complain.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    reached = any(mark and line.startswith(mark) for line in process.stdout)
    wall = time.perf_counter() - start
    if reached:
        process.kill()
    _, status, usage = os.wait4(process.pid, 0)
    if reached != bool(mark) or (status and not mark):
        raise SystemExit(f"farcluss {' '.join(words)} failed.")
    return wall, usage.ru_utime + usage.ru_stime


def measure(rounds: int, settings: list[str]) -> dict[str, list[tuple[float, float]]]:
    """Seconds of each way, interleaved; the round that warms the disk's cache up is left out."""
    ways: dict[str, list[tuple[float, float]]] = {"first step": [], "--help": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            run = [*RUN, "--output", f"{folder}/{turn}", *(word for text in settings for word in ("--set", text))]
            figures = {"first step": timed(run, "step 1/"), "--help": timed(["--help"])}
            for name, seconds in figures.items():
                ways[name] += [seconds] if turn else []
    return ways


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--set", dest="settings", action="append", default=[], help="of the quickstart")
    arguments = parser.parse_args()
    ways = measure(arguments.rounds, arguments.settings)
    rows = {
        name: {
            "wall": round(median(wall for wall, _ in times), 3),
            "fastest": round(min(wall for wall, _ in times), 3),
            "cpu": round(median(cpu for _, cpu in times), 3),
        }
        for name, times in ways.items()
    }
    print(f"{'seconds to':12}{'wall':>10}{'fastest':>10}{'CPU':>10}")
    for name, row in rows.items():
        print(f"{name:12}{row['wall']:10.2f}{row['fastest']:10.2f}{row['cpu']:10.2f}")
    figures = {
        "settings": arguments.settings,
        "rounds": arguments.rounds,
        "seconds": rows,
    }
    record("start", figures)


if __name__ == "__main__":
    main()
