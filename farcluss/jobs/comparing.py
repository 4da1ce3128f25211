"""Runs of several methods, seeds and shares of labels: what is missing is trained and scored, in processes of its own.

```
DIR/METHOD/LABELED/seed-N/            a run of `farcluss run`, see `farcluss.runs.folder`
DIR/METHOD/LABELED/seed-N/plan.json   what it is a run of
DIR/METHOD/LABELED/seed-N/SPLIT.csv   counts of each image of the split, by the weights of the last step
DIR/METHOD/LABELED/seed-N/output.txt  what its processes printed
```
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farcluss.data.loader import cores
from farcluss.errors import RecipeError, RunError, Stopped
from farcluss.recipes.model import Recipe, flat
from farcluss.recipes.reading import load_recipe
from farcluss.runs.atomic import write_atomically
from farcluss.runs.folder import RunFolder
from farcluss.runs.lock import Lock
from farcluss.runs.resuming import SPEED_OR_LOG

PAUSE = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class Method:
    """A method of a comparison.

    Attributes:
        text: as given: overlays, and settings with an equals sign, with blanks between, such as
            `"farcluss stages.mix=cutmix"`.
    """

    text: str

    @property
    def overlays(self) -> list[str]:
        """Files or shipped methods, as `--with` takes them."""
        return [word for word in self.text.split() if "=" not in word]

    @property
    def settings(self) -> list[str]:
        """As `--set` takes them."""
        return [word for word in self.text.split() if "=" in word]


@dataclass(frozen=True)
class Job:
    """One run of a comparison.

    Attributes:
        method: its method.
        labeled: its `data.labeled`; None for that of the recipe.
        seed: its `train.seed`.
        folder: its run directory.
        recipe: its recipe.
        arguments: those of `farcluss run` that give this recipe.
        split: what its last weights are scored on: val, test or a list file; None for the recipe's val.
    """

    method: Method
    labeled: str | None
    seed: int
    folder: Path
    recipe: Recipe = field(repr=False)
    arguments: tuple[str, ...] = field(repr=False)
    split: str | None = None

    @property
    def name(self) -> str:
        """For people."""
        return ", ".join(
            filter(None, [self.method.text, self.labeled and f"labeled {self.labeled}", f"seed {self.seed}"])
        )

    @property
    def place(self) -> str:
        """The run directory inside the comparison's folder."""
        return "/".join(self.folder.parts[-3:])

    @property
    def table(self) -> Path:
        """The file with the counts of each image."""
        return self.folder / f"{slug(self.split or 'val')}.csv"

    @property
    def done(self) -> bool:
        """Whether nothing is left to do: its images are counted once its training has ended."""
        return self.table.exists()


def plan(
    source: str,
    methods: Sequence[str],
    seeds: Sequence[int],
    labeled: Sequence[str],
    folder: Path,
    overlays: Sequence[str] = (),
    settings: Sequence[str] = (),
    plugins: Sequence[str] = (),
    split: str | None = None,
) -> list[Job]:
    """The runs of a comparison, seed by seed, so that every method has some results early.

    Raises:
        RecipeError: a recipe is invalid, or two methods, seeds or shares are the same or would share a folder.
    """
    for what, given in (("method", methods), ("seed", seeds), ("--labeled", labeled)):
        _refuse_twice(what, [str(each) for each in given])
    jobs = []
    shares: list[str | None] = [*labeled] or [None]
    for share in shares:
        for seed in seeds:
            for method in map(Method, methods):
                own = [*settings, *method.settings, f"train.seed={seed}"]
                own += [f'data.labeled="{share}"'] if share else []
                every = [*overlays, *method.overlays]
                recipe = load_recipe(source, every, own)
                options = [part for name in every for part in ("--with", name)]
                options += [part for text in own for part in ("--set", text)]
                options += [part for path in plugins for part in ("--plugin", path)]
                place = folder / slug(method.text) / slug(share or "labeled") / f"seed-{seed}"
                jobs.append(Job(method, share, seed, place, recipe, (source, *options), split))
    return jobs


def _refuse_twice(what: str, given: Sequence[str]) -> None:
    """Raise RecipeError where two of the same kind are one, or would share a folder."""
    by_folder: dict[str, str] = {}
    for text in given:
        if (other := by_folder.get(slug(text))) == text:
            raise RecipeError(f"{what} {text} is given twice.")
        if other is not None:
            raise RecipeError(f"{what} {other} and {text} would share the folder {slug(text)}.\nRename one of them.")
        by_folder[slug(text)] = text


def slug(text: str) -> str:
    """A text as the name of a folder."""
    return re.sub(r"[^\w.=+-]+", "-", text).strip("-.") or "-"


def refuse_others(jobs: Sequence[Job]) -> None:
    """Raise RunError where a folder holds the run of another recipe."""
    for job in jobs:
        path = job.folder / "plan.json"
        if not RunFolder(job.folder).exists() and not path.exists():
            continue
        known = json.loads(path.read_text()) if path.is_file() else {}
        if known != (wanted := _facts(job)):
            keys = [key for key in sorted({*known, *wanted}) if known.get(key) != wanted.get(key)]
            what = ", ".join(f"{key} ({known.get(key)} -> {wanted.get(key)})" for key in keys[:3]) if known else "it"
            raise RunError(f"{job.folder} holds another run than {job.name}: {what} differs.\nGive another folder by "
                           "--output, or remove it.")  # fmt: skip


