"""`train.compile` makes nothing but speed; where it cannot work, the error says what is missing."""

import json

import pytest
import torch
from registered import registered
from tiny_network import TinyNetwork
from tiny_recipe import tiny_recipe

from farcluss import train
from farcluss.errors import RunError
from farcluss.networks.base import Perturbation
from farcluss.recipes.reading import load_recipe
from farcluss.runs.checkpoints import read
from farcluss.stages.perturb import FeatureDropout


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(tiny_recipe(steps=3, checkpoint_every=3, every=3, augment='"photometric"'))
    with registered("network", "tiny", TinyNetwork):
        yield path


@pytest.mark.slow  # compiling takes a minute
def test_a_compiled_run_equals_a_plain_one(recipe, tmp_path):
    """Losses of every step and weights after the last, with OHEM and in micro-batches, whose graph is another."""
    settings = ["loss.supervised=ohem", "loss.ohem_min_kept=500", "train.accumulate=2", "network.name=tiny"]
    runs = {}
    for compiled in ("false", "true"):
        folder = train(load_recipe(recipe, (), [*settings, f"train.compile={compiled}"]), tmp_path / compiled)
        table = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        runs[compiled] = table, read(folder / "checkpoints/step-00000003.pt").state
    assert train(load_recipe(recipe, (), settings), folder, resume="newest") == folder  # goes on without compiling
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= 3 and not counters["graph_break"]
    for plain, fast in zip(*(table for table, _ in runs.values()), strict=True):
        for key in {"total", "supervised", "unsupervised", "contrastive", "teacher_miou"} & plain.keys():
            assert fast[key] == pytest.approx(plain[key], rel=1e-4), key
    for who in ("student", "teacher"):
        plain, fast = (state[who] for _, state in runs.values())
        assert plain.keys() == fast.keys()
        for key, value in plain.items():
            assert (fast[key] - value).abs().max() <= 1e-4 * value.abs().max(), (who, key)


def test_without_a_compiler_the_error_says_so(recipe, tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("No working C++ compiler found\nsecond line")

    monkeypatch.setattr(torch, "compile", lambda function: fails)
    with pytest.raises(RunError, match=r"train\.compile = true does not work here: No working C") as caught:
        train(load_recipe(recipe, (), ["train.compile=true"]), tmp_path / "run")
    assert len(str(caught.value).splitlines()) == 2 and "train.compile = false" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_compiler_sees_one_graph_of_perturbed_features():
    """Whatever is drawn from step to step."""
    network, stage, graphs = TinyNetwork(3, 4, 0, False), FeatureDropout(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(network, backend=backend, fullgraph=True)
    for step in range(3):
        what = Perturbation(stage, "encoder", (1, 2), (None, torch.full((2, 8), float(step))))
        images = torch.rand(3, 3, 9, 9)
        torch.testing.assert_close(compiled(images, what).logits, network(images, what).logits)
    assert len(graphs) == 1
