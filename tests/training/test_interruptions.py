"""Whatever ends a run, it goes on as if nothing had happened."""

import json
import signal
import subprocess
import sys

import interrupted
import interrupted_ranks
import pytest

pytestmark = pytest.mark.slow

KILLS = 6
"""Per scenario; benchmarks/kills.py does more."""


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory):
    """What `interrupted.py` has seen, by scenario."""
    folder = tmp_path_factory.mktemp("interrupted")
    (folder / "recipe.toml").write_text(interrupted.RECIPE)
    command = [sys.executable, interrupted.__file__, str(folder), str(KILLS), "20"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:] + "".join(log.read_text() for log in folder.glob("*.log"))[-3000:]
    return {line["scenario"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def whole(scenarios):
    """The uninterrupted run."""
    result = scenarios["whole"]["outcomes"][0]
    assert result["step"] == 8 and len(result["tensors"]) == 12 and len(result["momentum"]) == 6
    assert result["stage"]["sure"] > 0 and result["stage"]["right"] > 0
    steps = [(line["kind"], line["step"]) for line in result["metrics"]]
    assert steps == [("train", n) for n in range(1, 5)] + [("eval", 4)] + [("train", n) for n in range(5, 9)] + [
        ("eval", 8)
    ]
    return result


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_it_ends_the_same(scenarios, whole, workers):
    seen = scenarios[f"{workers} workers"]
    assert seen["codes"].count(-9) == KILLS
    assert set(seen["codes"]) <= {-9, 0, 1}  # 1: a loader process was killed, and the run said so
    assert len(seen["outcomes"]) >= 1
    for result in seen["outcomes"]:
        assert result == whole


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGUSR1", 138), ("whole group", 138)])
def test_a_signal_ends_the_step_and_writes_a_checkpoint(scenarios, whole, name, code):
    seen = scenarios[name]
    assert seen["codes"] == [code, 0]
    stopped, resumed = seen["outcomes"]
    assert stopped["step"] == 3
    assert [line["step"] for line in stopped["metrics"]] == [1, 2, 3]
    assert resumed == whole
    assert f"Stopped by {'SIGUSR1' if code == 138 else name} at step 3" in seen["log"]
    assert "--resume" in seen["log"]
    assert "Traceback" not in seen["log"]


@pytest.mark.parametrize("name", ["second SIGINT", "SIGINT after SIGTERM"])
def test_a_second_sigint_stops_at_once(scenarios, whole, name):
    seen = scenarios[name]
    assert seen["codes"] == [130, 0]
    stopped, resumed = seen["outcomes"]
    assert stopped["step"] == 2  # the step that was under way is lost, and no checkpoint of it written
    assert resumed == whole
    assert "Interrupted." in seen["log"] and "Traceback" not in seen["log"]


def test_a_signal_at_the_last_step_leaves_the_evaluation_to_the_next_run(scenarios, whole):
    seen = scenarios["at the last step"]
    assert seen["codes"] == [143, 0]
    stopped, resumed = seen["outcomes"]
    assert (stopped["step"], stopped["scored"]) == (8, False)
    assert [line["step"] for line in stopped["metrics"] if line["kind"] == "eval"] == [4]
    assert resumed | {"pictures": 0} == whole | {"pictures": 0}


def test_an_evaluation_is_given_up_and_done_again(scenarios, whole):
    seen = scenarios["in evaluation"]
    assert seen["codes"] == [143, 0]
    stopped, resumed = seen["outcomes"]
    assert (stopped["step"], stopped["scored"], stopped["weights"]) == (4, False, [])
    assert [line["kind"] for line in stopped["metrics"]] == ["train"] * 4
    assert resumed == whole


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of runs in two processes, and the uninterrupted one."""
    folder = tmp_path_factory.mktemp("two")
    return folder, interrupted_ranks.launch(folder, "whole")


def test_killed_in_two_processes_it_ends_the_same(two):
    folder, whole = two
    killed = interrupted_ranks.launch(folder, "killed", 3)
    assert killed.pop("attempts") == 3
    assert killed == {name: value for name, value in whole.items() if name != "attempts"}


def test_all_processes_stop_at_the_same_step(two):
    folder, _ = two
    stopped = interrupted_ranks.launch(folder, "signalled")
    assert stopped["step"] == 2  # the signal came to one of them, in the second step
    texts = {(folder / f"stopped-{rank}").read_text() for rank in (0, 1)}
    assert len(texts) == 1
    assert texts.pop().startswith(f"{signal.SIGUSR1.value} Stopped by SIGUSR1 at step 2;")


def test_what_batch_norm_sees_of_two_processes_is_said(two):
    """On CPUs, where it cannot see the others' images."""
    log = (two[0] / "whole" / "log.txt").read_text()
    assert "Batch norm sees only the images of one process" in log
