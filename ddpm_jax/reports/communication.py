"""What a compiled program sends between devices.

The bytes of a collective are those of its whole array: the sum of an all-reduce, the result of an
all-gather, the operand of a reduce-scatter. How much each device sends for it follows from the
number of devices by the ring algorithm, which is optimal (Patarasuk & Yuan 2009).
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from ddpm_jax.reports.program import Instruction, Program, type_bytes

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


def collectives(program: Program) -> list[Collective]:
    """Returns the collectives of a compiled program.

    Those of a single device are left out. Those in a loop count once for each iteration, or once if
    XLA does not say how many iterations there are.
    """
    # A TPU's compiler writes a reduce-scatter as an all-reduce in a function of this name.
    scattered = {
        each.name
        for name, lines in program.computations.items()
        for each in lines
        if name.startswith("all-reduce-scatter")
    }
    found, begun = [], set()
    for each in program.unrolled():
        if not _KIND.match(each.opcode):
            continue
        # One that goes on beside other work is written again in each piece of that work.
        piece = _PIECE.findall(each.line)
        if len(piece) == 2 and tuple(piece) in begun:
            continue
        begun.add(tuple(piece))
        found.append(_collective(each, scattered=each.name in scattered))
    return [each for each in found if each.group > 1]


_KIND = re.compile(rf"({'|'.join(_SENT)})(-start)?$")
_PIECE = re.compile(r'channel_id=\d+|chain_id="\d+"')


def _collective(each: Instruction, *, scattered: bool) -> Collective:
    kind = each.opcode.removesuffix("-start")
    arrays = type_bytes(each.result)
    if each.opcode != kind and kind != "all-reduce":
        # A `-start` operation lists its operands before its results.
        arrays = arrays[len(arrays) // 2 :]
    group = _group(each.line)
    whole = sum(arrays) * (group if kind == "reduce-scatter" else 1)
    return Collective("reduce-scatter" if scattered else kind, whole, group, each.times)


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
