"""The three standard streams of a command: always open, and none fails for what is said."""

import os
import sys
from contextlib import suppress
from typing import Any, TextIO


def prepare() -> None:
    """Opens the streams that the caller had closed, and lets them print every name.

    cron, daemons and `>&-` start a program without them. Python then has None, and the next file
    that is opened gets the stream's number, so that a library's messages would land in that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            number = os.open(os.devnull, os.O_RDWR)  # The lowest that is free: the stream's own.
            os.set_inheritable(number, True)
            stream = open(number, mode)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    for stream in (sys.stdout, sys.stderr):
        # Names of files may have letters that a terminal has not, and bytes that are not UTF-8.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stderr = _Lossy(sys.stderr)  # type: ignore[assignment]


def discard_stdout() -> None:
    """Lets what stdout still holds go nowhere: Python would fail to write it when it ends."""
    null = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError, ValueError):
        os.dup2(null, sys.stdout.fileno())
    os.close(null)


class _Lossy:
    """stderr that drops what it can't write.

    A terminal that was closed, a reader that left or a full disk must not end a training.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()
