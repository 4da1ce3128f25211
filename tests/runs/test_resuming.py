"""Going on with a run: what may have changed, where it starts, and that it ends in the same bits."""

import itertools
import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from commandline import cli
from registered import registered
from tiny_network import TinyNetwork
from tiny_recipe import tiny_recipe

from conftest import write_images
from farcluss import load_recipe, train
from farcluss.data.base import Item
from farcluss.data.splits import Splits
from farcluss.errors import FarclussError, RunError
from farcluss.recipes.model import Defaults, Recipe
from farcluss.runs import checkpoints
from farcluss.runs.resuming import fingerprint
from farcluss.training import engine

RECIPE = tiny_recipe(val=2, size=16, every=6)
STEPS, BATCH, LR = 6, 4, 0.05
CHECKPOINT = Path("checkpoints") / f"step-{STEPS:08d}.pt"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The recipe above, as a file."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    with registered("network", "tiny", TinyNetwork):
        yield path


@pytest.fixture(scope="module")
def whole(recipe) -> Path:
    """A run that nothing has interrupted."""
    return train(load_recipe(recipe), recipe.parent / "whole")


@pytest.fixture
def part(whole, tmp_path) -> Path:
    """The same run, ended after the checkpoint of step 2."""
    return cut_short(shutil.copytree(whole, tmp_path / "part"), 2)


def cut_short(run: Path, step: int) -> Path:
    """Bring a run's directory to the state at a step, with the rest of a line in metrics.jsonl."""
    for path in (run / "checkpoints").iterdir():
        if path.stem > f"step-{step:08d}":
            path.unlink()
    for path in (run / "weights").iterdir():
        path.unlink()
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines(run)[: step + 1]) + '{"kin')
    return run


def lines(run: Path) -> list[dict]:
    """What metrics.jsonl says, without what differs from run to run."""
    told = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("time", "memory_gib", "images_per_second")} for row in told]


