"""The command line: run, eval, recipes, help, and what it does with what it does not understand."""

import json
from pathlib import Path

import click
import numpy as np
import pytest
from commandline import cli, python

from conftest import own_recipe
from farcluss.cli import BUILT_IN, farcluss
from farcluss.errors import SampleError
from farcluss.inference.weights import read_card
from farcluss.recipes.model import Defaults
from farcluss.recipes.reading import load_recipe, recipe_folder
from farcluss.runs import checkpoints

LAST = "weights/last.safetensors"


def logged(run, kind="eval"):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def scores(*arguments):
    result = cli("eval", *arguments, "--json", "--workers", "0")
    assert (result.code, result.err) == (0, ""), result
    given = json.loads(result.out)
    assert given.pop("images") > 0 and given.pop("failed") == []
    return given


class TestEval:
    @pytest.mark.parametrize("name", ["last", "best"])
    def test_equals_the_number_logged_in_training_to_the_last_digit(self, trained_run, name):
        again = scores(trained_run / "weights" / f"{name}.safetensors")
        line = logged(trained_run)[-1]
        assert again["miou"] == line["teacher_miou"]
        assert again == line["scores"]["teacher"]

    def test_and_so_for_the_student(self, trained_run, tmp_path):
        path = tmp_path / "student.safetensors"
        assert cli("export", trained_run, "--network", "student", "-o", path).code == 0
        again = scores(path)
        line = logged(trained_run)[-1]
        assert again["miou"] == line["student_miou"]
        assert again == line["scores"]["student"]

    def test_as_a_table(self, trained_run):
        result = cli("eval", trained_run / LAST, "--workers", "0")
        given = logged(trained_run)[-1]["scores"]["teacher"]
        assert f"mIoU {100 * given['miou']:.2f} %   pixel accuracy {100 * given['pixel_accuracy']:.2f} %" in result.out
        for row in given["classes"]:
            line = next(line for line in result.out.splitlines() if line.startswith(f"{row['class']} "))
            assert f"{row['pixels']:,}" in line
            assert ("absent" if row["iou"] is None else f"{100 * row['iou']:.2f}") in line

    def test_another_split(self, trained_run):
        """The shapes set has 60 test scenes unless told otherwise."""
        assert sum(row["pixels"] for row in scores(trained_run / LAST, "--split", "test")["classes"]) == 60 * 32 * 32
        few = scores(trained_run / LAST, "--split", "test", "--set", "data.layout.test=2")
        assert sum(row["pixels"] for row in few["classes"]) == 2 * 32 * 32

    def test_a_list_as_split(self, trained_run, tmp_path):
        (tmp_path / "list.txt").write_text("val/0001\nval/0002\n")
        given = scores(trained_run / LAST, "--split", tmp_path / "list.txt")
        assert sum(row["pixels"] for row in given["classes"]) == 2 * 32 * 32

    def test_other_ways_of_predicting(self, trained_run):
        whole = scores(trained_run / LAST)
        other = scores(trained_run / LAST, "--set", "eval.mode=sliding", "--set", "eval.window=16")
        assert sum(map(sum, other["confusion"])) == sum(map(sum, whole["confusion"]))
        assert other["confusion"] != whole["confusion"]

    def test_data_elsewhere(self, image_folder, tmp_path):
        """A data set that has moved since training, on other images than those of the run."""
        recipe = tmp_path / "own.toml"
        recipe.write_text(own_recipe(image_folder, DATA, TRAIN))
        assert cli("run", recipe, "-o", tmp_path / "run").code == 0
        moved = image_folder.rename(tmp_path / "elsewhere")
        weights = tmp_path / "run" / LAST
        assert "own is not a folder. Set it with --set data.root=FOLDER." in cli("eval", weights).refusal
        again = scores(weights, "--data", moved)
        assert again == logged(tmp_path / "run")[-1]["scores"]["teacher"]
        assert scores(weights, "--data", moved, "--split", moved / "val.txt")["miou"] is not None
        few = cli("eval", weights, "--data", moved, "--set", "data.classes=['a', 'b']", "--workers", "0").refusal
        assert "predicts 3 classes (a, b, c ...), the data set has 2 (a, b ...)" in few

    def test_images_that_fail_do_not_end_it(self, image_folder, tmp_path, trained_run):
        """The others score as they do without them; what failed is named, and the exit code says so."""
        (lists := tmp_path / "lists").mkdir()
        lines = (image_folder / "val.txt").read_text().splitlines()
        (lists / "good.txt").write_text(lines[0])
        layout = 'data.layout={name="folder",images="images",masks="masks"}'
        classes = [row["class"] for row in logged(trained_run)[-1]["scores"]["teacher"]["classes"]]
        settings = ["--set", layout, "--set", f"data.classes={classes}", "--data", image_folder]
        good = scores(trained_run / LAST, *settings, "--split", lists / "good.txt")
        (image_folder / "images/val/1.png").write_bytes(b"no image")
        np.save(image_folder / "images/val/empty.npy", np.zeros((0, 5, 3), np.uint8))
        (lists / "all.txt").write_text("\n".join([f"images/val/empty.npy {lines[0].split()[1]}", *lines]))
        result = cli("eval", trained_run / LAST, *settings, "--split", lists / "all.txt", "--json", "--workers", "0")
        given = json.loads(result.out)
        assert result.code == 1 and given.pop("images") == 1
        assert {Path(each["image"]).name for each in given.pop("failed")} == {"1.png", "empty.npy"}
        assert given == good
        assert result.err.count("Error: ") == 2 and "images/val/1.png" in result.err

    def test_the_lists_of_a_run_can_be_given_back(self, image_folder, tmp_path, monkeypatch):
        """Even when they were made with a root relative to another folder."""
        recipe = tmp_path / "own.toml"
        recipe.write_text(own_recipe(Path(image_folder.name), DATA, TRAIN))
        monkeypatch.chdir(tmp_path)
        assert cli("run", recipe, "-o", "first").code == 0
        lists = tmp_path / "first" / "lists"
        monkeypatch.chdir(image_folder)
        settings = [f"data.{name}={lists / name}.txt" for name in ("labeled", "unlabeled", "val")]
        words = [word for setting in ["data.root=.", *settings] for word in ("--set", setting)]
        result = cli("run", recipe, *words, "-o", tmp_path / "second")
        assert result.code == 0, result
        for name in ("labeled", "unlabeled", "val"):
            again = tmp_path / "second" / "lists" / f"{name}.txt"
            assert again.read_text() == (lists / f"{name}.txt").read_text()

    def test_a_misspelled_key(self, trained_run):
        refusal = cli("eval", trained_run / LAST, "--set", "eval.flp=true").refusal
        assert "unknown key eval.flp; did you mean 'flip'?" in refusal

    def test_nothing_to_score(self, trained_run):
        assert "There are no images to evaluate" in cli("eval", trained_run / LAST, "--split", "none").refusal


