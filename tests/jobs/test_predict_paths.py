"""Whatever inputs, weights and recipes say, `predict` writes into its output folder alone, and `run` into its own."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import cli
from PIL import Image
from registered import registered
from tiny_network import TinyNetwork

from farcluss.inference.card import Card, Inference
from farcluss.inference.weights import save_weights

AWAY = "../../evil"


def snapshot(folder: Path, but: Path) -> dict[str, object]:
    """Everything in a folder except below `but`: contents of files, targets of links, folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_relative_to(but):
            continue
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
    return found


def card(**changes) -> Card:
    facts = {"network": "tiny", "options": {}, "channels": 3, "dim": 0, "classes": ["a", "b", "c"], "mean": [0.5] * 3,
             "palette": ((1, 2, 3), (4, 5, 6), (7, 8, 9)), "std": [0.25] * 3, "inference": Inference()}  # fmt: skip
    return Card(**{**facts, **changes})


class Place:
    """A folder of which only `home/work/out` may change: `home/work` is the working directory, `home` is around it."""

    def __init__(self, root: Path) -> None:
        self.root, self.work = root, root / "home" / "work"
        self.out, self.weights = self.work / "out", self.work / "model.safetensors"
        self.elsewhere = root / "elsewhere"
        for folder in (self.work, self.elsewhere):
            folder.mkdir(parents=True)
        (self.elsewhere / "precious.png").write_bytes(b"precious")
        self.save_weights()

    def save_weights(self, **changes) -> None:
        torch.manual_seed(0)
        save_weights(self.weights, TinyNetwork(3, 3, 0, False), card(**changes))

    def image(self, name: str | Path) -> Path:
        path = self.work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)).save(path, format="png")
        return path

    def predict(self, *arguments, output: str | Path = "out"):
        """Predict, and check that nothing has happened outside the output folder."""
        before = snapshot(self.root, self.out)
        options = ("--device", "cpu", "-o", output, "--overlay", "--probs", "--entropy")
        result = cli("predict", *options, self.weights, *arguments)
        assert snapshot(self.root, self.out) == before
        return result

    def written(self) -> list[str]:
        """Predictions, without their maps, by path below the output folder."""
        files = (path.relative_to(self.out).as_posix() for path in self.out.rglob("*.png") if path.is_file())
        return sorted(name for name in files if not name.endswith(("_overlay.png", "_entropy.png")))


@pytest.fixture
def place(tmp_path, monkeypatch):
    made = Place(tmp_path / "root")
    monkeypatch.chdir(made.work)
    with registered("network", "tiny", TinyNetwork):
        yield made


class TestInputs:
    @pytest.mark.parametrize(
        ("text", "wanted"),
        [
            ("../beside.png", ["beside.png"]),
            ("photos/../../beside.png", ["beside.png"]),
            ("photos/..", ["photos/a.png", "photos/in/b.png"]),
            ("photos/in/../in", ["b.png"]),
            ("../work/photos", ["a.png", "in/b.png"]),
            ("../*.png", ["beside.png"]),
            ("photos/../../*/photos/**/*.png", ["a.png", "b.png"]),
            ("../../home/./work//photos/", ["a.png", "in/b.png"]),
        ],
    )
    def test_with_dots(self, place, text, wanted):
        for name in ("../beside.png", "photos/a.png", "photos/in/b.png"):
            place.image(name)
        assert place.predict(text).code == 0
        assert place.written() == wanted

    @pytest.mark.parametrize("given", [".", "../work"])
    def test_that_are_predictions_already(self, place, given):
        """Of a folder in which the output folder lies; a second call makes no predictions of the first's."""
        place.image("a.png")
        place.image("photos/b.png")
        for _ in range(2):
            result = place.predict(given, "--overwrite")
            assert result.code == 0 and "2 of 2 images" in result.out
            assert place.written() == ["a.png", "photos/b.png"]

    def test_that_are_absolute(self, place):
        image = place.image("photos/in/a.png")
        assert place.predict(image, image.parent.parent / "in", place.image("../b.png")).code == 0
        assert place.written() == ["a.png", "b.png"]

    @pytest.mark.parametrize("given", ["photos", "photos/**/*"])
    def test_with_links_to_elsewhere(self, place, given):
        place.image("photos/a.png")
        place.image(place.elsewhere / "b.png")
        (place.work / "photos" / "file.png").symlink_to(place.elsewhere / "b.png")
        (place.work / "photos" / "folder").symlink_to(place.elsewhere)
        (place.work / "photos" / "loop").symlink_to("..")
        assert place.predict(given).code in (0, 1)  # 1: what no image is, is told
        assert {"a.png", "file.png"} <= set(place.written())

    @pytest.mark.parametrize(
        "name",
        ["..png", "...png", "....png", ".png", ".a.png", "a..png", "a b.png", "a\nb.png", "-o.png", "--overwrite.png",
         "a\\..\\b.png", "~.png", "$HOME.png", "%2e%2e%2fa.png", "ä\u202egnp.png", "con.png"],
    )  # fmt: skip
    @pytest.mark.parametrize("how", ["by name", "in a folder", "below one"])
    def test_with_odd_names(self, place, name, how):
        place.image(f"photos/{'in/' if how == 'below one' else ''}{name}")
        place.image("photos/z.png")
        result = place.predict("--", f"photos/{name}" if how == "by name" else "photos")
        assert result.code in (0, 1, 2)
        if result.code:
            assert "unexpected" not in result.refusal
        elif not name.startswith("."):
            assert (Path(name).stem + ".png") in [Path(found).name for found in place.written()]

    @pytest.mark.parametrize("name", ["..png", "...png"])
    @pytest.mark.parametrize("output", [".", "out/.", "out/in/.."])
    def test_whose_stem_is_a_folder(self, place, name, output):
        """Also where the output folder is named by dots; into the working directory one may write then."""
        place.image(f"photos/{name}")
        place.out = place.work if output == "." else place.out
        result = place.predict("--", f"photos/{name}", output=output)
        assert result.code in (0, 1, 2) and "unexpected" not in result.err


