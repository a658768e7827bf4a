import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from ddpm_jax.errors import UserError
from ddpm_jax.training.logging import progress
from ddpm_jax.training.logging.json_lines import JsonLines, read_events, read_rows
from ddpm_jax.training.logging.logger import LogContext, Logger
from ddpm_jax.training.logging.run_logger import LOGGERS, RunLogger
from ddpm_jax.training.logging.wandb import WandB

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
    lines = JsonLines(path, lambda line: None)
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


def test_a_full_disk_is_reported_once_and_training_goes_on(tmp_path):
    said = []
    logger = RunLogger(tmp_path, start=0, total=9, report=said.append)
    logger.row(1, VALUES)
    lines = logger._loggers["metrics.jsonl"]._lines  # type: ignore[attr-defined]
    file, lines._file = lines._file, Full(lines._file)
    for step in (2, 3):
        logger.row(step, VALUES)
        # What the file ignores does not end its failure.
        logger.advance(step)
        logger.event(step, "data")
    reason = "metrics.jsonl can't be written (No space left on device)"
    assert sum(reason in line for line in said) == 1
    lines._file = file
    logger.row(4, VALUES)
    logger.close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]


DAMAGED = {
    "half": b'{"step": 2, "lo',
    "NULs": b"\0" * 12,
    "not UTF-8": b'{"step": 2, "a": "\xff\xfe"}',
    "not an object": b"[1]",
    "no step": b'{"loss": 1}',
    "a step in words": b'{"step": "2"}',
    "a step of truth": b'{"step": true}',
    "nested without end": b"[" * 100_000,
    "a number without end": b'{"step": 1' + b"0" * 5_000 + b"}",
}


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.jsonl"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_only_the_damaged_line_goes_and_is_told(name, damage, tmp_path):
    path, said = tmp_path / name, []
    good = b'{"step": 1, "event": "x"}\n', b'{"step": 3, "event": "x", "loss": NaN}\n'
    path.write_bytes(good[0] + DAMAGED[damage] + b"\n" + good[1])
    assert [row["step"] for row in read_rows(path)] == [1, 3]
    logger = RunLogger(tmp_path, start=3, total=9, loggers=(), report=said.append)
    logger.close()
    assert said == [f"{path}: line 2 can't be read and is left out; the others are kept"]
    assert path.read_bytes().startswith(b"".join(good))
    RunLogger(tmp_path, start=3, total=9, report=said.append).close()
    assert len(said) == 1


