"""What a compiled program sends between devices, read from its text.

Bytes are those of the array that a collective makes whole or adds up: the sum of an all-reduce, the
result of an all-gather, the operand of a reduce-scatter. What a device sends for it follows from
the number of devices by the ring algorithm (Patarasuk & Yuan 2009), which no other beats.
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

# How many times the bytes a device sends, by the number of devices.
_SENT = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
}


class Collective(NamedTuple):
    """One exchange between devices, of one kind and size, in one call of a program."""

    kind: str
    """all-reduce, all-gather, reduce-scatter, all-to-all or collective-permute."""
    bytes: int
    group: int
    """How many devices take part in it together."""
    times: int = 1
    """How often it is made, where it stands in a loop."""

    @property
    def sent(self) -> float:
        """Bytes that each device sends."""
        return self.times * self.bytes * _SENT[self.kind](self.group)


def sent(table: Iterable[Collective]) -> int:
    """Returns the bytes that each device sends for all of them."""
    return round(sum(each.sent for each in table))


def of_kind(table: Iterable[Collective], *kinds: str) -> int:
    """Returns the bytes of some kinds of collectives, summed; all those that are made in loops."""
    return sum(each.times * each.bytes for each in table if each.kind in kinds)


# --- reading a program ----------------------------------------------------------------------------

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(_SENT)})(-start)?\(")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|body|to_apply|_computations?)=(\{[^}]*\}|[^,\s]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


def collectives(text: str) -> list[Collective]:
    """Reads the collectives of a compiled program, `compiled.as_text()`; none is of one device.

    A loop's are counted as often as it turns; once where XLA does not say how often that is.
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
    """The collectives of a computation and of all that it calls."""
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
        # One that is started gives its operands too, and before its results.
        arrays = arrays[len(arrays) // 2 :]
    group = _group(line)
    return Collective(kind, sum(arrays) * (group if kind == "reduce-scatter" else 1), group)


def _group(line: str) -> int:
    """How many devices a collective joins; the first of its groups stands for all."""
    if several := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(several[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    # As axes of a mesh, of which some are named: mesh['data'=4,'fsdp'=2] {'data'}.
    if named := re.search(r"replica_groups=mesh\[(.*?)\].*?\{(.*?)\}", line):
        sides = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sides[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    return 2 if "source_target_pairs={{" in line else 1