def _facts(job: Job) -> dict[str, Any]:
    """What makes a run the same: every key of its recipe that is set, but those that change no result."""
    return {key: value for key, value in flat(job.recipe).items() if key not in SPEED_OR_LOG}


@dataclass
class Process:
    """A process that works on a job."""

    job: Job
    slot: int
    task: str
    popen: "subprocess.Popen[bytes]"


def work(jobs: Sequence[Job], count: int, say: Callable[[str], object]) -> dict[str, str]:
    """Train and score what is missing, `count` runs at a time; each in a process of its own.

    A run that was interrupted goes on. One that another process trains, such as one left over by a comparison that was
    killed, is waited for. One that fails is named at the end; the others go on.

    Args:
        jobs: the runs.
        count: runs at a time; on a machine with several GPUs each has its own, by turns.
        say: called with what begins and ends.

    Returns:
        By name of the run, the last words of those that failed.

    Raises:
        Stopped: a signal came; the processes have written their checkpoints.
    """
    shift = _Shift([job for job in jobs if not job.done], count, say)
    with _signals() as received:
        while (shift.waiting or shift.running) and not received:
            shift.collect()
            shift.begin()
            time.sleep(PAUSE)
        if received:
            shift.stop()
            raise Stopped("Stopped; the same command goes on where it was.", received[0])
    return shift.failed


@dataclass
class _Shift:
    """Runs that wait for their turn, processes that work, and what has failed, by name of the run."""

    waiting: list[Job]
    count: int
    say: Callable[[str], object]
    running: list[Process] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def collect(self) -> None:
        """Take note of processes that have ended; a run that is trained is scored."""
        for process in [each for each in self.running if each.popen.poll() is not None]:
            self.running.remove(process)
            job, code = process.job, process.popen.returncode
            if code == 0 and process.task == "train":
                self.running.append(_start(job, "score", process.slot, self.count))
            elif code != 0:
                self.failed[job.name] = _last_words(job)
                self.say(f"{job.name}: failed: {self.failed[job.name]}")
            else:
                self.say(f"{job.name}: done")

    def begin(self) -> None:
        """Start processes while there is room, with runs that no other process works on."""
        while self.waiting and len(self.running) < self.count:
            free = next((job for job in self.waiting if not _busy(job.folder)), None)
            if free is None:
                self._say_once([job for job in self.waiting if job.name not in self.told])
                return
            self.waiting.remove(free)
            if not free.done:  # by another process, meanwhile
                self.say(f"{free.name}: {'goes on' if RunFolder(free.folder).has_checkpoint() else 'begins'}")
                slot = min({*range(self.count)} - {each.slot for each in self.running})
                self.running.append(_start(free, "train", slot, self.count))

    def stop(self) -> None:
        """Have the processes write their checkpoints and end."""
        for process in self.running:
            process.popen.send_signal(signal.SIGTERM)
        for process in self.running:
            process.popen.wait()

    def _say_once(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self.told.add(job.name)
            self.say(f"{job.name}: another process is at it; waiting")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Within, SIGINT and SIGTERM are noted instead of ending the process."""
    received: list[int] = []
    before = {each: signal.signal(each, lambda number, _: received.append(number)) for each in
              (signal.SIGINT, signal.SIGTERM)}  # fmt: skip
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _start(job: Job, task: str, slot: int, count: int) -> Process:
    """Begin to train, or to score, as one of `count` processes at a time."""
    folder = job.folder
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "plan.json", json.dumps(_facts(job), indent=1).encode())
    if task == "train":
        words = ["run", *job.arguments, "--output", str(folder), "--resume", "auto"]
    else:
        words = ["eval", str(RunFolder(folder).last), "--per-image", str(job.table), "--json"]
        words += ["--split", job.split] if job.split else []
    if devices := _devices():
        share = {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]}
    else:
        share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // count)))}
    with (folder / "output.txt").open("ab") as output:
        popen = subprocess.Popen(
            [sys.executable, "-m", "farcluss", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | share,
            start_new_session=True,  # a signal from the keyboard comes through this process, once
        )
    return Process(job, slot, task, popen)


def _devices() -> list[str]:
    """The GPUs that runs are spread over; none where there is one at most."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(index) for index in range(torch.cuda.device_count())]
    return names if len(names) > 1 else []


def _busy(folder: Path) -> bool:
    """Whether another process holds a run directory."""
    if not (folder / "lock").exists():
        return False
    lock = Lock(folder / "lock")
    try:
        lock.acquire()
    except RunError:
        return True
    lock.release()
    return False


def _last_words(job: Job) -> str:
    """The last error that a process of a run printed."""
    path = job.folder / "output.txt"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    place = max((number for number, line in enumerate(lines) if line.startswith("Error")), default=len(lines) - 1)
    return " ".join(lines[place : place + 2]).removeprefix("Error: ")
