"""Files that appear whole, with the rights that the user asked for, and errors that name what is in the way."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from farcluss.runs.atomic import save_array, unwritable, write_atomically
from farcluss.runs.folder import RunFolder


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o002])
def test_permissions_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "new", b"patients")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~mask


def test_an_error_names_the_file_and_leaves_nothing(tmp_path):
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "taken", tmp_path / ("n" * 300)):
        with pytest.raises(OSError, match=path.name) as caught:
            write_atomically(path, b"content")
        assert caught.value.filename == str(path)
    assert os.listdir(tmp_path) == ["taken"]


def test_an_array_that_does_not_fit_on_the_disk_says_so():
    with open("/dev/full", "wb", buffering=0) as file, pytest.raises(OSError, match="No space left") as caught:
        save_array(file, np.zeros(3))
    assert unwritable(Path("p.npy"), caught.value, "--output") == (
        "p.npy cannot be written: No space left on device. Free space there, or choose another --output."
    )


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free space there"),
        (errno.EACCES, "make this one writable"),
        (errno.EISDIR, "Move what is in the way"),
        (errno.ENOTDIR, "Move what is in the way"),
    ],
)
def test_only_a_full_disk_is_called_full(tmp_path, number, advice):
    error = OSError(number, os.strerror(number), str(tmp_path / "metrics.jsonl"))
    text = str(RunFolder(tmp_path).write_error(error, started=True))
    assert advice in text and os.strerror(number) in text and len(text.splitlines()) <= 3
    assert ("are free" in text) == (number == errno.ENOSPC)
    assert number == errno.ENOSPC or str(Path("metrics.jsonl")) in text
