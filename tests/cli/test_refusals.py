"""Every refusal: one to three lines that say what is wrong, where, and what to do; never a traceback, nothing lost.

`Result.refusal` checks the form of each text and its exit code; the tests here check the words.
"""

import os
import shutil
import sys

import numpy as np
import pytest
import timm
import torch
from commandline import cli
from manifests import seal
from PIL import Image
from plugin_site import distribute

from conftest import own_recipe

DATA = 'classes = ["sky", "road", "tree", "car", "sign", "fence", "pole", "walk", "bike", "man", "wall"]'
TRAIN = "steps = 1\nbatch = 4"


@pytest.fixture
def recipe(image_folder, tmp_path):
    """A recipe of eleven classes on a folder whose every labeled image is in the first batch."""
    path = tmp_path / "own.toml"
    path.write_text(own_recipe(image_folder, DATA, TRAIN))
    return path


@pytest.fixture
def run(recipe, tmp_path):
    def run(*arguments, settings=()):
        words = [word for setting in settings for word in ("--set", setting)]
        return cli("run", recipe, "-o", tmp_path / "run", *arguments, *words)

    return run


def edit_mask(root, change, name="masks/train/2.png"):
    mask = np.array(Image.open(root / name))
    Image.fromarray(change(mask)).save(root / name)


