"""A compiled program read from its text: its instructions, and how often each of them runs."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

ITEM_BYTES = {
    **dict.fromkeys(("pred", "s8", "u8"), 1),
    **dict.fromkeys(("s16", "u16", "f16", "bf16"), 2),
    **dict.fromkeys(("s32", "u32", "f32"), 4),
    **dict.fromkeys(("s64", "u64", "f64", "c64"), 8),
}


class Instruction(NamedTuple):
    """One line of a program."""

    name: str
    opcode: str
    result: str
    """Its type: f32[2,3]{1,0}, or several in brackets."""
    line: str
    times: int = 1
    """How often it runs in a call of the program; above 1 inside a loop."""

    @property
    def path(self) -> str:
        """The function and the modules that it was traced in, with the primitive at the end."""
        found = _PATH.search(self.line)
        return found[1] if found else ""

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        inside = self.line.partition(f" {self.opcode}(")[2]
        return re.findall(r"%([\w.-]+)", _closed(inside))

    @property
    def called(self) -> list[str]:
        """The names of the computations that it calls."""
        found = _CALLED.findall(self.line)
        return [each.strip("{% }") for several in found for each in several.split(",")]


class Program(NamedTuple):
    """A module: the lines of each computation, and the name of the one that is called first."""

    computations: dict[str, list[Instruction]]
    entry: str

    def unrolled(self, *, inside: bool = True) -> Iterator[Instruction]:
        """Yields each instruction with the number of times that it runs.

        An iteration of a loop counts, once if XLA does not say how many there are; each branch of
        a conditional counts once. Without `inside`, what is fused into one is left out, and so are
        the scalar functions of a sum.
        """
        return self._of(self.entry, 1, inside)

    def _of(self, name: str, times: int, inside: bool) -> Iterator[Instruction]:
        for each in self.computations.get(name, ()):
            yield each._replace(times=times)
            if inside or each.opcode in _CONTROL:
                trips = _TRIPS.search(each.line) if each.opcode == "while" else None
                for called in each.called:
                    yield from self._of(called, times * (int(trips[1]) if trips else 1), inside)


def read_program(text: str) -> Program:
    """Returns a compiled program, given as `compiled.as_text()`."""
    found: dict[str, list[Instruction]] = defaultdict(list)
    entry = name = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            name = head[2]
            entry = name if head[1] else entry
        elif met := _INSTRUCTION.match(line):
            result = _type(met[2])
            opcode = re.match(r" ([\w-]+)\(", met[2][len(result) :])
            if opcode:
                found[name].append(Instruction(met[1], opcode[1], result, line))
    return Program(dict(found), entry)


def type_bytes(result: str) -> list[int]:
    """Returns the bytes of each array of a type, without the padding of its layout."""
    return [
        ITEM_BYTES[dtype] * math.prod(int(side) for side in sides.split(",") if side)
        for dtype, sides in _ARRAY.findall(result)
        if dtype in ITEM_BYTES
    ]


_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|body|to_apply|_computations?)=(\{[^}]*\}|[^,\s]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_PATH = re.compile(r'op_name="([^"]*)"')
# What calls computations whose lines run by themselves.
_CONTROL = ("while", "conditional", "call", "async-start")


def _type(text: str) -> str:
    """Returns the type that a line's right side begins with: up to a blank outside of brackets."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == " " and not depth:
            return text[:place]
    return text


def _closed(text: str) -> str:
    """Returns a text up to the bracket that closes the one before it."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return text[:place]
    return text
