"""The best checkpoint of a run: `checkpoints/best.json` names it, and no save removes it."""

import json
from typing import NamedTuple

from ddpm_jax.files import StoragePath, replacing

_FILE = "best.json"


class Best(NamedTuple):
    """What makes a checkpoint the best."""

    step: int
    name: str
    """The value by which it is the best."""
    value: float
    scheduled: bool
    """Whether it had been saved anyway; if not, it goes as soon as there is a better one."""


def read_best(folder: StoragePath) -> Best | None:
    """Returns what `write_best` wrote; None if there is nothing, or nothing that can be read."""
    try:
        best = Best(**json.loads((folder / _FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    good = isinstance(best.step, int) and isinstance(best.value, int | float)
    return best if good and isinstance(best.name, str) else None


def write_best(folder: StoragePath, best: Best | None) -> None:
    """Writes it whole; None removes what was written."""
    if best is None:
        (folder / _FILE).unlink(missing_ok=True)
        return
    with replacing(folder / _FILE) as beside:
        beside.write_text(json.dumps(best._asdict(), indent=2) + "\n")
