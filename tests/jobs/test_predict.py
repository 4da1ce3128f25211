"""`farcluss predict`: what it writes equals what the model says; what it never does is overwrite or give up."""

import os
import shutil

import numpy as np
import pytest
import torch
from commandline import cli
from PIL import Image
from registered import registered
from tiny_network import TinyNetwork

import farcluss
from farcluss.data.files import read_mask
from farcluss.data.masks import build_mask_map, rgb
from farcluss.errors import DataError
from farcluss.inference.card import Card, Inference
from farcluss.inference.weights import save_weights
from farcluss.inference.writers import PngWriter, Step, blend
from farcluss.plugins import registry
from farcluss.recipes.model import Data

PALETTE = ((10, 20, 30), (200, 100, 0), (0, 0, 255), (255, 255, 255))


@pytest.fixture
def weights(tmp_path):
    """A network of four classes whose predictions have several."""
    torch.manual_seed(1)
    network = TinyNetwork(3, 4, 0, False)
    for parameter in network.parameters():
        parameter.data *= 4
    card = Card(network="tiny", options={}, channels=3, dim=0, classes=list("abcd"), palette=PALETTE, mean=[0.5] * 3,
                std=[0.25] * 3, inference=Inference())  # fmt: skip
    path = tmp_path / "model.safetensors"
    save_weights(path, network, card)
    with registered("network", "tiny", TinyNetwork):
        yield path


