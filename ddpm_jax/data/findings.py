"""What a pass over a data set found out about its files, told in one line."""

import threading
from collections.abc import Mapping

import numpy as np

from ddpm_jax.data.pictures import Decoded, RangeError, Span
from ddpm_jax.errors import UserError

_NAMED = 12
# If no level of a whole data set is above these, then white is in doubt: 8 bits may hold masks or
# class numbers, and 16 bits may hold 10, 12, 14 or 15.
_DOUBTFUL = {8: 31, 16: 32767}


class Findings:
    """Counts what is left out of a data set, and what decoding changes; threads may share it."""

    def __init__(
        self,
        what: str,
        shape: tuple[int, ...],
        length: int,
        *,
        span: Span | None = None,
        left_out: Mapping[str, int] | None = None,
    ):
        """`what` names the examples, which get `shape`; `left_out` counts other files by reason."""
        self.what, self.shape, self.length, self.span = what, shape, length, span
        self.left_out = dict(left_out or {})
        self._lock = threading.Lock()
        self._changed: dict[str, np.ndarray] = {}
        self._greatest: dict[int, float] = {}

    def add(self, index: int, decoded: Decoded) -> None:
        """Takes up a decoded example; the same example counts once."""
        with self._lock:
            for change in (*decoded.changes, *scaling(decoded.size, self.shape)):
                seen = self._changed.setdefault(change, np.zeros(self.length, bool))
                seen[index] = True
            if decoded.bits:
                known = self._greatest.get(decoded.bits, -np.inf)
                self._greatest[decoded.bits] = max(known, decoded.greatest)

    def changes(self) -> dict[str, int]:
        """Returns how many examples each change concerns, the most frequent first."""
        counts = {change: int(seen.sum()) for change, seen in self._changed.items()}
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def check(self) -> None:
        """Raises UserError if all levels together leave open which of them is white."""
        if self.span is None:
            for bits in _DOUBTFUL:
                greatest = self._greatest.get(bits, np.inf)
                check_levels(f"{self.what} in {bits} bits", bits, greatest)
        elif len(self._greatest) > 1:
            bits = " and ".join(map(str, sorted(self._greatest)))
            what = f"{self.what} have levels of {bits} bits, which one range can't fit"
            raise UserError(f"data.range is {self.span}, but {what}; separate them")


def check_levels(what: str, bits: int, greatest: float) -> None:
    """Raises UserError if the greatest level is so low that white is probably another one."""
    if greatest <= _DOUBTFUL[bits]:
        white = 2**bits - 1
        advice = f"give 0 {white} to keep them dark, or 0 {max(greatest, 1):g} to stretch them"
        raise UserError(
            f"data.range is None, but the greatest level of {what} is {greatest:g} of {white}; "
            f"{advice}"
        )


def range_error(where: str, span: Span | None, error: RangeError) -> UserError:
    """Returns the refusal of one example's levels."""
    return UserError(f"data.range is {span}, but {where} {error}")


def sentence(
    what: str, *, lost: str, left_out: Mapping[str, int], changes: Mapping[str, int]
) -> str | None:
    """Returns the line about all that differs from the files, or None if nothing does.

    `lost` tells of examples that can't be read; it may be empty.
    """
    parts = [lost] if lost else []
    if left_out:
        parts.append(f"{sum(left_out.values()):,} other files left out: {listed(left_out)}")
    if changes:
        parts.append(f"changed: {', '.join(f'{n:,} {change}' for change, n in changes.items())}")
    return f"{what}: {'; '.join(parts)}" if parts else None


def listed(counts: Mapping[str, int]) -> str:
    """Returns counts by name as "5 .avif, 3 hidden"; the rarest of many are summed up."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    shown = [f"{count:,} {name}" for name, count in ordered[:_NAMED]]
    rest = sum(count for _, count in ordered[_NAMED:])
    return ", ".join([*shown, f"{rest:,} of other kinds"] if rest else shown)


def scaling(size: tuple[int, int], shape: tuple[int, ...]) -> list[str]:
    """Returns how a picture of height and width `size` is changed to cover `shape`."""
    (h, w), (height, width) = size, shape[:2]
    scale = max(height / h, width / w)
    found = []
    if scale != 1:
        found.append(f"{'enlarged' if scale > 1 else 'reduced'} to {height}×{width}")
    if max(h * scale - height, w * scale - width) >= max(1.0, scale / 2):
        found.append("cropped at the edges")
    return found
