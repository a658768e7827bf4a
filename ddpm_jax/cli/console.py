"""What commands print: progress bars and warnings on stderr, results on stdout."""

import json
import sys
from collections.abc import Callable
from typing import Any

from ddpm_jax.runtime.distributed import is_first


def bar(title: str) -> Callable[[int, int], None]:
    """Returns a callback `(done, total)` that draws a progress bar, if stderr is a terminal."""
    bars = []

    def progress(done: int, total: int) -> None:
        from tqdm import tqdm

        if not bars:
            hidden = not (is_first() and sys.stderr.isatty())
            bars.append(tqdm(desc=title, total=total, unit="step", disable=hidden))
        bars[0].update(done - bars[0].n)
        if done == total:
            bars[0].close()

    return progress


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
