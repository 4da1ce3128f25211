import io
import os
import random
import warnings
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from farcluss.data.base import Item
from farcluss.data.files import FileReader, image_size, read_image
from farcluss.data.masks import build_mask_map
from farcluss.errors import DataError
from farcluss.recipes.model import Data

# EXIF orientation -> the displayed image from the stored one, rows and columns as the standard defines them.
DISPLAYED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def noise(*shape, seed=0, dtype=np.uint8):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def saved(path, array, **keys):
    Image.fromarray(array).save(path, **keys)
    return str(path)


def reader(channels=3, **keys):
    return FileReader(channels, build_mask_map(Data(**{"classes": [f"c{i}" for i in range(256 - 2)], **keys}), {}))


def refused(function, *args):
    with pytest.raises(DataError) as caught:
        function(*args)
    text = str(caught.value)
    assert 1 <= len(text.splitlines()) <= 3
    return text


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm"])
def test_rgb(tmp_path, suffix):
    array = noise(5, 7, 3)
    path = saved(tmp_path / f"x.{suffix}", array)
    image = read_image(path, 3)
    assert image.dtype == np.uint8 and image.shape == (3, 5, 7)
    assert np.array_equal(image.transpose(1, 2, 0), array)
    assert image_size(path) == (5, 7)


def test_grey_becomes_rgb_and_stays_grey(tmp_path):
    array = noise(5, 7)
    path = saved(tmp_path / "x.png", array)
    assert np.array_equal(read_image(path, 3), np.stack([array] * 3))
    assert np.array_equal(read_image(path, 1), array[None])


def test_alpha_is_dropped(tmp_path):
    array = noise(5, 7, 4)
    path = saved(tmp_path / "x.png", array)
    assert np.array_equal(read_image(path, 3), array[..., :3].transpose(2, 0, 1))
    assert np.array_equal(read_image(path, 4), array.transpose(2, 0, 1))
    grey = saved(tmp_path / "g.png", noise(5, 7, 2))
    assert Image.open(grey).mode == "LA"
    assert np.array_equal(read_image(grey, 3), np.stack([noise(5, 7, 2)[..., 0]] * 3))
    assert np.array_equal(read_image(grey, 1)[0], noise(5, 7, 2)[..., 0])


def test_palette_and_one_bit_images_are_looked_up(tmp_path):
    indices, colors = noise(5, 7) % 4, noise(4, 3, seed=1)
    image = Image.fromarray(indices)
    image.putpalette(colors.tobytes(), "RGB")
    image.save(tmp_path / "p.png")
    assert np.array_equal(read_image(str(tmp_path / "p.png"), 3), colors[indices].transpose(2, 0, 1))
    path = saved(tmp_path / "b.png", indices > 1)
    assert np.array_equal(read_image(path, 3), np.stack([(indices > 1) * np.uint8(255)] * 3))


def test_rgb_becomes_grey_by_the_luma_of_bt601(tmp_path):
    array = noise(5, 7, 3)
    luma = array @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(saved(tmp_path / "x.png", array), 1)[0] - luma).max() <= 1


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_unit_floats(tmp_path, suffix):
    array = noise(5, 7, dtype=np.uint16)
    path = saved(tmp_path / f"x.{suffix}", array)
    for channels in (1, 3):
        image = read_image(path, channels)
        assert image.dtype == np.float32 and image.shape == (channels, 5, 7)
        np.testing.assert_allclose(image, np.stack([array / 65535] * channels), atol=1e-7)


def test_float_tiff_is_left_alone(tmp_path):
    array = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    assert np.array_equal(read_image(saved(tmp_path / "x.tif", array), 1)[0], array)


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy(tmp_path, order):
    array = noise(5, 7, 6)
    np.save(tmp_path / "x.npy", np.asarray(array, order=order))
    np.save(tmp_path / "d.npy", noise(5, 7, 6, dtype=np.uint16))
    np.save(tmp_path / "two.npy", array[..., 0])
    assert np.array_equal(read_image(str(tmp_path / "x.npy"), 6), array.transpose(2, 0, 1))
    assert image_size(str(tmp_path / "x.npy")) == (5, 7)
    deep = read_image(str(tmp_path / "d.npy"), 6)
    assert deep.dtype == np.float32
    np.testing.assert_allclose(deep, noise(5, 7, 6, dtype=np.uint16).transpose(2, 0, 1) / 65535, atol=1e-7)
    assert read_image(str(tmp_path / "two.npy"), 1).shape == (1, 5, 7)
    assert read_image(str(tmp_path / "two.npy"), 3).shape == (3, 5, 7)


def test_five_channels_for_a_network_of_three(tmp_path):
    np.save(tmp_path / "x.npy", noise(5, 7, 5))
    text = refused(read_image, str(tmp_path / "x.npy"), 3)
    assert "x.npy has 5 channels" in text and "takes 3" in text and "data.channels = 5" in text


