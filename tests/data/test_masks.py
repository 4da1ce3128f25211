import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from farcluss.data.files import read_mask
from farcluss.data.masks import build_mask_map, choose_palette, voc_colors
from farcluss.errors import DataError, RecipeError
from farcluss.recipes.model import Data

RED, GREEN, BLUE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)
HEX = {RED: "#ff0000", GREEN: "#00FF00", BLUE: "#0000ff", BLACK: "#000000"}


def mapped(array, **keys):
    return build_mask_map(Data(**keys), {}).apply(np.asarray(array), "m.png").tolist()


def read(path, **keys):
    masks = build_mask_map(Data(**keys), {})
    return masks.apply(read_mask(str(path), masks.colors, white=masks.white), str(path)).tolist()


def palette_file(path, indices, colors):
    image = Image.fromarray(np.asarray(indices, np.uint8))
    image.putpalette([part for color in colors for part in color], "RGB")
    image.save(path)
    assert Image.open(path).mode == "P"


def refused(message, error, function, *args, **keys):
    with pytest.raises(error) as caught:
        function(*args, **keys)
    text = str(caught.value)
    assert message in text
    assert 1 <= len(text.splitlines()) <= 3
    return text


def test_a_list_names_the_classes_in_order_of_value():
    assert mapped([[0, 1], [2, 255]], classes=["a", "b", "c"]) == [[0, 1], [2, 255]]


def test_a_table_gives_values_and_several_values_per_class():
    classes = {"road": 7, "car": [26, 27, 28], "sky": 0}
    assert mapped([[7, 0, 26], [28, 27, 255]], classes=classes) == [[0, 2, 1], [1, 1, 255]]


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.integers(-5, 70000), st.integers(0, 4), min_size=1), st.data())
def test_any_map_of_values_equals_a_lookup(table, data):
    names = sorted(set(table.values()))
    classes = {f"class{i}": [v for v, owner in table.items() if owner == i] for i in names}
    values = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=1))
    wanted = [[names.index(table[v]) for v in values]]
    assert mapped([values], classes=classes, ignore_index=-9) == wanted


def test_negative_values_and_values_beyond_eight_bits():
    classes = {"a": 300, "b": 65535}
    assert mapped([[300, 65535, -1]], classes=classes, ignore_index=-1) == [[0, 1, 255]]


@pytest.mark.parametrize("ignore", [9, [9, 200], [200, 9, 255]])
def test_ignored_values(ignore):
    array = [[0, 1, 9]] if ignore == 9 else [[0, 1, 9, 200]]
    assert mapped(array, classes=["a", "b"], ignore_index=ignore) == [[0, 1, 255, 255][: len(array[0])]]


def test_255_is_ignored_unless_a_class_has_it():
    assert mapped([[0, 1, 255]], classes=["a", "b"]) == [[0, 1, 255]]
    assert mapped([[0, 255]], classes={"background": 0, "object": 255}) == [[0, 1]]
    assert mapped([[0, 255]], classes=["a"], ignore_index=[255]) == [[0, 255]]
    refused("255", DataError, mapped, [[0, 255]], classes=["a"], ignore_index=[])


def test_reduce_zero_label():
    assert mapped([[0, 1, 2, 255]], classes=["wall", "floor"], reduce_zero_label=True) == [[255, 0, 1, 255]]


def test_colors():
    array = np.array([[RED, BLUE, GREEN, BLACK]], np.uint8)
    classes = {"r": "#ff0000", "b": ["#0000FF", "#00ff00"]}
    assert mapped(array, classes=classes, ignore_index="#000000") == [[0, 1, 1, 255]]
    assert mapped(array, classes={"r": HEX[RED]}, ignore_index=["#00ff00", HEX[BLACK], HEX[BLUE]]) == [
        [0, 255, 255, 255]
    ]


