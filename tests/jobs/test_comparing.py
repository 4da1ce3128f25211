"""Comparisons: which runs they plan, how these are worked on, and what is said of them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from commandline import cli

from farcluss.data.base import Item
from farcluss.errors import RecipeError, RunError, Stopped
from farcluss.inference.per_image import PerImage, mean_iou
from farcluss.jobs import comparing
from farcluss.jobs.comparing import Method, Process, plan, refuse_others, slug, work
from farcluss.jobs.comparison import results_of, rows_of, sentences, to_markdown
from farcluss.recipes.reading import load_recipe
from farcluss.runs.lock import Lock


@pytest.fixture
def jobs(tiny_recipe, tmp_path):
    return plan(str(tiny_recipe), ["supervised", "farcluss train.lr=0.1"], [0, 3], [], tmp_path / "out")


def test_a_method_is_overlays_and_settings():
    method = Method("fixmatch mine.toml stages.mix=none train.lr=0.1")
    assert method.overlays == ["fixmatch", "mine.toml"] and method.settings == ["stages.mix=none", "train.lr=0.1"]


def test_each_run_is_what_its_arguments_say(tiny_recipe, tmp_path):
    settings = ["train.batch=4"]
    found = plan(
        str(tiny_recipe), ["supervised", "fixmatch train.lr=0.1"], [0, 7], ["1/4", "1/2"], tmp_path, [], settings
    )
    assert len(found) == len({job.folder for job in found}) == 8
    for job in found:
        words = list(job.arguments)
        given = {"--with": [], "--set": []}
        for option, value in zip(words[1::2], words[2::2], strict=True):
            given[option].append(value)
        recipe = load_recipe(words[0], given["--with"], given["--set"])
        assert recipe == job.recipe
        assert (recipe.train.seed, recipe.train.batch, recipe.data.labeled) == (job.seed, 4, job.labeled)
        assert recipe.train.lr == (0.1 if job.method.settings else pytest.approx(load_recipe(words[0]).train.lr))
    assert [job.seed for job in found[:4]] == [0, 0, 7, 7]  # every method has a result early


@pytest.mark.parametrize("methods, seeds, labeled", [(["a", "a"], [0], []), (["supervised"], [1, 1], []),
                                                     (["supervised"], [1], ["1/4", "1/4"])])  # fmt: skip
def test_nothing_is_compared_with_itself(tiny_recipe, tmp_path, methods, seeds, labeled):
    with pytest.raises(RecipeError, match="given twice"):
        plan(str(tiny_recipe), methods, seeds, labeled, tmp_path)


@pytest.mark.parametrize("methods, labeled", [(["in/a.toml", "in-a.toml"], []), (["supervised"], ["1/4", "1-4"])])
def test_no_two_runs_share_a_folder(tiny_recipe, tmp_path, methods, labeled):
    with pytest.raises(RecipeError, match="would share the folder"):
        plan(str(tiny_recipe), methods, [0], labeled, tmp_path)


def test_folders_have_plain_names():
    assert slug("farcluss stages.mix=cutmix") == "farcluss-stages.mix=cutmix"
    assert slug("1/16") == "1-16" and slug("../x.toml") == "x.toml" and slug("  ") == "-"


def words(code):
    return [sys.executable, "-c", code]


@pytest.fixture
def played(monkeypatch):
    """Processes that do next to nothing in place of runs; returns what was started, with its slot."""
    started = []

    def start(job, task, slot, count):
        job.folder.mkdir(parents=True, exist_ok=True)
        code = {"train": "pass", "score": f"open({str(job.table)!r}, 'w').close()"}[task]
        if job.seed == 3 and task == "train" and job.method.text == "supervised":
            (job.folder / "output.txt").write_text("line\nError: it broke.\nDo this.\nmore\n")
            code = "raise SystemExit(1)"
        started.append((job.name, task, slot))
        return Process(job, slot, task, subprocess.Popen(words(code)))

    monkeypatch.setattr(comparing, "_start", start)
    return started


def test_what_fails_is_named_and_the_others_go_on(jobs, played):
    said = []
    failed = work(jobs, 2, said.append)
    assert failed == {"supervised, seed 3": "it broke. Do this."}
    assert [job.done for job in jobs] == [True, True, False, True]
    assert {slot for _, _, slot in played} == {0, 1}
    assert "farcluss train.lr=0.1, seed 3: done" in said and "supervised, seed 3: failed: it broke. Do this." in said
    played.clear()
    work(jobs, 2, said.append)
    assert [(name, task) for name, task, _ in played] == [("supervised, seed 3", "train")]  # what is done is done


def test_a_run_of_another_process_is_waited_for(jobs, played):
    """As a run that a killed comparison has left over: it ends by itself."""
    job = jobs[0]
    job.folder.mkdir(parents=True)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom farcluss.runs.lock import Lock\n"
        "lock = Lock(Path(sys.argv[1]) / 'lock'); lock.acquire(); print('held', flush=True); time.sleep(1)\n"
        "open(sys.argv[2], 'w').close(); lock.release()"
    )
    other = subprocess.Popen([*words(code), str(job.folder), str(job.table)], stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    said = []
    work([job], 1, said.append)
    assert said == ["supervised, seed 0: another process is at it; waiting"] and played == [] and job.done
    assert other.wait() == 0


def test_a_signal_stops_the_processes_first(jobs, monkeypatch, tmp_path):
    log = tmp_path / "log"
    code = (
        "import signal, sys, time\n"
        f"def stop(*_): open({str(log)!r}, 'a').write('checkpoint '); sys.exit(143)\n"
        f"signal.signal(signal.SIGTERM, stop); open({str(log)!r}, 'a').write('begun '); time.sleep(60)"
    )
    monkeypatch.setattr(comparing, "_start", lambda job, task, slot, count: Process(
        job, slot, task, subprocess.Popen(words(code))))  # fmt: skip

    def interrupt():
        while not log.exists() or log.read_text().count("begun") < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=interrupt).start()
    with pytest.raises(Stopped) as caught:
        work(jobs, 2, lambda text: None)
    assert caught.value.signal == signal.SIGTERM and log.read_text().count("checkpoint") == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_folder_of_another_recipe_is_refused(jobs, tiny_recipe, tmp_path):
    job = jobs[0]
    job.folder.mkdir(parents=True)
    (job.folder / "plan.json").write_text(json.dumps(comparing._facts(job)))
    refuse_others(jobs)
    again = plan(str(tiny_recipe), ["supervised"], [0], [], tmp_path / "out", [], ["train.lr=0.5", "data.workers=2"])
    with pytest.raises(RunError, match=r"train.lr \(0.001 -> 0.5\) differs"):
        refuse_others(again)
    (job.folder / "plan.json").unlink()
    (job.folder / "recipe.toml").write_text("")
    with pytest.raises(RunError, match="holds another run"):
        refuse_others(jobs)


def written(job, hits, best=0.5, seconds=7.2):
    """A run that has ended, whose images have so many pixels of two classes right of 100 each."""
    job.folder.mkdir(parents=True, exist_ok=True)
    matrices = [np.array([[hit, 100 - hit], [100 - hit, hit]]) for hit in hits]
    found = [(Item(f"i{n}", f"i{n}"), matrix) for n, matrix in enumerate(matrices)]
    job.table.write_text(PerImage.of(("a", "b"), found).to_csv())
    images = job.recipe.train.batch * (2 if job.recipe.semi_supervised else 1)
    train = {
        "kind": "train",
        "memory_gib": 1.5,
        "skipped_steps": 0,
        "images_per_second": 2 * images / seconds,
        "step": 2,
    }
    lines = [{"kind": "eval", "step": 1, "teacher_miou": best}, train, {"kind": "eval", "step": 2, "teacher_miou": 0.1}]
    (job.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "tr')


def test_a_table_of_what_is_there(jobs):
    for job in jobs:
        better = 10 * (job.method.text != "supervised")
        written(job, [40 + better + job.seed, 60 + better, 50 + better], best=0.5 + better / 100)
    rows = rows_of(results_of(jobs))
    assert [(row.method, len(row.runs)) for row in rows] == [("supervised", 2), ("farcluss train.lr=0.1", 2)]
    for row in rows:
        wanted = [float(mean_iou(run.images.counts.sum(0))) for run in row.runs]
        assert row.scores == wanted and row.mean == pytest.approx(np.mean(wanted))
        assert row.spread == pytest.approx(np.std(wanted, ddof=1))
        assert [run.hours for run in row.runs] == pytest.approx([7.2 / 3600] * 2)
        assert [run.best for run in row.runs] == [0.5 if row.method == "supervised" else 0.6] * 2
    told = sentences(rows)
    gap = rows[1].difference
    assert gap.clear and told[0].startswith(f"`farcluss train.lr=0.1` is {100 * gap.mean:.1f} points of mIoU above")
    assert told[0].endswith("above in 2 of 2 seeds.") and "3 images, 2 seeds" in told[1] and "few" in told[1]
    table = to_markdown(rows, {"network": "teacher", "images": "3 images of val"})
    heads = "| method | seed 0 | seed 3 | mean | spread | to `supervised` | best of validation | hours | GiB |"
    assert heads in table and f"| a | {100 * rows[0].iou[0]:.1f} |" in table


def test_what_the_numbers_do_not_say(jobs):
    """One seed, and images on which now one is better, now the other."""
    one, other = (job for job in jobs if job.seed == 0)
    written(one, [40, 60, 50, 20])
    written(other, [60, 40, 45, 26])
    told = sentences(rows_of(results_of([one, other])))
    assert "cannot be told apart" in told[0] and "One seed" in told[1] and "-0.0" not in " ".join(told)
    worse = replace(one, folder=other.folder)
    written(worse, [10, 20, 10, 5])
    told = sentences(rows_of(results_of([one, other])))
    assert "below `supervised`" in told[0] and told[0].endswith("below in 1 of 1 seed.")


def test_a_plan_says_how_long(tiny_recipe, tmp_path):
    told = cli("compare", tiny_recipe, "--plan", "--json", "--seeds", "0", "3", "--methods", "supervised", "fixmatch",
               "-o", tmp_path / "out")  # fmt: skip
    facts = json.loads(told.out)
    assert [line["run"] for line in facts["runs"]] == [
        f"{method}, seed {seed}" for seed in (0, 3) for method in ("supervised", "fixmatch")
    ]
    assert facts["hours"] == pytest.approx(sum(line["hours"] for line in facts["runs"])) and facts["hours"] > 0
    assert {line["state"] for line in facts["runs"]} == {"to do"} and not (tmp_path / "out").exists()


def test_it_refuses_in_words(tiny_recipe, tmp_path):
    assert "shipped recipe 'nothing'" in cli("compare", tiny_recipe, "--methods", "nothing").refusal
    assert cli("compare", tiny_recipe, "--seeds", "x").code == 2
    for end in ([], ["--plan"], ["--methods", "supervised"]):
        told = cli("compare", tiny_recipe, "--seeds", *end)
        assert told.code == 2 and "'--seeds' requires an argument" in told.err


@pytest.mark.slow
def test_killed_five_times_it_ends_with_the_same_table(tiny_recipe, tmp_path):
    """At random, with all its processes or alone; hours and memory are those of the machine."""
    lengths = ["--set", "train.steps=10", "--set", "train.checkpoint_every=2", "--set", "eval.every=5"]
    given = [
        "compare",
        tiny_recipe,
        "--methods",
        "supervised",
        "fixmatch",
        "--seeds",
        "0",
        "1",
        "--jobs",
        "2",
        *lengths,
    ]

    def start(folder):
        command = [sys.executable, "-m", "farcluss", *map(str, given), "-o", str(folder)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait() == 0
    rng = np.random.default_rng(int.from_bytes(os.urandom(4)))
    for number in range(5):
        process = start(tmp_path / "killed")
        time.sleep(rng.uniform(1, 14))
        for lock in (tmp_path / "killed").rglob("lock") if number % 2 else ():
            if text := lock.read_text():
                os.kill(json.loads(text)["pid"], signal.SIGKILL)
        process.kill()
        process.wait()
    assert start(tmp_path / "killed").wait() == 0

    def told(folder):
        rows = json.loads((folder / "results.json").read_text())["rows"]
        return [
            {**row, "runs": [(run["seed"], run["last_miou"], run["best_miou"]) for run in row["runs"]]} for row in rows
        ]

    assert told(tmp_path / "killed") == told(tmp_path / "whole")
    assert not [lock for lock in (tmp_path / "killed").rglob("lock") if comparing._busy(lock.parent)]


def test_a_lock_that_is_left_over_is_none(tmp_path):
    lock = Lock(tmp_path / "lock")
    lock.acquire()
    assert comparing._busy(tmp_path)
    lock.release()
    assert not comparing._busy(tmp_path) and not comparing._busy(tmp_path / "none")
