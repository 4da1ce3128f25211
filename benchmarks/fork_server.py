"""Run commands of farcluss, each in a process forked from this one, which has imported everything already.

`forks.py` starts it with the Python whose farcluss is to be tried; it needs nothing but that. One JSON request a line
on standard input, one JSON reply a line on standard output. A forked process is a real one: it may leave its folder,
its limits, its user and its streams, and may hang or die.
"""

import contextlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from importlib import import_module
from typing import Any

MODULES = [
    *(
        "torch",
        "torch.utils.data",
        "kornia",
        "timm",
        "accelerate",
        "h5py",
        "safetensors.torch",
        "PIL.Image",
        "rich.table",
    ),
    *("numpy", "pydantic", "nibabel", "monai.networks.nets", "rasterio", "rasterio.warp", "pyogrio", "shapely"),
    *("scipy.ndimage", "onnx", "onnxruntime", "segmentation_models_pytorch"),
]
FARCLUSS = [
    "",
    ".cli",
    ".cli.check",
    ".cli.run",
    ".cli.predict",
    ".cli.eval",
    ".cli.export",
    ".cli.pack",
    ".cli.recipes",
]


def warm() -> None:
    """Import what commands need, what is there of it."""
    for name in [*MODULES, *(f"farcluss{room}" for room in FARCLUSS), "farcluss_medical", "farcluss_remote_sensing"]:
        with contextlib.suppress(ImportError):
            import_module(name)
    for package in ("farcluss", "farcluss_medical", "farcluss_remote_sensing"):
        folder = os.path.dirname(sys.modules[package].__file__ or "") if package in sys.modules else ""
        for place, folders, files in os.walk(folder) if folder else ():
            folders[:] = [name for name in folders if name not in ("templates", "__pycache__", "testing")]
            for file in (name for name in files if name.endswith(".py") and not name.startswith("__")):
                inner = os.path.relpath(os.path.join(place, file), folder)[:-3].replace(os.sep, ".")
                with contextlib.suppress(Exception):
                    import_module(f"{package}.{inner}")


def learn(path: str) -> None:
    """Import what a command has imported, for those of another user, who may not read this Python."""
    with open(path) as file:
        for name in file.read().split():
            with contextlib.suppress(Exception):
                import_module(name)


def streams(request: dict[str, Any]) -> None:
    """Put standard output and error into files, or where the request wants standard output to go."""
    null = os.open(os.devnull, os.O_RDONLY)
    err = os.open(request["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    if request.get("stdout") == "gone":  # the reader of a pipe has left
        reader, out = os.pipe()
        os.close(reader)
    else:
        out = os.open(request.get("stdout") or request["out"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for source, target in ((null, 0), (out, 1), (err, 2)):
        os.dup2(source, target)
    encoding = request.get("encoding", "utf-8")
    sys.stdout = sys.__stdout__ = open(1, "w", encoding=encoding, errors="strict", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", encoding=encoding, errors="backslashreplace", closefd=False, buffering=1)


def surroundings(request: dict[str, Any]) -> None:
    """Folder, environment, limits, umask and user of the process."""
    os.chdir(request["cwd"])
    for name, value in request.get("env", {}).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    for name, limit in request.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    if "umask" in request:
        os.umask(int(request["umask"], 8))
    if "uid" in request:
        os.setgroups([])
        os.setgid(request["uid"])
        os.setuid(request["uid"])


def command(argv: list[str]) -> int:
    """The exit code of a command line: `farcluss ...`, or `python CODE ...`."""
    sys.argv = argv
    try:
        if argv[0] == "python":
            sys.argv = argv[1:]
            exec(compile(argv[1], "<code>", "exec"), {"__name__": "__main__"})
        else:
            from farcluss.cli import main

            main()
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def child(request: dict[str, Any]) -> None:
    """All that a forked process does."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    streams(request)
    surroundings(request)
    code = command(request["argv"])
    if "modules" in request:
        with open(request["modules"], "w") as file:
            file.write("\n".join(sys.modules))
    threading._shutdown()  # type: ignore[attr-defined]
    try:
        sys.stdout.flush()
    except OSError:
        code = 120  # as Python ends where its output cannot be written
    os._exit(code & 255)


def wait(pid: int, limit: float) -> int | None:
    """Exit code of a process, minus its signal if one ended it; None if it had to be killed after `limit` seconds."""
    end, pause, code = time.monotonic() + limit, 0.001, None
    while time.monotonic() < end:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(pause)
        pause = min(0.02, pause * 1.5)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what it left behind, too
    if code is None:
        os.waitpid(pid, 0)
    return code


def main() -> None:
    """Serve requests until standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warm()
    import gc

    gc.collect()
    gc.freeze()
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.monotonic()
        pid = os.fork()
        if pid == 0:
            try:
                child(request)
            finally:
                os._exit(99)
        code = wait(pid, request["limit"])
        if "modules" in request:
            learn(request["modules"])
        print(json.dumps({"code": code, "seconds": round(time.monotonic() - start, 3)}), file=replies, flush=True)


if __name__ == "__main__":
    main()