@pytest.fixture
def photos(tmp_path):
    """Pictures in a folder with a sub-folder, beside a text file, hidden files and a picture that is not chosen."""
    rng = np.random.default_rng(5)
    root = tmp_path / "photos"
    (root / "in side").mkdir(parents=True)
    for name in ("a.jpg", "b.c.png", "in side/a.PNG"):
        Image.fromarray(rng.integers(0, 256, (13, 11, 3), np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no image")
    (root / "._a.png").write_bytes(b"left by a file manager")
    return root


@pytest.fixture
def predict(tmp_path, weights):
    def predict(*arguments):
        return cli("predict", weights, *arguments, "--device", "cpu", "-o", tmp_path / "out")

    return predict


def expected(weights, path):
    """Image `(3, H, W)` uint8 and probabilities of a picture, by other means than the command's."""
    image = np.moveaxis(np.asarray(Image.open(path).convert("RGB")), 2, 0)
    return image, farcluss.load(weights).probs(image).numpy()


def written(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def opened(path):
    return np.asarray(Image.open(path))


class TestInputs:
    def test_a_folder_keeps_its_structure(self, tmp_path, photos, predict):
        result = predict(photos)
        assert (result.code, result.err) == (0, "")
        assert f"3 of 3 images predicted, written to {tmp_path / 'out'}/" in result.out
        assert written(tmp_path / "out") == ["a.png", "b.c.png", "in side/a.png"]

    def test_a_file(self, tmp_path, photos, predict):
        assert predict(photos / "in side" / "a.PNG").code == 0
        assert written(tmp_path / "out") == ["a.png"]

    def test_a_glob(self, tmp_path, photos, predict, monkeypatch):
        assert predict(photos / "*").code == 0
        assert written(tmp_path / "out") == ["a.png", "b.c.png"]
        shutil.rmtree(tmp_path / "out")
        monkeypatch.chdir(tmp_path)
        assert predict("photos/**/a.P*").code == 0
        assert written(tmp_path / "out") == ["a.png"]

    def test_several_at_once_and_one_twice(self, tmp_path, photos, predict):
        assert predict(photos / "a.jpg", photos / "b.c.png", photos / "a.jpg").code == 0
        assert written(tmp_path / "out") == ["a.png", "b.c.png"]

    def test_hidden_folders_are_left_alone(self, tmp_path, photos, predict):
        (photos / ".cache").mkdir()
        shutil.copy(photos / "a.jpg", photos / ".cache" / "thumb.jpg")
        assert predict(photos).code == 0
        assert written(tmp_path / "out") == ["a.png", "b.c.png", "in side/a.png"]

    def test_what_else_is_there_is_counted_and_named(self, tmp_path, photos, predict, monkeypatch):
        (photos / "x.avif").touch()
        pages = [Image.new("RGB", (9, 7), color) for color in ("red", "blue")]
        pages[0].save(photos / "pages.tif", save_all=True, append_images=pages[1:])
        os.mkfifo(photos / "pipe.png")
        (tmp_path / "elsewhere").mkdir()
        shutil.copy(photos / "a.jpg", tmp_path / "elsewhere" / "d.jpg")
        (photos / "link").symlink_to(tmp_path / "elsewhere")
        result = predict(photos)
        assert result.code == 0 and "5 of 5 images predicted" in result.out and "2 entries not used" in result.out
        assert f".avif (1); the first is {photos}/x.avif" in result.err and "pipe.png (pipe" in result.err
        assert f"several pages, of which the first is used; the first is {photos}/pages.tif." in result.err
        scan = os.scandir

        def refuse(path):
            if path == photos / "in side":
                raise PermissionError(13, "Permission denied", str(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", refuse)
        result = predict(photos, "--overwrite")
        assert result.code == 1 and f"{photos}/in side (permission denied)" in result.err
        assert "4 of 4 images predicted" in result.out

    def test_an_empty_input(self, predict):
        assert "An input is empty" in predict("").refusal

    @pytest.mark.parametrize("name", ["gone.png", "*.tif", "empty", "a**b"])
    def test_what_matches_nothing(self, photos, predict, name):
        (photos / "empty").mkdir()
        refusal = predict(photos / name).refusal
        assert str(photos / name) in refusal and "is not an image, a folder" in refusal and "glob" in refusal

    @pytest.mark.parametrize(
        ("picture", "rgb"),
        [
            (np.arange(48, dtype=np.uint8).reshape(6, 8), lambda a: np.stack([a] * 3)),
            (np.arange(0, 48000, 1000, dtype=np.uint16).reshape(6, 8), lambda a: np.stack([a / 65535] * 3)),
            (np.arange(192, dtype=np.uint8).reshape(6, 8, 4), lambda a: np.moveaxis(a[..., :3], 2, 0)),
        ],
        ids=["grey", "16 bit", "RGBA"],
    )
    def test_kinds_of_pictures(self, tmp_path, weights, predict, picture, rgb):
        path = tmp_path / "picture.png"
        Image.fromarray(picture).save(path)
        assert predict(path, "--overlay").code == 0
        wanted = rgb(picture)
        if wanted.dtype != np.uint8:
            wanted = wanted.astype(np.float32)
        np.testing.assert_array_equal(opened(tmp_path / "out" / "picture.png"), farcluss.load(weights).predict(wanted))
        assert opened(tmp_path / "out" / "picture_overlay.png").shape == (6, 8, 3)

    def test_arrays(self, tmp_path, weights, predict):
        array = np.random.default_rng(0).random((6, 8, 3)).astype(np.float32)
        np.save(tmp_path / "array.npy", array)
        assert predict(tmp_path / "array.npy").code == 0
        index = farcluss.load(weights).predict(np.moveaxis(array, 2, 0))
        np.testing.assert_array_equal(opened(tmp_path / "out" / "array.png"), index)


class TestContent:
    def test_index_and_palette(self, tmp_path, weights, photos, predict):
        predict(photos)
        seen = set()
        for name, source in (("a.png", "a.jpg"), ("b.c.png", "b.c.png"), ("in side/a.png", "in side/a.PNG")):
            picture = Image.open(tmp_path / "out" / name)
            image, probs = expected(weights, photos / source)
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), probs.argmax(0))
            np.testing.assert_array_equal(np.asarray(picture), farcluss.load(weights).predict(image))
            np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), np.array(PALETTE)[probs.argmax(0)])
            seen |= set(np.unique(picture).tolist())
        assert len(seen) > 2

    def test_maps(self, tmp_path, weights, photos, predict):
        assert predict(photos / "b.c.png", "--overlay", "--probs", "--entropy").code == 0
        out = tmp_path / "out"
        assert written(out) == ["b.c.png", "b.c_entropy.png", "b.c_overlay.png", "b.c_probs.npy"]
        image, probs = expected(weights, photos / "b.c.png")
        stored = np.load(out / "b.c_probs.npy")
        assert (stored.shape, stored.dtype) == ((4, 13, 11), np.float16)
        np.testing.assert_array_equal(stored, probs.astype(np.float16))
        wide = probs.astype(np.float64)
        entropy = -np.where(wide > 0, wide * np.log(np.maximum(wide, 1e-300)), 0).sum(0) / np.log(4)
        shown = opened(out / "b.c_entropy.png").astype(int)
        assert np.abs(shown - 255 * entropy).max() <= 0.51 and np.ptp(shown) > 20
        blended = (np.moveaxis(image, 0, 2).astype(float) + np.array(PALETTE)[probs.argmax(0)]) / 2
        assert np.abs(opened(out / "b.c_overlay.png") - blended).max() <= 0.51

    @pytest.mark.parametrize(
        "keys",
        [
            {"classes": list("abcd")},
            {"classes": {"a": 0, "b": 255, "c": [7, 8], "d": 3}},
            {"classes": {"d": 3, "c": 2, "b": 1, "a": 0}},
            {"classes": list("abcd"), "reduce_zero_label": True},
            {"classes": {"a": 9, "b": 300, "c": 65535, "d": 1}},
            {"classes": {"a": "#ff0000", "b": "#000000", "c": "#00ff00", "d": ["#0000ff", "#0000fe"]}},
            {"classes": {"a": "#0a141e", "b": "#c86400", "c": "#ffffff", "d": "#0000ff"}},
        ],
    )
    def test_a_prediction_is_a_mask_of_the_same_classes(self, tmp_path, keys):
        """Put into `masks/`, it reads as what was predicted, however the recipe names its classes."""
        masks = build_mask_map(Data(**keys), {})
        card = Card(network="tiny", options={}, channels=3, dim=0, classes=list(masks.names), palette=PALETTE,
                    mean=[0.5] * 3, std=[0.25] * 3, inference=Inference(), mask_values=masks.values)  # fmt: skip
        classes = np.arange(24).reshape(4, 6) % 4
        image = np.full((3, 4, 6), 100, np.uint8)
        PngWriter(card, overlay=True).write(tmp_path / "p", image, np.eye(4, dtype=np.float32)[:, classes])
        path = str(tmp_path / "p.png")
        np.testing.assert_array_equal(masks.apply(read_mask(path, masks.colors), path), classes)
        shown = Image.open(path)
        if shown.mode == "P":
            wanted = [rgb(code) for code in masks.first] if masks.colors else PALETTE
            np.testing.assert_array_equal(np.asarray(shown.convert("RGB")), np.array(wanted)[classes])
        assert sorted(os.listdir(tmp_path)) == ["p.png", "p_overlay.png"]

    def test_black_is_not_painted_over_the_photo(self):
        image, colors = np.full((3, 1, 2), 100, np.uint8), np.array([[[0, 0, 0], [200, 0, 0]]], np.uint8)
        assert blend(image, colors, 0.5).tolist() == [[[100, 100, 100], [150, 50, 50]]]
        wide = np.array([-3.0, 1.0], np.float32).reshape(1, 1, 2)
        assert blend(wide, colors, 0.0).tolist() == [[[0] * 3, [255] * 3]]  # any range is shown from dark to light

    @pytest.mark.parametrize("room", [0, 100])
    def test_a_full_disk_leaves_nothing_torn(self, tmp_path, photos, predict, monkeypatch, room):
        def full(file, array):
            file.write(bytes(room))
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "save", full)
        result = predict(photos / "a.jpg", "--probs")
        assert f"{tmp_path / 'out' / 'a_probs.npy'} cannot be written: No space left on device." in result.err
        assert written(tmp_path / "out") == ["a.png"]

    def test_another_writer(self, tmp_path, photos, predict):
        class Note:
            suffixes = (".jpg", ".png")

            def __init__(self, card, *, word="note"):
                self.classes, self.word = card.classes, word

            def cases(self, files):  # all of a folder in one
                return [("both", tuple(sorted(files)))]

            def outputs(self, target):
                return [target.with_name(target.name + ".txt")]

            def predict(self, model, files, target):
                target.parent.mkdir(parents=True, exist_ok=True)
                text = f"{self.word} {len(self.classes)} {model.card.channels} {[path.name for path in files]}"
                self.outputs(target)[0].write_text(text)

        with registered("writer", "note", Note):
            assert predict(photos / "a.jpg", photos / "b.c.png", "--writer", "note", "--set", "word=two").code == 0
            assert "no such option" in predict(photos / "a.jpg", "--writer", "note", "--overlay").refusal
        assert (tmp_path / "out" / "both.txt").read_text() == "two 4 3 ['a.jpg', 'b.c.png']"

    def test_a_writer_that_goes_step_by_step(self, tmp_path, photos, predict, monkeypatch):
        """Its steps move the bar, its remarks come at the end, and an error at any step is that of its image."""

        class Slow:
            suffixes = (".jpg", ".png")

            def __init__(self, card):
                pass

            def cases(self, files):
                return [(path.stem, (path,)) for path in sorted(files)]

            def outputs(self, target):
                return [target]

            def predict(self, model, files, target):
                yield Step(0.25)
                yield Step(0.5, f"{files[0].name} is odd.")
                if files[0].name.startswith("b"):
                    raise DataError(f"{files[0]} is bad.")
                target.touch()
                yield Step(1.0)

        class Bar:
            pos, places = 0, []

            def __init__(self, **options):
                self.length = options["length"]

            def update(self, steps):
                self.pos += steps
                self.places.append(self.pos / self.length)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                pass

        registry.register("writer", "slow", Slow)
        monkeypatch.setattr("click.progressbar", Bar)
        try:
            result = predict(photos / "a.jpg", photos / "b.c.png", "--writer", "slow")
        finally:
            registry.unregister("writer", "slow")
        assert Bar.places == [0.125, 0.25, 0.5, 0.5, 0.625, 0.75, 1.0]
        assert result.code == 1 and "1 of 2 images predicted" in result.out
        odd = ["Note: a.jpg is odd.", "Note: b.c.png is odd."]
        assert result.err.splitlines() == [*odd, f"Error: {photos / 'b.c.png'} is bad."]
        assert written(tmp_path / "out") == ["a"]

    def test_a_writer_that_finds_no_case(self, photos, predict):
        class Blind:
            suffixes = (".jpg",)

            def __init__(self, card):
                pass

            def cases(self, files):
                return []

        with registered("writer", "blind", Blind):
            assert (
                f"{photos}: no file there is an input of these weights" in predict(photos, "--writer", "blind").refusal
            )

    def test_an_unknown_writer(self, photos, predict):
        assert "no writer plugin 'pgn'; did you mean 'png'?" in predict(photos, "--writer", "pgn").refusal


