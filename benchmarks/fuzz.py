"""Break images, masks, lists, recipes, cards, checkpoints, packs and command lines, and look at what farcluss says.

python benchmarks/fuzz.py --seed 1 --cases 2000 --minutes 10
python benchmarks/fuzz.py --seed 1 --only 734          # one case again

A case is a function of the seed and its number: it takes a small data set, run or pack, breaks one to three things in
it, and runs a command. A finding is a traceback, an "unexpected", a refusal that blames the installation, an end by a
signal, a hang, a touched input, an exit code 0 with nothing valid or nothing finite, or a message without end.
The report goes to `results/fuzz.jsonl`, a line for each run.
"""

import argparse
import json
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from breaking import COMMANDS, Break
from forks import Ended, Forks, placeless, touched, tree
from recording import record
from trials import prepare

RESULTS = Path(__file__).parent / "results" / "fuzz.jsonl"
WORDS = {
    "traceback": "Traceback (most recent call last)",
    "unexpected": "Error: unexpected ",
    "blames the installation": "Repair or uninstall",
}
LIBRARY = re.compile(r"[A-Za-z]Warning: ")
NOT_FINITE = re.compile(r"(loss|total|supervised) (nan|-?inf)\b")
LIMIT = 15.0
LONG = 8000


def findings(ended: Ended, lost: list[str]) -> list[str]:
    """Kinds of what is wrong with how a command ended."""
    if ended.code is None:
        return ["hang"]
    text = " ".join(ended.text.split())
    found = [kind for kind, word in WORDS.items() if word in text]
    if LIBRARY.search(text):
        found.append("a warning of a library")
    if ended.code not in (0, 1, 2):
        found.append(f"exit code {ended.code}")
    if ended.code == 0 and (NOT_FINITE.search(text) or "mIoU nan" in text or "mIoU absent" in text):
        found.append("exit 0, not finite")
    if ended.code == 0 and re.search(r"ignored\W+100(\.00)?\W+100(\.00)?\b", text.replace("│", " ")):
        found.append("exit 0, nothing valid")
    if ended.code and not ended.text.strip():
        found.append("no word")
    if len(ended.text) > LONG:
        found.append("message without end")
    if lost:
        found.append("touched input")
    return found


def one(forks: Forks, seed: int, number: int, folder: Path) -> dict[str, Any]:
    """Make case `number` and run it: kinds of findings, what was broken, the command, and what it said."""
    rng = np.random.default_rng([seed, number])
    command = COMMANDS[int(rng.integers(len(COMMANDS)))]
    folder.mkdir()
    command.make(folder)
    breaks: list[Break] = [command.breaks[int(at)] for at in rng.integers(len(command.breaks), size=rng.integers(1, 4))]
    broken, argv = [], ["farcluss", *shlex.split(command.line)]
    for each in breaks:
        note, words = each(folder, rng)
        argv += words
        broken.append(note)
    before = tree(folder)
    ended = forks.run(argv, folder, LIMIT)
    lost = [name for name in touched(before, tree(folder)) if not name.startswith(command.writes or "\0")]
    said = " / ".join(placeless(ended.text, folder).strip().splitlines())[-700:]
    facts = {"case": number, "kinds": findings(ended, lost), "broken": broken, "command": " ".join(argv)[:400]}
    return facts | {"code": ended.code, "said": said, "touched": lost[:5]}


def fuzz(
    seed: int, numbers: range, seconds: float, jobs: int = 1, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Run cases until the time is over, `jobs` at a time, and give the report."""
    start, servers = time.monotonic(), SimpleQueue[Forks]()
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as name:
        for _ in range(jobs):
            servers.put(Forks())
        prepare(first := servers.get(), made := Path(name) / "made")
        servers.put(first)

        def case(number: int) -> dict[str, Any] | None:
            if time.monotonic() - start > seconds:
                return None
            server, folder = servers.get(), made.with_name(f"case {number}")
            outcome = one(server, seed, number, folder)
            servers.put(server)
            shutil.rmtree(folder)
            if outcome["kinds"]:
                say(
                    f"{number}: {', '.join(outcome['kinds'])}: {'; '.join(outcome['broken'])}: {outcome['said'][-200:]}"
                )
            return outcome

        with ThreadPoolExecutor(jobs) as pool:
            outcomes = list(filter(None, pool.map(case, numbers)))
    for _ in range(jobs):
        servers.get().close()
    found = [outcome for outcome in outcomes if outcome["kinds"]]
    kinds = Counter(kind for outcome in found for kind in outcome["kinds"])
    codes = Counter(str(outcome["code"]) for outcome in outcomes)
    took = round(time.monotonic() - start)
    return {"seed": seed, "cases": len(outcomes), "seconds": took, "codes": codes, "kinds": kinds, "findings": found}


def main() -> None:
    """Fuzz, print the findings, and keep the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument("--only", type=int, default=None, help="run this case alone")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    if arguments.only is not None:
        report = fuzz(arguments.seed, range(arguments.only, arguments.only + 1), 60, say=lambda line: None)
        print(json.dumps(report["findings"], indent=1, ensure_ascii=False))
    else:
        report = fuzz(arguments.seed, range(arguments.cases), arguments.minutes * 60, arguments.jobs)
        record("fuzz", report)
        print(json.dumps({key: report[key] for key in ("seed", "cases", "seconds", "codes", "kinds")}))
    sys.exit(bool(report["findings"]))


if __name__ == "__main__":
    main()
