"""Reports of runs: what is in them, and what is still told of runs that went wrong."""

import json
import shutil
from pathlib import Path

import pytest
from commandline import cli
from pages import check

from farcluss.jobs.reporting import read_runs
from farcluss.runs.folder import RunFolder

SECTIONS = ("Curves", "Classes", "Uncertainty", "Pseudo-labels", "Worst images", "Best images", "Recipe", "Environment")


@pytest.fixture
def own(trained_run, tmp_path):
    """A copy of the run, to be broken."""
    return Path(shutil.copytree(trained_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints")))


def written(tmp_path, *arguments):
    told = cli("report", *arguments, "-o", tmp_path / "deep" / "r.html", "--workers", "0")
    assert told.code == 0, told.err
    text = (tmp_path / "deep" / "r.html").read_text()
    return text, check(text)


def test_a_run_is_looked_at_in_depth(trained_run, tmp_path):
    text, read = written(tmp_path, trained_run, "--images", "1")
    assert [word for word in read.words if word in SECTIONS][: len(SECTIONS)] == list(SECTIONS)  # of the navigation
    facts = json.loads(cli("eval", RunFolder(trained_run).last, "--json", "--calibration", "--workers", "0").out)
    words = "".join(read.words)
    assert f"{100 * facts['miou']:.2f} %" in words and f"{100 * facts['calibration']['ece']:.2f} %" in words
    assert text.count('role="img"') >= 8 and text.count("<img") == 2 * 4
    names = [row["class"] for row in facts["classes"]]
    assert all(f"<td>{name}</td>" in text for name in names)
    assert '<td class="text">train.lr</td>' in text and '<td class="text">train.power</td>' not in text


def test_no_pictures_on_demand(trained_run, tmp_path):
    text, _ = written(tmp_path, trained_run, "--images", "0")
    assert "<img" not in text and "Worst images" not in text


def test_a_run_without_weights_still_has_its_curves(own, tmp_path):
    shutil.rmtree(own / "weights")
    with (own / "log.txt").open("a") as log:
        log.write("2026-01-01 00:00:00 Warning: something <is> odd\n")
    text, read = written(tmp_path, own)
    assert "Its weights were not looked at: There is no weights file" in "".join(read.words)
    assert "something &lt;is&gt; odd" in text and "Uncertainty" not in read.words and "Curves" in read.words


def test_a_diverged_run_says_so(own, tmp_path):
    lines = [json.loads(line) for line in (own / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    train[-1] |= {"skipped_steps": 7, "total": None, "supervised": None}
    best = {"kind": "eval", "step": 1, "teacher_miou": 0.9, "student_miou": None}
    (own / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [best, *lines]))
    words = "".join(written(tmp_path, own)[1].words)
    assert "7 steps were skipped" in words and "more than 5 points below the best" in words


def test_several_stand_side_by_side(own, trained_run, tmp_path):
    shutil.copytree(own, tmp_path / "many" / "a" / "labeled" / "seed-0")
    shutil.copytree(own, tmp_path / "many" / "a" / "labeled" / "seed-1")
    shutil.copytree(own, tmp_path / "many" / "b" / "labeled" / "seed-0")
    recipe = tmp_path / "many" / "b" / "labeled" / "seed-0" / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("lr = 0.1", "lr = 0.2", 1))
    runs = read_runs([tmp_path / "many"])
    assert [run.group for run in runs] == ["a", "a", "b"]
    text, read = written(tmp_path, tmp_path / "many")
    assert "2 methods, 3 runs" in read.words and "range of the seeds" in text
    assert '<td class="text">train.lr</td><td class="text">0.1</td><td class="text">0.2</td>' in text


def test_a_comparison_says_what_its_numbers_say(own, tmp_path):
    folder = tmp_path / "cmp"
    shutil.copytree(own, folder / "a" / "labeled" / "seed-0")
    shutil.copytree(own, folder / "b" / "labeled" / "seed-0")
    shutil.copytree(own, folder / "of-an-earlier-one" / "labeled" / "seed-0")

    def row(method, **values):
        run = {"last_miou": 0.5, "folder": f"{method}/labeled/seed-0"}
        return {"method": method, "labeled": None, "mean_miou": 0.5, "std_miou": None, "runs": [run], **values}

    gap = {"mean": 0.01, "low": -0.02, "high": 0.03}
    rows = [row("a", difference=None), row("b", difference=gap)]
    facts = {"split": "val", "sentences": ["`b` and `a` are alike."], "rows": rows}
    (folder / "results.json").write_text(json.dumps(facts))
    text, read = written(tmp_path, folder)
    assert "b and a are alike." in read.words and "+1.00 (-2.00 to +3.00)" in text
    assert "2 methods, 2 runs" in read.words and "of-an-earlier-one" not in text


def test_scores_of_training_images_are_said_to_be_too_good(own, tmp_path):
    weights = own / "weights" / "last.safetensors"
    assert cli("eval", weights, "--device", "cpu").err == ""
    lines = (own / "lists" / "labeled.txt").read_text()
    (tmp_path / "same.txt").write_text(lines)
    number = len(lines.splitlines())
    found = cli("eval", weights, "--device", "cpu", "--split", tmp_path / "same.txt")
    assert found.code == 0 and f"has learned from {number} of these {number} images" in found.err
    elsewhere = shutil.copy(weights, tmp_path / "alone.safetensors")
    assert cli("eval", elsewhere, "--device", "cpu", "--split", tmp_path / "same.txt").err == ""


def test_refusals(tmp_path):
    assert "holds no run" in cli("report", tmp_path, "-o", tmp_path / "r.html").refusal
    assert cli("report").code == 2
