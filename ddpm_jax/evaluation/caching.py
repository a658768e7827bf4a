"""The state of a metric over real examples, on disk under a hash of all that decides it."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_jax.data.cache import Origin, read_cache, write_cache


def read_state(key: dict[str, Any], like: Any) -> Any:
    """Returns the state that was kept under a key, of the type of `like`; None if there is none."""
    found = read_cache(_origin(key))
    if found is None:
        return None
    parts = {
        name: found.get(name) if not isinstance(value, tuple) else _parts(found, name)
        for name, value in like._asdict().items()
    }
    return type(like)(**parts)


def write_state(key: dict[str, Any], state: Any) -> None:
    """Keeps a state: a NamedTuple of arrays, or of tuples of arrays to be joined."""
    arrays = {
        name: np.concatenate(value) if isinstance(value, tuple) and value else value
        for name, value in state._asdict().items()
        if not isinstance(value, tuple) or value
    }
    write_cache(_origin(key), {name: np.asarray(value) for name, value in arrays.items()})


def _parts(found: dict[str, np.ndarray], name: str) -> tuple[np.ndarray, ...]:
    return (found[name],) if name in found else ()


def _origin(key: dict[str, Any]) -> Origin:
    text = json.dumps(key, sort_keys=True, default=str)
    return Origin(f"evaluation {text}", f"code {_code()}")


@functools.cache
def _code() -> str:
    """Returns a digest of this room's source: what an older version computed is not read."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
