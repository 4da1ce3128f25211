"""Kill runs at random, resume them, and compare what they come to with a run that was left alone.

python benchmarks/kills.py --kills 30 --seed 1

In one process without and with loader processes, and in two processes; half of the kills fall into the writing of a
checkpoint. Prints a line of JSON; exits with 1 when any run has come to something else.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import interrupted
import interrupted_ranks
import torch


def one_process(folder: Path, kills: int, seed: int) -> dict:
    """Kills, runs and how many of these differ, by number of loader processes."""
    (folder / "recipe.toml").write_text(interrupted.RECIPE)
    command = [sys.executable, interrupted.__file__, str(folder), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seen = {line["scenario"]: line for line in map(json.loads, done.stdout.splitlines())}
    whole = seen["whole"]["outcomes"][0]
    return {
        name: {
            "kills": seen[name]["codes"].count(-9),
            "dead loaders": seen[name]["codes"].count(1),
            "runs": len(seen[name]["outcomes"]),
            "differ": sum(outcome != whole for outcome in seen[name]["outcomes"]),
        }
        for name in ("0 workers", "2 workers")
    }


def two_processes(folder: Path, kills: int, seed: int) -> dict:
    """The same for one run in two processes."""
    whole, killed = interrupted_ranks.launch(folder, "whole"), interrupted_ranks.launch(folder, "killed", kills, seed)
    attempts = (whole.pop("attempts"), killed.pop("attempts"))
    return {"kills": attempts[1], "runs": 1, "differ": int(whole != killed)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="per number of loader processes")
    parser.add_argument("--rank-kills", type=int, default=10, help="in two processes")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        results = one_process(Path(one), arguments.kills, arguments.seed)
        results["2 processes"] = two_processes(Path(two), arguments.rank_kills, arguments.seed)
    facts = {"python": platform.python_version(), "torch": torch.__version__, "seed": arguments.seed}
    print(json.dumps(facts | results | {"seconds": round(time.perf_counter() - start)}))
    sys.exit(any(result["differ"] for result in results.values()))


if __name__ == "__main__":
    main()