def cut(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def set_value(mask):
    mask[3:9] = 37
    return mask


def five_channels(root):
    (root / "images" / "train" / "2.png").unlink()
    np.save(root / "images" / "train" / "2.npy", np.zeros((20, 24, 5), np.uint8))


BROKEN_FILES = {
    "mask value 37 in a set of 11 classes": (
        lambda root: edit_mask(root, set_value),
        ["masks/train/2.png holds the value 37", "none of the 11 classes has (values 0 to 10)", "data.ignore_index"],
    ),
    "truncated image": (
        lambda root: cut(root / "images/train/2.png", 0.5),
        ["images/train/2.png cannot be decoded", "probably truncated", "Replace the file or take it out of the lists"],
    ),
    "truncated mask": (
        lambda root: cut(root / "masks/train/2.png", 0.6),
        ["masks/train/2.png cannot be decoded", "probably truncated", "Replace the file"],
    ),
    "zero-byte mask": (
        lambda root: cut(root / "masks/train/2.png", 0),
        ["masks/train/2.png cannot be read", "it is empty (0 bytes)", "Replace the file"],
    ),
    "mask of another size": (
        lambda root: edit_mask(root, lambda mask: mask[:-3]),
        ["masks/train/2.png is 24 x 17 pixels", "images/train/2.png is 24 x 20", "Every mask must have the size"],
    ),
    "5-channel image for a 3-channel network": (
        five_channels,
        ["images/train/2.npy has 5 channels", "network takes 3", "train a network with data.channels = 5"],
    ),
}


@pytest.mark.parametrize(("damage", "words"), BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_file_that_cannot_be_used(image_folder, run, damage, words):
    damage(image_folder)
    refusal = run().refusal
    assert all(word in refusal for word in words), refusal


def test_an_error_in_a_worker_process_reads_the_same(image_folder, run):
    edit_mask(image_folder, set_value)
    assert "masks/train/2.png holds the value 37" in run(settings=["data.workers=1"]).refusal


def missing_image(root):
    (root / "list.txt").write_text("images/train/0.png masks/train/0.png\nimages/train/9.png\n")
    return ["data.labeled=list.txt"]


def missing_mask(root):
    (root / "list.txt").write_text("images/train/0.png\nimages/train/5.png\n")
    return ["data.labeled=list.txt"]


def overlap(root):
    for name, numbers in (("labeled", "012"), ("val", "23")):
        (root / f"{name}.txt").write_text("".join(f"images/train/{n}.png masks/train/{n}.png\n" for n in numbers))
    return ["data.labeled=labeled.txt", "data.val=val.txt"]


def empty_list(root):
    (root / "list.txt").write_text("\n\n")
    return ["data.labeled=list.txt"]


def no_images(root):
    shutil.rmtree(root / "images" / "train")
    return []


def no_masks(root):
    shutil.rmtree(root / "masks" / "train")
    return []


BROKEN_SETS = {
    "unknown key": (
        lambda root: ["data.labelled=x"],
        ["--set data.labelled=x: unknown key data.labelled", "did you mean 'labeled'?"],
    ),
    "missing list": (
        lambda root: ["data.labeled=gone.txt"],
        ["data.labeled: there is no list file gone.txt", "neither here nor in", "Give the path of one, or a share"],
    ),
    "missing image": (missing_image, ["list.txt, line 2: 'images/train/9.png' names no image", "Check data.root"]),
    "missing mask": (missing_mask, ["data.labeled has 1 image of 2 without a mask", "train/5.png", "masks option"]),
    "missing folder": (lambda root: ["data.root=/no/where"], ["/no/where is not a folder", "--set data.root="]),
    "no images": (no_images, ["There are no images in", "images/train", "Check data.root"]),
    "no masks": (no_masks, ["None of the 6 training images has a mask", "masks option"]),
    "list overlap": (
        overlap,
        ["data.labeled and data.val share 1 image", "images/train/2.png", "data.allow_overlap = true"],
    ),
    "empty list": (empty_list, ["list.txt is empty", "Each line names an image"]),
    "no unlabeled images": (
        lambda root: ["data.unlabeled=none"],
        ["There are no unlabeled images", "Set data.labeled to a list or a share", "--with supervised"],
    ),
    "no test images": (lambda root: ["data.val=test"], ["no 'test' images; it has train, val", "or a share"]),
    "a list that is not here": (
        lambda root: ["data.labeled=voc-classic-92"],
        ["voc-classic-92", "farcluss lists get voc-classic-92", '--set data.labeled="1/'],
    ),
    "a batch that cannot be split": (
        lambda root: ["train.accumulate=3"],
        ["train.batch = 4 cannot be split over 1 processes and 3 micro-batches", "Use a multiple of 3"],
    ),
    "an axis that images do not have": (
        lambda root: ["data.flip_axes=[0, 2]"],
        ["data.flip_axes names axis 2, the images have 2 axes: 0 to 1, or -1 for the last."],
    ),
    "a plane that images do not have": (
        lambda root: ["data.turns=[[0, 1], [-3, 1]]"],
        ["data.turns names axis -3, the images have 2 axes"],
    ),
    "a plane of one axis": (
        lambda root: ["data.turns=[[1, -1]]"],
        ["data.turns names one axis twice: [1, -1]"],
    ),
    "a missing weights file to start from": (
        lambda root: ["network.pretrained=gone.pth"],
        ["network.pretrained: there is no file gone.pth"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), BROKEN_SETS.values(), ids=BROKEN_SETS)
def test_a_set_that_cannot_be_used(image_folder, recipe, run, damage, words, monkeypatch, tmp_path):
    monkeypatch.setenv("FARCLUSS_DATA", str(tmp_path / "nothing here"))
    settings = damage(image_folder)
    refusal = run(settings=settings).refusal
    assert all(word in refusal for word in words), refusal
    checked = cli("check", recipe, *(word for setting in settings for word in ("--set", setting))).refusal
    assert all(word in checked for word in words), checked


@pytest.mark.parametrize("option", ["run", "predict"])
def test_an_output_folder_that_cannot_be_written(trained_run, recipe, image_folder, tmp_path, option):
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "below"
    if option == "run":
        refusal = cli("run", recipe, "-o", output).refusal
        assert f"The run directory {output} cannot be written: Not a directory." in refusal
    else:
        refusal = cli("predict", trained_run / "weights/last.safetensors", image_folder, "-o", output).refusal
        assert f"The folder {output} cannot be written: Not a directory." in refusal
    assert "Choose another" in refusal and "--output" in refusal


def snapshot(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class Code:
    """What a malicious checkpoint holds: a call that unpickling would make."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class TestAnExistingRun:
    @pytest.fixture
    def there(self, trained_run, tmp_path):
        return shutil.copytree(trained_run, tmp_path / "run")

    def test_is_kept(self, there, run):
        before = snapshot(there)
        refusal = run().refusal
        assert f"{there} holds a run already." in refusal
        assert all(word in refusal for word in ("--resume", "--overwrite", "--output"))
        assert snapshot(there) == before

    @pytest.mark.parametrize("settings", [["data.labelled=x"], ["data.root=/no/where"], ["train.accumulate=3"]])
    def test_is_kept_by_a_refused_overwrite_too(self, there, run, settings):
        before = snapshot(there)
        assert run("--overwrite", settings=settings).refusal
        assert snapshot(there) == before

    def test_is_kept_by_a_checkpoint_that_does_not_fit(self, there, run):
        before = snapshot(there)
        refusal = run("--resume").refusal
        assert "The recipe differs from the checkpoint's in what affects training: " in refusal
        assert "data.layout.name: shapes -> folder; " in refusal and "accept these changes" in refusal
        refusal = run("--resume", "--allow-changes").refusal
        assert "does not fit this recipe: " in refusal and "Resume with the recipe of the run." in refusal
        assert snapshot(there) == before

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (b"damaged", ["cannot be read", "Give --resume alone, for the newest intact one."]),
            (None, ["There is no checkpoint"]),
        ],
    )
    def test_is_kept_by_a_bad_checkpoint(self, there, run, tmp_path, content, words):
        before = snapshot(there)
        path = tmp_path / "bad.pt"
        if content is not None:
            path.write_bytes(content)
            seal(path)
        refusal = run("--resume", path).refusal
        assert str(path) in refusal and all(word in refusal for word in words)
        assert snapshot(there) == before

    def test_a_checkpoint_that_would_run_code(self, there, run, tmp_path):
        """Its manifest is in order: what is refused is the code."""
        path, trap = tmp_path / "evil.pt", tmp_path / "was-run"
        for content in ({"hook": shutil.rmtree}, {"hook": Code(trap)}):
            torch.save(content, path)
            seal(path)
            assert f"Checkpoint {path} cannot be read" in run("--resume", path).refusal
            assert not trap.exists()
        torch.load(path, weights_only=False)
        assert trap.exists(), "the trap does work"

    def test_nothing_to_resume(self, run, tmp_path):
        refusal = run("--resume").refusal
        assert f"{tmp_path / 'run'} has no checkpoint.\nStart over without --resume." in refusal


class TestPlugins:
    @pytest.fixture
    def site(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(tmp_path / "site")
        yield tmp_path / "site"
        for name in [name for name in sys.modules if name.startswith("fake_")]:
            del sys.modules[name]

    def test_one_that_raises_on_import(self, site, run):
        modules = {"fake_raises": "class Half: '''H.'''\nraise RuntimeError('no license found')"}
        distribute(site, "fake-dist", {"weight/raises": "fake_raises:Half"}, modules)
        refusal = run(settings=["stages.weight=raises"]).refusal
        assert "weight/raises of fake-dist 1.0 fails to import: RuntimeError: no license found" in refusal
        assert "Repair or uninstall fake-dist." in refusal

    def test_one_that_is_not_installed(self, run):
        refusal = run(settings=["stages.weight=entrpy"]).refusal
        assert "there is no weight plugin 'entrpy'; did you mean 'entropy'?" in refusal and "Known: " in refusal

    def test_a_local_file_that_raises(self, run, tmp_path):
        path = tmp_path / "mine.py"
        path.write_text("1 / 0")
        assert f"--plugin {path} fails: ZeroDivisionError" in run("--plugin", path).refusal
        assert "gone.py cannot be read: No such file or directory." in run("--plugin", tmp_path / "gone.py").refusal


@pytest.mark.parametrize("command", ["run", "check"])
def test_pretrained_without_a_network(recipe, tmp_path, monkeypatch, command):
    """The message names the file to fetch and the key to set; a check needs the weights that a run needs."""
    original = timm.create_model

    def offline(*arguments, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("Name or service not known\nmore of this")
        return original(*arguments, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    words = [recipe, "--set", "network.pretrained=true"]
    refusal = cli(command, *words, *(["-o", tmp_path / "run"] if command == "run" else ["--no-step"])).refusal
    assert len(refusal.strip().splitlines()) == 3
    assert "test_resnet cannot be downloaded: ConnectionError: Name or service not known" in refusal
    assert "Download model.safetensors from" in refusal
    assert 'set network.pretrained = "/path/to/model.safetensors"' in refusal


class TestWeights:
    @pytest.fixture
    def words(self, image_folder, tmp_path):
        """The words after a weights file, by command."""
        out = tmp_path / "out"
        return {"eval": [], "predict": [image_folder, "-o", out], "export": ["-o", out / "m.safetensors"]}

    @pytest.mark.parametrize("command", ["eval", "predict", "export"])
    def test_missing(self, words, tmp_path, command):
        path = tmp_path / "gone.safetensors"
        refusal = cli(command, path, *words[command]).refusal
        assert f"There is no weights file {path}. A run writes them to RUN/weights/." in refusal

    @pytest.mark.parametrize("command", ["eval", "predict", "export"])
    def test_damaged(self, trained_run, words, tmp_path, command):
        path = tmp_path / "damaged.safetensors"
        path.write_bytes((trained_run / "weights/last.safetensors").read_bytes()[:5000])
        assert f"{path} is not a readable safetensors file" in cli(command, path, *words[command]).refusal
        assert not (tmp_path / "out").exists()

    def test_of_another_program(self, words, tmp_path):
        from safetensors.torch import save_file

        path = tmp_path / "foreign.safetensors"
        save_file({"a": torch.zeros(1)}, path)
        refusal = cli("predict", path, *words["predict"]).refusal
        assert f"{path} is not a farcluss model" in refusal and "set network.pretrained to its path" in refusal

    @pytest.mark.parametrize("device", ["banana", "cuda:99", "meta"])
    @pytest.mark.parametrize("command", ["eval", "predict"])
    def test_on_an_unknown_device(self, trained_run, words, command, device):
        weights = trained_run / "weights/last.safetensors"
        refusal = cli(command, weights, *words[command], "--device", device).refusal
        assert f"There is no device {device!r} here; give auto, cpu, cuda, cuda:1 or mps." in refusal


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_recipe_that_is_not_there(command):
    refusal = cli(command, "quikstart").refusal
    assert "no recipe file or shipped recipe 'quikstart'; did you mean 'quickstart'?" in refusal
    assert "`farcluss recipes list` shows the shipped ones." in refusal
