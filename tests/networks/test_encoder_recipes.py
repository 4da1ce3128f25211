"""Recipes over encoders of each kind: run, resume, eval, export, and predictions of any size."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from commandline import cli
from PIL import Image

from farcluss import load, load_recipe, train
from farcluss.networks.dpt import dpt
from farcluss.runs import checkpoints

RECIPE = """
[data]
layout = {{ name = "shapes", train = 12, val = 2, size = 48 }}
labeled = "4/12"
crop = 48
workers = 0
[network]
{network}
[train]
steps = 4
batch = 2
lr = 0.01
head_lr = 1.0
log_every = 1
checkpoint_every = 2
[eval]
every = 2
"""
NETWORKS = {
    "dpt": 'name = "dpt"\nencoder = "test_vit"\nfit = "resize"',
    "convnext": 'name = "deeplabv3plus"\nencoder = "test_convnext"\naspp_channels = 8\nhead_channels = 8',
    "swin": 'name = "smp"\narchitecture = "UPerNet"\nencoder = "tu-swin_tiny_patch4_window7_224"\n'
    "strict_img_size = false\ndecoder_channels = 16",
}


@pytest.mark.parametrize(
    "name", ["dpt", *(pytest.param(each, marks=pytest.mark.slow) for each in ("convnext", "swin"))]
)
def test_a_recipe_from_training_to_prediction(name, tmp_path):
    def called(*words):
        result = cli(*words)
        assert result.code == 0, result
        return result.out

    (tmp_path / "recipe.toml").write_text(RECIPE.format(network=NETWORKS[name]))
    called("run", tmp_path / "recipe.toml", "-o", tmp_path / "whole")
    called("run", tmp_path / "recipe.toml", "-o", tmp_path / "part")
    for path in (tmp_path / "part" / "checkpoints").iterdir():
        if path.stem > "step-00000002":
            path.unlink()
    called("run", tmp_path / "recipe.toml", "-o", tmp_path / "part", "--resume", "newest")
    whole, part = (
        checkpoints.read(tmp_path / run / "checkpoints" / "step-00000004.pt").state for run in ("whole", "part")
    )
    torch.testing.assert_close(whole, part, rtol=0, atol=0)

    weights = tmp_path / "whole" / "weights" / "last.safetensors"
    scores = json.loads(called("eval", weights, "--json", "--workers", "0"))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert scores["miou"] == [line["teacher_miou"] for line in lines if line["kind"] == "eval"][-1]

    rng, model = np.random.default_rng(0), load(weights)
    sizes = {f"{h}x{w}": (h, w) for h, w in ((1, 1), (37, 91), (518, 392))}
    for stem, size in sizes.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{stem}.png")
    called("predict", weights, *(tmp_path / f"{stem}.png" for stem in sizes), "-o", tmp_path / "masks")
    for stem, size in sizes.items():
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{stem}.png"))
        assert mask.shape == size and np.array_equal(mask, model.predict(tmp_path / f"{stem}.png"))

    called("export", weights, "-o", tmp_path / "m.safetensors", "--onnx", tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    image = rng.random((1, 3, 48, 48)).astype(np.float32)
    (found,) = session.run(None, {session.get_inputs()[0].name: image})
    assert found.shape == (1, 6, 48, 48) and np.isfinite(found).all()


@pytest.mark.parametrize("frozen", ["true", "3"])
def test_what_is_frozen_is_the_same_to_the_bit_after_training(frozen, tmp_path):
    """In student and teacher; all else has moved."""
    (tmp_path / "recipe.toml").write_text(RECIPE.format(network=f"{NETWORKS['dpt']}\nfrozen = {frozen}"))
    settings = ["train.checkpoint_every=1", "train.keep_checkpoints=9", "data.val=none"]
    run = train(load_recipe(tmp_path / "recipe.toml", (), settings), tmp_path / "run")
    first, last = (checkpoints.read(run / "checkpoints" / f"step-{n:08d}.pt").state for n in (1, 4))
    network = dpt(3, 6, 128, False, encoder="test_vit", frozen=json.loads(frozen))
    learns = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
    kept = dict(network.named_parameters()).keys() - learns
    assert len(kept) > 30 and learns
    for who in ("student", "teacher"):
        assert all(torch.equal(first[who][name], last[who][name]) for name in kept)
        assert all(not torch.equal(first[who][name], last[who][name]) for name in learns)
    assert all(torch.equal(last["student"][name], last["teacher"][name]) for name in kept)
    assert sum(len(group["params"]) for group in last["optimizer"]["param_groups"]) == len(learns)