def test_palettes_of_different_order_give_the_same_classes_by_color(tmp_path):
    palette_file(tmp_path / "a.png", [[0, 1], [2, 0]], [RED, GREEN, BLUE])
    palette_file(tmp_path / "b.png", [[2, 0], [1, 2]], [GREEN, BLUE, RED])
    Image.fromarray(np.array([[RED, GREEN], [BLUE, RED]], np.uint8)).save(tmp_path / "c.png")
    classes = {"green": HEX[GREEN], "red": HEX[RED], "blue": HEX[BLUE]}
    found = [read(tmp_path / f"{name}.png", classes=classes) for name in "abc"]
    assert found == [[[1, 0], [2, 1]]] * 3


def test_palette_by_index(tmp_path):
    palette_file(tmp_path / "a.png", [[0, 1], [2, 255]], [RED] * 256)
    assert read(tmp_path / "a.png", classes=["a", "b", "c"]) == [[0, 1], [2, 255]]


def test_sixteen_and_one_bit_masks(tmp_path):
    Image.fromarray(np.array([[1000, 3]], np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bit.png")
    Image.fromarray(np.array([[70000, 3]], np.int32)).save(tmp_path / "deep.tif")
    assert Image.open(tmp_path / "deep.png").mode.startswith("I;16")
    assert Image.open(tmp_path / "bit.png").mode == "1"
    assert read(tmp_path / "deep.png", classes={"a": 3, "b": 1000}) == [[1, 0]]
    assert read(tmp_path / "bit.png", classes=["a", "b"]) == [[0, 1]]
    assert read(tmp_path / "deep.tif", classes={"a": 3, "b": 70000}) == [[1, 0]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_equal_channels_are_values(tmp_path, mode):
    Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).convert(mode).save(tmp_path / "m.png")
    assert Image.open(tmp_path / "m.png").mode == mode
    assert read(tmp_path / "m.png", classes=["a", "b", "c"]) == [[0, 1], [2, 255]]


def test_npy_masks(tmp_path):
    np.save(tmp_path / "i.npy", np.array([[0, 2], [1, 255]], np.int16))
    np.save(tmp_path / "f.npy", np.array([[0.0, 2.0], [1.0, 255.0]], np.float32))
    np.save(tmp_path / "c.npy", np.array([[RED, BLUE]], np.uint8))
    for name in ("i", "f"):
        assert read(tmp_path / f"{name}.npy", classes=["a", "b", "c"]) == [[0, 2], [1, 255]]
    assert read(tmp_path / "c.npy", classes={"blue": HEX[BLUE], "red": HEX[RED]}) == [[1, 0]]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[0.5, 1.0]], np.float32), "fractions, such as 0.5"),
        (np.array([[np.nan, 1.0]]), "the value nan"),
        (np.array([[1.0, np.inf]]), "the value inf"),
        (np.array([[1e30, 1.0]]), "the value 1e+30"),
        (np.array([[2**64 - 1, 1]], np.uint64), "the value 18446744073709551615"),
        (np.array([[1j, 0]]), "type complex128"),
        (np.array([["a", "b"]]), "type <U1"),
        (np.zeros((1, 2), "M8[s]"), "type datetime64[s]"),
        (np.zeros((1, 2), [("a", "i4")]), "type [('a', '<i4')]"),
        (np.zeros((0, 2), np.uint8), "no pixels"),
        (np.zeros((1, 2, 0), np.uint8), "no pixels"),
    ],
)
def test_what_is_no_whole_number_is_named_as_what_it_is(tmp_path, recwarn, array, words):
    path = tmp_path / "f.npy"
    np.save(path, array)
    text = refused(words, DataError, read, path, classes=["a", "b"])
    assert str(path) in text and not recwarn.list
    if array.size and array.ndim == 2 and array.dtype.kind in "uf":  # equal channels are values too
        np.save(path, np.repeat(array[..., None], 3, axis=2))
        refused(words, DataError, read, path, classes=["a", "b"])


def gray_png(path, values, bits):
    """A gray PNG of `bits` per sample, which Pillow does not write."""
    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :].ravel()).tobytes() for row in values
    )
    head = struct.pack(">IIBBBBB", *values.shape[::-1], bits, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    )


