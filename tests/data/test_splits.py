import hashlib
import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farcluss.data import published
from farcluss.data.base import IGNORE, Item, Sample
from farcluss.data.published import ListFile, PublishedList
from farcluss.data.splits import classes_of, cover_classes, draw_share, hash_order, parse_share, resolve
from farcluss.errors import DataError
from farcluss.recipes.model import Data


@dataclass
class Scenes:
    """A data set that consists of names: which have masks, and which classes those hold."""

    train: list[str]
    val: list[str] = field(default_factory=list)
    held: dict[str, set[int]] = field(default_factory=dict)
    bare: set[str] = field(default_factory=set)
    classes: tuple[str, ...] = ("a", "b", "c", "d")
    palette: tuple = ()
    reads: list[str] = field(default_factory=list)

    def parse(self, line):
        name = line.split()[0]
        if name not in (*self.train, *self.val):
            raise DataError(f"there is no image {name!r}.")
        return Item(name, f"/images/{name}.jpg", None if name in self.bare else f"/masks/{name}.png")

    def items(self, split):
        return [self.parse(name) for name in {"train": self.train, "val": self.val}[split]]

    def size(self, item):
        return (1, 4)

    def read(self, item, window=None):
        self.reads.append(item.id)
        mask = np.full((1, 6), IGNORE, np.uint8)
        present = sorted(self.held.get(item.id, {0}))
        mask[0, : len(present)] = present
        return Sample(np.zeros((3, 1, 6), np.uint8), mask)


def names(count, start=0):
    return [f"{index:04d}" for index in range(start, start + count)]


def ids(items):
    return [item.id for item in items]


def refused(dataset, **keys):
    with pytest.raises(DataError) as caught:
        resolve(dataset, Data(**keys))
    text = str(caught.value)
    assert 1 <= len(text.splitlines()) <= 3
    return text


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FARCLUSS_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


# Shares.


@pytest.mark.parametrize(("text", "value"), [("1/8", 0.125), ("0.25", 0.25), ("1", 1), ("3/4", 0.75), ("1e-2", 0.01)])
def test_shares(text, value):
    assert parse_share(text, "data.val") == value


@pytest.mark.parametrize("text", ["all", "list.txt", "voc-classic-92", "1/0", "nan", "inf", "", "1/2/3", "a/b", "1e5x"])
def test_what_is_no_share(text):
    assert parse_share(text, "data.val") is None


@pytest.mark.parametrize("text", ["0", "92", "-1/2", "3/2"])
def test_shares_beyond_the_whole(text):
    assert f"data.labeled: a share must lie in (0, 1], not {text}" in refused(
        Scenes(names(9)), labeled=text, val="none"
    )


@pytest.mark.parametrize(
    ("count", "share", "wanted"),
    [(2975, "1/16", 186), (2975, "1/8", 372), (2975, "1/4", 744), (5, "1/100", 1), (7, "1", 7), (10582, "1/16", 661)],
)
def test_a_share_has_the_nearest_count_and_at_least_one(count, share, wanted):
    items = [Item(name, name) for name in names(count)]
    assert len(draw_share(items, parse_share(share, "data.labeled"), 0, "x")) == wanted


def test_a_draw_is_the_order_of_hashes():
    items = [Item(name, name) for name in names(50)]
    digest = {i.id: hashlib.sha256(f"labeled:7:{i.id}".encode()).hexdigest() for i in items}
    assert ids(draw_share(items, 0.2, 7, "labeled")) == sorted(digest, key=digest.get)[:10]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1000), st.sampled_from(["1/8", "1/3", "1"]), st.randoms(use_true_random=False))
def test_a_draw_does_not_depend_on_the_order_of_files(seed, share, rng):
    shuffled = rng.sample(names(40), 40)
    held = {name: {int(name) % 4} for name in shuffled}
    data = Data(labeled=share, val="1/5", draw_seed=seed)
    first, second = (resolve(Scenes(order, held=held), data) for order in (names(40), shuffled))
    assert ids(first.labeled) == ids(second.labeled) and ids(first.val) == ids(second.val)
    assert set(ids(first.unlabeled)) == set(ids(second.unlabeled))


def test_two_files_of_one_id_have_an_order():
    items = [Item("x", "/x.png"), Item("x", "/x.jpg")]
    assert hash_order(items, 0, "s") == hash_order(items[::-1], 0, "s")


