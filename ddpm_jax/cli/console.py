"""What commands print: progress bars and warnings on stderr, results on stdout."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from ddpm_jax.runtime.distributed import is_first

# Work of so many seconds tells how long the rest will take.
_FORESEEN_SECONDS = 5


def bar(title: str) -> Callable[[int, int], None]:
    """Returns a callback `(done, total)` that shows progress: a bar on a terminal, else lines.

    Time counts from the first call, which may come after a compilation. Of long work the first line
    comes as soon as its time can be foreseen. Another total begins another piece of work.
    """
    shown, begun, first, said, known = None, None, 0, None, 0

    def progress(done: int, total: int) -> None:
        from ddpm_jax.training.logging.progress import EVERY_SECONDS, clock, steps_bar

        nonlocal shown, begun, first, said, known
        now = time.monotonic()
        if begun is None or total != known:
            if shown is not None:
                shown.close()
            begun, first, said, known = now, done, None, total
            shown = steps_bar(done, total, title) if is_first() and sys.stderr.isatty() else None
        if shown is not None:
            shown.update(done - shown.n)
            if done == total:
                shown.close()
        elif first < done < total:
            left = (now - begun) / (done - first) * (total - done)
            foreseen = said is None and now - begun >= _FORESEEN_SECONDS and left >= EVERY_SECONDS
            if foreseen or now - (said or begun) >= EVERY_SECONDS:
                said = now
                warn(f"{title}: {done:,} of {total:,}, {clock(left)} left")

    return progress


class _Lines(logging.Handler):
    """Prints what the package logs as a command's own lines."""

    def emit(self, record: logging.LogRecord) -> None:
        from ddpm_jax.training.logging.progress import TerminalReport

        if is_first():
            TerminalReport()(f"ddpm: {record.getMessage()}")


@contextlib.contextmanager
def log_lines() -> Iterator[None]:
    """Shows what the package logs, without the prefixes that libraries may have set up."""
    log, handler = logging.getLogger("ddpm_jax"), _Lines()
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]


def warn(line: str) -> None:
    """Prints a line on stderr; only the first of several processes prints."""
    if is_first():
        print(f"ddpm: {line}", file=sys.stderr)


def show(values: dict[str, Any], as_json: bool) -> None:
    """Prints values as JSON or as an aligned table."""
    if as_json:
        print(json.dumps(values, indent=2))
        return
    width = max(map(len, values))
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int) else value
        shown = f"{value:.4f}" if isinstance(value, float) else shown
        print(f"{name.replace('_', ' '):<{width}}  {shown}")
