"""Runs that are killed and signalled: a script that imports once and forks a process for each attempt.

interrupted.py FOLDER KILLS SEED: `FOLDER/recipe.toml` is trained, killed at random events KILLS times, and resumed
until it ends, once without and once with loader processes; then it is signalled in several ways. Prints a line of JSON
per scenario.
"""

import json
import os
import random
import signal
import sys
import threading
import time
from importlib import import_module
from pathlib import Path

from tiny_recipe import tiny_recipe

STAGES = '"photometric"\nmix = "classmix"\nweight = "adaptive"'
RECIPE = tiny_recipe(augment=STAGES, steps=8, checkpoint_every=1, keep=2, every=4)
TIMES = ("time", "memory_gib", "images_per_second")


ANYWHERE, WRITING = ("/farcluss/",), ("/farcluss/runs/checkpoints.py", "/farcluss/runs/atomic.py")
"""Where a run is killed: in any file of the package, or in those that write checkpoints."""


class Killer:
    """Ends this process by SIGKILL at its `event`-th call in certain files, counted from here on."""

    def __init__(self, files: tuple[str, ...], event: int) -> None:
        self.files, self.event, self.count = files, event, 0
        sys.setprofile(self)
        threading.setprofile(self)  # checkpoints are written by a thread

    def __call__(self, frame, what, argument) -> None:
        if what in ("call", "c_call") and any(name in frame.f_code.co_filename for name in self.files):
            self.count += 1
            if 0 < self.event <= self.count:  # threads count together, and may pass it
                os.kill(os.getpid(), signal.SIGKILL)