class TestLinksInTheOutputFolder:
    """They are followed out of it only where the folder itself is one, which the user has named."""

    @pytest.fixture
    def photos(self, place):
        place.image("photos/a.png")
        place.image("photos/in/b.png")
        place.out.mkdir()

    @pytest.mark.parametrize("options", [(), ("--overwrite",)])
    @pytest.mark.parametrize("link", ["a.png", "a_overlay.png", "a_probs.npy", "a_entropy.png", "in/b.png"])
    @pytest.mark.parametrize("target", ["precious.png", "missing.png"])
    def test_a_file(self, place, photos, link, target, options):
        (place.out / link).parent.mkdir(exist_ok=True)
        (place.out / link).symlink_to(place.elsewhere / target)
        result = place.predict("photos", *options)
        if result.code or not options:  # replacing the link itself would be right, too
            assert link in result.refusal

    @pytest.mark.parametrize("options", [(), ("--overwrite",)])
    def test_a_folder(self, place, photos, options):
        (place.out / "in").symlink_to(place.elsewhere)
        assert str(Path("out") / "in") in place.predict("photos", *options).refusal

    def test_that_stay_inside_and_the_folder_itself(self, place, photos):
        real = place.root / "real"
        place.out.rmdir()
        place.out.symlink_to(real)
        (real / "other").mkdir(parents=True)
        (real / "in").symlink_to("other")
        plain, place.out = place.out, real
        assert place.predict("photos", output=plain).code == 0
        assert place.written() == ["a.png", "other/b.png"]


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": [AWAY, "/evil", ".."]},
        {"source": AWAY, "versions": {AWAY: AWAY}, "scores": {AWAY: AWAY}},
        {"recipe": {"name": AWAY, "data": {"root": "/evil", "layout": {"name": AWAY, "images": AWAY}, "val": AWAY}}},
        {"recipe": {"name": "/evil", "train": {"trackers": ["tensorboard"]}, "data": {"labeled": AWAY}}},
    ],
)
def test_what_weights_say_of_themselves_names_no_file(place, changes):
    place.save_weights(**changes)
    place.image("photos/a.png")
    assert place.predict("photos").code == 0
    assert place.written() == ["a.png"]


@pytest.mark.parametrize("changes", [{"network": AWAY}, {"network": "/evil"}, {"options": {"pretrained": AWAY}}])
def test_weights_of_a_network_by_path_are_refused(place, changes):
    place.save_weights(**changes)
    place.image("photos/a.png")
    assert place.predict("photos").refusal
    assert not place.out.exists()


class TestNamesOfRuns:
    @pytest.fixture
    def recipe(self, place, tiny_recipe):
        return shutil.move(tiny_recipe, place.work / "tiny.toml")

    @pytest.mark.parametrize("by", ["file", "setting", "overlay"])
    @pytest.mark.parametrize("name", [AWAY, "/evil", "..", ".", "in/../..", "\x00", "a\nb", " "])
    def test_by_default_a_run_goes_into_a_folder_below_runs(self, place, recipe, name, by):
        name = str(place.root) + name if name.startswith("/") else name
        quoted = '"' + name.replace("\x00", "\\u0000").replace("\n", "\\n") + '"'
        words = {"file": [], "setting": ["--set", f"name={quoted}"], "overlay": ["--with", "over.toml"]}[by]
        (place.work / "over.toml").write_text(f"name = {quoted}\n" if by == "overlay" else "")
        if by == "file":
            recipe.write_text(f"name = {quoted}\n" + recipe.read_text())
        before = snapshot(place.root, place.work / "runs")
        result = cli("run", recipe, *words)
        assert snapshot(place.root, place.work / "runs") == before
        folders = [path.parent for path in (place.work / "runs").rglob("recipe.toml")]
        assert place.work / "runs" not in folders  # a run in it would stand in the way of all others
        assert len(folders) == 1 if result.code == 0 else result.refusal and not folders

    def test_trackers_write_into_the_run(self, place, recipe):
        before = snapshot(place.root, place.out)
        words = ["--set", f"name={AWAY}", "--set", 'train.trackers=["tensorboard"]', "-o", "out"]
        result = cli("run", recipe, *words)
        assert snapshot(place.root, place.out) == before
        assert list(place.out.rglob("events.*")) if result.code == 0 else result.refusal
