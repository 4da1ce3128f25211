"""`check` and `run` refuse what trains nothing and say what is odd; settings that do nothing are refused."""

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from commandline import cli
from PIL import Image
from torch.utils.data import DataLoader

from conftest import own_recipe, write_images
from farcluss.data.loader import Diary, guarded, loader_processes, start_worker
from farcluss.errors import RunError, SampleError
from farcluss.learning.build import build_dataset
from farcluss.recipes.model import Data
from farcluss.runs.folder import RunFolder
from farcluss.training.display import Display

PAGE = Path(__file__).parents[2] / "docs" / "own_data.md"
ABC = 'classes = ["a", "b", "c"]'


@pytest.fixture
def own(image_folder, tmp_path):
    """A recipe for the folder of images, by its data keys."""

    def make(data=ABC, train="steps = 4\nbatch = 2"):
        path = tmp_path / "own.toml"
        path.write_text(own_recipe(image_folder, data, train))
        return path

    return make


def recode(root, values):
    """Give mask values others; 255 becomes the first one."""
    for path in root.glob("masks/*/*.png"):
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.array(values, np.uint8)[np.where(mask == 255, 0, mask)]).save(path)


REFUSED = {
    "one class": ("classes = { a = [0, 1, 2] }", [], "is one class, two are the least"),
    "all ignored": ("classes = { a = 7, b = 8 }\nignore_index = [0, 1, 2, 255]", [], "belongs to a class"),
    "too much for memory": (ABC, ["train.batch=60000", "data.crop=30000"], "GiB of memory"),
    "a window of other axes": (ABC, ["eval.mode=sliding", "eval.window=[8, 8, 8]"], "eval.window has 3 sides"),
}


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_train_is_refused_before_it_starts(own, tmp_path, name, command):
    data, settings, words = REFUSED[name]
    more = ["-o", tmp_path / "run"] if command == "run" else []
    result = cli(command, own(data), *more, *(word for text in settings for word in ("--set", text)))
    assert result.code == 1 and words in result.err and "ready to run" not in result.out, result
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("setting", "cause"), [("train.lr=1e30", "train.lr = 1e+30 is prob"), ("data.std=1e-30", "data.std = [1e-30")]
)
def test_a_loss_that_is_not_finite_fails_with_its_cause(own, tmp_path, setting, cause):
    refusal = cli("check", own(), "--set", setting).refusal
    assert "not finite" in refusal and cause in refusal
    result = cli("run", own(train="steps = 8\nbatch = 2"), "--set", setting, "-o", tmp_path / "run")
    assert "steps were skipped" in result.refusal and "best" not in result.out
    assert not (tmp_path / "run" / "weights" / "best.safetensors").exists()


def test_a_class_without_pixels_is_named_with_the_value_that_it_may_have(own, image_folder, tmp_path):
    recode(image_folder, [0, 255, 255])
    result = cli("check", own('classes = ["land", "water"]'), "--no-step")
    assert result.code == 0 and result.out.endswith("The recipe is ready to run, with 1 warning.\n"), result
    assert "No pixel in data.labeled belongs to 'water'" in result.err and "in 4 of 4 masks, are ignored" in result.err
    advice = re.search(r"data\.(classes = \{.*\})", result.err)[1]
    assert cli("check", own(advice), "--no-step").err == ""
    log = cli("run", own('classes = ["land", "water"]', "steps = 1\nbatch = 1"), "-o", tmp_path / "run").out
    assert "no labeled crop of 1 steps has a pixel of 'water'" in log


@pytest.mark.parametrize("key", ["loss.warmup_steps", "train.lr_warmup_steps"])
def test_warm_ups_that_never_end_are_said_by_both(own, tmp_path, key):
    words = [own(train="steps = 1\nbatch = 1"), "--set", f"{key}=1"]
    assert f"Warning: {key} = 1 of 1 steps" in cli("check", *words, "--no-step").err
    assert f"Warning: {key} = 1 of 1 steps" in cli("run", *words, "-o", tmp_path / "run").out


