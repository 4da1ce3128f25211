"""What goes on beside the training: one job at a time, none of whose errors is lost, and copies that stay."""

import json
import os
import signal
import threading
import time
from collections import Counter

import pytest
import torch
from registered import registered
from tiny_network import TinyNetwork
from tiny_recipe import tiny_recipe

from farcluss import load_recipe
from farcluss.errors import RunError
from farcluss.runs import checkpoints
from farcluss.runs.background import Background
from farcluss.training import engine, validation


class TestBackground:
    def test_a_job_runs_beside_its_caller_until_it_is_waited_for(self):
        go, done = threading.Event(), []
        with Background() as background:
            background.submit(lambda: (go.wait(20), done.append(threading.current_thread())))
            assert not done  # or `submit` would have waited for what has not begun
            go.set()
            background.wait()
            assert len(done) == 1 and done[0] is not threading.current_thread()

    def test_one_job_at_a_time_in_their_order(self):
        running, most, order = Counter(), [], []

        def job(number):
            running["now"] += 1
            most.append(running["now"])
            order.append(number)
            running["now"] -= 1

        with Background() as background:
            for number in range(30):
                background.submit(lambda number=number: job(number))
        assert order == list(range(30)) and set(most) == {1}

    def test_an_error_comes_out_once_and_nothing_starts_after_it(self):
        background, done = Background(), []

        def fail():
            raise RunError("full")

        background.submit(fail)
        with pytest.raises(RunError, match="full"):
            background.submit(lambda: done.append(1))
        background.wait()
        assert done == []
        background.submit(fail)
        with pytest.raises(RunError, match="full"):
            background.wait()
        with pytest.raises(RunError, match="full"), background:
            background.submit(fail)

    def test_leaving_waits_and_the_error_under_way_wins(self):
        go, done = threading.Event(), []

        def fail():
            go.wait(20)
            done.append(1)
            raise RunError("full")

        with pytest.raises(KeyError), Background() as background:
            background.submit(fail)
            threading.Timer(0.05, go.set).start()
            raise KeyError
        assert done == [1]

    def test_a_wait_that_is_interrupted_is_taken_up_when_leaving(self):
        go, done = threading.Event(), []

        def job():
            go.wait(20)
            done.append(1)

        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell ignores it
        try:
            with pytest.raises(KeyboardInterrupt), Background() as background:
                background.submit(job)
                threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
                threading.Timer(0.5, go.set).start()
                background.wait()
        finally:
            signal.signal(signal.SIGINT, before)
        assert done == [1]


class TestSnapshot:
    def test_what_was_is_kept(self):
        network = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.BatchNorm2d(3)).to(
            memory_format=torch.channels_last
        )
        whole = torch.arange(12.0).view(3, 4)
        state = {
            "network": network.state_dict(),
            "more": [whole.T, (1, "x", None)],
            "progress": {"best": {"miou": 0.5}},
        }
        kept = checkpoints.snapshot(state)
        expected = {"weight": network[0].weight.tolist(), "whole": whole.T.tolist()}
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers(), whole):
                tensor.fill_(7)
        state["progress"]["best"]["miou"] = 0.9
        state["more"].append(8)
        assert kept["network"]["0.weight"].tolist() == expected["weight"]
        assert kept["network"]["0.weight"].stride() == network[0].weight.stride()
        assert not kept["network"]["0.weight"].requires_grad
        assert kept["network"]._metadata == state["network"]._metadata
        assert kept["more"][0].tolist() == expected["whole"]
        assert kept["more"][1:] == [(1, "x", None)] and kept["progress"] == {"best": {"miou": 0.5}}