class TestOverwriting:
    @pytest.mark.parametrize(("existing", "options"), [("a.png", []), ("a_entropy.png", ["--entropy"])])
    def test_never_without_being_asked(self, tmp_path, photos, predict, existing, options):
        path = tmp_path / "out" / existing
        path.parent.mkdir()
        path.write_text("precious")
        refusal = predict(photos, *options).refusal
        assert f"1 output files exist already, the first is {path}." in refusal and "--overwrite" in refusal
        assert written(tmp_path / "out") == [existing] and path.read_text() == "precious"

    def test_when_asked(self, tmp_path, weights, photos, predict):
        path = tmp_path / "out" / "a.png"
        path.parent.mkdir()
        path.write_text("stale")
        assert predict(photos / "a.jpg", "--overwrite").code == 0
        np.testing.assert_array_equal(opened(path), expected(weights, photos / "a.jpg")[1].argmax(0))

    def test_an_input_is_never_replaced(self, weights, photos):
        before = (photos / "b.c.png").read_bytes()
        refusal = cli("predict", weights, photos, "-o", photos, "--overwrite").refusal
        assert f"would replace the image {photos / 'b.c.png'}" in refusal and "another --output" in refusal
        assert (photos / "b.c.png").read_bytes() == before and not (photos / "a.png").exists()

    def test_two_images_with_one_target(self, tmp_path, photos, predict):
        shutil.copy(photos / "a.jpg", photos / "a.png")
        refusal = predict(photos).refusal
        assert f"{photos / 'a.jpg'} and {photos / 'a.png'} would both be written to" in refusal
        assert "Predict them separately" in refusal
        assert not (tmp_path / "out").exists()

    def test_two_images_from_two_folders(self, photos, predict):
        refusal = predict(photos / "a.jpg", photos / "in side" / "a.PNG").refusal
        assert "would both be written to" in refusal and "common folder" in refusal

    def test_an_image_and_the_map_of_another(self, photos, predict):
        shutil.copy(photos / "a.jpg", photos / "a_overlay.jpg")
        assert predict(photos).code == 0
        assert "a_overlay.png" in predict(photos, "--overlay", "--overwrite").refusal