def test_seeds_draw_differently_and_a_smaller_share_is_part_of_a_larger():
    def drawn(share, seed):
        data = Data(labeled=share, val="none", draw_seed=seed)
        return set(ids(resolve(Scenes(names(60), classes=("a",)), data).labeled))

    assert len({frozenset(drawn("1/4", seed)) for seed in range(10)}) == 10
    assert drawn("1/8", 3) < drawn("1/4", 3)


def test_labels_and_validation_are_drawn_apart_and_the_rest_is_unlabeled():
    dataset = Scenes(names(40), bare=set(names(10, 30)))
    found = resolve(dataset, Data(labeled="1/4", val="1/5"))
    parts = [set(ids(part)) for part in (found.labeled, found.unlabeled, found.val)]
    assert [len(part) for part in parts] == [6, 40 - 6 - 6, 6]  # a quarter of the 24 masks that are not held out
    assert set.union(*parts) == set(names(40))
    assert not (parts[0] | parts[2]) & dataset.bare


# Every class in the draw, where the masks allow.


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_class_is_covered_where_one_exchange_each_suffices(data):
    count, classes = data.draw(st.integers(8, 30)), 5
    held = {name: data.draw(st.sets(st.integers(0, 1), min_size=1)) for name in names(count)}
    rare = data.draw(st.permutations(names(count)))[: classes - 2]
    for kind, name in enumerate(rare, 2):
        held[name] = held[name] | {kind}
    dataset = Scenes(names(count), held=held, classes=tuple("abcde"))
    drawn = resolve(dataset, Data(labeled="1/2", val="none")).labeled
    existing = set.union(*held.values())
    assert len(drawn) == max(1, round(count / 2)) == len(set(ids(drawn)))
    assert set.union(*(held[i.id] for i in drawn)) == existing


def test_covering_never_loses_a_class_and_keeps_the_number():
    rng = random.Random(1)
    for _ in range(200):
        held = {name: set(rng.sample(range(6), rng.randint(1, 2))) for name in names(12)}
        dataset = Scenes(names(12), held=held, classes=tuple("abcdef"))
        items = dataset.items("train")
        units = [[item] for item in items]
        found = [item for unit in cover_classes(dataset, units[:3], units[3:]) for item in unit]
        before, after = (set.union(*(held[i.id] for i in part)) for part in (items[:3], found))
        assert before <= after and len(set(ids(found))) == 3


def test_masks_are_read_only_while_a_class_is_missing():
    dataset = Scenes(names(40), held={name: {0, 1, 2, 3} for name in names(40)})
    resolve(dataset, Data(labeled="1/2", val="none"))
    assert len(dataset.reads) == 1
    dataset = Scenes(names(8), held={name: {0, 1} for name in names(8)})
    resolve(dataset, Data(labeled="1/2", val="none"))
    assert sorted(dataset.reads) == names(8)


def test_classes_where_images_are_not_valid_are_missing():
    class Holed(Scenes):
        def read(self, item, window=None):
            sample = super().read(item, window)
            return sample._replace(valid=sample.mask != 3)

    plain = Scenes(names(8), held={name: {0, 3} if name < "0004" else {0, 1} for name in names(8)})
    holed = Holed(plain.train, held=plain.held)
    assert classes_of(plain, [plain.parse("0000")]) == {0, 3} and classes_of(holed, [holed.parse("0000")]) == {0}


# Lists.


def write(name, lines):
    with open(name, "w") as file:
        file.write("\n".join(lines))
    return name


def test_lists_by_path_and_below_the_root(tmp_path):
    dataset = Scenes(names(10), names(3, 10))
    write("labeled.txt", names(2))
    (tmp_path / "set").mkdir()
    write("set/rest.txt", names(3, 2))
    found = resolve(dataset, Data(root=tmp_path / "set", labeled="labeled.txt", unlabeled="rest.txt"))
    assert ids(found.labeled) == names(2) and ids(found.unlabeled) == names(3, 2) and ids(found.val) == names(3, 10)
    assert found.names == {"labeled": "labeled.txt", "unlabeled": "rest.txt", "val": "val"}