def start(folder: Path, *settings: str, output: str = "run", prepare=lambda: None) -> int:
    """Fork a process that calls `prepare` and then trains as the command line does; its number."""
    number = os.fork()
    if number:
        return number
    from farcluss.cli import main

    os.setsid()
    log = os.open(folder / f"{output}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    prepare()
    changes = [word for setting in settings for word in ("--set", setting)]
    sys.argv = ["farcluss", "run", str(folder / "recipe.toml"), "--output", str(folder / output), "--resume", "auto"]
    sys.argv += changes
    try:
        main()
    except SystemExit as stop:
        sys.setprofile(None)
        os._exit(int(stop.code or 0))
    os._exit(99)


def wait(number: int) -> int:
    """Exit code of a process; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def outcome(folder: Path, output: str = "run") -> dict:
    """What a run has come to: checksums of its last checkpoint's tensors, and its metrics without times."""
    from farcluss.runs import checkpoints

    found = checkpoints.read_newest(folder / output / "checkpoints")
    lines = [json.loads(line) for line in (folder / output / "metrics.jsonl").read_text().splitlines()]
    return {
        "step": found.manifest.step,
        "scored": found.manifest.progress["scored"],
        "best": found.manifest.progress["best"],
        "tensors": {f"{who}.{k}": v.tolist() for who in ("student", "teacher") for k, v in found.state[who].items()},
        "stage": {k: v.item() for k, v in found.state["stages"]["weight"].items()},
        "momentum": [state["momentum_buffer"].tolist() for state in found.state["optimizer"]["state"].values()],
        "metrics": [{k: v for k, v in line.items() if k not in TIMES} for line in lines],
        "weights": sorted(path.name for path in (folder / output / "weights").glob("*")),
        "unfinished": [path.name for path in (folder / output).rglob("*.part")],
        "pictures": sorted(path.name for path in (folder / output / "pictures").glob("*")),
    }


def count_events(folder: Path, files: tuple[str, ...], *settings: str) -> int:
    """How many events an uninterrupted run has."""
    place = folder / "events"

    def watch() -> None:
        killer = Killer(files, 0)
        exit_now = os._exit
        os._exit = lambda code: (place.write_text(str(killer.count)), exit_now(code))

    output = f"counted-{len(files)}-{'-'.join(settings)}"
    assert wait(start(folder, *settings, output=output, prepare=watch)) == 0
    return int(place.read_text())


def kill_and_resume(folder: Path, kills: int, seed: int, *settings: str) -> dict:
    """Train runs that are killed at random events until so many kills have been; the outcomes of all that ended."""
    draw = random.Random(seed)
    events = {files: count_events(folder, files, *settings) for files in (ANYWHERE, WRITING)}
    codes, outcomes = [], []
    output = f"killed-{'-'.join(settings)}-0"
    while codes.count(-signal.SIGKILL) < kills or codes[-1] != 0:
        # Every other time in the midst of writing; when all kills are done, the last run is left to end.
        files = (ANYWHERE, WRITING)[len(codes) % 2]
        event = 0 if codes.count(-signal.SIGKILL) == kills else draw.randint(1, events[files])
        codes.append(wait(start(folder, *settings, output=output, prepare=lambda f=files, e=event: Killer(f, e))))
        if codes[-1] == 0:
            outcomes.append(outcome(folder, output))
            output = f"killed-{'-'.join(settings)}-{len(outcomes)}"
    return {"codes": codes, "events": list(events.values()), "outcomes": outcomes}


def signal_at(step: int, *numbers: int, group: bool = False):
    """A `prepare` that sends signals to this process, or to its group, in the midst of a step."""

    def prepare() -> None:
        from farcluss.training import engine

        original = engine.one_step

        def one_step(run, *arguments):
            result = original(run, *arguments)
            if run.step + 1 == step:
                for number in numbers:
                    os.killpg(0, number) if group else os.kill(os.getpid(), number)
                    time.sleep(0.05)  # to be delivered before the next
            return result

        engine.one_step = one_step

    return prepare


def signal_in_evaluation(number: int):
    """A `prepare` that sends a signal when the first image has been scored."""

    def prepare() -> None:
        from farcluss.inference import evaluation

        original = evaluation.confusion_matrix

        def confusion_matrix(*arguments):
            os.kill(os.getpid(), number)
            return original(*arguments)

        evaluation.confusion_matrix = confusion_matrix

    return prepare


SIGNALLED = {
    "SIGTERM": ([], signal_at(3, signal.SIGTERM)),
    "SIGINT": ([], signal_at(3, signal.SIGINT)),
    "SIGUSR1": ([], signal_at(3, signal.SIGUSR1)),
    "whole group": (["data.workers=2"], signal_at(3, signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM, group=True)),
    "second SIGINT": ([], signal_at(3, signal.SIGINT, signal.SIGINT)),
    "SIGINT after SIGTERM": ([], signal_at(3, signal.SIGTERM, signal.SIGINT)),
    "at the last step": ([], signal_at(8, signal.SIGTERM)),
    "in evaluation": ([], signal_in_evaluation(signal.SIGTERM)),
}


def main(folder: Path, kills: int, seed: int) -> None:
    from adaptive import Adaptive
    from tiny_network import TinyNetwork

    from farcluss.cli import run  # noqa: F401
    from farcluss.plugins import registry

    registry.register("network", "tiny", TinyNetwork)
    registry.register("weight", "adaptive", Adaptive)
    for module in ("augment", "mix", "pseudo_label", "weight", "rebalance", "contrast"):
        import_module(f"farcluss.stages.{module}")
    import_module("torch._dynamo")  # which an optimizer imports
    assert wait(start(folder, output="whole")) == 0
    print(json.dumps({"scenario": "whole", "outcomes": [outcome(folder, "whole")]}))
    for workers in (0, 2):
        result = kill_and_resume(folder, kills, seed + workers, f"data.workers={workers}")
        print(json.dumps({"scenario": f"{workers} workers", **result}))
    for number, (name, (settings, prepare)) in enumerate(SIGNALLED.items()):
        code = wait(start(folder, *settings, output=f"signalled-{number}", prepare=prepare))
        stopped = outcome(folder, f"signalled-{number}")
        again = wait(start(folder, *settings, output=f"signalled-{number}"))
        log = (folder / f"signalled-{number}.log").read_text()
        ends = [stopped, outcome(folder, f"signalled-{number}")]
        print(json.dumps({"scenario": name, "codes": [code, again], "outcomes": ends, "log": log}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
