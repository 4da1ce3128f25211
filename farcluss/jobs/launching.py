"""Several processes by Accelerate's own launcher, without what it prints of errors that farcluss explains."""

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from farcluss.data.loader import cores
from farcluss.errors import RunError

PORT = 29500
"""Of the first machine, where several take part."""


@dataclass(frozen=True)
class Place:
    """Where the processes run.

    Attributes:
        devices: processes on each machine, one for each GPU.
        machines: number of machines.
        machine: which of them this is, from 0.
        address: name of the first machine, and port as `HOST:PORT`; empty for this one.
    """

    devices: int
    machines: int = 1
    machine: int = 0
    address: str = ""


def launched() -> bool:
    """Whether this process has been started by a launcher."""
    return "LOCAL_RANK" in os.environ


def launch(place: Place, words: Sequence[str]) -> int:
    """Run `farcluss WORDS` in the processes of a place; their exit code, 128 + N where signal N ended them.

    Raises:
        RunError: there are fewer GPUs, or the place is not possible.
    """
    _refuse(place)
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // place.devices)))
    arguments = launch_command_parser().parse_args([*_options(place), "-m", "farcluss", *words])
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return 128 - code if code < 0 else code
    except SignalException as stop:
        return 128 + int(stop.sigval)
    return 0


def _options(place: Place) -> list[str]:
    host, _, port = place.address.partition(":")
    facts = {
        "num_processes": place.devices * place.machines,
        "num_machines": place.machines,
        "machine_rank": place.machine,
        "main_process_ip": host or "127.0.0.1",
        "main_process_port": int(port) if port else PORT if place.machines > 1 else _free_port(),
        "mixed_precision": "no",  # what the recipe says counts
        "dynamo_backend": "no",
    }
    return ["--quiet", "--multi_gpu", *(word for key, value in facts.items() for word in (f"--{key}", str(value)))]


def _refuse(place: Place) -> None:
    import torch

    if place.machines > 1 and not place.address:
        raise RunError("With several machines, name the first one: --address HOST or HOST:PORT.")
    if not 0 <= place.machine < place.machines:
        raise RunError(f"--machine counts from 0: of {place.machines} machines, the last is {place.machines - 1}.")
    host, colon, port = place.address.partition(":")
    if colon and not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise RunError(f"--address {place.address} is not HOST or HOST:PORT, as in node0:29500.")
    if not torch.cuda.is_available():
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif place.devices > (there := torch.cuda.device_count()):
        raise RunError(f"--devices {place.devices}: this machine has {there}. Give no more.")


def _free_port() -> int:
    """A port that nothing listens on: two runs on one machine must not meet."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Words of a command line without some options and their values."""
    kept, skip = list[str](), False
    for word in words:
        if skip:
            skip = False
        elif word in options:
            skip = True
        elif not any(word.startswith(f"{option}=") for option in options):
            kept.append(word)
    return kept
