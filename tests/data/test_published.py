import hashlib
import json
import random
import re
import string
import sys
from http.client import BadStatusLine
from pathlib import Path
from urllib.error import URLError

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from farcluss.cli import farcluss
from farcluss.data import published
from farcluss.data.published import ListFile, PublishedList
from farcluss.errors import DataError

CLASSIC = (92, 183, 366, 732, 1464)
VOC, CITYSCAPES, ADE20K, COCO = 10582, 2975, 20210, 118287
LABELED = ["2007_000733", "2010_004493", "2010_000466"]
UNLABELED = [f"2008_{n:06}" for n in range(9)]


def oracle(names):
    """The checksum by its definition in the table's header, written apart from the product's code."""
    digest = hashlib.sha256()
    for n, name in enumerate(sorted(names)):
        digest.update(((n > 0) * "\n" + name).encode("utf-8"))
    return digest.hexdigest()[:16]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("FARCLUSS_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / "lists"


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A folder that plays the public address of two tiny lists, and the table that knows them."""
    folder = tmp_path / "remote"
    folder.mkdir()
    (folder / "labeled.txt").write_text("\n".join(f"JPEGImages/{n}.jpg SegmentationClass/{n}.png" for n in LABELED))
    (folder / "unlabeled.txt").write_text("".join(f"{n}\n" for n in UNLABELED))
    files = [
        ListFile(len(names), oracle(names), (folder / f"{kind}.txt").as_uri())
        for kind, names in (("labeled", LABELED), ("unlabeled", UNLABELED))
    ]
    known = [PublishedList("tiny", "two files", *files), PublishedList("tiny-val", "one file", files[0])]
    monkeypatch.setattr(published, "PUBLISHED", {entry.name: entry for entry in known})
    return folder


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("JPEGImages/2007_000733.jpg SegmentationClass/2007_000733.png\n", "2007_000733"),
        ("leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png gtFine/train/jena/x.png", "jena_000078_000019"),
        ("leftImg8bit/val/lindau/lindau_000004_000019_leftImg8bit.png", "lindau_000004_000019"),
        ("2007_000733", "2007_000733"),
        ("  2007_000733\r\n", "2007_000733"),
        ("/JPEGImages/2007_000733.jpg\t/SegmentationClassAug/2007_000733.png", "2007_000733"),
        (" \r\n", ""),
    ],
)
def test_identifier(line, name):
    assert published.identifier(line) == name


def test_identifiers_of_a_file_skip_blank_lines_and_need_no_final_newline():
    assert published.identifiers("2007_000733\r\n\r\n2010_004493\n  \n2010_000466") == LABELED


@given(
    st.lists(st.text(string.ascii_lowercase + string.digits + "_", min_size=1, max_size=12)),
    st.randoms(use_true_random=False),
)
def test_checksum_matches_its_definition_in_any_order(names, rng: random.Random):
    shuffled = rng.sample(names, len(names))
    assert published.checksum(shuffled) == published.checksum(names) == oracle(names)


def test_checksum_sees_repeats_and_changes():
    assert len({published.checksum(names) for names in (LABELED, [*LABELED, LABELED[0]], LABELED[:-1], [])}) == 4


def test_table_has_the_lists_of_the_field():
    shares = {"voc-blended-cps": "1_16 1_8 1_4", "voc-blended-u2pl": "1_16 1_8 1_4 1_2",
              "cityscapes-cps": "1_30 1_16 1_8 1_4 1_2", "cityscapes-u2pl": "1_16 1_8 1_4 1_2",
              "ade20k": "1_64 1_32 1_16 1_8 1_4", "coco": "1_512 1_256 1_128 1_64 1_32"}  # fmt: skip
    names = {f"{family}-{share}" for family, list_ in shares.items() for share in list_.split()}
    names |= {f"voc-classic-{n}" for n in CLASSIC} | {"voc-train-aug", "voc-val", "cityscapes-val"}
    assert set(published.PUBLISHED) == names
    assert all(name == known.name and known.description for name, known in published.PUBLISHED.items())


def test_table_files_are_distinct_and_well_formed():
    files = [file for known in published.PUBLISHED.values() for file in known.files.values()]
    assert len({file.url for file in files}) == len({file.checksum for file in files}) == len(files)
    assert all(re.fullmatch(r"[0-9a-f]{16}", file.checksum) for file in files)
    assert all(file.url.startswith("https://raw.githubusercontent.com/") for file in files)


@pytest.mark.parametrize("known", [k for k in published.PUBLISHED.values() if k.unlabeled], ids=lambda k: k.name)
def test_labeled_and_unlabeled_make_the_training_set(known):
    total = {"voc": VOC, "cityscapes": CITYSCAPES, "ade20k": ADE20K}[known.name.partition("-")[0]]
    assert known.labeled.size + known.unlabeled.size == total
    numerator, separator, denominator = known.name.rpartition("-")[2].partition("_")
    if separator:
        assert known.labeled.size == pytest.approx(total / int(denominator) * int(numerator), rel=0.01)
        assert known.substitute == f'data.labeled="1/{denominator}"'
    else:
        assert known.labeled.size == int(numerator)


def test_sizes_of_the_lists_that_stand_alone():
    sizes = {known.name: known.labeled.size for known in published.PUBLISHED.values() if not known.unlabeled}
    coco = {name: size for name, size in sizes.items() if name.startswith("coco-")}
    assert sizes == coco | {"voc-train-aug": VOC, "voc-val": 1449, "cityscapes-val": 500}
    for name, size in coco.items():
        share = name.rpartition("_")[2]
        assert size == pytest.approx(COCO / int(share), rel=0.01)
        assert published.find(name).substitute == f'data.labeled="1/{share}"'


@pytest.mark.parametrize(("n", "share"), [(92, "1/115"), (183, "1/58"), (366, "1/29"), (732, "1/14"), (1464, "1/7")])
def test_substitute_of_a_classic_list(n, share):
    assert published.find(f"voc-classic-{n}").substitute == f'data.labeled="{share}"'


def test_local_says_in_three_lines_what_to_do(store):
    with pytest.raises(DataError) as caught:
        published.local("voc-classic-92")
    missing, command_line, without = str(caught.value).split("\n")
    assert "voc-classic-92" in missing and str(store / "voc-classic-92" / "labeled.txt") in missing
    assert "farcluss lists get voc-classic-92" in command_line
    assert '--set data.labeled="1/115"' in without


@pytest.mark.parametrize(
    ("name", "setting"), [("voc-val", '--set data.val="val"'), ("voc-train-aug", '--set data.labeled="all"')]
)
def test_local_without_a_share_to_draw(name, setting):
    with pytest.raises(DataError, match=f".*\n.*lists get {name}\n.*{setting}$"):
        published.local(name)


def test_half_a_list_is_not_there(remote, store):
    published.get("tiny")
    (store / "tiny" / "unlabeled.txt").unlink()
    with pytest.raises(DataError, match=r"unlabeled\.txt"):
        published.local("tiny")


@pytest.mark.parametrize("call", [published.find, published.local, published.get])
def test_unknown_name_suggests_a_near_one(call):
    with pytest.raises(DataError, match="did you mean 'cityscapes-cps-1_4'"):
        call("cityscape-cps-1_4")


def test_get_downloads_verifies_and_stores(remote, store):
    labeled, unlabeled = published.get("tiny")
    assert (labeled, unlabeled) == published.local("tiny")
    assert labeled == store / "tiny" / "labeled.txt"
    assert labeled.read_bytes() == (remote / "labeled.txt").read_bytes()
    assert unlabeled.read_bytes() == (remote / "unlabeled.txt").read_bytes()
    assert {path.name for path in store.rglob("*")} == {"tiny", "labeled.txt", "unlabeled.txt"}


def test_get_of_a_list_that_stands_alone(remote, store):
    assert published.get("tiny-val") == published.local("tiny-val") == (store / "tiny-val" / "labeled.txt", None)


def test_get_from_a_folder_takes_any_order_and_line_ending(remote, tmp_path):
    (tmp_path / "labeled.txt").write_bytes("\ufeff".encode() + "\r\n".join(LABELED[::-1]).encode())
    (tmp_path / "unlabeled.txt").write_text("\n\n".join(UNLABELED))
    labeled, unlabeled = published.get("tiny", fetch=lambda url: pytest.fail("downloaded"), folder=tmp_path)
    assert labeled.read_bytes() == (tmp_path / "labeled.txt").read_bytes()
    assert unlabeled.read_text() == (tmp_path / "unlabeled.txt").read_text()


@pytest.mark.parametrize(
    "change", [lambda t: t.replace("0006", "0007"), lambda t: t + t, lambda t: "", lambda t: "\xff"]
)
def test_get_refuses_another_list_and_names_both_checksums(remote, store, change):
    published.get("tiny")
    before = {path: path.read_bytes() for path in (store / "tiny").iterdir()}
    file = remote / "unlabeled.txt"
    file.write_text(change(file.read_text()), encoding="latin-1")
    with pytest.raises(DataError) as caught:
        published.get("tiny")
    message = str(caught.value)
    assert file.as_uri() in message and oracle(UNLABELED) in message and message.count("checksum") == 2
    assert oracle([n.replace("\xff", "\ufffd") for n in file.read_text(encoding="latin-1").split()]) in message
    assert len(message.split("\n")) == 3
    assert {path: path.read_bytes() for path in (store / "tiny").iterdir()} == before


def test_get_stores_nothing_when_the_second_file_is_wrong(remote, store):
    (remote / "unlabeled.txt").write_text("2008_000000\n")
    with pytest.raises(DataError):
        published.get("tiny")
    assert not (store / "tiny").exists()


def test_get_without_network_says_the_address_and_the_way_by_hand(remote, store):
    def fetch(url):
        raise URLError("Name or service not known")

    with pytest.raises(DataError) as caught:
        published.get("tiny", fetch=fetch)
    first, second, third = str(caught.value).split("\n")
    assert (remote / "labeled.txt").as_uri() in first and "Name or service not known" in first
    assert f"{(remote / 'unlabeled.txt').as_uri()} as unlabeled.txt" in second
    assert "farcluss lists get tiny --from FOLDER" in third
    assert not store.exists()


def test_a_broken_answer_is_a_download_that_failed(remote, monkeypatch):
    def urlopen(url, timeout):
        raise BadStatusLine("gone")

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    with pytest.raises(DataError, match="cannot download"):
        published.get("tiny")


def test_get_where_nothing_can_be_stored(remote, store):
    store.parent.write_text("a file where the folder belongs")
    with pytest.raises(DataError, match=r"(?s)Cannot store .*FARCLUSS_DATA"):
        published.get("tiny")


def test_recognize(remote):
    assert published.recognize(LABELED[::-1]) == "tiny"
    assert published.recognize(f"JPEGImages/{name}.jpg" for name in [*LABELED, LABELED[0]]) == "tiny"
    assert published.recognize(UNLABELED) == "tiny"
    assert published.recognize(UNLABELED[1:]) is None
    assert published.recognize([*LABELED, f"other/{LABELED[0]}"]) is None
    assert published.recognize([]) is None


def test_recognize_looks_at_labeled_lists_first(monkeypatch):
    file, other = ListFile(3, oracle(LABELED), ""), ListFile(9, oracle(UNLABELED), "")
    table = {"a": PublishedList("a", "", other, file), "b": PublishedList("b", "", file)}
    monkeypatch.setattr(published, "PUBLISHED", table)
    assert published.recognize(LABELED) == "b"


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", None, "home/.local/share"),
        ("linux", "XDG_DATA_HOME", "set"),
        ("darwin", None, "home/Library/Application Support"),
        ("win32", "LOCALAPPDATA", "set"),
        ("win32", None, "home/AppData/Local"),
    ],
)
def test_lists_folder_of_each_platform(monkeypatch, platform, variable, expected):
    for name in ("FARCLUSS_DATA", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "set")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("home"))
    assert published.lists_folder() == Path(expected, "farcluss", "lists")


def run(*arguments):
    return CliRunner().invoke(farcluss, ["lists", *arguments])


def test_lists_prints_every_list(remote):
    published.get("tiny-val")
    result = run()
    assert result.exit_code == 0
    rows = {line.split()[0]: line.split() for line in result.output.splitlines()}
    assert rows["tiny"][1:4] == ["3", "9", "no"]
    assert rows["tiny-val"][1:3] == ["3", "yes"]


def test_lists_takes_one_line_per_list_in_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = run().output.splitlines()
    assert [line.split()[0] for line in lines] == ["name", *published.PUBLISHED]


def test_lists_as_json(remote):
    published.get("tiny-val")
    assert json.loads(run("--json").output) == [
        {"name": "tiny", "labeled": 3, "unlabeled": 9, "downloaded": False, "description": "two files"},
        {"name": "tiny-val", "labeled": 3, "unlabeled": None, "downloaded": True, "description": "one file"},
    ]


def test_lists_get(remote, store):
    result = run("get", "tiny", "tiny-val")
    assert result.exit_code == 0
    assert result.output.splitlines() == [f"{name}: {store / name}" for name in ("tiny", "tiny-val")]
    assert published.local("tiny") and published.local("tiny-val")


def test_lists_get_from_a_folder(remote, tmp_path):
    assert run("get", "tiny", "--from", str(remote)).exit_code == 0
    (remote / "unlabeled.txt").unlink()
    error = run("get", "tiny", "--from", str(remote)).exception
    assert isinstance(error, DataError) and "must hold labeled.txt and unlabeled.txt" in str(error)


def test_lists_get_refuses_before_it_downloads(remote, store):
    assert isinstance(run("get", "tiny", "tinny").exception, DataError)
    assert run("get", "tiny", "tiny-val", "--from", str(remote)).exit_code == 2
    assert run("get").exit_code == 2
    assert not store.exists()


@pytest.mark.parametrize("arguments", [[], ["get"]])
def test_help_has_an_example(arguments):
    result = run(*arguments, "--help")
    assert result.exit_code == 0 and re.search(r"Example:\n\s+farcluss lists", result.output)