@pytest.mark.parametrize("most", [1, 3, 15, 200, 255, 300, 65535])
def test_gray_values_are_read_as_they_are_stored(tmp_path, most):
    """Pillow stretches those of files with few bits, or another maximum, to 255 or 65535."""
    values = np.array([[0, most, most // 2], [1, most - 1, most]])
    kind, end = (np.uint8, "B") if most < 256 else (np.uint16, "H")
    (tmp_path / "m.pgm").write_bytes(f"P5 3 2 {most}\n".encode() + struct.pack(f">6{end}", *values.ravel()))
    (tmp_path / "t.pgm").write_text(f"P2 3 2 {most}\n{' '.join(map(str, values.ravel()))}\n")
    names = ["m.pgm", "t.pgm"]
    if most < 16:
        gray_png(tmp_path / "m.png", values.astype(np.uint8), most.bit_length())
        names.append("m.png")
    for name in names:
        found = read_mask(str(tmp_path / name), False)
        assert found.tolist() == values.astype(kind).tolist(), name
        part = read_mask(str(tmp_path / name), False, (slice(1, 2), slice(0, 2)))
        assert part.tolist() == values[1:, :2].tolist()


def test_white_of_one_bit_is_the_value_that_the_classes_have(tmp_path):
    """Programs that shrink files store 0 and 255 in one bit, in some files of a folder."""
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bit.png")
    Image.fromarray(np.array([[0, 255]], np.uint8)).save(tmp_path / "byte.png")
    both = {"classes": {"a": 0, "b": 255}}
    assert read(tmp_path / "bit.png", **both) == read(tmp_path / "byte.png", **both) == [[0, 1]]
    assert read(tmp_path / "bit.png", classes={"a": 0, "b": 255, "c": 1}) == [[0, 2]]
    refused("the value 1", DataError, read, tmp_path / "bit.png", classes={"a": 0, "b": 2})


def test_value_37_in_a_set_of_11_classes(tmp_path):
    Image.fromarray(np.array([[0, 10, 37]], np.uint8)).save(tmp_path / "seg.png")
    text = refused("37", DataError, read, tmp_path / "seg.png", classes=[f"c{i}" for i in range(11)])
    assert str(tmp_path / "seg.png") in text
    assert "11 classes" in text and "0 to 10" in text and "data.ignore_index" in text


def test_the_values_of_the_classes_are_no_range_unless_all_are_in_it(tmp_path):
    Image.fromarray(np.array([[0, 37]], np.uint8)).save(tmp_path / "m.jpg")
    text = refused("(values 0, 255)", DataError, read, tmp_path / "m.jpg", classes={"a": 0, "b": 255})
    assert "as PNG" in text


def test_many_unknown_values_are_counted_not_listed():
    text = refused("and 5 more", DataError, mapped, [range(100, 110)], classes=["a"])
    assert "100, 101, 102, 103, 104" in text


def test_unknown_color_is_shown_as_color():
    refused("#00ff00", DataError, mapped, np.array([[RED, GREEN]], np.uint8), classes={"r": HEX[RED]})


def test_color_mask_without_colors_is_refused(tmp_path):
    Image.fromarray(np.array([[RED, GREEN]], np.uint8)).save(tmp_path / "m.png")
    np.save(tmp_path / "m.npy", np.array([[RED, GREEN]], np.uint8))
    for name in ("m.png", "m.npy"):
        text = refused("is a color mask", DataError, read, tmp_path / name, classes=["a", "b"])
        assert name in text and "[data.classes]" in text


def test_mask_without_colors_is_refused_where_colors_are_mapped(tmp_path):
    Image.fromarray(np.array([[1000, 3]], np.uint16)).save(tmp_path / "m.png")
    np.save(tmp_path / "m.npy", np.array([[0, 1]], np.uint8))
    for name in ("m.png", "m.npy"):
        refused(name, DataError, read, tmp_path / name, classes={"r": HEX[RED]})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "data.classes is missing"),
        ({"classes": []}, "data.classes is missing"),
        ({"classes": {"a": 1, "b": "#ff0000"}}, "mixes"),
        ({"classes": {"a": [1, 2], "b": 2}}, "gives 2 to 'b', but it belongs to 'a' already"),
        ({"classes": {"a": [1], "b": []}}, "'b'"),
        ({"classes": {"a": "#ff0000", "b": [0, 255, 0]}}, "#rrggbb"),
        ({"classes": {"a": "#ff0000"}, "ignore_index": [0, 0, 0]}, "#rrggbb"),
        ({"classes": {"a": 0, "b": 1}, "ignore_index": 0}, "belongs to 'data.ignore_index' already"),
        ({"classes": {"a": 0, "b": 1}, "reduce_zero_label": True}, "belongs to 'data.ignore_index' already"),
        ({"classes": ["a", "a"]}, "twice"),
        ({"classes": ["a"], "ignore_index": "#000000"}, "data.ignore_index"),
        ({"classes": {"a": 2**63}}, "64 bits"),
        ({"classes": ["a"], "ignore_index": 10**30}, "64 bits"),
        ({"classes": [f"c{i}" for i in range(255)]}, "254 is the most"),
    ],
)
def test_refused_classes(keys, message):
    refused(message, RecipeError, lambda: build_mask_map(Data(**keys), {}))