def test_several_damaged_lines_are_one_line(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    path.write_bytes(b'{"step": 1}\nx\n\0\0\n{"step": 2}\n{"st')
    JsonLines(path, said.append).keep(lambda row: True)
    assert said == [
        f"{path}: 3 lines, from 2 on, can't be read and are left out; the others are kept"
    ]
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_marks_of_other_systems_cost_no_row(tmp_path):
    path, said = tmp_path / "metrics.jsonl", []
    path.write_bytes(b'\xef\xbb\xbf{"step": 1}\r\n\r\n{"step": 2}\r\n\0\0\0{"step": 3}\n')
    before = path.read_bytes()
    JsonLines(path, said.append).keep(lambda row: True)
    assert said == []
    assert path.read_bytes() == before
    assert [row["step"] for row in read_rows(path)] == [1, 2, 3]


def test_a_row_never_joins_a_line_that_was_left_half(tmp_path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "ev')
    lines = JsonLines(path, lambda line: None)
    for step in (3, 4):
        lines.add({"step": step})
    lines.close()
    assert [row["step"] for row in read_rows(path)] == [1, 3, 4]


def test_rewinding_takes_back_rows_and_leaves_out_events(tmp_path):
    logger = RunLogger(tmp_path, start=0, total=9)
    for step in (2, 4, 6):
        logger.row(step, VALUES)
    logger.event(4, "rollback", back=2)
    logger.rewind(2)
    logger.row(3, VALUES)
    logger.close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [2, 3]
    assert [row["event"] for row in read_events(tmp_path / "events.jsonl")] == ["start", "rollback"]
    RunLogger(tmp_path, start=3, total=9).close()
    assert [row["event"] for row in read_events(tmp_path / "events.jsonl")] == ["start", "start"]
    # Nothing is ever taken out of the file itself.
    written = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert len(written) == 3


class Memory(Logger):
    def __init__(self, context):
        self.context, self.seen = context, []

    def row(self, step, values):
        self.seen.append(("row", step, values))

    def event(self, step, name, details):
        self.seen.append((name, step, details))

    def picture(self, step, name, pixels):
        self.seen.append((name, step, pixels.shape))

    def advance(self, step):
        self.seen.append(("advance", step))

    def rewind(self, step):
        self.seen.append(("rewind", step))

    def flush(self):
        raise UserError("the service is down")

    def close(self):
        self.seen.append(("close",))


def test_a_logger_from_outside_gets_everything_and_its_failure_costs_a_line(monkeypatch, tmp_path):
    made, said = [], []
    monkeypatch.setitem(LOGGERS, "memory", lambda context: made.append(Memory(context)) or made[0])
    settings = {"train.steps": 9}
    logger = RunLogger(
        tmp_path, start=3, total=9, loggers=("memory",), settings=settings, report=said.append
    )
    logger.row(4, VALUES)
    logger.event(4, "rollback", back=2)
    Image.new("L", (6, 5)).save(tmp_path / "a.png")
    logger.picture(4, "samples", tmp_path / "a.png")
    logger.advance(5)
    logger.flush()
    logger.flush()
    logger.rewind(2)
    logger.close()
    (memory,) = made
    assert memory.context.settings == settings
    assert memory.context.run == tmp_path.name
    assert memory.seen == [
        ("rewind", 3),
        ("start", 3, {}),
        ("row", 4, VALUES),
        ("rollback", 4, {"back": 2}),
        ("samples", 4, (5, 6, 3)),
        ("advance", 5),
        ("rewind", 2),
        ("close",),
    ]
    assert sum("memory can't be written (the service is down)" in line for line in said) == 1


def test_it_says_nothing_unasked(tmp_path, capfd):
    for silent in (False, True):
        logger = RunLogger(tmp_path, start=0, total=9, silent=silent)
        logger.say("something")
        logger.row(1, VALUES)
        logger.close()
    assert capfd.readouterr() == ("", "")


def test_progress_is_a_line_for_each_row(tmp_path):
    said = []
    logger = RunLogger(tmp_path, start=0, total=9, report=said.append)
    logger.advance(1)
    logger.row(3, VALUES)
    logger.close()
    assert said == ["step 3 of 9  loss 1.0000  grad 1.00  img/s 1  0:00 left"]


def test_the_time_left_counts_no_compilation_and_silence_ends_after_a_minute(tmp_path, monkeypatch):
    said, now = [], [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    logger = RunLogger(tmp_path, start=0, total=100, report=said.append)
    now[0] += 1000  # compiling
    logger.advance(1)
    logger.row(1, VALUES)  # no step since then: nothing is known
    for step in (2, 3, 4, 5):
        now[0] += 20
        logger.advance(step)
    logger.row(5, VALUES)
    logger.rewind(0)
    now[0] += 1000
    logger.advance(1)
    logger.close()
    numbers = "  loss 1.0000  grad 1.00  img/s 1"
    assert said == [
        f"step 1 of 100{numbers}",
        "step 4 of 100  32:00 left",
        f"step 5 of 100{numbers}  31:40 left",
    ]


def test_wandb_that_is_not_installed_is_refused_in_a_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r'pip install "ddpm_jax\[wandb\]"') as told:
        RunLogger(tmp_path, start=0, total=9, loggers=("wandb",))
    assert len(str(told.value).splitlines()) == 1


def test_wandb_gets_rows_and_pictures_under_an_id_that_stays(monkeypatch, tmp_path):
    calls = []
    run = types.SimpleNamespace(
        log=lambda values, step: calls.append((values, step)),
        finish=lambda: calls.append("finish"),
    )
    made = []
    module = types.SimpleNamespace(
        init=lambda **options: made.append(options) or run,
        Image=lambda pixels: pixels.shape,
        Error=KeyError,
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    for _ in range(2):
        logger = RunLogger(
            tmp_path, start=0, total=9, loggers=("wandb",), settings={"train.steps": 9}
        )
        logger.row(2, VALUES)
        Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "a.png")
        logger.picture(2, "samples", tmp_path / "a.png")
        logger.close()
    assert calls[:3] == [(VALUES, 2), ({"samples": (5, 6, 3)}, 2), "finish"]
    assert made[0] == made[1]
    assert made[0]["config"] == {"train.steps": 9}
    assert made[0]["resume"] == "allow"


def test_a_refusal_of_wandb_is_a_line(monkeypatch, tmp_path):
    def refuse(**_):
        raise KeyError("No API key configured.\nSee the web.")

    module = types.SimpleNamespace(init=refuse, Error=KeyError)
    monkeypatch.setitem(sys.modules, "wandb", module)
    with pytest.raises(UserError, match=r"wandb failed \(.*No API key configured.* log in") as told:
        RunLogger(tmp_path, start=0, total=9, loggers=("wandb",))
    assert len(str(told.value).splitlines()) == 1


def test_wandb_knows_a_run_by_where_it_is_and_not_where_it_is_spooled(monkeypatch, tmp_path):
    made = []
    run = types.SimpleNamespace(finish=lambda: None)
    module = types.SimpleNamespace(init=lambda **given: made.append(given) or run, Error=KeyError)
    monkeypatch.setitem(sys.modules, "wandb", module)
    for target in ("gs://bucket/a", "gs://bucket/a", "gs://bucket/b"):
        spooled = tmp_path / str(len(made))
        WandB(LogContext(spooled, target[-1], 9, {}, print, target)).close()
    ids = [each["id"] for each in made]
    assert ids[0] == ids[1] != ids[2]
    assert [each["name"] for each in made] == ["a", "a", "b"]
