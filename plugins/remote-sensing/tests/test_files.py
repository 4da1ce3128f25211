"""Reading scenes by windows."""

import os

import numpy as np
import pytest
from drawn_scenes import GEOGRAPHIC, NORTH_UP, ROTATED, Drawing, draw_scene, write

from farcluss.errors import DataError
from farcluss_remote_sensing.files import Stack, read_header

DRAWINGS = {
    "plain": Drawing(),
    "rotated": Drawing(transform=ROTATED),
    "geographic": Drawing(crs="EPSG:4326", transform=GEOGRAPHIC),
    "nodata": Drawing(nodata=0, collar=6),
    "nan": Drawing(dtype="float32", collar=6),
    "picture": Drawing(bands=3, dtype="uint8", crs=None, transform=NORTH_UP.identity()),
}


@pytest.mark.parametrize("drawing", DRAWINGS.values(), ids=DRAWINGS)
class TestWindows:
    def test_a_window_holds_what_was_written(self, tmp_path, drawing):
        stack = Stack((str(draw_scene(tmp_path / "scene.tif", drawing)),))
        window = slice(3, 47), slice(2, 40)
        values, valid = stack.read(window)
        np.testing.assert_array_equal(values, drawing.values()[:, *window])
        np.testing.assert_array_equal(valid, ~drawing.invalid()[window])
        assert values.dtype == drawing.dtype

    def test_its_header_is_that_of_the_file(self, tmp_path, drawing):
        header = read_header(str(draw_scene(tmp_path / "scene.tif", drawing)))
        assert header.grid.size == drawing.size and header.grid.transform == tuple(drawing.transform)[:6]
        assert header.dtypes == (drawing.dtype,) * drawing.bands
        assert header.grid.placed == (drawing.crs is not None)


class TestValid:
    def test_a_deep_pixel_without_data_in_one_band_is_invalid(self, tmp_path):
        values = Drawing().values()
        values[2, 5, 7] = 0
        path = write(tmp_path / "scene.tif", values, Drawing(), nodata=0)
        valid = Stack((str(path),)).read((slice(0, 70), slice(0, 53)))[1]
        assert np.argwhere(~valid).tolist() == [[5, 7]]

    def test_an_8_bit_pixel_is_invalid_where_all_bands_say_so(self, tmp_path):
        drawing = Drawing(dtype="uint8", bands=3)
        values = drawing.values()
        values[2, 5, 7], values[:, 6, 8] = 0, 0
        path = write(tmp_path / "scene.tif", values, drawing, nodata=0)
        valid = Stack((str(path),)).read((slice(0, 70), slice(0, 53)))[1]
        assert np.argwhere(~valid).tolist() == [[6, 8]]


def test_bands_of_files_are_stacked(tmp_path):
    values = Drawing().values()
    paths = [str(write(tmp_path / f"b{n}.tif", band, Drawing())) for n, band in enumerate(values)]
    stacked, valid = Stack((paths[3], paths[1])).read((slice(0, 9), slice(0, 9)))
    np.testing.assert_array_equal(stacked, values[[3, 1], :9, :9])
    assert valid.all()


class TestBands:
    """Alpha, types that differ, files that change."""

    def marked(self, path, **profile):
        drawing = Drawing(bands=4)
        values = drawing.values()
        values[3, :9] = 0
        return str(write(path, values, drawing, photometric="RGB", alpha="YES", **profile)), values

    def test_alpha_is_a_mask_unless_it_is_taken_as_a_band(self, tmp_path):
        path, values = self.marked(tmp_path / "scene.tif")
        window = slice(0, 70), slice(0, 53)
        masked, infrared = Stack((path,)), Stack((path,), (4, 1, 2, 3))
        assert (len(masked.dtypes), masked.masked) == (3, True)
        np.testing.assert_array_equal(masked.read(window)[1], values[3] > 0)
        assert not infrared.masked
        found, valid = infrared.read(window)
        np.testing.assert_array_equal(found, values[[3, 0, 1, 2]])
        assert valid.all()

    def test_bands_of_one_file_may_differ_in_type(self, tmp_path):
        drawing = Drawing(bands=2)
        low, high = drawing.values()
        paths = write(tmp_path / "a.tif", low, drawing), write(tmp_path / "b.tif", high / np.float32(3), drawing)
        band = (
            '<VRTRasterBand dataType="{}" band="{}"><SimpleSource><SourceFilename>{}</SourceFilename>'
            "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        )
        bands = [band.format(*facts) for facts in zip(("UInt16", "Float32"), (1, 2), paths, strict=True)]
        vrt = tmp_path / "both.vrt"
        vrt.write_text(f'<VRTDataset rasterXSize="53" rasterYSize="70">{"".join(bands)}</VRTDataset>')
        stack = Stack((str(vrt),))
        assert stack.dtypes == ("uint16", "float32")
        np.testing.assert_array_equal(stack.read((slice(0, 70), slice(0, 53)))[0], [low, high / np.float32(3)])

    def test_a_file_that_was_replaced_is_read_anew(self, tmp_path):
        path, window = tmp_path / "scene.tif", (slice(0, 70), slice(0, 53))
        for seed in range(3):
            drawing = Drawing(seed=seed)
            draw_scene(tmp_path / "new.tif", drawing).replace(path)
            np.testing.assert_array_equal(Stack((str(path),)).read(window)[0], drawing.values())


class TestErrors:
    def test_ground_control_points_are_refused(self, tmp_path):
        from rasterio.control import GroundControlPoint

        points = [GroundControlPoint(r, c, 1.5 * c, 2.5 * r) for r, c in ((0, 0), (0, 50), (60, 0), (60, 50))]
        path = write(tmp_path / "scene.tif", Drawing().values(), Drawing(transform=None), gcps=points)
        with pytest.raises(DataError, match=r"ground control points.*\n.*gdalwarp"):
            read_header(str(path))

    @pytest.mark.parametrize(("content", "text"), [(b"", "empty"), (b"hello", "cannot be read"), (None, "not exist")])
    def test_files_that_are_none(self, tmp_path, content, text):
        path = tmp_path / "scene.tif"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DataError, match=text):
            read_header(str(path))

    def test_a_damaged_file_spoils_no_other(self, tmp_path):
        window = slice(0, 70), slice(0, 53)
        good, bad = (str(draw_scene(tmp_path / name)) for name in ("good.tif", "bad.tif"))
        os.truncate(bad, os.path.getsize(bad) // 2)
        stacks = Stack((good,)), Stack((bad,))
        stacks[0].read(window)
        with pytest.raises(DataError, match=r"bad\.tif cannot be read"):
            stacks[1].read(window)
        np.testing.assert_array_equal(stacks[0].read(window)[0], Drawing().values())

    def test_a_band_that_is_not_there(self, tmp_path):
        path = str(draw_scene(tmp_path / "scene.tif"))
        with pytest.raises(DataError, match="has 5 bands, but band 6"):
            Stack((path,), (1, 6)).read((slice(0, 9), slice(0, 9)))