def test_the_layout_names_classes_where_the_recipe_does_not():
    masks = build_mask_map(Data(), {"x": [3], "y": [5]})
    assert masks.names == ("x", "y")
    assert masks.apply(np.array([[5, 3]]), "m").tolist() == [[1, 0]]


def test_palette_is_the_recipes_then_the_colors_of_the_classes_then_the_layouts_then_vocs():
    def palette(default=None, count=2, **keys):
        data = Data(**keys)
        return choose_palette(data, default, count, build_mask_map(data, {}))

    layout = ((1, 1, 1), (2, 2, 2))
    colors = {"blue": [HEX[BLUE], HEX[BLACK]], "red": "#ff0000"}
    assert palette(layout, classes=colors, palette=["#010203", "#040506"]) == ((1, 2, 3), (4, 5, 6))
    assert palette(layout, classes=colors) == (BLUE, RED)
    assert palette(layout, classes=["a", "b"]) == layout
    assert palette(layout, 3, classes=["a", "b", "c"]) == palette(None, 3, classes=["a", "b", "c"]) == voc_colors(3)
    with pytest.raises(RecipeError, match="1 colors for 2"):
        palette(classes=["a", "b"], palette=["#010203"])


def test_voc_colors():
    # As printed in the development kit of the challenge, background to tvmonitor.
    wanted = """0,0,0 128,0,0 0,128,0 128,128,0 0,0,128 128,0,128 0,128,128 128,128,128 64,0,0 192,0,0 64,128,0
    192,128,0 64,0,128 192,0,128 64,128,128 192,128,128 0,64,0 128,64,0 0,192,0 128,192,0 0,64,128"""
    assert voc_colors(21) == tuple(tuple(map(int, color.split(","))) for color in wanted.split())
    assert voc_colors(256)[255] == (224, 224, 192)
    assert len(set(voc_colors(256))) == 256


@pytest.mark.parametrize("bad", ["red", "#12345", "#1234567", ""])
@pytest.mark.parametrize("key", ["palette", "ignore_index", "classes"])
def test_no_color(bad, key):
    value = {"palette": [bad], "ignore_index": [bad], "classes": {"a": bad}}[key]
    with pytest.raises(ValidationError):
        Data.model_validate({key: value})


@settings(deadline=None)
@given(st.lists(st.integers(-3, 300), min_size=2, max_size=9, unique=True), st.data())
def test_eight_bits_are_mapped_as_deeper_masks_are(values, data):
    """One goes through a table, the other through a search."""
    classes = dict(zip("abcdefghi", values, strict=False))
    known = [value for value in values if 0 <= value < 256] or [None]
    ignored = data.draw(st.integers(0, 255).filter(lambda value: value not in values))
    pool = st.sampled_from([ignored, *(value for value in known if value is not None)])
    drawn = data.draw(st.lists(pool | st.integers(0, 255) if data.draw(st.booleans()) else pool, min_size=1))
    found = []
    for kind in (np.uint8, np.int64):
        try:
            found.append(mapped(np.array([drawn], kind), classes=classes, ignore_index=ignored))
        except DataError as error:
            found.append(str(error))
    assert found[0] == found[1]