class TestUnreadable:
    def test_the_others_are_written(self, tmp_path, photos, predict):
        whole = (photos / "b.c.png").read_bytes()
        (photos / "cut.png").write_bytes(whole[: len(whole) // 2])
        (photos / "empty.png").touch()
        np.save(photos / "deep.npy", np.zeros((4, 4, 5), np.uint8))
        result = predict(photos)
        assert result.code == 1
        assert "3 of 6 images predicted" in result.out
        errors = result.err.splitlines()
        assert sum(line.startswith("Error: ") for line in errors) == 3
        for name, reason in (("cut.png", "truncated"), ("empty.png", "empty (0 bytes)"), ("deep.npy", "5 channels")):
            assert any(name in line and reason in line for line in errors)
        assert "Traceback" not in result.err
        assert written(tmp_path / "out") == ["a.png", "b.c.png", "in side/a.png"]


class TestDrafts:
    """`--to`: what annotation tools open; `tests/annotations/test_drafts.py` reads it back."""

    FILES = {
        "coco-json": ["annotations.json"],
        "label-studio": ["tasks.json"],
        "cvat-xml": ["annotations.xml"],
        "labelme": ["a.json", "b.c.json", "in side/a.json"],
        "yolo": ["a.txt", "b.c.txt", "data.yaml", "in side/a.txt"],
    }

    @pytest.mark.parametrize("name", FILES)
    def test_each_format_has_its_files_and_the_regions_of_each_image(self, name, predict, photos, weights, tmp_path):
        found = predict(photos, "--to", name, "--set", "smallest=1")
        assert found.code == 0 and "3 of 3 images predicted" in found.out
        files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
        assert files == self.FILES[name]
        text = (tmp_path / "out" / files[0]).read_text()
        model = farcluss.load(weights)
        seen = {model.classes[index] for index in np.unique(model.predict(photos / "a.jpg")).tolist()}
        assert len(seen) > 1
        if name != "yolo":
            assert {label for label in "abcd" if f'"{label}"' in text} >= seen
        else:
            assert {line.split()[0] for line in text.splitlines()} == {str("abcd".index(label)) for label in seen}

    @pytest.mark.parametrize("name", FILES)
    def test_files_that_exist_are_refused_before_anything_is_predicted(self, name, predict, photos, tmp_path):
        path = tmp_path / "out" / self.FILES[name][-1]
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        assert "exist already" in predict(photos, "--to", name).refusal
        assert path.read_text() == "mine" and len([p for p in (tmp_path / "out").rglob("*.*") if p.is_file()]) == 1
        assert predict(photos, "--to", name, "--overwrite").code == 0 and path.read_text() != "mine"
