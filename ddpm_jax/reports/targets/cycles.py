"""Where the cycles of a program for a TPU go, as its compiler estimates them.

Nearly every instruction of such a program carries the compiler's own estimate. It counts once for
each iteration of a loop. An instruction without one that moves data, such as a custom call, is
counted by a roofline: as long as memory takes for its operands and results. What devices exchange
has no cycles here.
"""

import re
from collections import Counter
from typing import Any

from ddpm_jax.reports.hardware import Hardware
from ddpm_jax.reports.program import Instruction, Program, type_bytes

_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')

# What only moves or converts numbers.
_MOVES = frozenset(
    {"copy", "transpose", "reshape", "bitcast", "convert", "broadcast", "slice", "pad", "iota"}
    | {"concatenate", "dynamic-slice", "dynamic-update-slice", "parameter", "constant", "tuple"}
    | {"get-tuple-element", "fusion"}
)
# Without an estimate these take time all the same.
_WORKS = ("custom-call",)
_EXCHANGED = re.compile(r"(all|reduce-scatter|collective)-?")

# Custom calls that only tell the compiler something: parts that lie side by side in memory are one
# array, and indices are in range.
_FREE = re.compile(r'custom_call_target="(ConcatBitcast|AssumeGatherIndicesInBound)"')

# The first row that fits decides; a path is what was traced, such as
# jit(train_step)/transpose(jvp(UNet))/down_1_0_block/conv_0/conv_general_dilated.
PARTS = {
    "random numbers": re.compile(r"random_bits|threefry|shuffle|/draw/|Dropout|erf_inv"),
    "optimizer and averages": re.compile(r"/(optimizer|averages|guard)/"),
    "attention": re.compile(r"attention"),
    "normalisation": re.compile(r"/norm(_\w+)?/"),
    "convolutions": re.compile(r"conv_general_dilated|/(conv|down|up)(_\w+)?/"),
    "dense layers": re.compile(r"dot_general|/(condition|shortcut)/"),
}
_COPIES, _REST = "copies and conversions", "the rest"


def estimate(
    program: Program,
    hardware: Hardware,
    cost: dict[str, Any],
    images: int,
    flops: int,
    exchange: float = 0.0,
) -> dict[str, Any]:
    """Returns the compiler's estimate of a call of a program on one device.

    `flops` are the model's in it, `exchange` the seconds that its exchanges take. Where the
    compiler estimates no cycles, as for GPUs, only what it counts is returned.
    """
    counted = {
        f"compiled_{name}_per_device": round(cost[key])
        for name, key in (("flops", "flops"), ("bytes", "bytes accessed"))
        if cost.get(key, 0) > 0
    }
    if hardware.clock is None:
        return counted
    where = cycles_by_part(program, hardware)
    cycles = sum(where.values())
    seconds = cycles / hardware.clock

    def speed(seconds: float) -> dict[str, float]:
        share = flops / hardware.peak_flops
        return {
            "images_per_s_and_device": images / seconds if cycles else 0.0,
            "share_of_peak": share / seconds if cycles else 0.0,
        }

    return {
        **counted,
        "cycles": cycles,
        "ms": 1e3 * seconds,
        **speed(seconds),
        "cycles_by_part": dict(where.most_common()),
        "not_hidden": speed(seconds + exchange),
    }


def cycles_by_part(program: Program, hardware: Hardware) -> Counter[str]:
    """Returns the cycles of a call of a program by what they are spent on."""
    sizes = {
        each.name: sum(type_bytes(each.result))
        for lines in program.computations.values()
        for each in lines
    }
    found: Counter[str] = Counter()
    for each in program.unrolled(inside=False):
        if _EXCHANGED.match(each.opcode):
            continue
        met = _CYCLES.search(each.line)
        if met:
            cycles = int(met[1])
        elif each.opcode in _WORKS and not _FREE.search(each.line):
            moved = sizes[each.name] + sum(sizes.get(name, 0) for name in each.operands)
            cycles = round(moved / hardware.memory_rate * (hardware.clock or 0))
        else:
            continue
        found[part_of(each, program)] += each.times * cycles
    return found


def part_of(each: Instruction, program: Program) -> str:
    """Returns what an instruction is for; a fused one is what its heaviest part is for."""
    inside = list(_inside(each, program))
    heavy = [it for it in inside if it.opcode in ("convolution", "dot")]
    work = heavy or [it for it in inside if it.opcode not in _MOVES]
    if not work and each.opcode in _MOVES:
        return _COPIES
    names = Counter(_named(it.path) for it in work or [each])
    known = Counter({name: count for name, count in names.items() if name != _REST})
    return (known or names).most_common(1)[0][0] if names else _REST


def _named(path: str) -> str:
    return next((name for name, pattern in PARTS.items() if pattern.search(path)), _REST)


def _inside(each: Instruction, program: Program) -> list[Instruction]:
    """Returns an instruction, or all that is fused into it."""
    if each.opcode != "fusion":
        return [each]
    return [
        inner
        for name in each.called
        for it in program.computations.get(name, ())
        for inner in _inside(it, program)
    ]
