"""Writing a pack: interrupted, resumed, refused, verified; and what is refused as a pack."""

import fcntl
import os
import resource
import signal
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from commandline import cli
from packs import Windows, forked, pack, sections
from registered import registered
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from farcluss.data.base import Item, Sample
from farcluss.data.folder import folder
from farcluss.data.loader import item_index
from farcluss.data.pack import CHECKSUM
from farcluss.errors import DataError, PluginError
from farcluss.jobs import packing
from farcluss.jobs.packing import FLUSH_EVERY, Packing, collect
from farcluss.jobs.trial import trial
from farcluss.learning.build import build_dataset, build_parts
from farcluss.recipes.model import Data
from farcluss.recipes.reading import load_recipe
from farcluss.training.engine import load_batches

COUNT = 45
SHAPES = Data(layout={"name": "shapes", "train": COUNT - 3, "val": 2, "test": 1, "size": 16}, workers=0)


def everything(path):
    """All attributes and arrays of an HDF5 file."""
    found = {}
    with h5py.File(path, locking=False) as file:
        found["/"] = dict(file.attrs)
        file.visititems(
            lambda name, thing: found.update(
                {name: (thing[()].tobytes() if thing.dtype != object else list(thing), dict(thing.attrs))}
                if isinstance(thing, h5py.Dataset)
                else {name: dict(thing.attrs)}
            )
        )
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file that nothing has interrupted."""
    return pack(SHAPES, tmp_path_factory.mktemp("whole") / "x.h5").pack


@pytest.fixture(scope="module")
def content(whole):
    """All that such a file holds."""
    return everything(whole)


def resume(path, **options):
    writing = Packing(SHAPES, path, **options)
    counts = list(writing)
    assert counts == list(range(counts[0], COUNT + 1))
    assert writing.done == writing.total == COUNT
    return counts[0], writing.notes


def part_of(path):
    return path.with_name(path.name + ".part")


class TestInterrupted:
    def killed(self, path, name, call, owner=h5py.Group):
        """A process that is killed when it calls a method for the `call`-th time."""

        def work():
            method, calls = getattr(owner, name), []

            def deadly(*arguments, **options):
                calls.append(1)
                if len(calls) == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return method(*arguments, **options)

            setattr(owner, name, deadly)
            pack(SHAPES, path)

        assert forked(work) == f"signal {int(signal.SIGKILL)}"
        assert not path.exists()

    @pytest.mark.parametrize("call", [1, 10, 20, 41, 42, 98])
    def test_killed_while_it_stores(self, call, content, tmp_path):
        path = tmp_path / "x.h5"
        self.killed(path, "create_dataset", call)
        first, notes = resume(path)
        assert everything(path) == content and not part_of(path).exists()
        assert len(notes) == 1 and str(part_of(path)) in notes[0]
        stored = (call - 13) // 2  # twelve arrays of contents come first, then mask and image in turn
        assert first >= stored // FLUSH_EVERY * FLUSH_EVERY

    @pytest.mark.parametrize(
        ("name", "owner"), [("fsync", os), ("replace", os), ("flush", h5py.File), ("close", h5py.File)]
    )
    def test_killed_at_the_turns(self, name, owner, content, tmp_path):
        path = tmp_path / "x.h5"
        self.killed(path, name, 1 if owner is os else 2 if name == "flush" else 1, owner)
        resume(path)
        assert everything(path) == content

    @pytest.fixture(scope="class")
    def begun(self, tmp_path_factory):
        """What a process that was killed leaves."""
        path = tmp_path_factory.mktemp("begun") / "x.h5"
        self.killed(path, "create_dataset", 80)
        return part_of(path).read_bytes()

    @pytest.mark.parametrize("share", [0, 0.001, 0.05, 0.3, 0.9, 0.999])
    def test_whatever_is_left_of_the_file(self, share, content, begun, tmp_path):
        path = tmp_path / "x.h5"
        part_of(path).write_bytes(begun[: int(share * len(begun))])
        resume(path)
        assert everything(path) == content

    def unfinished(self, path):
        for _ in zip(range(30), Packing(SHAPES, path), strict=False):
            pass
        return part_of(path)

    def test_what_is_stored_is_not_read_again(self, tmp_path):
        path = tmp_path / "x.h5"
        self.unfinished(path)
        first, notes = resume(path)
        assert first >= 28 and notes == [f"{part_of(path)} holds {first} of {COUNT} images already; continuing."]

    def test_a_damaged_array_and_all_after_it_are_stored_anew(self, content, tmp_path):
        path = tmp_path / "x.h5"
        with h5py.File(self.unfinished(path), "r+") as file:
            file["images/5"][0, 0, 0] ^= 1
        assert resume(path)[0] == 5
        assert everything(path) == content

    @pytest.mark.parametrize(
        ("change", "options"),
        [
            ({"layout": {"name": "shapes", "train": COUNT - 3, "val": 2, "test": 1, "size": 17}}, {}),
            ({}, {"compression": "lzf"}),
        ],
    )
    def test_a_file_of_other_data_is_not_gone_on_with(self, change, options, tmp_path):
        path = tmp_path / "x.h5"
        self.unfinished(path)
        writing = Packing(Data.model_validate(SHAPES.model_dump() | change), path, **options)
        assert next(iter(writing)) == 0
        assert writing.notes == [f"{part_of(path)} belongs to other data or another compression; starting over."]

    def test_a_file_that_another_process_writes_is_left_alone(self, tmp_path):
        path = tmp_path / "x.h5"
        with self.unfinished(path).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as HDF5 does
            with pytest.raises(DataError, match=r"x\.h5\.part is being written by another process\. Wait for it"):
                next(iter(Packing(SHAPES, path)))
        assert resume(path)[0] >= 29


class TestRefused:
    def test_places(self, whole, content, tmp_path):
        with pytest.raises(DataError, match=r"nowhere is not a folder\. Create it"):
            Packing(SHAPES, tmp_path / "nowhere" / "x.h5")
        with pytest.raises(DataError, match=r"x\.h5 exists already\. Use --overwrite"):
            Packing(SHAPES, whole)
        with pytest.raises(DataError, match=r"is a folder\. Give a file name, such as .*data\.h5"):
            Packing(SHAPES, tmp_path, overwrite=True)
        (tmp_path / "x.txt").write_text("old")
        with pytest.raises(DataError, match=r"x\.txt is no pack, so it is not overwritten"):
            Packing(SHAPES, tmp_path / "x.txt", overwrite=True)
        h5py.File(path := tmp_path / "x.h5", "w").close()
        pack(SHAPES, path, overwrite=True)
        assert everything(path) == content

    def test_a_full_disk(self, content, tmp_path, monkeypatch):
        path = tmp_path / "x.h5"

        def work():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            monkeypatch.setattr(packing, "RESERVE", 1 << 14)
            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
            pack(SHAPES, path)

        text = forked(work)
        assert f"DataError: {part_of(path)} cannot be written: File too large." in text
        assert "-o" in text and len(text.splitlines()) == 2 and not path.exists()
        resume(path)
        assert everything(path) == content

    def test_an_unreadable_image_is_named_and_the_rest_kept(self, image_folder, tmp_path):
        data = Data(root=image_folder, layout={"name": "folder", "images": "images/train", "masks": "masks/train"},
                    classes=["a", "b", "c"], val="none", workers=0)  # fmt: skip
        damaged = image_folder / "images/train/3.png"
        content = damaged.read_bytes()
        damaged.write_bytes(content[:150])
        path = tmp_path / "x.h5"
        with pytest.raises(DataError, match=r"images/train/3\.png cannot be decoded"):
            pack(data, path)
        assert not path.exists()
        damaged.write_bytes(content)
        writing = Packing(data, path)
        assert next(iter(writing)) == 3
        pack(data, path)
        assert len(build_dataset(data.model_copy(update={"pack": path})).items("train")) == 6

    def test_items_that_share_the_name_of_their_image(self, tmp_path):
        """Slices of one volume, which only their identifiers tell apart: a pack would give all of them the same."""

        class Slices(Windows):
            def parse(self, line):
                return Item(line, "volume", "volume")

        with registered("dataset", "slices", lambda data: Slices({"slice 1": None, "slice 2": None})):
            with pytest.raises(PluginError, match=r"Slices uses the image volume for the items slice 1 and slice 2\."):
                Packing(Data(layout="slices", val="none"), tmp_path / "x.h5")

    def test_a_layout_that_places_its_crops(self, tmp_path):
        class Placing(Windows):
            def place(self, item, lengths, rng):
                return None

        with registered("dataset", "placing", lambda data: Placing({"a": None})):
            with pytest.raises(DataError, match="The layout placing chooses its own crop positions"):
                Packing(Data(layout="placing", val="none"), tmp_path / "x.h5")

    def test_groups_are_kept(self, tmp_path):
        class Grouped(Windows):
            def parse(self, line):
                return Item(line, line, line, "one" if line in "ab" else "two")

        arrays = np.random.default_rng(0).integers(0, 3, (4, 3, 8, 8), np.uint8)
        images = {name: Sample(array, array[0]) for name, array in zip("abcd", arrays, strict=True)}
        with registered("dataset", "grouped", lambda data: Grouped(images)):
            packed = build_dataset(pack(Data(layout="grouped", val="none", workers=0), tmp_path / "x.h5"))
        assert [item.group for item in packed.items("train")] == ["one", "one", "two", "two"]

    def test_no_images_and_no_folder(self, tmp_path):
        (tmp_path / "images").mkdir()
        with pytest.raises(DataError, match="There are no images in"):
            collect(Data(root=tmp_path, classes=["a", "b"], val="1/5"))
        with pytest.raises(DataError, match="is not a folder"):
            collect(Data(root=tmp_path / "nowhere", classes=["a", "b"]))


def test_workers_and_compression(tmp_path):
    data = SHAPES.model_copy(update={"workers": 2})
    one = everything(pack(data, tmp_path / "x.h5", compression="lzf").pack)
    two = everything(pack(SHAPES, tmp_path / "y.h5").pack)
    assert one.pop("/")["compression"] == "lzf" and two.pop("/")["compression"] == "none"
    assert one == two
    with h5py.File(tmp_path / "x.h5", locking=False) as file:
        assert file["images/0"].compression == file["masks/0"].compression == "lzf"


def test_an_image_with_two_masks_is_stored_once(image_folder, tmp_path):
    """A list may name another mask than the layout would; both belong to the pack."""
    mask = image_folder / "masks/train/0.png"
    (image_folder / "other.png").write_bytes((image_folder / "masks/train/1.png").read_bytes())
    (image_folder / "labeled.txt").write_text("images/train/0.png other.png\nimages/train/1.png\n")
    data = Data(root=image_folder, layout={"name": "folder", "images": "images/train", "masks": "masks/train"},
                classes=["a", "b", "c"], labeled="labeled.txt", val="none", workers=0)  # fmt: skip
    plain, packed = (
        folder(data, images="images/train", masks="masks/train"),
        build_dataset(pack(data, tmp_path / "x.h5")),
    )
    for line in ("images/train/0.png other.png", "images/train/0.png", f"images/train/0.png {mask}", "0"):
        found, wanted = packed.read(packed.parse(line)), plain.read(plain.parse(line))
        assert np.array_equal(found.mask, wanted.mask) and np.array_equal(found.image, wanted.image)
    with h5py.File(tmp_path / "x.h5", locking=False) as file:
        assert (len(file["images"]), len(file["masks"])) == (6, 5)


WAYS = [(0, None), (2, "fork"), (1, "spawn")]
"""Numbers of loader processes, and how they are started; to be spawned, they import everything anew."""


class TestCommand:
    @pytest.fixture
    def recipe(self, quick_recipe):
        return quick_recipe

    @pytest.mark.parametrize("ways", [WAYS[:2], pytest.param(WAYS[2:], marks=pytest.mark.slow)], ids=["fork", "spawn"])
    def test_pack_verify_and_train(self, recipe, tmp_path, monkeypatch, ways):
        """A run from the pack ends in the weights of a run without, whatever loads the images."""
        path = tmp_path / "x.h5"
        result = cli("pack", recipe, "-o", path)
        assert result.code == 0 and f"wrote {path}: 75 images, 75 masks" in result.out, result
        assert cli("pack", "--verify", path).out.endswith("75 images, all intact\n")
        make, found = DataLoader.__init__, {}
        for source, workers, context in (("", 0, None), *((path, *way) for way in ways)):
            monkeypatch.setattr(DataLoader, "__init__", lambda self, *a, context=context, **k: make(
                self, *a, **k | ({"multiprocessing_context": context} if k["num_workers"] else {})))  # fmt: skip
            output = tmp_path / f"run {len(found)}"
            keys = "--set", f"data.pack={source}", "--set", f"data.workers={workers}"
            run = cli("run", recipe, *keys, "--output", output)
            assert run.code == 0, run
            found[bool(source), workers, context] = load_file(output / "weights" / "last.safetensors")
        wanted = found.pop((False, 0, None))
        assert len(found) == len(ways) and len(wanted) > 9
        for way, weights in found.items():
            assert weights.keys() == wanted.keys(), way
            assert all(torch.equal(weights[name], wanted[name]) for name in wanted), way

    def test_balanced_draws(self, recipe, tmp_path):
        """They need a pack; training from it draws by its numbers of pixels."""
        path, balanced = tmp_path / "x.h5", ["--set", "data.draw=balanced"]
        for words in (["run", recipe, "--output", tmp_path / "none"], ["check", recipe]):
            refused = cli(*words, *balanced)
            assert refused.code == 1 and "the layout shapes does not provide" in refused.err
        assert not (tmp_path / "none").exists()
        assert cli("pack", recipe, *balanced, "-o", path).code == 0
        found = load_recipe(recipe, settings=["data.draw=balanced", f"data.pack={path}", "train.steps=4"])
        parts = build_parts(found)
        chances = parts.chances()
        with trial(parts, 4, workers=0) as run:
            drawn = [batch.ids for batch in load_batches(run)]
        for stream, items in enumerate((parts.splits.labeled, parts.splits.unlabeled)):
            indices = [item_index(len(items), 0, stream, place, chances[stream]) for place in range(8)]
            assert [name for ids in drawn for name in ids[2 * stream :][:2]] == [items[i].id for i in indices]
            assert len(set(chances[stream].shares.round(9))) > 1 or stream == 1  # all scenes are of one size
        alone = replace(parts, recipe=load_recipe(recipe, ["supervised"], ["data.draw=balanced"]))
        assert alone.chances()[1] is None
        assert cli("run", recipe, *balanced, "--set", f"data.pack={path}", "--output", tmp_path / "run").code == 0
        other = cli("run", recipe, "--set", f"data.pack={path}", "--output", tmp_path / "run", "--resume")
        assert other.code == 1 and "data.draw: balanced -> uniform" in other.err

    def test_an_unpacked_run_goes_on_packed(self, recipe, tmp_path):
        path = tmp_path / "x.h5"
        assert cli("pack", recipe, "-o", path).code == 0
        assert cli("run", recipe, "--output", tmp_path / "run").code == 0
        more = ["--set", "train.steps=3", "--output", tmp_path / "run", "--resume", "auto"]
        result = cli("run", recipe, *more, "--set", f"data.pack={path}", "--allow-changes")
        assert result.code == 0 and "data.pack" not in result.out + result.err, result
        (tmp_path / "x.h5").rename(tmp_path / "away.h5")
        assert "There is no file" in cli("eval", tmp_path / "run" / "weights" / "last.safetensors").refusal
        moved = cli("eval", tmp_path / "run" / "weights" / "last.safetensors", "--data", tmp_path)
        assert moved.code == 0, moved  # that folder, not what was packed from another
        empty = cli("eval", tmp_path / "run" / "weights" / "last.safetensors", "--set", "data.pack=")
        assert empty.code == 0, empty

    def test_damage_is_found_and_named(self, recipe, tmp_path):
        path = tmp_path / "x.h5"
        cli("pack", recipe, "-o", path)
        with h5py.File(path, "r+") as file:
            file["images/3"][:, 0, 0] ^= 7
            file["masks/4"].attrs[CHECKSUM] = 1
            del file["masks/5"]
        result = cli("pack", "--verify", path)
        assert result.code == 1
        assert [line for line in result.err.splitlines() if line.startswith("Problem")] == [
            "Problem: train/0003: damaged image",
            "Problem: train/0004: damaged mask",
            "Problem: train/0005: damaged mask",
        ]
        assert f"3 of 75 images are damaged. Write {path} again." in result.err

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (["{recipe}"], 2, "Give the file to write: -o FILE.h5"),
            (["--verify", "x.h5", "-o", "y.h5"], 2, "--verify takes the packed file alone"),
            (["{recipe}", "-o", "nowhere/x.h5"], 1, "nowhere is not a folder"),
            (["{recipe}", "-o", "{recipe}"], 1, "exists already. Use --overwrite"),
            (["--verify", "{recipe}"], 1, "cannot be opened"),
            (["--verify", "nowhere.h5"], 1, "There is no file"),
        ],
    )
    def test_refusals(self, words, code, said, recipe, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        result = cli("pack", *(word.format(recipe=recipe) for word in words))
        assert result.code == code and said in result.err and len(result.err.splitlines()) <= 4, result


class TestOpening:
    def refusal(self, data):
        with pytest.raises(DataError) as caught:
            build_dataset(data)
        assert 1 <= len(str(caught.value).splitlines()) <= 3
        return str(caught.value)

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"layout": {"name": "voc"}}, 'data.layout.name was "shapes", is "voc"'),
            ({"layout": {"name": "shapes", "train": 9, "size": 32}}, "data.layout.size was 24, is 32"),
            ({"classes": ["a", "b"]}, 'data.classes was null, is ["a", "b"]'),
            ({"ignore_index": 7}, "data.ignore_index was null, is 7"),
            ({"channels": 1}, "data.channels was 3, is 1"),
        ],
    )
    def test_another_data_set(self, change, said, tmp_path):
        packed = pack(sections(tmp_path)["shapes"], tmp_path / "x.h5")
        other = Data.model_validate(packed.model_dump() | change)
        text = self.refusal(other)
        assert f"{tmp_path / 'x.h5'} was packed from a recipe with other data" in text and said in text

    def test_options_that_say_the_default_and_other_keys_differ_in_nothing(self, tmp_path):
        packed = pack(sections(tmp_path)["shapes"], tmp_path / "x.h5")
        layout = {**packed.layout.model_dump(), "color": 0.7}
        same = {"layout": layout, "crop": 8, "root": "elsewhere", "palette": ["#010203"] * 6, "labeled": "2/9"}
        assert build_dataset(Data.model_validate(packed.model_dump() | same)).palette == ((1, 2, 3),) * 6

    def test_files_that_are_no_pack(self, tmp_path):
        packed = pack(sections(tmp_path)["shapes"], tmp_path / "x.h5")
        path = packed.pack
        assert f"There is no file {tmp_path / 'y.h5'}" in self.refusal(
            packed.model_copy(update={"pack": tmp_path / "y.h5"})
        )
        whole = path.read_bytes()
        for content, said in ((b"", "cannot be opened"), (b"PK" * 99, "cannot be opened"), (whole[:5000], "cannot be")):
            path.write_bytes(content)
            assert said in self.refusal(packed)
        for name, value, said in (
            ("format", "x", "not written by"),
            ("version", 9, "its format is 9"),
            ("root", "x", "checksum"),
        ):
            path.write_bytes(whole)
            with h5py.File(path, "r+") as file:
                file.attrs[name] = value
            assert said in self.refusal(packed)

    def test_an_item_of_another_data_set(self, tmp_path):
        dataset = build_dataset(pack(sections(tmp_path)["shapes"], tmp_path / "x.h5"))
        for call in (dataset.size, dataset.read):
            with pytest.raises(DataError, match=r"nowhere is not in"):
                call(Item("nowhere", "nowhere"))
