"""What TensorBoard is told, also after a disk was full."""

import errno
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]

from ddpm_jax.training.logging.tensorboard import TensorBoard


def shown(folder: Path) -> list[tuple[int, float]]:
    """The points that TensorBoard would show: a start at a step hides the earlier ones from it on.

    A record is its length, a checksum of that, an Event, and a checksum of this.
    """
    points: list[tuple[int, float]] = []
    for path in sorted(folder.iterdir(), key=lambda path: int(path.name.rpartition(".")[2])):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == SessionLog.START:
                points = [each for each in points if each[0] < event.step]
            points += [(event.step, value.simple_value) for value in event.summary.value]
    return points


def logger_of(folder: Path) -> TensorBoard:
    context: Any = SimpleNamespace(folder=folder)
    return TensorBoard(context)


def test_going_back_hides_what_came_after(tmp_path):
    board = logger_of(tmp_path)
    for step in (1, 2, 3):
        board.row(step, {"loss": step})
    board.rewind(1)
    board.row(2, {"loss": 20})
    board.close()
    assert shown(tmp_path / "tensorboard") == [(1, 1), (2, 20)]


def test_a_full_disk_costs_only_what_was_not_yet_written(tmp_path, monkeypatch):
    board = logger_of(tmp_path)
    board.rewind(5)
    board.row(6, {"loss": 6})
    board.flush()

    board.row(7, {"loss": 7})
    errors = [OSError(errno.ENOSPC, "No space left on device")]
    flush = board._file.flush

    def full() -> None:
        if errors:
            raise errors.pop()
        flush()

    monkeypatch.setattr(board._file, "flush", full)
    with pytest.raises(OSError, match="No space"):
        board.flush()
    board.row(8, {"loss": 8})
    board.close()
    # Closing the first file wrote the seventh row all the same.
    assert shown(tmp_path / "tensorboard") == [(6, 6), (7, 7), (8, 8)]
