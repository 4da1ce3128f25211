"""Try farcluss with the input that people have and that nobody expects: what must come of each case, and what does.

python benchmarks/trials.py                                  # the installed farcluss
python benchmarks/trials.py --column before --python VENV/bin/python   # another one; its column stands beside
python benchmarks/trials.py --only scan- --show              # some cases, with all that they print

The table goes to `results/trials.md`, all that was seen to `results/trials.json`.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from cases import data_cases, environment, kit, lists, own_data, recipes, scans, scenes, weights
from cases.kit import NEVER, Case
from forks import Ended, Forks, placeless, touched, tree

RESULTS = Path(__file__).parent / "results"
PARTS = {
    "images and masks": data_cases.CASES,
    "command line and weights": weights.CASES,
    "environment": environment.CASES,
    "lists and packs": lists.CASES,
    "recipes and readiness": recipes.CASES,
    "scans": scans.CASES,
    "scenes": scenes.CASES,
    "own photos": own_data.CASES,
}


def prepare(forks: Forks, folder: Path) -> None:
    """A run and a pack by the version on trial, which cases copy."""
    kit.photos(folder)
    for command in (
        "run r.toml -o run",
        "pack r.toml -o p.h5",
        "check r.toml",
        "predict run/weights/last.safetensors images -o out",
    ):
        ended = forks.run(["farcluss", *command.split()], folder, modules=str(folder / "modules.txt"))
        if ended.code:
            raise SystemExit(ended.text)
    kit.made = folder


def faults(case: Case, ended: Ended, folder: Path, before: dict[str, str]) -> list[str]:
    """What is not as it must be."""
    if ended.code is None:
        return [f"hangs: killed after {case.limit:.0f} s"]
    text = " ".join(ended.text.replace("│", " ").split())
    found = [] if ended.code in case.codes else [f"exit code {ended.code}"]
    found += [f"says {word.strip()!r}" for word in (*NEVER, *case.never) if word in text]
    found += [
        f"does not say {words!r}" for words in case.says if not any(w.lower() in text.lower() for w in words.split("|"))
    ]
    lost = [name for name in touched(before, tree(folder)) if not name.startswith(case.changes or "\0")]
    found += [f"changes {', '.join(lost[:3])}"] * bool(lost)
    if case.proof:
        found += filter(None, [case.proof(folder, ended)])
    return found


def try_case(forks: Forks, case: Case, folder: Path) -> dict[str, object]:
    """Lay the files, run the command, judge."""
    if not case.argv:
        return {"good": None, "faults": [f"not run: {case.what}"]}
    folder.mkdir()
    try:
        case.make(folder)
        before = tree(folder)
        ended = forks.run(case.argv, folder, case.limit, **case.around)
        found = faults(case, ended, folder, before)
    finally:
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o755)
        shutil.rmtree(folder)
    said = " / ".join(line.strip() for line in placeless(ended.err or ended.out, folder).strip().splitlines())
    return {"good": not found, "code": ended.code, "faults": found, "said": said[-400:], "seconds": ended.seconds}


def expected(case: Case) -> str:
    """What must come of a case, in words."""
    parts = [f"exit {' or '.join(map(str, case.codes))}"]
    parts += [f"says {words.replace('|', ' or ')}" for words in case.says]
    parts += [f"not {word.strip()}" for word in case.never]
    return "; ".join(parts)


def cell(text: object) -> str:
    """Text for a cell of a table."""
    return str(text).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def table(results: dict[str, dict[str, dict[str, object]]]) -> str:
    """The Markdown of all columns that were measured: a line of counts for each part, and its cases."""
    columns = list(results)
    lines = ["# Trials", "", "Written by `benchmarks/trials.py`: input that nobody expects, and what comes of it.", ""]
    lines += [
        f"| part | cases | {' | '.join(f'good {column}' for column in columns)} |",
        "|---" * (2 + len(columns)) + "|",
    ]
    for part, cases in PARTS.items():
        good = [sum(results[column].get(case.name, {}).get("good") is True for case in cases) for column in columns]
        lines.append(f"| {part} | {sum(bool(case.argv) for case in cases)} | {' | '.join(map(str, good))} |")
    for part, cases in PARTS.items():
        lines += ["", f"## {part[0].upper()}{part[1:]}", "", f"| case | what | expected | {' | '.join(columns)} |"]
        lines.append("|---" * (3 + len(columns)) + "|")
        for case in cases:
            seen = [results[column].get(case.name) for column in columns]
            words = ["" if one is None else "good" if one["good"] else "; ".join(one["faults"]) for one in seen]
            expectation = expected(case) if case.argv else "not run"
            lines.append(f"| {' | '.join(map(cell, [case.name, case.what, expectation, *words]))} |")
    return "\n".join(lines) + "\n"


def one_a_line(results: dict[str, dict[str, object]]) -> str:
    """The JSON of all columns, a line for each case, so that a new run changes the lines of what has changed."""
    columns = []
    for column, cases in results.items():
        lines = ",\n".join(
            f"{json.dumps(name)}: {json.dumps(case, ensure_ascii=False)}" for name, case in cases.items()
        )
        columns.append(f"{json.dumps(column)}: {{\n{lines}\n}}")
    return "{\n" + ",\n".join(columns) + "\n}\n"


def main() -> None:
    """Run the cases, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the Python whose farcluss is tried")
    parser.add_argument("--column", default="after", help="the column of the table that this fills")
    parser.add_argument("--only", default="", help="cases whose names hold one of these words, separated by commas")
    parser.add_argument("--show", action="store_true", help="print what bad cases said")
    arguments = parser.parse_args()
    path = RESULTS / "trials.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    column = results.setdefault(arguments.column, {})
    forks = Forks(arguments.python)
    start, count = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="trials-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        prepare(forks, Path(name) / "made")
        for case in (case for cases in PARTS.values() for case in cases):
            if any(word in case.name for word in arguments.only.split(",")):
                outcome = column[case.name] = try_case(forks, case, Path(name) / "case")
                count += bool(case.argv)
                if outcome["good"] is False:
                    print(f"bad   {case.name}: {'; '.join(outcome['faults'])}", flush=True)
                    if arguments.show:
                        print(f"      {outcome['said']}", flush=True)
    forks.close()
    known = {case.name for cases in PARTS.values() for case in cases}
    results[arguments.column] = {name: column[name] for name in column if name in known}
    results = {name: results[name] for name in ("before", "after", *results) if name in results}
    path.write_text(one_a_line(results))
    (RESULTS / "trials.md").write_text(table(results))
    good = sum(one["good"] is True for one in results[arguments.column].values())
    print(f"{count} cases in {time.monotonic() - start:.0f} s; {good} of {len(known)} good")


if __name__ == "__main__":
    main()
