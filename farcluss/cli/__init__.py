"""The command line: one module per command, imported when called; the only place that prints or exits.

Exit codes: 0 done, 1 failed, 2 wrong usage, 128 + N ended by signal N.
"""

import os
import re
import sys
import traceback
import warnings
from importlib import import_module
from typing import Any

import click

from farcluss.cli.groups import LazyGroup
from farcluss.cli.place import STDOUT, outlive_reader, refuse_nul, require_place
from farcluss.errors import FarclussError, PluginError, SampleError, Stopped, is_out_of_memory, short, shown

BUILT_IN = {
    "bench": "Time the data loading and training step of a recipe, and suggest changes.",
    "check": "Validate a recipe against the files on disk and dry-run a step.",
    "compare": "Compare methods over seeds, with the uncertainty of each difference.",
    "eval": "Evaluate a weights file on a data set.",
    "export": "Export a trained model as one weights file, and as ONNX.",
    "init": "Look at a folder or an annotation export and write a recipe for it.",
    "import": "Write the masks of an annotation export as PNG files.",
    "lists": "Show and download the published labeled/unlabeled lists.",
    "pack": "Pack the images and masks of a recipe into one file.",
    "plugins": "List, show and create plugins.",
    "predict": "Predict images with a weights file.",
    "recipes": "List, show and copy the shipped recipes.",
    "report": "Report on runs in one page of HTML.",
    "run": "Train a recipe.",
}


def _summaries() -> dict[str, str]:
    """Summary of each command by name."""
    from farcluss.plugins import registry

    return {plugin.name: _summary(plugin) for plugin in registry.find("command")} | BUILT_IN


def _summary(plugin: Any) -> str:
    """Summary of a plugin's command, parsed from its source without an import."""
    try:
        return plugin.peek() or f"A command of {plugin.distribution}."
    except PluginError:
        return f"A command of {plugin.distribution}, which cannot be imported: see `farcluss plugins list`."


def _load(name: str) -> click.Command | None:
    """Import one command. Raises PluginError when a plugin's command is broken."""
    if name in BUILT_IN:
        command: click.Command = import_module(f"farcluss.cli.{name}").command
        return command
    if name in _plugin_commands():
        from farcluss.plugins import registry

        plugin = registry.get("command", name)
        loaded = plugin.load()
        if not isinstance(loaded, click.Command):
            raise PluginError(
                f"Plugin command/{name} of {plugin.distribution} is a {type(loaded).__name__}, not a click command; "
                "see docs/plugins.md."
            )
        return loaded
    return None


def _plugin_commands() -> list[str]:
    from farcluss.plugins import registry

    return [plugin.name for plugin in registry.find("command")]


@click.command(cls=LazyGroup, listed=_summaries, load=_load, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, default=False, help="Show tracebacks of errors, and warnings of libraries.")
@click.version_option(package_name="farcluss", message="%(package)s %(version)s")
def farcluss(debug: bool) -> None:
    """Semi-supervised semantic segmentation: many images, few masks, one command.

    Example: farcluss run quickstart
    """


def main() -> None:
    """Run the command line and exit."""
    debug = "--debug" in sys.argv
    try:
        require_place()
        refuse_nul(sys.argv)
        outlive_reader()
        code = _call(farcluss, quiet=not (debug or sys.warnoptions))
        if sys.stdout:
            sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        _print_error("Interrupted.")
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Stopped as stop:
        _print_error(str(stop))
        sys.exit(128 + stop.signal)
    except FarclussError as error:
        if debug:
            raise
        _print_error(f"Error: {error}", everywhere=isinstance(error, SampleError))
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.filename == STDOUT:
            sys.stdout = open(os.devnull, "w")  # what is left to be written would fail again at the exit
        _print_error(f"Error: {_explain(error)}", everywhere=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)  # a command that stops early returns its exit code


def _call(command: click.Command, quiet: bool) -> Any:
    """Call a command. Raises PluginError where foreign code exits, which would pass for success.

    With `quiet`, warnings of libraries are dropped: they are for those who write code; what users must know, we say.
    """
    try:
        with warnings.catch_warnings():
            if quiet:
                warnings.simplefilter("ignore")
            return command.main(standalone_mode=False)
    except SystemExit as stop:
        frame = traceback.extract_tb(stop.__traceback__)[-1]
        raise PluginError(
            f"{frame.filename}, line {frame.lineno}, ended the program: {frame.line}. Not all work is done.\n"
            "A plugin must raise an error or return instead."
        ) from stop


def _explain(error: Exception) -> str:
    """Message for an exception that is not a FarclussError."""
    if is_out_of_memory(error):
        return "Memory is used up. Lower train.batch or data.crop, or raise train.accumulate."
    if type(error).__name__ == "DistBackendError" or "onnection closed by peer" in str(error):
        return "Another process of this run has failed; see its own message."
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."
    reason = str(error).strip().partition("\n")[0]
    return f"unexpected {type(error).__name__}: {reason}\nRun `farcluss --debug ...` for the traceback, and report it."


def _print_error(text: str, everywhere: bool = False) -> None:
    """Print to stderr, on the main process only unless `everywhere`."""
    launched = "LOCAL_RANK" in os.environ  # a rank alone may be left over from another job
    if everywhere or not launched or os.environ.get("RANK", "0") == "0":
        click.echo(shown(re.sub(r"\S{500,}", lambda word: short(word[0]), text)), err=True)
