"""What every benchmark writes down: a line of JSON with its figures and all that they depend on."""

import argparse
import json
import os
import platform
import subprocess
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("farcluss", "torch", "timm", "kornia", "accelerate", "numpy", "pillow", "h5py", "monai", "rasterio")
_LOAD = os.getloadavg()


def record(script: str, figures: dict[str, Any]) -> None:
    """Append figures to the results of a script, with machine, versions, revision and date."""
    import torch

    machine = {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in (_LOAD[0], os.getloadavg()[0])],
    }
    facts = {"machine": machine, "versions": versions(), "revision": revision(), "date": date.today().isoformat()}
    path = Path(__file__).parent / "results" / f"{script}.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(facts | figures) + "\n")


def versions() -> dict[str, str]:
    """Of Python and the packages that figures depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def revision() -> str:
    """The source's revision."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def small_or_whole(description: str | None) -> argparse.Namespace:
    """Arguments `--small` and `--rounds`, for what is measured on one core."""
    import torch

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    torch.set_num_threads(1)
    return parser.parse_args()
