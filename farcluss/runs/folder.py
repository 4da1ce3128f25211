"""The run directory: all files that a run writes.

```
RUN/recipe.toml        the recipe, resolved        metrics.jsonl    one line per logged step and evaluation
RUN/environment.json   versions, device, lists     log.txt          what was printed
RUN/lists/             the images of each set      checkpoints/     everything needed to resume
RUN/weights/           last and best .safetensors  pictures/        pseudo-labels and predictions, at each evaluation
RUN/lock               the process that writes     broken/          images of steps whose loss was not finite
```
"""

import errno
import io
import json
import math
import os
import platform
import shutil
import signal
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from farcluss.data.base import Item
from farcluss.data.loader import HostBatch
from farcluss.data.splits import Splits
from farcluss.errors import RunError, not_a_file
from farcluss.recipes.model import Recipe
from farcluss.runs import checkpoints
from farcluss.runs.atomic import is_full, reason, remove_unfinished, write_atomically

IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)


class RunFolder:
    """The files of one run."""

    def __init__(self, path: Path) -> None:
        """Only sets paths; nothing is read or written."""
        self.path = path
        self.last, self.best = path / "weights" / "last.safetensors", path / "weights" / "best.safetensors"
        self.checkpoints = path / "checkpoints"

    def refuse_existing(self, overwrite: bool) -> None:
        """Raise RunError when there is a run already and `overwrite` is False."""
        if self.exists() and not overwrite:
            ways = "Continue it with --resume, replace it with --overwrite,"
            if not self.has_checkpoint():
                ways = "It has no checkpoint to continue from: replace it with --overwrite,"
            raise RunError(f"{self.path} holds a run already. {ways}\nor choose another folder with --output.")

    def refuse_special(self) -> None:
        """Raise RunError for entries that are pipes, sockets or devices: opening them may never end."""
        for place in (self.path, self.checkpoints, self.last.parent):
            for path in place.iterdir() if place.is_dir() else ():
                if (other := not_a_file(path)) and not path.is_dir():
                    raise RunError(f"{path} is {other}. Remove it, or choose another folder with --output.")

    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return (self.path / "recipe.toml").exists()

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint, intact or not; a first one without manifest was never completed."""
        found = checkpoints.paths(self.checkpoints)
        return len(found) > 1 or any(self.checkpoints.glob("step-*.json"))

    def newest(self) -> Path | None:
        """The newest checkpoint, intact or not; None if there is none."""
        found = checkpoints.paths(self.checkpoints)
        return found[-1] if found else None

    def refuse_other(self, recipe: Recipe) -> None:
        """Raise RunError when the folder holds a run of another recipe, which ended before its first checkpoint."""
        path = self.path / "recipe.toml"
        if path.exists() and path.read_bytes() != recipe_text(recipe).encode():
            raise RunError(
                f"{self.path} holds a run of another recipe, without a checkpoint. Replace it with --overwrite,\n"
                "or choose another folder with --output."
            )

    def create(self, recipe: Recipe, fresh: bool) -> None:
        """Create the folder of a run; a fresh run removes the files of an earlier one."""
        folders = [self.path, *(self.path / name for name in ("checkpoints", "weights", "lists", "pictures", "broken"))]
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in folders:
            remove_unfinished(folder)
        if fresh:
            # Renamed first: a run that is killed while removing them must not leave some to resume from.
            aside = self.path / "checkpoints.old"
            shutil.rmtree(aside, ignore_errors=True)
            if self.checkpoints.exists():
                self.checkpoints.replace(aside)
            shutil.rmtree(aside, ignore_errors=True)
            for name in ("metrics.jsonl", "log.txt"):
                write_atomically(self.path / name, b"")  # which follows no link
            old = [path for pattern in ("pictures/step-*.png", "broken/step-*.npz") for path in self.path.glob(pattern)]
            for stale in (*old, self.last, self.best):
                stale.unlink(missing_ok=True)
        write_atomically(self.path / "recipe.toml", recipe_text(recipe).encode())

    def concerns(self, error: OSError) -> bool:
        """Whether an OSError concerns this folder or its disk."""
        inside = isinstance(error.filename, str) and Path(error.filename).is_relative_to(self.path)
        disk = is_full(error) or error.errno == errno.EROFS
        return inside or (disk and error.filename is None)

    def write_error(self, error: OSError, started: bool) -> RunError:
        """The error for a folder that cannot be written, before or after the run has started."""
        entry = error.filename if error.filename and Path(error.filename) != self.path else None
        text = f"The run directory {self.path} cannot be written: {reason(error)}{f': {entry}' if entry else ''}."
        if entry and error.errno in IN_THE_WAY:
            return RunError(f"{text}\nMove what is in the way there, or choose another folder with --output.")
        if not is_full(error):
            return RunError(f"{text}\nChoose another with --output, or make this one writable.")
        if not started:
            return RunError(f"{text}\nFree space there, or choose another folder with --output.")
        free = checkpoints.mebibytes(shutil.disk_usage(self.path).free)
        intact = checkpoints.newest_intact(self.checkpoints)
        advice = f"resume from {intact} with --resume" if intact else "start over with --overwrite: none exists"
        return RunError(f"{text} {free} MiB are free.\nFree space there, then {advice}.")

    def write_environment(self, device: str, processes: int, splits: Splits) -> None:
        """Write environment.json and the lists of images."""
        packages = ("farcluss", "torch", "accelerate", "timm", "kornia", "numpy")
        environment = {
            "command": sys.argv,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "device": device,
            "processes": processes,
            "lists": splits.names,
            "versions": {name: _version(name) for name in packages},
        }
        write_atomically(self.path / "environment.json", json.dumps(environment, indent=2).encode())
        for name in ("labeled", "unlabeled", "val", "probe"):
            lines = [_list_line(item) for item in getattr(splits, name)]
            write_atomically(self.path / "lists" / f"{name}.txt", "".join(f"{line}\n" for line in lines).encode())

    def record(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        line = {"kind": kind, "step": step, "time": round(time.time(), 3), **values}
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(without_nan(line)) + "\n")

    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last one that is being written is left out."""
        path = self.path / "metrics.jsonl"
        found = []
        for line in path.read_bytes().splitlines() if path.is_file() else ():
            try:
                found.append(json.loads(line))
            except ValueError:
                break
        return found

    def discard_after(self, step: int, scored: bool) -> None:
        """Remove what a run resumed at `step` will repeat: later checkpoints, and lines of metrics.jsonl.

        Args:
            step: step of the checkpoint.
            scored: whether the evaluation at that step is done.
        """
        checkpoints.drop_after(self.checkpoints, step)
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().splitlines() if path.exists() else []
        kept = [line for line in lines if _is_before(line, step, scored)]
        write_atomically(path, b"".join(line + b"\n" for line in kept))

    def flush(self) -> None:
        """Sync metrics.jsonl to the disk, so that it is never older than a checkpoint."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            with path.open("rb+") as file:
                os.fsync(file.fileno())

    def log(self, text: str) -> None:
        """Append to log.txt."""
        with (self.path / "log.txt").open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def checkpoint(self, step: int) -> Path:
        """Path of the checkpoint of a step."""
        return self.checkpoints / f"step-{step:08d}.pt"

    def how_to_resume(self, step: int, number: int) -> str:
        """The message for a run that a signal has stopped at a step."""
        return (
            f"Stopped by {signal.Signals(number).name} at step {step}; a checkpoint has been written.\n"
            f"Resume with the same command and --resume, or with: farcluss run {self.path / 'recipe.toml'} "
            f"--output {self.path} --resume"
        )

    def save_broken(self, step: int, rank: int, host: HostBatch) -> Path:
        """Save the batch of a process for inspection with `numpy.load`."""
        path = self.path / "broken" / f"step-{step:08d}-rank-{rank}.npz"
        arrays = {name: getattr(host, name).numpy() for name in ("images", "masks", "valid")}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays, labeled=host.labeled, ids=np.array(host.ids, np.str_))
        write_atomically(path, buffer.getvalue())
        return path


def recipe_text(recipe: Recipe) -> str:
    """A whole recipe as TOML."""
    return to_toml(recipe.model_dump(mode="json"))


def _is_before(line: bytes, step: int, scored: bool) -> bool:
    """Whether a line of metrics.jsonl is complete and of something that a run resumed at `step` will not repeat."""
    try:
        entry = json.loads(line)
        return bool(
            entry["step"] < step or (entry["step"] == step and (scored or entry["kind"] not in ("eval", "probe")))
        )
    except (ValueError, KeyError, TypeError):
        return False


def _list_line(item: Item) -> str:
    """A line of a list file: image and mask, as absolute paths where they are files."""
    names = [item.image] if item.mask in (None, item.image) else [item.image, item.mask]
    return "\t".join(map(listed, names))


def listed(name: str) -> str:
    """A file as lists name it: by its absolute path; what is no file by itself."""
    return os.path.abspath(name) if os.path.exists(name) else name


def without_nan(value: Any) -> Any:
    """A plain value with None in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def to_toml(table: dict[str, Any], name: str = "") -> str:
    """A table of plain values as TOML; keys whose value is None are left out, as TOML has none."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict) and value is not None}
    lines = [f"[{name}]"] if name and plain else []
    lines += [f"{toml_key(key)} = {toml_value(value)}" for key, value in plain.items()]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in table.items():
        if isinstance(value, dict):
            inner = to_toml(value, f"{name}.{toml_key(key)}" if name else toml_key(key))
            text += ("\n" if text and inner else "") + inner
    return text


def toml_key(key: str) -> str:
    """A key as TOML."""
    return key if key.replace("-", "").replace("_", "").isalnum() and key.isascii() else toml_value(key)


def toml_value(value: Any) -> str:
    """A plain value as TOML, in one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml_key(k)} = {toml_value(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # which JSON allows and TOML does not
