"""What several tests of predictions ask for."""

import pytest

from farcluss_remote_sensing import whole_scenes
from farcluss_remote_sensing import writer as writer_module


@pytest.fixture
def short(monkeypatch):
    """Strips of 32 rows."""
    monkeypatch.setattr(writer_module, "ROWS", 32)


@pytest.fixture
def counted(monkeypatch):
    """Windows that networks were asked for."""
    asked, usual = [], whole_scenes.predict_tiles

    def counting(model, task, windows):
        asked.extend(windows)
        return usual(model, task, windows)

    monkeypatch.setattr(whole_scenes, "predict_tiles", counting)
    return asked