def test_arrays_can_go_to_torch_without_a_copy(tmp_path):
    np.save(tmp_path / "x.npy", noise(5, 7))
    for path in (saved(tmp_path / "x.png", noise(5, 7)), str(tmp_path / "x.npy")):
        image = read_image(path, 1)
        assert image.flags.c_contiguous and image.flags.writeable


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", DISPLAYED)
def test_exif_orientation(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(noise(16, 32, 3)).save(tmp_path / f"stored.{suffix}", **options)
    stored = np.asarray(Image.open(tmp_path / f"stored.{suffix}"))
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise(16, 32, 3)).save(path, exif=exif, **options)
    wanted = DISPLAYED[orientation](stored)
    image = read_image(str(path), 3)
    assert np.array_equal(image.transpose(1, 2, 0), wanted)
    assert image_size(str(path)) == wanted.shape[:2]
    window = (slice(2, 9), slice(3, 15))
    assert np.array_equal(read_image(str(path), 3, window), image[:, *window])


def test_exif_orientation_of_the_stored_pixels_is_what_the_oracle_assumes():
    # Orientation 6: the stored first row is the displayed right side; the stored first column is the displayed top.
    stored = np.arange(6).reshape(2, 3)
    displayed = DISPLAYED[6](stored)
    assert displayed[:, -1].tolist() == stored[0].tolist()
    assert displayed[0].tolist() == stored[::-1, 0].tolist()


def test_orientation_of_the_image_decides_which_mask_fits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = saved(tmp_path / "x.jpg", noise(8, 16, 3), exif=exif)
    mask = noise(16, 8) % 3
    sample = reader().read(Item("x", image, saved(tmp_path / "m.png", mask)))
    assert sample.image.shape == (3, 16, 8) and np.array_equal(sample.mask, mask)
    text = refused(reader().read, Item("x", image, saved(tmp_path / "n.png", mask.T)))
    assert "n.png is 16 x 8 pixels" in text and "is 8 x 16" in text


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_the_size_of_a_truncated_file_comes_from_its_header(tmp_path, suffix):
    whole = io.BytesIO()
    Image.fromarray(noise(64, 48, 3)).save(whole, "PNG" if suffix == "png" else "JPEG")
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    assert image_size(str(path)) == (64, 48)
    for function in (lambda: read_image(str(path), 3), lambda: read_image(str(path), 3, (slice(0, 4), slice(0, 4)))):
        text = refused(function)
        assert str(path) in text and "truncated" in text and "take it out of the lists" in text


def test_a_png_is_not_decoded_for_its_size(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.png", noise(8, 9, 3))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert image_size(path) == (8, 9)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_counts_as_none(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(noise(8, 16, 3)).save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert image_size(str(path)) == (8, 16)
    assert read_image(str(path), 3).shape == (3, 8, 16)


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.npy", "x.tif"])
@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_files(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    for function in (image_size, lambda path: read_image(path, 3)):
        text = refused(function, str(path))
        assert str(path) in text
        assert content or name.endswith("npy") or "0 bytes" in text


def test_zero_byte_mask(tmp_path):
    (tmp_path / "m.png").touch()
    text = refused(reader().read, Item("x", saved(tmp_path / "x.png", noise(4, 4, 3)), str(tmp_path / "m.png")))
    assert "m.png" in text and "0 bytes" in text


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF"])
def test_damage_anywhere_in_a_file_is_an_image_or_a_data_error(tmp_path, form):
    whole, rng, path = io.BytesIO(), random.Random(0), tmp_path / "x"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(9, 11, 3)).save(whole, form, exif=exif)
    for _ in range(150):
        content = bytearray(whole.getvalue()[: rng.choice([None, rng.randrange(1, len(whole.getvalue()))])])
        for _ in range(rng.randrange(1, 5)):
            content[rng.randrange(min(len(content), rng.choice([60, 10**6])))] = rng.randrange(256)
        path.write_bytes(content)
        for function in (image_size, lambda path: read_image(path, 3)):
            with suppress(DataError):
                function(str(path))


@pytest.mark.parametrize("orientation", [0, 9, 200])
def test_orientations_outside_the_standard_count_as_none(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "x.jpg", noise(8, 16, 3), exif=exif)
    assert image_size(path) == read_image(path, 3).shape[1:] == (8, 16)


@pytest.mark.parametrize("name", ["x.png", "x.npy"])
def test_missing_file(tmp_path, name):
    for function in (image_size, lambda path: read_image(path, 3)):
        text = refused(function, str(tmp_path / name))
        assert str(tmp_path / name) in text and "does not exist" in text and "data.root" in text


@pytest.mark.filterwarnings("error")
def test_what_is_no_file_is_said_by_name(tmp_path):
    """Never as the name of an exception; nothing but pictures is given to Pillow, which starts programs for some."""
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    np.save(tmp_path / "cut.npy", noise(40, 50))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "cut.npy").read_bytes()[:500])
    (tmp_path / "huge.npy").write_bytes((tmp_path / "cut.npy").read_bytes().replace(b"(40, 50)", b"(10**22,)"))
    (tmp_path / "wide.npy").write_bytes(
        (tmp_path / "cut.npy")
        .read_bytes()
        .replace(b"(40, 50), }" + b" " * 20, b"(1099511627776, 1099511627776), }".ljust(31))
    )
    words = {"folder.png": "a folder", "folder.npy": "a folder", "loop.png": "too many levels", "pipe.png": "a pipe, "}
    words |= {
        "eps.png": "not an image of BMP",
        "cut.npy": "truncated",
        "huge.npy": "damaged",
        "wide.npy": "damaged",
        "a\0b.png": "name",
    }
    for name, word in words.items():
        for function in (image_size, lambda path: read_image(path, 3)):
            text = refused(function, str(tmp_path / name))
            assert word in text and str(tmp_path / name) in text and "Error" not in text, name


