#!/usr/bin/env python3
"""Tells whether the run of a `ddpm train` command is finished.

usage: finished.py ddpm train CONFIG [--workdir DIR] ...

`ddpm train` exits with 0 in two cases: when all steps are done, and, on every host, when it has
saved after a SIGTERM to one host. A supervisor must distinguish them. So this compares the step of
the newest checkpoint in the run's folder with the number of steps in its config.

Exits with 0 if the run is finished, with 10 if it is not, and with 3 if the folder can't tell.
"""

import json
import sys
from pathlib import Path
from typing import Any


def workdir(words: list[str]) -> str | None:
    """Returns the folder that a command trains in; None if it is not a training command."""
    for index, word in enumerate(words):
        if word.startswith("--workdir="):
            return word.split("=", 1)[1]
        if word == "--workdir" and index + 1 < len(words):
            return words[index + 1]
    if "train" not in words[:-1]:
        return None
    target = words[words.index("train") + 1]
    if Path(target).is_dir():
        return target
    return f"runs/{Path(target).stem}{'-smoke' if '--smoke' in words else ''}"


def finished(folder: str) -> bool | None:
    """Whether the run's newest checkpoint is its last; None if the folder can't tell."""
    try:
        path: Any = Path(folder).expanduser()
        if "://" in folder:
            # Imported here, because a local folder needs no installation.
            from ddpm_jax.files import storage_path

            path = storage_path(folder)
        steps = json.loads((path / "config.json").read_text())["train"]["steps"]
        numbers = [item for item in (path / "checkpoints").iterdir() if item.name.isdecimal()]
        # Without checksums it is unfinished, damaged or another program's folder.
        numbers = [item for item in numbers if (item / "checksums.json").is_file()]
    except Exception:  # A broken installation or bucket is not an answer.
        return None
    return max([int(item.name) for item in numbers], default=0) >= steps


def main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else 3
    folder = workdir(words)
    return 3 if folder is None else {True: 0, False: 10, None: 3}[finished(folder)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