class TestARun:
    """Writing is held up until the training has gone on, or has come to where it must wait."""

    @staticmethod
    def recipe(tmp_path, *settings):
        path = tmp_path / "recipe.toml"
        path.write_text(tiny_recipe(steps=4, every=100))
        return load_recipe(path, settings=["network.norm=true", *settings])

    @pytest.fixture(autouse=True)
    def tiny(self):
        with registered("network", "tiny", TinyNetwork):
            yield

    def test_goes_on_while_a_checkpoint_of_what_was_is_written(self, tmp_path, monkeypatch):
        save, step, later, seen = checkpoints.save, engine.one_step, threading.Event(), {}

        def slow_save(path, number, *rest):
            seen.setdefault("waited", later.wait(60))
            save(path, number, *rest)

        def watched(run, *rest):
            if run.step == 2:  # its checkpoint is under way
                networks = {who: network.state_dict() for who, network in run.networks.items()}
                seen["state"] = {who: {k: v.clone() for k, v in state.items()} for who, state in networks.items()}
                slots = run.optimizer.state_dict()["state"]
                seen["momentum"] = [slot["momentum_buffer"].clone() for slot in slots.values()]
            if run.step == 3:  # the tensors are others now
                later.set()
            return step(run, *rest)

        monkeypatch.setattr(checkpoints, "save", slow_save)
        monkeypatch.setattr(engine, "one_step", watched)
        folder = engine.train(self.recipe(tmp_path), tmp_path / "run")
        assert seen["waited"], "the training did not go on"
        two, four = (checkpoints.read(folder / "checkpoints" / f"step-0000000{n}.pt") for n in (2, 4))
        for who in ("student", "teacher"):
            torch.testing.assert_close(dict(two.state[who]), seen["state"][who], rtol=0, atol=0)
            assert any(not torch.equal(two.state[who][k], four.state[who][k]) for k in two.state[who])
        momentum = [slot["momentum_buffer"] for slot in two.state["optimizer"]["state"].values()]
        torch.testing.assert_close(momentum, seen["momentum"], rtol=0, atol=0)
        assert two.manifest.progress["step"] == two.manifest.step == 2
        assert not two.manifest.progress["scored"]

    def test_forks_no_loader_beside_the_writing(self, tmp_path, monkeypatch):
        """Not even where a run goes on from the checkpoint of another, which it writes down first."""
        first = engine.train(self.recipe(tmp_path, "train.steps=4"), tmp_path / "first")
        threads, save, load = [], checkpoints.save, engine.load_batches

        def slow_save(*arguments):
            time.sleep(0.1)
            save(*arguments)

        def watched(run):
            threads.extend(thread.name for thread in threading.enumerate())
            return load(run)

        monkeypatch.setattr(checkpoints, "save", slow_save)
        monkeypatch.setattr(engine, "load_batches", watched)
        given = first / "checkpoints" / "step-00000002.pt"
        second = engine.train(self.recipe(tmp_path, "train.steps=4"), tmp_path / "second", resume=given)
        assert threads and "farcluss-background" not in threads
        assert (second / "checkpoints" / "step-00000002.json").exists()

    def test_notes_the_scores_after_the_writing(self, tmp_path, monkeypatch):
        events = []

        def watch(where, name):
            function = getattr(where, name)

            def call(*arguments, **options):
                result = function(*arguments, **options)
                events.append(name)
                return result

            monkeypatch.setattr(where, name, call)

        watch(checkpoints, "save")
        watch(checkpoints, "update_progress")
        watch(validation, "evaluate_all")
        folder = engine.train(self.recipe(tmp_path, "train.steps=2"), tmp_path / "run")
        assert events == ["save", "evaluate_all", "update_progress"]
        manifest = json.loads((folder / "checkpoints" / "step-00000002.json").read_text())
        assert manifest["progress"]["scored"] and manifest["progress"]["best"]["step"] == 2

    @pytest.mark.parametrize("at", [2, 4])
    def test_ends_with_the_error_of_a_writing(self, tmp_path, monkeypatch, at):
        save = checkpoints.save

        def fail(path, number, *rest):
            if number == at:
                raise RunError(f"step {number} cannot be written")
            save(path, number, *rest)

        monkeypatch.setattr(checkpoints, "save", fail)
        with pytest.raises(RunError, match=f"step {at} cannot be written"):
            engine.train(self.recipe(tmp_path), tmp_path / "run")
        assert [path.stem for path in checkpoints.paths(tmp_path / "run" / "checkpoints")] == (
            ["step-00000002"] if at == 4 else []
        )
        assert not (tmp_path / "run" / "weights" / "last.safetensors").exists()

    def test_that_fails_leaves_a_whole_checkpoint_behind(self, tmp_path, monkeypatch):
        save, step, later = checkpoints.save, engine.one_step, threading.Event()

        def slow_save(*arguments):
            later.wait(60)
            save(*arguments)

        def failing(run, *rest):
            if run.step == 3:
                threading.Timer(0.05, later.set).start()
                raise RunError("in the midst of it")
            return step(run, *rest)

        monkeypatch.setattr(checkpoints, "save", slow_save)
        monkeypatch.setattr(engine, "one_step", failing)
        with pytest.raises(RunError, match="in the midst of it"):
            engine.train(self.recipe(tmp_path), tmp_path / "run")
        assert checkpoints.read_newest(tmp_path / "run" / "checkpoints").manifest.step == 2