@pytest.mark.parametrize("array", [np.full((3, 4), 25_000_000, np.int32), np.full((3, 4), 9, np.int32)])
def test_integers_of_unknown_range_are_no_image(tmp_path, array):
    for path in (saved(tmp_path / "x.tif", array), str(tmp_path / "x.npy")):
        np.save(tmp_path / "x.npy", array)
        assert "int" in refused(read_image, path, 1)


@pytest.mark.parametrize("kind", [">u2", ">f4", "f8", "f2"])
def test_numbers_of_other_sizes_and_orders_are_converted(tmp_path, kind):
    array = (noise(3, 4) / 256).astype(kind) if "f" in kind else noise(3, 4, dtype=np.uint16).astype(kind)
    np.save(tmp_path / "x.npy", array)
    wanted = array.astype(np.float32) / (65535 if "u" in kind else 1)
    assert np.array_equal(read_image(str(tmp_path / "x.npy"), 1)[0], wanted)


@pytest.mark.parametrize("array", [np.zeros((2, 3, 4, 5), np.uint8), np.zeros(4, np.uint8)])
def test_npy_of_other_rank(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    assert str(array.shape) in refused(read_image, str(tmp_path / "x.npy"), 3)


def test_npy_with_objects_is_never_unpickled(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[{}]], object), allow_pickle=True)
    refused(read_image, str(tmp_path / "x.npy"), 1)


def test_npy_of_other_type(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((2, 2), complex))
    assert "complex128" in refused(read_image, str(tmp_path / "x.npy"), 1)


def test_more_pixels_than_pillow_opens(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.png", noise(8, 9, 3))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    assert "x.png has more pixels" in refused(read_image, path, 3)


def test_mask_of_another_size(tmp_path):
    image, mask = saved(tmp_path / "x.png", noise(4, 6, 3)), saved(tmp_path / "m.png", noise(4, 5) % 3)
    text = refused(reader().read, Item("x", image, mask))
    assert "m.png is 5 x 4 pixels" in text and "x.png is 6 x 4" in text


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_window_is_a_slice_of_the_whole(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "windows"
    if not folder.is_dir():
        folder.mkdir()
        saved(folder / "x.jpg", noise(13, 17, 3))
        saved(folder / "d.png", noise(13, 17, dtype=np.uint16))
        np.save(folder / "x.npy", noise(13, 17, 3))
        saved(folder / "m.png", noise(13, 17) % 5)
        np.save(folder / "m.npy", noise(13, 17) % 5)
    image, mask = (
        data.draw(st.sampled_from(["x.jpg", "d.png", "x.npy"])),
        data.draw(st.sampled_from(["m.png", "m.npy"])),
    )
    window = tuple(
        slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2).filter(lambda t: t[0] != t[1])))) for n in (13, 17)
    )
    item = Item("x", str(folder / image), str(folder / mask))
    whole, part = reader().read(item), reader().read(item, window)
    assert np.array_equal(part.image, whole.image[:, *window]) and part.image.dtype == whole.image.dtype
    assert np.array_equal(part.mask, whole.mask[window]) and part.mask.dtype == np.uint8
    assert reader().size(item) == whole.mask.shape == (13, 17)


def test_an_item_without_mask(tmp_path):
    assert reader().read(Item("x", saved(tmp_path / "x.png", noise(4, 6, 3)))).mask is None


def test_nothing_warns(tmp_path):
    image, mask = saved(tmp_path / "x.png", noise(4, 6)), saved(tmp_path / "m.png", noise(4, 6) % 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reader(1).read(Item("x", image, mask))
