#!/usr/bin/env python3
"""Tells whether a `ddpm train` command has anything left to do.

usage: finished.py ddpm train CONFIG [--workdir DIR] ...

`ddpm train` exits 0 both when it is done and when it has saved after SIGTERM, and it does so on
every host although one alone was signalled. What starts it again must know which it was, and the
run's folder says so: the newest checkpoint's step, and the steps that its config asks for.

Exits 0 if the run is finished, 10 if it is not, and otherwise if nothing can be told.
"""

import json
import sys
from pathlib import Path
from typing import Any


def workdir(words: list[str]) -> str | None:
    """The folder that a command trains in; None if it is no command of training."""
    for place, word in enumerate(words):
        if word.startswith("--workdir="):
            return word.split("=", 1)[1]
        if word == "--workdir" and place + 1 < len(words):
            return words[place + 1]
    if "train" not in words[:-1]:
        return None
    target = words[words.index("train") + 1]
    if Path(target).is_dir():
        return target
    return f"runs/{Path(target).stem}{'-smoke' if '--smoke' in words else ''}"


def finished(folder: str) -> bool | None:
    """Whether the run's newest checkpoint is its last; None if its folder can't say."""
    path: Any = Path(folder)
    try:
        if "://" in folder:
            from ddpm_jax.files import storage_path  # A local folder needs nothing installed.

            path = storage_path(folder)
        wanted = json.loads((path / "config.json").read_text())["train"]["steps"]
        numbers = [item for item in (path / "checkpoints").iterdir() if item.name.isdecimal()]
        if "://" in folder:  # A bucket's have their numbers from the first byte, their sums last.
            numbers = [item for item in numbers if (item / "checksums.json").is_file()]
    except Exception:  # An installation's or a bucket's troubles are no answer.
        return None
    return max([int(item.name) for item in numbers], default=0) >= wanted


def main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else 3
    folder = workdir(words)
    return 3 if folder is None else {True: 0, False: 10, None: 3}[finished(folder)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