def test_none_and_all():
    dataset = Scenes(names(6), bare={"0005"})
    found = resolve(dataset, Data(labeled="all", unlabeled="none", val="none"))
    assert ids(found.labeled) == names(5) and found.unlabeled == found.val == []
    assert ids(resolve(dataset, Data(val="none")).unlabeled) == ["0005"]


def test_labeled_images_need_masks_and_unlabeled_do_not():
    dataset = Scenes(names(6), names(2, 6), bare={"0001", "0002", "0007"})
    write("labeled.txt", names(2))
    text = refused(dataset, labeled="labeled.txt", val="none")
    assert "data.labeled has 1 image of 2" in text and "/images/0001.jpg" in text
    assert "data.val" in refused(dataset, labeled="all")
    write("unlabeled.txt", ["0001", "0002"])
    found = resolve(dataset, Data(labeled="all", unlabeled="unlabeled.txt", val="none"))
    assert [item.mask for item in found.unlabeled] == [None, None]


@pytest.mark.parametrize(
    ("keys", "both"),
    [
        ({"labeled": "a.txt", "unlabeled": "b.txt", "val": "none"}, ("data.labeled", "data.unlabeled")),
        ({"labeled": "a.txt", "unlabeled": "none", "val": "b.txt"}, ("data.labeled", "data.val")),
        ({"labeled": "c.txt", "unlabeled": "a.txt", "val": "b.txt"}, ("data.unlabeled", "data.val")),
    ],
)
def test_overlap_is_an_error_unless_allowed(keys, both):
    dataset = Scenes(names(9))
    write("a.txt", names(3)), write("b.txt", names(3, 1)), write("c.txt", names(3, 6))
    text = refused(dataset, **keys)
    assert all(key in text for key in both)
    assert "share 2 images" in text and "/images/0001.jpg" in text and "data.allow_overlap" in text
    assert resolve(dataset, Data(**keys, allow_overlap=True)).labeled


@pytest.mark.parametrize("key", ["labeled", "unlabeled", "val"])
@pytest.mark.parametrize("lines", [[], ["", "  ", ""]])
def test_empty_list(key, lines):
    write("list.txt", lines)
    text = refused(Scenes(names(9), names(2, 9)), **{"labeled": "1/2", key: "list.txt"})
    assert "list.txt is empty" in text


def test_a_list_that_is_no_text():
    with open("list.txt", "wb") as file:
        file.write(b"\xff\xfe\0\0")
    assert "list.txt is not UTF-8 text. Save it as UTF-8." in refused(Scenes(names(3)), labeled="list.txt", val="none")


@pytest.mark.parametrize("key", ["labeled", "unlabeled", "val"])
def test_missing_list(key, tmp_path):
    text = refused(Scenes(names(9), names(2, 9)), **{"labeled": "1/2", key: "lists/x.txt", "root": tmp_path / "set"})
    assert f"data.{key}" in text and "lists/x.txt" in text and str(tmp_path / "set") in text


def test_no_masks_at_all_and_none_left():
    assert "None of the 4" in refused(Scenes(names(4), bare=set(names(4))), labeled="1/2", val="none")
    assert "no labeled images" in refused(Scenes(names(4)), labeled="1/2", val="1")


# Published lists.


@pytest.fixture
def known(monkeypatch):
    def listed(part):
        text = "\n".join(sorted(part))
        return ListFile(len(part), hashlib.sha256(text.encode()).hexdigest()[:16], "https://example.org/x")

    entry = PublishedList("set-1_4", "of a test", listed(names(2)), listed(names(6, 2)))
    monkeypatch.setattr(published, "PUBLISHED", {"set-1_4": entry})
    return entry


def test_a_published_list_that_is_missing_takes_three_lines(known, tmp_path):
    lines = refused(Scenes(names(9)), labeled="set-1_4", val="none").splitlines()
    assert len(lines) == 3
    assert "set-1_4" in lines[0] and str(tmp_path / "data/lists/set-1_4/labeled.txt") in lines[0]
    assert "farcluss lists get set-1_4" in lines[1]
    assert '--set data.labeled="1/4"' in lines[2]


