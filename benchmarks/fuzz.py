"""Break images, masks, lists, recipes, cards, checkpoints, packs and command lines, and look at what farcluss says.

python benchmarks/fuzz.py --seed 1 --cases 2000 --minutes 10
python benchmarks/fuzz.py --seed 1 --only 734          # one case again, with all that it printed

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
from functools import partial
from pathlib import Path

import numpy as np
from breaking import COMMANDS, Break
from forks import Ended, Forks, touched, tree
from recording import record
from trials import prepare

RESULTS = Path(__file__).parent / "results" / "fuzz.jsonl"
WORDS = {
    "traceback": "Traceback (most recent call last)",
    "unexpected": "Error: unexpected ",
    "blames the installation": "Repair or uninstall",
    "a warning of a library": "Warning: ",
}
NOT_FINITE = re.compile(r"(loss|total|supervised) (nan|-?inf)\b")
LIMIT = 15.0
LONG = 8000


def findings(ended: Ended, lost: list[str]) -> list[str]:
    """Kinds of what is wrong with how a command ended."""
    if ended.code is None:
        return ["hang"]
    text = " ".join(ended.text.split())
    found = [kind for kind, word in WORDS.items() if word in text]
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


def one(forks: Forks, seed: int, number: int, folder: Path) -> tuple[list[str], list[str], Ended, list[str]]:
    """Make case `number`, run it: kinds of findings, its command, how it ended, what was broken."""
    rng = np.random.default_rng([seed, number])
    command = COMMANDS[int(rng.integers(len(COMMANDS)))]
    folder.mkdir()
    command.make(folder)
    breaks: list[Break] = [command.breaks[int(at)] for at in rng.integers(len(command.breaks), size=rng.integers(1, 4))]
    done = []
    argv = ["farcluss", *shlex.split(command.line)]
    for each in breaks:
        note, more = each(folder, rng)
        argv += more
        done.append(note)
    before = tree(folder)
    ended = forks.run(argv, folder, LIMIT)
    lost = [name for name in touched(before, tree(folder)) if not name.startswith(command.writes)]
    return findings(ended, lost), argv, ended, done


def fuzz(
    seed: int, numbers: range, seconds: float, say: Callable[[str], None] = partial(print, flush=True)
) -> dict[str, object]:
    """Run cases until the time is over, and give the report."""
    forks, start, report, codes = Forks(), time.monotonic(), [], Counter[str]()
    kinds: dict[str, list[int]] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as name:
        (Path(name) / "made").mkdir()
        prepare(forks, Path(name) / "made")
        for number in numbers:
            if time.monotonic() - start > seconds:
                break
            folder = Path(name) / "case"
            found, argv, ended, done = one(forks, seed, number, folder)
            shutil.rmtree(folder)
            codes[str(ended.code)] += 1
            if found or len(numbers) == 1:
                said = ended.text[-3000:].replace(str(folder), ".")
                report.append(
                    {
                        "case": number,
                        "kinds": found,
                        "broken": done,
                        "command": " ".join(argv)[:400],
                        "said": said[-700:],
                    }
                )
                line = said.strip().splitlines()[-2:] if "unexpected" in said else said.strip().splitlines()[-1:]
                say(f"{number}: {', '.join(found)}: {'; '.join(done)}: {argv[1]}: {' / '.join(line)[:300]}")
                if len(numbers) == 1:
                    say(ended.text)
                for kind in found:
                    kinds.setdefault(kind, []).append(number)
    forks.close()
    took = round(time.monotonic() - start)
    return {
        "seed": seed,
        "cases": sum(codes.values()),
        "seconds": took,
        "codes": dict(codes),
        "kinds": kinds,
        "findings": report,
    }


def main() -> None:
    """Fuzz, print the findings, and keep the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", type=int, default=None, help="run this case alone")
    arguments = parser.parse_args()
    numbers = range(arguments.cases) if arguments.only is None else range(arguments.only, arguments.only + 1)
    report = fuzz(arguments.seed, numbers, arguments.minutes * 60)
    if arguments.only is None:
        record("fuzz", report)
    kinds = {kind: len(cases) for kind, cases in report["kinds"].items()}
    print(json.dumps({key: report[key] for key in ("seed", "cases", "seconds", "codes")} | {"kinds": kinds}))
    sys.exit(bool(report["findings"]))


if __name__ == "__main__":
    main()
