"""The fuzzer finds nothing in its first cases, and sees what is bad."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_the_fuzzer_finds_nothing(monkeypatch):
    """No traceback, no unexpected error, hang or touched input, and no exit code 0 with nothing valid."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import fuzz

    report = fuzz.fuzz(seed=1, numbers=range(150), seconds=60, jobs=2)
    assert report["cases"] > 10
    assert report["findings"] == []


@pytest.mark.slow
def test_the_fuzzer_sees_what_is_bad(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from forks import Ended
    from fuzz import findings

    assert findings(Ended(1, "", "Error: unexpected KeyError: 'x'", 0.1), []) == ["unexpected"]
    assert findings(Ended(None, "", "", 15.0), []) == ["hang"]
    assert findings(Ended(0, "one step: loss nan. The recipe is ready to run.", "", 0.1), []) == ["exit 0, not finite"]
    assert findings(Ended(0, "│ ignored │ 100.00 │ 100.00 │", "", 0.1), []) == ["exit 0, nothing valid"]
    assert findings(Ended(0, "done", "", 0.1), ["images/i0.png"]) == ["touched input"]
    assert findings(Ended(1, "", "Error: i0.png is damaged.", 0.1), []) == []