DATA = 'classes = ["a", "b", "c"]\nlabeled = "1/2"'
TRAIN = "steps = 1\nbatch = 1"


@pytest.fixture(autouse=True)
def val_list(request):
    """A list of the validation images beside the images, for the tests that use them."""
    if "image_folder" in request.fixturenames:
        root = request.getfixturevalue("image_folder")
        (root / "val.txt").write_text("".join(f"images/val/{n}.png masks/val/{n}.png\n" for n in range(2)))


class TestRun:
    def test_settings_overlays_and_the_default_folder(self, tiny_recipe, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        result = cli("run", tiny_recipe, "--with", "supervised", "--set", "train.steps=1")
        assert (result.code, result.err) == (0, ""), result
        run = tmp_path / "runs" / "tiny-supervised"
        assert [line["step"] for line in logged(run, "train")] == [1]
        assert "step 1: teacher mIoU" in result.out
        wanted = load_recipe(tiny_recipe, ["supervised"], ["train.steps=1"]).with_defaults(Defaults())
        assert load_recipe(run / "recipe.toml") == wanted

    def test_resume_and_overwrite(self, tiny_recipe, tmp_path):
        run = tmp_path / "run"
        assert cli("run", tiny_recipe, "-o", run).code == 0
        longer = ["run", tiny_recipe, "-o", run, "--set", "train.steps=3"]
        assert "what affects training: train.steps: 2 -> 3." in cli(*longer, "--resume").refusal
        assert [line["step"] for line in logged(run, "train")] == [1, 2]
        longer.append("--allow-changes")
        assert cli(*longer, "--resume").code == 0
        assert [line["step"] for line in logged(run, "train")] == [1, 2, 3]
        assert load_recipe(run / "recipe.toml").train.steps == 3  # the recipe that the run goes on with
        assert cli(*longer, "--resume", run / "checkpoints" / "step-00000002.pt").code == 0
        assert checkpoints.read(run / "checkpoints" / "step-00000003.pt").manifest.step == 3
        both = cli(*longer, "--resume", "--overwrite")
        assert both.code == 2 and "only one of them" in both.err
        fresh = ["run", tiny_recipe, "-o", run, "--overwrite", "--set", "train.steps=1", "--set", "data.val=none"]
        assert cli(*fresh).code == 0
        assert [line["step"] for line in logged(run, "train")] == [1]
        left = sorted(path.name for path in (run / "checkpoints").iterdir())
        assert left == ["step-00000001.json", "step-00000001.pt"]
        assert not (run / "weights" / "best.safetensors").exists(), "the best of the replaced run"
        assert read_card(run / LAST).step == 1

    def test_a_plugin_file(self, tiny_recipe, tmp_path):
        plugin = tmp_path / "flat.py"
        plugin.write_text(
            "import torch\nfrom farcluss import register\nfrom farcluss.stages.base import PixelWeight\n"
            "class Flat(PixelWeight):\n    def pixels(self, labels, summed):\n"
            "        return torch.full_like(labels.confidence, 0.25)\n"
            "register('weight', 'flat', Flat)\n"
        )
        words = ["run", tiny_recipe, "-o", tmp_path / "run", "--plugin", plugin, "--set", "stages.weight=flat"]
        try:
            assert cli(*words, "--set", "train.steps=1").code == 0
        finally:
            from farcluss.plugins import registry

            registry.unregister("weight", "flat")
        assert logged(tmp_path / "run", "train")[0]["mean_weight"] == 0.25


class TestRecipes:
    def test_list(self):
        given = json.loads(cli("recipes", "list", "--json").out)
        names = {path.stem for path in recipe_folder().glob("*.toml")}
        assert set(given["recipes"]) == names
        assert {"fixmatch", "supervised"} <= set(given["methods"])
        shown = cli("recipes", "list").out
        assert all(f"  {name} " in shown for name in names)
        assert given["methods"]["fixmatch"] in shown and given["methods"]["fixmatch"].startswith("FixMatch")

    @pytest.mark.parametrize(
        ("name", "file"), [("quickstart", "quickstart.toml"), ("fixmatch", "methods/fixmatch.toml")]
    )
    def test_show(self, name, file):
        assert cli("recipes", "show", name).out == (recipe_folder() / file).read_text()

    def test_copy_is_the_same_recipe(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert cli("recipes", "copy", "quickstart").code == 0
        assert (tmp_path / "quickstart.toml").read_text() == (recipe_folder() / "quickstart.toml").read_text()
        result = cli("recipes", "copy", "camvid_1_8", "mine/own.toml")
        assert result.out.splitlines() == ["wrote mine/own.toml", "wrote mine/base/camvid.toml"]
        mine, shipped = load_recipe(tmp_path / "mine" / "own.toml"), load_recipe("camvid_1_8")
        assert mine.model_copy(update={"name": shipped.name}) == shipped

    def test_copy_overwrites_nothing_that_differs(self, tmp_path):
        target = tmp_path / "own.toml"
        assert cli("recipes", "copy", "quickstart", target).code == 0
        assert cli("recipes", "copy", "quickstart", target).code == 0
        target.write_text("mine")
        assert f"{target} exists already and differs; give another target." in (
            cli("recipes", "copy", "quickstart", target).refusal
        )
        assert target.read_text() == "mine"

    def test_copy_to_where_nothing_can_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        refusal = cli("recipes", "copy", "quickstart", tmp_path / "file" / "own.toml").refusal
        assert "own.toml cannot be written" in refusal

    @pytest.mark.parametrize("verb", ["show", "copy"])
    def test_an_unknown_one(self, verb):
        assert "did you mean 'fixmatch'?" in cli("recipes", verb, "fixmach").refusal


def commands(group=farcluss, path=()):
    """Every command with its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands())


class TestHelp:
    def test_of_all(self):
        result = cli("--help")
        assert result.code == 0 and "Example: farcluss run quickstart" in result.out
        assert all(f"  {name} " in result.out and text[:40] in result.out for name, text in BUILT_IN.items())
        assert set(BUILT_IN) <= {words[0] for words in COMMANDS}

    @pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
    def test_of_a_command_has_an_example(self, words):
        if isinstance(COMMANDS[words], click.Group):
            return  # its commands have them
        for flag in ("--help", "-h"):
            result = cli(*words, flag)
            assert (result.code, result.err) == (0, "")
            assert "Example" in result.out and f"farcluss {words[0]}" in result.out.partition("Example")[2]

    @pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
    def test_every_option_says_what_it_does(self, words):
        for parameter in COMMANDS[words].params:
            if isinstance(parameter, click.Option):
                assert parameter.help, parameter.opts

    def test_the_version(self):
        import farcluss as package

        assert cli("--version").out.strip() == f"farcluss {package.__version__}"


class TestUsage:
    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["rum"], "There is no command 'rum'; did you mean 'run'?"),
            (["zzz"], "There is no command 'zzz'."),
            (["run"], "Missing argument 'RECIPE'"),
            (["run", "quickstart", "--sett", "a=1"], "No such option '--sett'"),
            (["recipes", "lst"], "No such command 'lst'"),
            (["predict", "w"], "Missing argument 'INPUTS...'"),
            (["export", "w", "--network", "both"], "'both' is not one of"),
            (["export", "w", "--size", "0"], "Invalid value for '--size'"),
            (["eval", "w", "--workers", "-1"], "Invalid value for '--workers'"),
            (["eval", "w", "--set", "train.lr=3"], "--set train: only keys of [data] and [eval] affect the scores."),
            (["export", "w", "-o", "x", "--onnx", "./x"], "--output and --onnx name the same file"),
        ],
    )
    def test_errors_give_exit_code_2(self, words, said):
        result = cli(*words)
        assert result.code == 2
        assert said in result.err and "Traceback" not in result.err

    def test_nothing_at_all_shows_the_help(self):
        result = cli()
        assert result.code == 2 and "Commands:" in result.out + result.err

    def test_debug_shows_a_traceback(self):
        code = "from farcluss.cli import main\nmain()"
        plain = python(code, "run", "quickstrt")
        assert plain.code == 1 and plain.refusal
        debug = python(code, "--debug", "run", "quickstrt")
        assert debug.code == 1 and "Traceback" in debug.err and "RecipeError: There is no recipe file" in debug.err

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (ZeroDivisionError("division by zero\nmore"), "Error: unexpected ZeroDivisionError: division by zero\nRun"),
            (OSError(28, "No space left on device", "runs/x"), "Error: No space left on device: runs/x."),
            (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), "Error: Memory is used up. Lower"),
        ],
    )
    def test_what_nobody_has_foreseen(self, error, said, monkeypatch):
        def fails(*_, **__):
            raise error

        monkeypatch.setattr("farcluss.recipes.reading.load_recipe", fails)
        result = cli("run", "quickstart")
        assert result.code == 1 and result.err.startswith(said)
        assert "Traceback" not in result.err and len(result.err.splitlines()) <= 3

    def test_what_one_process_alone_knows_it_says(self, monkeypatch):
        def fails(*_, **__):
            raise SampleError("broken.png cannot be read.")

        monkeypatch.setenv("RANK", "1")
        monkeypatch.setattr("farcluss.recipes.reading.load_recipe", fails)
        assert cli("run", "quickstart").err.strip() == "Error: broken.png cannot be read."

    def test_other_processes_of_a_run_are_silent(self, monkeypatch):
        monkeypatch.setenv("RANK", "1")
        assert "quickstrt" in cli("run", "quickstrt").refusal  # left over from another job
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert cli("run", "quickstrt") == (1, "", "")

    def test_an_interrupt(self, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr("farcluss.recipes.reading.load_recipe", interrupted)
        result = cli("run", "quickstart")
        assert (result.code, result.err.strip()) == (130, "Interrupted.")
