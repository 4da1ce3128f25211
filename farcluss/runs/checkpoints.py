"""Checkpoints: a file of tensors, and beside it a manifest with metadata and a checksum.

```
checkpoints/step-00001000.pt     student, teacher, optimizer, stages: tensors and plain values, no code
checkpoints/step-00001000.json   checksum and size of that file, progress of the run, the recipe's fingerprint
```

The manifest is written last: a checkpoint without one is incomplete.
"""

import copy
import hashlib
import json
import os
import pickle
import shutil
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from farcluss.errors import RunError
from farcluss.runs.atomic import atomic_file, is_full, reason, write_atomically


class Manifest(BaseModel):
    """The metadata of a checkpoint.

    Attributes:
        step: optimizer steps done.
        sha256: checksum of the file of tensors.
        size: its size in bytes.
        progress: the run's other state, see `farcluss.training.state.PROGRESS`.
        fingerprint: everything that affects training, see `farcluss.runs.resuming.fingerprint`.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    step: int
    sha256: str
    size: int
    progress: dict[str, Any]
    fingerprint: dict[str, Any]


class Checkpoint(NamedTuple):
    """A checkpoint that has been read and verified; `notes` report newer ones that are damaged."""

    path: Path
    manifest: Manifest
    state: dict[str, Any]
    notes: tuple[str, ...] = ()


class _Digest:
    """A file object that hashes what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash, self.size = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, content: Any) -> int:
        """Write bytes; keeps the OSError, which torch would replace by its own error."""
        try:
            self.file.write(content)
        except OSError as error:
            self.error = error
            raise
        self.hash.update(content)
        self.size += len(content)
        return len(content)

    def flush(self) -> None:
        """Flush the file."""
        self.file.flush()