def test_a_published_list_brings_its_unlabeled_images(known, tmp_path):
    place = tmp_path / "data/lists/set-1_4"
    place.mkdir(parents=True)
    write(place / "labeled.txt", names(2)), write(place / "unlabeled.txt", names(6, 2))
    found = resolve(Scenes(names(9)), Data(labeled="set-1_4", val="none"))
    assert ids(found.labeled) == names(2) and ids(found.unlabeled) == names(6, 2)
    assert found.names["labeled"] == "set-1_4"


def test_a_file_that_equals_a_published_list_is_called_by_its_name(known):
    write("mine.txt", names(2)[::-1])
    found = resolve(Scenes(names(8)), Data(labeled="mine.txt", val="none"))
    assert found.names == {"labeled": "set-1_4", "unlabeled": "set-1_4", "val": "none"}


def test_a_misspelled_published_name_is_answered_with_a_near_one(known):
    assert "set-1_4" in refused(Scenes(names(9)), labeled="set-1_5", val="none")


def test_shares_and_all_are_not_shadowed_by_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("all", names(1))
    write("0.5", names(1))
    assert len(resolve(Scenes(names(10)), Data(labeled="all", val="none", unlabeled="none")).labeled) == 10
    assert len(resolve(Scenes(names(10)), Data(labeled="0.5", val="none")).labeled) == 5


@dataclass
class Grouped(Scenes):
    """Two images of each patient: `3a` and `3b`."""

    def parse(self, line):
        return replace(super().parse(line), group=f"patient {line[:-1]}")


def visits(patients):
    return [f"{number}{visit}" for number in patients for visit in "ab"]


def patients(items):
    return {item.id[:-1] for item in items}


def test_shares_are_of_groups():
    dataset = Grouped(visits(range(12)), classes=("a",))
    splits = resolve(dataset, Data(labeled="1/4", val="1/6"))
    assert (len(splits.val), len(splits.labeled), len(splits.unlabeled)) == (4, 4, 16)  # of 12, then of 10 patients
    assert len(patients(splits.val)) == len(patients(splits.labeled)) == 2
    assert not patients(splits.val) & patients([*splits.labeled, *splits.unlabeled])


def test_covering_exchanges_whole_groups():
    names = visits(range(6))
    dataset = Grouped(names, held={"5b": {1}}, classes=("a", "b"))
    for seed in range(8):
        splits = resolve(dataset, Data(labeled="1/3", val="none", draw_seed=seed))
        assert len(splits.labeled) == 4 and {"5a", "5b"} <= set(ids(splits.labeled))
        assert len(patients(splits.labeled)) == 2


def test_a_held_out_group_takes_no_part_in_training():
    dataset = Grouped(visits(range(3)), ["2c"], classes=("a",))
    for labeled in ("all", "1/2"):
        splits = resolve(dataset, Data(labeled=labeled, val="val"))
        assert patients([*splits.labeled, *splits.unlabeled]) == {"0", "1"} and ids(splits.val) == ["2c"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0000\n" + "x" * 100_000, "list.txt, line 2: 'xxx"),
        ("0000\n\n" + "x " * 50_000, "list.txt, line 3: 'x x"),
        ("0000\u2028x", "no image"),
        ("0000\x850001", "no image"),
    ],
)
def test_lines_that_are_none(text, said):
    """Lines end at line feeds and carriage returns alone, as names may hold the other separators of Unicode."""

    class Whole(Scenes):
        def parse(self, line):
            if line not in self.train:
                raise DataError(f"there is no image {line!r}.")
            return super().parse(line)

    write("list.txt", [text])
    text = refused(Whole(names(4)), labeled="list.txt", val="none")
    assert said in text and len(text) < 500


def test_an_unlabeled_set_is_no_share():
    text = refused(Scenes(names(4)), unlabeled="1/2", val="none")
    assert "there is no list file 1/2" in text and 'Give the path of one, or "rest" or "none".' in text


def test_lists_that_divide_a_group_are_refused(tmp_path):
    dataset = Grouped(visits(range(3)), classes=("a",))
    for name, lines in (("train", ["0a", "1a"]), ("val", ["1b", "2a"])):
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    lists = {"labeled": str(tmp_path / "train.txt"), "val": str(tmp_path / "val.txt"), "unlabeled": "none"}
    assert "data.labeled and data.val share 1 group, the first is patient 1" in refused(dataset, **lists)
    assert len(resolve(dataset, Data(**lists, allow_overlap=True)).labeled) == 2
