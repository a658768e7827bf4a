"""What a compiled program sends between devices, read from its text.

The bytes of a collective are those of its whole array: the sum of an all-reduce, the result of an
all-gather, the operand of a reduce-scatter. How much each device sends for it follows from the
number of devices by the ring algorithm, which is optimal (Patarasuk & Yuan 2009).
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

_ITEM_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
}

# Bytes that each of n devices sends, as a multiple of the whole array's.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


class Collective(NamedTuple):
    """One kind of exchange between devices in a call of a program."""

    kind: str
    """all-reduce, all-gather, reduce-scatter, all-to-all or collective-permute."""
    bytes: int
    group: int
    """The number of devices that take part together."""
    times: int = 1
    """The number of times it happens; above 1 inside a loop."""

    @property
    def sent(self) -> float:
        """Bytes that each device sends."""
        return self.times * self.bytes * _SENT[self.kind](self.group)


def sent(table: Iterable[Collective]) -> int:
    """Returns the bytes that each device sends for all collectives of a table."""
    return round(sum(each.sent for each in table))


def of_kind(table: Iterable[Collective], *kinds: str) -> int:
    """Returns the summed bytes of some kinds of collectives; each iteration of a loop counts."""
    return sum(each.times * each.bytes for each in table if each.kind in kinds)


# --- reading a program ----------------------------------------------------------------------------

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(_SENT)})(-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|body|to_apply|_computations?)=(\{[^}]*\}|[^,\s]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


def collectives(text: str) -> list[Collective]:
    """Returns the collectives of a compiled program, given as `compiled.as_text()`.

    Those of a single device are left out. Those in a loop count once for each iteration, or once if
    XLA does not say how many iterations there are.
    """
    found: dict[str, list[Collective]] = defaultdict(list)
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    entry = name = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            name = head[2]
            entry = name if head[1] else entry
        if met := _COLLECTIVE.search(line):
            found[name].append(_collective(met[2], met[1], line, started=bool(met[3])))
        trips = _TRIPS.search(line)
        for called in _CALLED.findall(line):
            turns = int(trips[1]) if trips and " while(" in line else 1
            calls[name] += [(each.strip("{% }"), turns) for each in called.split(",")]
    return [each for each in _unrolled(entry, 1, found, calls) if each.group > 1]


def _unrolled(
    name: str,
    times: int,
    found: dict[str, list[Collective]],
    calls: dict[str, list[tuple[str, int]]],
) -> list[Collective]:
    """Returns the collectives of a computation and of all computations that it calls."""
    table = [each._replace(times=times) for each in found.get(name, ())]
    for called, turns in calls.get(name, ()):
        table += _unrolled(called, times * turns, found, calls)
    return table


def _collective(kind: str, result: str, line: str, *, started: bool) -> Collective:
    arrays = [
        _ITEM_BYTES[dtype] * math.prod(int(side) for side in sides.split(",") if side)
        for dtype, sides in _ARRAY.findall(result)
    ]
    if started and kind != "all-reduce":
        # A `-start` operation lists its operands before its results.
        arrays = arrays[len(arrays) // 2 :]
    group = _group(line)
    return Collective(kind, sum(arrays) * (group if kind == "reduce-scatter" else 1), group)


def _group(line: str) -> int:
    """Returns the number of devices in a collective's first group; all groups are of one size."""
    if several := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(several[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    # Groups as named axes of a mesh: mesh['data'=4,'fsdp'=2] {'data'}.
    if named := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", line):
        sides = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sides[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    return 2 if "source_target_pairs={{" in line else 1