def paths(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first, intact or not. Raises RunError: the folder may not be read."""
    try:
        return sorted(folder / name for name in os.listdir(folder) if fnmatch(name, "step-*.pt"))
    except PermissionError as error:
        raise RunError(f"{folder} cannot be read: {error.strerror}. Change its rights.") from None
    except OSError:
        return []


def snapshot(value: Any) -> Any:
    """A copy of nested values with all tensors in host memory, which training does not change."""
    copied = _copy(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.current_stream().synchronize()  # once for all copies
    return copied


def _copy(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        value = value.detach()
        if not value.is_cuda:
            return value.to("cpu", copy=True)
        return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value, non_blocking=True)
    if isinstance(value, dict):
        result = copy.copy(value)  # keeps the metadata of a module's state dict
        result.update((key, _copy(inner)) for key, inner in value.items())
        return result
    return type(value)(map(_copy, value)) if isinstance(value, list | tuple) else value


def save(
    path: Path, step: int, state: dict[str, Any], progress: dict[str, Any], fingerprint: dict[str, Any], keep: int
) -> None:
    """Write a checkpoint and its manifest, then remove all but the newest `keep` up to it.

    Later ones are removed as well: they are damaged, or the run has resumed from an earlier one.

    Raises:
        RunError: it cannot be written; existing checkpoints stay.
    """
    try:
        with atomic_file(path) as file:
            digest = _Digest(file)
            try:
                torch.save(state, digest)  # type: ignore[arg-type]
            except RuntimeError:
                if digest.error is None:
                    raise
                raise digest.error from None
        manifest = Manifest(
            step=step, sha256=digest.hash.hexdigest(), size=digest.size, progress=progress, fingerprint=fingerprint
        )
        _write_manifest(path, manifest)
    except OSError as error:
        raise RunError(_write_error(path, state, error)) from None
    drop_after(path.parent, step)
    _remove(paths(path.parent)[:-keep])


def drop_after(folder: Path, step: int) -> None:
    """Remove the checkpoints after a step."""
    _remove([path for path in paths(folder) if path.stem > f"step-{step:08d}"])


def _remove(files: list[Path]) -> None:
    for path in files:
        path.with_suffix(".json").unlink(missing_ok=True)  # first: without it there is no checkpoint
        path.unlink()


def update_progress(path: Path, progress: dict[str, Any]) -> None:
    """Replace the progress in a checkpoint's manifest, as after the evaluation at its step."""
    manifest = read_manifest(path)
    _write_manifest(path, manifest.model_copy(update={"progress": progress}))


def _write_manifest(path: Path, manifest: Manifest) -> None:
    write_atomically(path.with_suffix(".json"), manifest.model_dump_json(indent=1).encode())


def _write_error(path: Path, state: dict[str, Any], error: OSError) -> str:
    name = error.filename or path
    if not is_full(error):
        return f"Checkpoint {name} cannot be written: {reason(error)}.\nMend that there, then resume with --resume."
    free = shutil.disk_usage(path.parent if path.parent.exists() else path.parent.parent).free
    sizes = f"it needs about {mebibytes(_size(state))} MiB, {mebibytes(free)} MiB are free"
    last = newest_intact(path.parent)
    advice = f"resume with --resume: {last} is intact" if last else "start over with --overwrite: there is none"
    return f"Checkpoint {name} cannot be written: {reason(error)}; {sizes}.\nFree space there, then {advice}."


def newest_intact(folder: Path) -> Path | None:
    """The newest intact checkpoint; None when there is none."""
    for path in reversed(paths(folder)):
        with suppress(RunError):
            verify(path)
            return path
    return None


def mebibytes(size: int) -> str:
    """A number of bytes in MiB, as text."""
    return f"{size / 2**20:,.1f}"


def _size(value: Any) -> int:
    """Bytes of all tensors in nested values."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return sum(_size(each) for each in inner)


def read_manifest(path: Path) -> Manifest:
    """The manifest of a checkpoint. Raises RunError when it is missing or cannot be read."""
    file = path.with_suffix(".json")
    try:
        return Manifest.model_validate(json.loads(file.read_bytes()))
    except FileNotFoundError:
        raise RunError(f"Checkpoint {path} is incomplete: its manifest {file.name} is missing.") from None
    except (OSError, ValueError, ValidationError):
        raise RunError(f"Checkpoint {path} is damaged: its manifest {file.name} cannot be read.") from None


def verify(path: Path) -> Manifest:
    """Verify size and checksum of a checkpoint, and return its manifest.

    Raises:
        RunError: the checkpoint is missing, unreadable or damaged.
    """
    try:
        size = path.stat().st_size
        manifest = read_manifest(path)
        if size != manifest.size:
            raise RunError(f"Checkpoint {path} is damaged: it has {size} of {manifest.size} bytes.")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != manifest.sha256:
                raise RunError(f"Checkpoint {path} is damaged: its checksum differs from that in its manifest.")
    except FileNotFoundError:
        raise RunError(f"There is no checkpoint {path}.") from None
    except OSError as error:
        raise RunError(f"Checkpoint {path} cannot be read: {error.strerror}.") from None
    return manifest


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint, unpickling tensors and plain values only.

    Raises:
        RunError: see `verify`; or it contains other objects.
    """
    path = Path(path)
    manifest = verify(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return Checkpoint(path, manifest, dict(state))
    except pickle.UnpicklingError:
        raise RunError(f"Checkpoint {path} cannot be read: it contains more than tensors and plain values.") from None
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise RunError(f"Checkpoint {path} cannot be read: {reason}") from None


def read_newest(folder: Path) -> Checkpoint:
    """The newest intact checkpoint in a folder; its notes report what is wrong with newer ones.

    Raises:
        RunError: there is none.
    """
    notes: list[str] = []
    for path in reversed(paths(folder)):
        try:
            found = read(path)
        except RunError as error:
            notes.append(str(error))
            continue
        if notes:
            notes.append(f"Resuming from the previous one, {path}.")
        return found._replace(notes=tuple(notes))
    raise RunError(
        f"{folder.parent} has no intact checkpoint: {notes[0]}" if notes else f"{folder.parent} has no checkpoint."
    )