def snapshot(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_same(one: Path, two: Path) -> None:
    """Two runs ended with the same bits of networks, optimizer and stages."""
    first, second = (checkpoints.read(run / CHECKPOINT).state for run in (one, two))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


TEACHING = {
    "data.layout.size=20": "data.layout.size: 16 -> 20",
    "data.labeled=6/12": "images of data.labeled: 4 (",
    "data.probe=1": "images of data.labeled: 4 (",
    "data.draw_seed=1": "images of data.unlabeled: 8 (",
    "data.classes=['a', 'b', 'c', 'd', 'e', 'f']": "data.classes: nothing -> ['a', 'b', 'c', 'd', 'e', 'f']",
    "data.ignore_index=254": "data.ignore_index: nothing -> 254",
    "data.reduce_zero_label=true": "data.reduce_zero_label: False -> True",
    "data.channels=1": "data.channels: 3 -> 1",
    "data.mean=[0, 0, 0.5]": "data.mean: nothing -> [0.0, 0.0, 0.5]",
    "data.std=[1, 1, 0.5]": "data.std: nothing -> [1.0, 1.0, 0.5]",
    "data.crop=12": "data.crop: 16 -> 12",
    "data.scale=[1, 1.5]": "data.scale: [0.5, 2.0] -> [1.0, 1.5]",
    "data.flip=0": "data.flip: 0.5 -> 0.0",
    "data.flip_axes=[0]": "data.flip_axes: [-1] -> [0]",
    "data.turns=[[0, 1]]": "data.turns: [] -> [[0, 1]]",
    "data.jpeg_draft=true": "data.jpeg_draft: False -> True",
    "network.axes=3": "network.axes: nothing -> 3",
    "network.name=deeplabv3plus": "network.name: tiny -> deeplabv3plus",
    "stages.augment=photometric": "stages.augment.name: identity -> photometric",
    "stages.mix=classmix": "stages.mix.name: none -> classmix",
    "stages.perturb=feature-dropout": "stages.perturb.name: none -> feature-dropout",
    "stages.pseudo_label=hard": "stages.pseudo_label.name: fuzzy -> hard",
    "stages.weight=uniform": "stages.weight.name: entropy -> uniform",
    "stages.rebalance=uniform": "stages.rebalance.name: median-frequency -> uniform",
    "stages.contrast.dim=8": "stages.contrast.dim: 4 -> 8",
    "stages.contrast=none": "stages.contrast.name: prototype -> none; stages.contrast.dim: 4 -> nothing",
    "loss.supervised=ohem": "loss.supervised: cross-entropy -> ohem",
    "loss.ohem_threshold=0.5": "loss.ohem_threshold: 0.7 -> 0.5",
    "loss.ohem_min_kept=9": "loss.ohem_min_kept: 0.15 -> 9",
    "loss.unsupervised=0.25": "loss.unsupervised: 0.5 -> 0.25",
    "loss.unsupervised_dice=1": "loss.unsupervised_dice: 0.0 -> 1.0",
    "loss.view_shares=[1.0]": "loss.view_shares: nothing -> [1.0]",
    "loss.divisor=all": "loss.divisor: valid -> all",
    "loss.contrastive=0": "loss.contrastive: 0.1 -> 0.0",
    "loss.warmup_steps=1": "loss.warmup_steps: 0 -> 1",
    "loss.ramp_steps=4": "loss.ramp_steps: 0 -> 4",
    "loss.ramp=cosine": "loss.ramp: linear -> cosine",
    "loss.upsampling=bands": "loss.upsampling: auto -> bands",
    "loss.divergence=squared": "loss.divergence: kl -> squared",
    "train.steps=8": "train.steps: 6 -> 8",
    "train.batch=2": "train.batch: 4 -> 2",
    "train.accumulate=2": "train.accumulate: 1 -> 2",
    "train.split_backward=true": "train.split_backward: False -> True",
    "train.optimizer=adamw": "train.optimizer: sgd -> adamw",
    "train.lr=0.1": "train.lr: 0.05 -> 0.1",
    "train.scale_lr=16": "train.lr: 0.05 -> 0.0125",
    "train.head_lr=1": "train.head_lr: 10.0 -> 1.0",
    "train.momentum=0.5": "train.momentum: 0.9 -> 0.5",
    "train.nesterov=true": "train.nesterov: False -> True",
    "train.betas=[0.8, 0.999]": "train.betas: [0.9, 0.999] -> [0.8, 0.999]",
    "train.layer_decay=0.5": "train.layer_decay: 1.0 -> 0.5",
    "train.freeze_norms=true": "train.freeze_norms: False -> True",
    "train.weight_decay=0": "train.weight_decay: 0.0001 -> 0.0",
    "train.decay_norms=false": "train.decay_norms: True -> False",
    "train.schedule=cosine": "train.schedule: poly -> cosine",
    "train.power=1": "train.power: 0.9 -> 1.0",
    "train.lr_warmup_steps=3": "train.lr_warmup_steps: 0 -> 3",
    "train.clip=1": "train.clip: 0.0 -> 1.0",
    "train.ema=0.99": "train.ema: 0.9 -> 0.99",
    "train.ema_ramp=false": "train.ema_ramp: True -> False",
    "train.mixed_precision=bf16": "-> bf16",
    "train.seed=1": "train.seed: 0 -> 1",
}
"""Settings that change what is learned, and what resuming with them says."""

HARMLESS = {
    "names and lists": ["name=other", f"data.palette={[f'#00000{n}' for n in range(6)]}", "LIST"],
    "rhythm": ["train.log_every=4", "train.checkpoint_every=3", "eval.every=1", "train.keep_checkpoints=1"],
    "scoring": [
        "eval.mode=sliding",
        "eval.window=12",
        "eval.flip=true",
        "eval.scales=[0.5,1.0]",
        "eval.stride=0.5",
        "eval.blend=gaussian",
        "eval.precision=bf16",
        "eval.writer.overlay=true",
    ],
    "workers": ["data.workers=1", "train.max_skipped=1", "data.on_error=skip", "eval.network=student"],
    "names of bands": ["data.channel_names=['r', 'g', 'b']", "network.pretrained_bands=['g', 'r', 'b']"],
    "the rest": ["train.trackers=['tensorboard']", "data.root=elsewhere", "data.allow_overlap=true", "data.val=none"],
    "the same rate": ["train.lr=0.0125", "train.scale_lr=1"],
}
"""Settings that change nothing of what is learned; `LIST` is a list file of the same images."""
OTHER_KEYS = {"data.unlabeled", "data.pack", "data.draw", "network.pretrained", "train.epochs", "train.compile"}
"""Keys that are tried by tests of their own: harmless ones, and the draw, which needs a pack."""


def test_every_key_is_tried():
    tried = {setting.partition("=")[0] for setting in [*TEACHING, *itertools.chain(*HARMLESS.values())]} | OTHER_KEYS
    tried = {".".join(key.split(".")[:2]) for key in tried} | {"data.labeled"}
    for section, field in Recipe.model_fields.items():
        known = getattr(field.annotation, "model_fields", None)
        assert {f"{section}.{key}" for key in known} <= tried if known else section in tried


@pytest.fixture
def other_precision():
    """Accelerate keeps one state per process; a run in another precision needs a new one."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


GROUPS = 9
"""The table is tried in so many groups; neighbors, which may exclude one another, come into different ones."""


@pytest.mark.parametrize("group", range(GROUPS))
def test_what_teaches_is_refused(recipe, part, other_precision, group):
    before, changes = snapshot(part), dict(list(TEACHING.items())[group::GROUPS])
    with pytest.raises(RunError) as caught:
        train(load_recipe(recipe, (), list(changes)), part, resume="newest")
    text = str(caught.value)
    assert "--allow-changes" in text and len(text.splitlines()) <= 3
    assert [change for change in changes.values() if change not in text] == [], text
    told = re.findall(r"(?:: |; )([a-z][\w. ]*): ", text.split("affects training")[1])
    known = (
        *(setting.partition("=")[0] for setting in changes),
        *(change.split(": ")[0] for change in changes.values()),
    )
    assert [name for name in told if not name.startswith((*known, "images of data."))] == []
    assert len(told) >= len(changes)
    assert snapshot(part) == before


@pytest.mark.parametrize("settings", HARMLESS.values(), ids=HARMLESS)
def test_what_is_harmless_changes_no_bit(recipe, whole, part, tmp_path, capsys, settings):
    listed = tmp_path / "mine.txt"
    shutil.copy(part / "lists" / "labeled.txt", listed)
    changed = load_recipe(recipe, (), [s.replace("LIST", f"data.labeled={listed}") for s in settings])
    train(changed, part, resume="newest")
    assert_same(whole, part)
    printed = capsys.readouterr().out
    assert "resumed at step 2 of 6" in printed and "changed" not in printed
    expected = {row["step"]: row["total"] for row in lines(whole) if row["kind"] == "train"}
    for row in (row for row in lines(part) if row["kind"] == "train"):
        assert row["total"] == expected[row["step"]]
    assert load_recipe(part / "recipe.toml") == changed.with_defaults(Defaults())


def test_epochs_of_as_many_steps_are_the_same(recipe, whole, part, tmp_path):
    text = RECIPE.replace("steps = 6", "epochs = 3")  # of 8 unlabeled images, 4 a step
    (tmp_path / "epochs.toml").write_text(text)
    train(load_recipe(tmp_path / "epochs.toml"), part, resume="newest")
    assert_same(whole, part)


def test_lists_are_compared_by_their_images(recipe, part, tmp_path):
    """The order counts, as batches are drawn by it; so do images that take the place of others."""
    images = (part / "lists" / "labeled.txt").read_text().splitlines()
    spare = (part / "lists" / "unlabeled.txt").read_text().splitlines()[0]
    for mine in (images[::-1], [*images[:3], spare]):
        (tmp_path / "mine.txt").write_text("\n".join(mine))
        with pytest.raises(RunError, match=r"images of data.labeled: 4 \(\w+\) -> 4 \(\w+\)"):
            train(load_recipe(recipe, (), [f"data.labeled={tmp_path / 'mine.txt'}"]), part, resume="newest")


def test_a_data_set_that_has_moved(recipe, tmp_path):
    layout = '{ name = "folder", images = "images/train", masks = "masks/train" }'
    text = RECIPE.replace('{ name = "shapes", train = 12, val = 2, size = 16 }', layout).replace("4/12", "all")
    (tmp_path / "own.toml").write_text(text + "[data.classes]\na = 0\nb = 1\nc = 2\n")
    settings = ["data.val=none", "train.batch=2"]
    write_images(tmp_path / "here")
    first = load_recipe(tmp_path / "own.toml", (), [*settings, f"data.root={tmp_path / 'here'}"])
    train(first, tmp_path / "whole")
    part = cut_short(shutil.copytree(tmp_path / "whole", tmp_path / "part"), 2)
    shutil.move(tmp_path / "here", tmp_path / "there")
    train(load_recipe(tmp_path / "own.toml", (), [*settings, f"data.root={tmp_path / 'there'}"]), part, resume="newest")
    assert_same(tmp_path / "whole", part)


def test_weights_that_a_run_began_with_are_not_compared(recipe):
    splits = Splits([Item("a", "a.png", None)], [], [], {})
    with_and_without = [load_recipe(recipe, (), [f"network.pretrained={v}"]) for v in ("false", "gone.pth")]
    one, two = (fingerprint(each, splits, 6, "no") for each in with_and_without)
    assert one == two


def test_the_precision_that_accelerate_is_configured_for_counts(recipe, part, other_precision, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(RunError, match=r"mixed_precision: .* -> bf16"):
        train(load_recipe(recipe), part, resume="newest")


class TestAllowedChanges:
    @pytest.mark.parametrize(
        "settings",
        [
            ["train.seed=1", "data.crop=12"],
            ["train.batch=2"],
            ["stages.weight=uniform", "loss.unsupervised=0.25"],
            ["train.steps=8"],
            ["data.labeled=6/12"],
        ],
    )
    def test_are_said_and_made(self, recipe, whole, part, capsys, settings):
        changed = load_recipe(recipe, (), settings)
        train(changed, part, resume="newest", allow_changes=True)
        printed = capsys.readouterr().out
        for setting in settings:
            assert f"changed since the checkpoint: {TEACHING[setting]}" in printed
        assert load_recipe(part / "recipe.toml") == changed.with_defaults(Defaults())
        old, new = lines(whole), lines(part)
        assert new[:2] == old[:2]
        assert [row["step"] for row in new if row["kind"] == "train"] == list(range(1, (changed.train.steps or 6) + 1))
        assert [row.get("total") for row in new[2:5]] != [row.get("total") for row in old[2:5]]

    @pytest.mark.parametrize(
        ("setting", "key", "expected"),
        [
            ("train.lr=0.1", "peak_lr", [0.1, 1.0]),
            ("train.head_lr=1", "peak_lr", [0.05, 0.05]),
            ("train.weight_decay=0", "weight_decay", [0, 0]),
            ("train.momentum=0.5", "momentum", [0.5, 0.5]),
        ],
    )
    def test_reach_the_optimizer(self, recipe, part, setting, key, expected):
        train(load_recipe(recipe, (), [setting]), part, resume="newest", allow_changes=True)
        groups = checkpoints.read(part / CHECKPOINT).state["optimizer"]["param_groups"]
        assert [group[key] for group in groups] == pytest.approx(expected)
        if setting == "train.lr=0.1":
            rates = [row["lr"] for row in lines(part) if row["kind"] == "train"]
            peaks = [0.05, 0.05, 0.1, 0.1, 0.1, 0.1]
            assert rates == pytest.approx([peak * (1 - n / 6) ** 0.9 for n, peak in enumerate(peaks)])

    @pytest.mark.parametrize(
        "settings",
        [
            ["train.optimizer=adamw"],
            ["train.decay_norms=false"],
            ["stages.contrast.dim=8"],
            ["stages.contrast=none"],
            ["network.axes=3", "data.layout=cubes", "data.channels=2", "data.crop=8"],
        ],
    )
    def test_that_the_checkpoint_does_not_fit_are_refused(self, recipe, part, settings):
        from three_d import Cubes

        before = snapshot(part)
        with registered("dataset", "cubes", Cubes):
            with pytest.raises(FarclussError, match="does not fit this recipe") as caught:
                train(load_recipe(recipe, (), settings), part, resume="newest", allow_changes=True)
        assert len(str(caught.value).splitlines()) <= 3
        assert snapshot(part) == before


@pytest.mark.parametrize("left", ["nothing whole", "nothing"])
def test_nothing_to_go_on_from(recipe, part, left):
    for path in (part / "checkpoints").glob("*"):
        path.unlink() if left == "nothing" else path.write_bytes(b"damaged")
    before = snapshot(part)
    with pytest.raises(RunError, match=rf"{part} has no (intact )?checkpoint.*(?s:.)*over with --overwrite") as caught:
        train(load_recipe(recipe), part, resume="newest")
    assert len(str(caught.value).splitlines()) <= 3
    assert snapshot(part) == before


def test_going_back_gives_up_what_came_after(recipe, whole, tmp_path):
    """Later checkpoints are of a run that is no more: a run that is killed then must not go on from them."""
    part = tmp_path / "back"
    shutil.copytree(whole, part)
    later = [path.name for path in (part / "checkpoints").glob("*") if path.stem > "step-00000002"]
    assert later
    with pytest.raises(RuntimeError, match="cut off"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "one_step", lambda *arguments: (_ for _ in ()).throw(RuntimeError("cut off")))
        train(load_recipe(recipe), part, resume=part / "checkpoints" / "step-00000002.pt")
    assert not [name for name in later if (part / "checkpoints" / name).exists()]
    train(load_recipe(recipe), part, resume="auto")
    assert_same(whole, part)
    assert lines(part) == lines(whole)


LEARNING = ["daw", pytest.param("softmatch", marks=pytest.mark.slow), pytest.param("freematch", marks=pytest.mark.slow)]


@pytest.mark.parametrize("method", LEARNING)
def test_what_a_method_has_learned_is_gone_on_with(recipe, tmp_path, method):
    """Thresholds and averages are part of a checkpoint."""
    settings = ["stages.augment={ name = 'photometric', views = 2 }", "data.val=none"]
    given = load_recipe(recipe, [method], settings)
    whole = train(given, tmp_path / "whole")
    part = cut_short(shutil.copytree(whole, tmp_path / "part"), 2)
    early, late = (checkpoints.read(whole / "checkpoints" / f"step-{n:08d}.pt").state["stages"] for n in (2, STEPS))
    moved = {(kind, name) for kind, state in late.items() for name in state if (state[name] != early[kind][name]).any()}
    assert moved and all(kind in ("pseudo_label", "weight") for kind, _ in moved)
    train(given, part, resume="newest")
    assert_same(whole, part)
    assert lines(part) == lines(whole)


def test_another_run_is_not_gone_on_over(recipe, whole, part):
    before = snapshot(part)
    with pytest.raises(RunError, match="holds a run already"):
        train(load_recipe(recipe), part, resume=whole / "checkpoints" / "step-00000002.pt")
    assert snapshot(part) == before


def test_a_run_that_another_has_written_to_meanwhile_is_refused(recipe, part, monkeypatch):
    original = engine.prepare

    def prepare(*arguments):
        newest = sorted((part / "checkpoints").glob("*.pt"))[-1]
        for suffix in (".pt", ".json"):
            shutil.copy(newest.with_suffix(suffix), newest.with_name(f"step-00000099{suffix}"))
        return original(*arguments)

    monkeypatch.setattr(engine, "prepare", prepare)
    with pytest.raises(RunError, match="Another run has written to"):
        train(load_recipe(recipe), part, resume="newest")


class TestAuto:
    def test_starts_where_there_is_nothing(self, recipe, whole, tmp_path):
        run = train(load_recipe(recipe), tmp_path / "new", resume="auto")
        assert_same(whole, run)

    @pytest.mark.parametrize("left", ["no checkpoint", "tensors without a manifest"])
    def test_starts_over_where_this_run_has_no_checkpoint_yet(self, recipe, whole, part, left):
        for path in (part / "checkpoints").iterdir():
            if left == "no checkpoint" or path.suffix == ".json":
                path.unlink()
        train(load_recipe(recipe), part, resume="auto")
        assert_same(whole, part)
        assert lines(part) == lines(whole)

    def test_leaves_another_run_without_a_checkpoint_alone(self, recipe, part):
        shutil.rmtree(part / "checkpoints")
        before = snapshot(part)
        with pytest.raises(RunError, match=r"holds a run of another recipe, without a checkpoint.*--overwrite"):
            train(load_recipe(recipe, (), ["train.lr=0.1"]), part, resume="auto")
        assert snapshot(part) == before

    @pytest.mark.parametrize("damaged", [False, True])
    def test_goes_on_from_the_newest_whole_checkpoint(self, recipe, whole, part, capsys, damaged):
        if damaged:
            (part / "checkpoints" / "step-00000004.pt").write_bytes(b"cut")
        train(load_recipe(recipe), part, resume="auto")
        printed = capsys.readouterr().out
        assert "resumed at step 2 of 6" in printed
        assert ("step-00000004.pt is incomplete" in printed) == damaged
        assert_same(whole, part)
        assert lines(part) == lines(whole)

    @pytest.mark.parametrize("resume", ["auto", "newest"])
    def test_a_finished_run_stays_as_it_is(self, recipe, whole, tmp_path, resume):
        run = shutil.copytree(whole, tmp_path / "run")
        before = snapshot(run)
        train(load_recipe(recipe), run, resume=resume)
        after = snapshot(run)
        assert {path.name for path in after if after[path] != before.get(path)} <= {"log.txt", "environment.json"}
        assert after.keys() == before.keys()


class TestScaledRates:
    @pytest.mark.parametrize(
        ("written", "batch", "factor", "kept"),
        [("true", 8, 2, 4), ("16", 4, 0.25, 16), ("false", 8, 1, False)],
    )
    def test_reach_the_optimizer_the_records_and_the_recipe(self, tmp_path, recipe, written, batch, factor, kept):
        path, run = tmp_path / "scaled.toml", tmp_path / "run"
        path.write_text(RECIPE.replace("batch = 4", f"batch = 4\nscale_lr = {written}").replace("12,", "24,"))
        settings = [f"train.batch={batch}", "train.steps=2", "data.labeled=8/24", "data.val=none"]
        result = cli("run", path, "-o", run, *(word for each in settings for word in ("--set", each)))
        assert result.code == 0, result
        line = f"train.lr 0.05 -> {0.05 * factor:g}, as train.batch {kept} -> {batch}"
        assert (line in result.out) == (factor != 1) == ("train.lr" in result.out)
        assert [row["lr"] for row in lines(run)[:2]] == pytest.approx([LR * factor, LR * factor * 0.5**0.9])
        groups = checkpoints.read(run / "checkpoints" / "step-00000002.pt").state["optimizer"]["param_groups"]
        assert [group["peak_lr"] for group in groups] == pytest.approx([LR * factor, 10 * LR * factor])
        table = tomllib.loads((run / "recipe.toml").read_text())["train"]
        assert (table["scale_lr"], table["lr"], table["batch"]) == (kept, LR, batch)
        assert load_recipe(run / "recipe.toml").train.scaled_lr == pytest.approx(LR * factor)
        assert cli("run", run / "recipe.toml", "-o", run, "--resume").code == 0
        again = load_recipe(run / "recipe.toml", (), ["train.batch=16"])
        assert again.train.scaled_lr == pytest.approx(LR * (16 / kept if kept else 1))
