"""Where a command runs: what becomes of its output, of its working directory, and of files that never end."""

import os
import subprocess
import sys
import warnings

import pytest
from commandline import cli

SHOW = [sys.executable, "-m", "farcluss", "recipes", "show"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def recipe(tmp_path):
    (path := tmp_path / "łódź.toml").write_text('name = "łódź"\n', encoding="utf-8")
    return path


def test_a_reader_that_leaves_ends_nothing(recipe):
    with subprocess.Popen([*SHOW, recipe], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 0)


def test_output_that_cannot_be_written_is_named(recipe):
    with open("/dev/full", "w") as full:
        done = subprocess.run([*SHOW, recipe], stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stderr) == (1, "Error: No space left on device: standard output.\n")


def test_what_an_encoding_lacks_is_escaped(recipe):
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([*SHOW, recipe], capture_output=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b'name = "\\u0142\xf3d\\u017a"\n', b"")


def test_a_working_directory_that_is_gone(recipe, tmp_path, monkeypatch):
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    refusal = cli("recipes", "show", recipe).refusal
    assert (
        refusal == "Error: The working directory cannot be used: No such file or directory. Change to another folder.\n"
    )


def test_names_of_any_length_do_not_fill_the_screen(tmp_path):
    name = "begin" + "x" * 9000 + "end"
    for words in (["run", name], ["eval", name], ["recipes", "show", name], ["run", "quickstart", "-o", name]):
        refusal = cli(*words).refusal
        assert "begin" in refusal and "end" in refusal and len(refusal) < 1000


@pytest.mark.parametrize("command", ["weights", "pack", "verify", "checkpoint", "log"])
def test_a_pipe_is_waited_for_by_no_command(tmp_path, tiny_recipe, command):
    os.mkfifo(pipe := tmp_path / "pipe")
    if command == "checkpoint":
        (tmp_path / "run" / "checkpoints").mkdir(parents=True)
        pipe = pipe.rename(tmp_path / "run" / "checkpoints" / "step-00000002.pt")
    elif command == "log":
        (tmp_path / "run").mkdir()
        pipe = pipe.rename(tmp_path / "run" / "log.txt")
    words = {
        "weights": ["eval", pipe],
        "pack": ["check", tiny_recipe, "--set", f"data.pack={pipe}"],
        "verify": ["pack", "--verify", pipe],
        "checkpoint": ["run", tiny_recipe, "-o", tmp_path / "run", "--resume"],
        "log": ["run", tiny_recipe, "-o", tmp_path / "run"],
    }[command]
    assert f"{pipe} is a pipe, socket or device" in cli(*words).refusal


def test_warnings_of_libraries_are_shown_to_those_who_debug(tmp_path, tiny_recipe):
    (plugin := tmp_path / "mine.py").write_text('import warnings\nwarnings.warn("divided by zero", RuntimeWarning)\n')
    words = ["check", tiny_recipe, "--no-step", "--plugin", plugin]
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        assert cli(*words).code == 0
        assert not shown
        assert cli("--debug", *words).code == 0
    assert "divided by zero" in [str(each.message) for each in shown]
