import json

import pytest

from ddpm_jax.training.logging.run_logger import RunLogger, _Lines, read_events, read_rows

VALUES = {"loss": 1.0, "grad_norm": 1.0, "images_per_s": 1.0}


class Full:
    """A file on a disk with room for five bytes."""

    def __init__(self, file):
        self.fileno, self.seek, self.truncate = file.fileno, file.seek, file.truncate
        self._file = file

    def write(self, text):
        return self._file.write(text[:5])


def test_rows_wait_for_room_and_none_is_halved(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = _Lines(path)
    lines.add({"step": 1})
    file, lines._file = lines._file, Full(lines._file)
    for step in (2, 3):
        with pytest.raises(OSError, match="No space left"):
            lines.add({"step": step})
        assert path.read_text() == '{"step": 1}\n'
    lines._file = file
    lines.add({"step": 4})
    lines.close()
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3, 4]


def test_a_full_disk_is_told_once_and_training_goes_on(tmp_path, capsys):
    journal = RunLogger(tmp_path, start=0, total=9)
    journal.row(1, VALUES)
    assert journal._rows is not None
    file, journal._rows._file = journal._rows._file, Full(journal._rows._file)
    journal.row(2, VALUES)
    journal.row(3, VALUES)
    said = capsys.readouterr().err
    assert said.count("metrics.jsonl can't be written (No space left on device)") == 1
    journal._rows._file = file
    journal.row(4, VALUES)
    journal.close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_damaged_row_ends_what_is_read(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for worse in (b'{"step": 2', b"\xff\xfe", b"[1]", b'{"loss": 1}', b'{"step": "2"}'):
        path.write_bytes(b'{"step": 1}\n' + worse + b'\n{"step": 3}\n')
        assert [row["step"] for row in read_rows(path)] == [1]


def test_rewinding_takes_rows_back_and_events_only_from_the_way(tmp_path):
    journal = RunLogger(tmp_path, start=0, total=9)
    for step in (2, 4, 6):
        journal.row(step, VALUES)
    journal.event(4, "rollback", back=2)
    journal.rewind(2)
    journal.row(3, VALUES)
    journal.close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [2, 3]
    assert [row["event"] for row in read_events(tmp_path / "events.jsonl")] == ["start", "rollback"]
    RunLogger(tmp_path, start=3, total=9).close()
    assert [row["event"] for row in read_events(tmp_path / "events.jsonl")] == ["start", "start"]
    # Nothing is ever taken out of the file itself.
    written = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(written) == 3