def test_an_image_without_pixels_is_named(own, image_folder):
    np.save(image_folder / "images/train/none.npy", np.zeros((0, 7, 3), np.uint8))
    result = cli("check", own())
    assert result.code == 1 and "none.npy has shape (0, 7, 3), so it has no pixels" in result.err, result


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of images and weights for it."""
    folder = tmp_path_factory.mktemp("eval")
    root, path = write_images(folder / "own"), folder / "own.toml"
    path.write_text(own_recipe(root, ABC + '\nlabeled = "list.txt"', "steps = 1\nbatch = 1"))
    (root / "list.txt").write_text("images/train/0.png\n")
    assert cli("run", path, "-o", folder / "run").code == 0
    (root / "list.txt").unlink()
    return root, folder / "run" / "weights" / "last.safetensors"


class TestEval:
    def test_needs_only_what_it_uses(self, trained):
        assert cli("eval", trained[1], "--workers", 0).code == 0
        assert cli("eval", trained[1], "--workers", 0, "--split", "1").code == 0

    @pytest.mark.parametrize(
        "setting", ["eval.network=student", "data.mean=0.5", "data.labeled=all", "eval.stride=0.5", "eval.every=3"]
    )
    def test_settings_that_do_nothing_are_refused(self, trained, setting):
        assert (
            f"--set {setting.partition('=')[0]} changes no score" in cli("eval", trained[1], "--set", setting).refusal
        )

    def test_a_set_without_labels_has_no_score(self, trained, tmp_path):
        root = write_images(tmp_path / "ignored")
        recode(root, [255, 255, 255])
        assert "nothing to score" in cli("eval", trained[1], "--data", root, "--workers", 0).refusal


def rows():
    """What the page says to write for each kind of masks, by the kind."""
    table = PAGE.read_text().partition("| mask values | write |")[2].partition("\n\n")[0]
    found = re.findall(r"^\| (?!-)(.+?) \| (.+) \|$", table, re.MULTILINE)
    return {kind: "\n".join(re.findall(r"`([^`]+)`", text)) for kind, text in found}


@pytest.mark.parametrize("kind", rows())
def test_the_recipe_of_the_page_takes_every_kind_of_mask_of_its_table(tmp_path, kind):
    table = tomllib.loads((PAGE.parent / "examples" / "own_data.toml").read_text())["data"]
    table |= {"root": tmp_path} | tomllib.loads(rows()[kind])
    values = table["classes"] if isinstance(table["classes"], dict) else {}
    first = [value[0] if isinstance(value, list) else value for value in values.values()]
    first = first or list(range(len(table["classes"]) + bool(table.get("reduce_zero_label"))))
    colors = [[int(v[i : i + 2], 16) for i in (1, 3, 5)] if isinstance(v, str) else v for v in first]
    mask = np.array([colors, colors], np.uint8)
    for folder, array in (("images", np.zeros((2, len(first), 3), np.uint8)), ("masks", mask)):
        (tmp_path / folder).mkdir()
        Image.fromarray(array).save(tmp_path / folder / "a.png")
    dataset = build_dataset(Data.model_validate(table))
    found = set(np.unique(dataset.read(dataset.items("train")[0]).mask)) - {255}
    assert found == set(range(len(dataset.classes)))


def test_a_long_name_of_the_temporary_folder_is_refused(monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/scratch/" + "x" * 150)
    with pytest.raises(RunError, match="Set TMPDIR"):
        loader_processes(2)
    assert loader_processes(0) == 0


def test_a_run_shows_that_it_is_alive(tmp_path, capsys, monkeypatch):
    clock = iter([0.0, 2.0, 2.0, 30.0, 70.0, 70.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    with Display(RunFolder(tmp_path), 0, 100, True) as display:
        for step in (1, 2, 3):
            display.show_life(step)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1/100", "3/100"]


class Unsendable:
    def __reduce__(self):
        raise OSError("no room to send")


def test_a_loader_process_that_cannot_send_ends_instead_of_hanging(monkeypatch, capfd):
    looks = "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data.__defaults__"
    monkeypatch.setattr(looks, (0.2,))
    loader = DataLoader([Unsendable()], batch_size=None, num_workers=1, worker_init_fn=start_worker, collate_fn=id_of)
    with pytest.raises(SampleError, match="loader process died"):
        list(guarded(loader, Diary(1), lambda *_: "file"))
    assert "cannot send its batch: OSError: no room to send" in capfd.readouterr().err


def id_of(sample):
    return sample
