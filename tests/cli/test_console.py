"""Progress without a terminal: a line as soon as long work can be foreseen, then one a minute."""

import pytest

from ddpm_jax.cli import console


@pytest.fixture
def told(monkeypatch, capsys):
    """Runs work of `total` parts that take `seconds` each, and returns the lines it told."""

    def run(total: int, seconds: float) -> list[str]:
        clock = [1_000.0]
        monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
        progress = console.bar("sampling")
        for done in range(1, total + 1):
            progress(done, total)
            clock[0] += seconds
        return capsys.readouterr().err.splitlines()

    return run


def test_short_work_is_not_told_of(told):
    assert told(50, 1.0) == []
    assert told(1, 500.0) == []


def test_the_time_of_long_work_is_told_at_its_start_and_then_every_minute(told):
    lines = told(200, 1.0)
    assert lines[0] == "ddpm: sampling: 6 of 200, 3:14 left"
    assert lines[1:] == [
        "ddpm: sampling: 66 of 200, 2:14 left",
        "ddpm: sampling: 126 of 200, 1:14 left",
        "ddpm: sampling: 186 of 200, 0:14 left",
    ]


def test_slow_parts_are_told_of_after_the_second(told):
    assert told(4, 100.0) == [
        "ddpm: sampling: 2 of 4, 3:20 left",
        "ddpm: sampling: 3 of 4, 1:40 left",
    ]


def test_another_total_begins_anew(monkeypatch, capsys):
    clock = [1_000.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    progress = console.bar("sampling")
    progress(128, 1_797)
    clock[0] += 20.0
    for done in range(4, 804, 4):
        progress(done, 800)
        clock[0] += 1.0
    assert capsys.readouterr().err.splitlines()[:1] == ["ddpm: sampling: 24 of 800, 3:14 left"]
