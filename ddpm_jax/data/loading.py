"""Prepares a source that decodes on demand: checks every example, and decodes all if they fit."""

import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

import numpy as np

from ddpm_jax.data.cache import Origin, read_cache, write_cache
from ddpm_jax.data.findings import sentence
from ddpm_jax.data.source import ArraySource, Source, StreamSource, Unreadable
from ddpm_jax.errors import UserError

_log = logging.getLogger(__name__)
T = TypeVar("T")

IN_MEMORY_BYTES = 2 * 2**30
"""Decoded data up to this size becomes one array; larger data is decoded on demand."""

MIN_CACHE_SECONDS = 1.0
"""A pass that takes less than this is not cached on disk, because it is quick to repeat."""

_PART = 32
_NAMED = 5
_EVERY_SECONDS = 60


class _Pass(NamedTuple):
    """The result of one pass over a source; arrays only if the pass decoded."""

    unreadable: dict[int, Unreadable]
    changes: dict[str, int]
    """How many examples each change of the decoder concerns."""
    examples: np.ndarray | None
    labels: np.ndarray | None


def materialize(source: StreamSource, *, limit: int | None = None) -> Source:
    """Returns the source without unreadable examples, decoded into one array if it fits `limit`.

    The limit is in bytes, IN_MEMORY_BYTES by default. Both forms give the same batches. The result
    is cached on disk. Raises UserError if no example can be read, or if one can't and the source is
    strict.
    """
    limit = IN_MEMORY_BYTES if limit is None else limit
    decode = len(source) * math.prod(source.shape) <= limit
    if not decode and source.tolerance is None:
        return source
    found = _read_cached(source, decode) or _timed_pass(source, decode)
    if found.unreadable:
        _refuse(source, found.unreadable)
    _report(source, found)
    good = np.delete(np.arange(len(source)), list(found.unreadable))
    if found.examples is None:
        return source.part(good) if found.unreadable else source
    examples, labels = found.examples, found.labels
    if found.unreadable:
        examples, labels = examples[good], None if labels is None else labels[good]
    return ArraySource(examples, labels, source.class_names)


def _refuse(source: StreamSource, unreadable: dict[int, Unreadable]) -> None:
    """Raises UserError if no example can be read, or if the source is strict."""
    assert source.tolerance is not None, "only a source with a tolerance has unreadable examples"
    what, _, strict = source.tolerance
    first = next(iter(unreadable.values()))
    counted = f"{len(unreadable)} of {len(source)} {what} can't be read"
    if len(unreadable) == len(source):
        raise UserError(f"data.path: {counted}; the first is {first}; give other pictures")
    if strict:
        advice = "fix or remove it, or set data.strict to False"
        raise UserError(f"data.path: {counted}; the first is {first}; {advice}")


def _report(source: StreamSource, found: _Pass) -> None:
    """Warns in one line of all that is left out of the data or changed in it."""
    lost = ""
    if found.unreadable:
        errors = list(found.unreadable.values())
        counts = Counter(error.reason for error in errors).most_common(_NAMED)
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in counts)
        named = ", ".join(error.name for error in errors[:_NAMED])
        more = ", …" if len(errors) > _NAMED else ""
        counted = f"{len(errors):,} of {len(source):,} can't be read and are left out"
        lost = f"{counted} ({named}{more}): {reasons}"
    findings = source.findings
    line = sentence(
        findings.what if findings else source.tolerance.what if source.tolerance else "data",
        lost=lost,
        left_out=findings.left_out if findings else {},
        changes=found.changes,
    )
    if line is not None:
        _log.warning("%s", line)


# --- the pass over the source ---------------------------------------------------------------------


def _timed_pass(source: StreamSource, decode: bool) -> _Pass:
    begun = time.monotonic()
    found = _decode_all(source) if decode else _check_all(source)
    if source.findings is not None:
        source.findings.check()
        found = found._replace(changes=source.findings.changes())
    if time.monotonic() - begun >= MIN_CACHE_SECONDS:
        _cache(source, decode, found)
    return found


def _decode_all(source: StreamSource) -> _Pass:
    examples = np.empty((len(source), *source.shape), np.uint8)
    labels = np.empty(len(source), np.int32) if source.class_names else None
    unreadable: dict[int, Unreadable] = {}

    def decode(indices: np.ndarray) -> None:
        for index, (image, label) in zip(indices, source.read(indices), strict=True):
            examples[index] = image
            if labels is not None:
                labels[index] = label

    def fill(indices: np.ndarray) -> int:
        try:
            decode(indices)
        except Unreadable:
            for index in indices:
                try:
                    decode(np.array([index]))
                except Unreadable as error:
                    unreadable[int(index)] = error
        return len(indices)

    parts = [np.arange(at, min(at + _PART, len(source))) for at in range(0, len(source), _PART)]
    _with_bar("decoding", len(source), source.pool.map(fill, parts))
    return _Pass(dict(sorted(unreadable.items())), {}, examples, labels)


def _check_all(source: StreamSource) -> _Pass:
    """Checks every example, to find a damaged file now and not days later; keeps no pixels."""
    assert source.tolerance is not None
    check_one: Callable[[int], object] = source.tolerance.check
    unreadable: dict[int, Unreadable] = {}

    def check(part: range) -> int:
        for index in part:
            try:
                check_one(index)
            except Unreadable as error:
                unreadable[index] = error
        return len(part)

    parts = [range(at, min(at + _PART, len(source))) for at in range(0, len(source), _PART)]
    _with_bar("checking", len(source), source.pool.map(check, parts))
    return _Pass(dict(sorted(unreadable.items())), {}, None, None)


def _with_bar(title: str, total: int, counts: Iterable[int]) -> None:
    from tqdm import tqdm

    done, said = 0, time.monotonic()
    # `disable=None` shows the bar only on a terminal.
    with tqdm(total=total, desc=title, unit=" images", disable=None, leave=False) as bar:
        for count in counts:
            bar.update(count)
            done += count
            if bar.disable and time.monotonic() - said >= _EVERY_SECONDS:
                said = time.monotonic()
                _log.info("%s: %s of %s images", title, f"{done:,}", f"{total:,}")


# --- on disk --------------------------------------------------------------------------------------


def _cache(source: StreamSource, decode: bool, found: _Pass) -> None:
    if source.origin is None:
        return
    rows = [(index, error.name, error.reason) for index, error in found.unreadable.items()]
    arrays = {"broken": np.array(json.dumps(rows)), "changes": np.array(json.dumps(found.changes))}
    if found.examples is not None:
        arrays["examples"] = found.examples
    if found.labels is not None:
        arrays["labels"] = found.labels
    write_cache(_origin(source, decode), arrays)


def _read_cached(source: StreamSource, decode: bool) -> _Pass | None:
    cached = None if source.origin is None else read_cache(_origin(source, decode))
    if cached is None:
        return None
    rows = json.loads(str(cached["broken"]))
    unreadable = {index: Unreadable(name, reason) for index, name, reason in rows}
    changes = json.loads(str(cached["changes"]))
    return _Pass(unreadable, changes, cached.get("examples"), cached.get("labels"))


def _origin(source: StreamSource, decode: bool) -> Origin:
    assert source.origin is not None
    form = f"decoded to {source.shape}" if decode else "checked"
    return source.origin._replace(source=f"{source.origin.source} {form}")
