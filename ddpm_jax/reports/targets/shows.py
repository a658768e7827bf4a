"""What a compiled program shows of its types and layouts, to see what slows a network down."""

import re
from typing import Any

import jax

from ddpm_jax.reports.program import Instruction, Program


def shown_by(program: Program, images: int, params: Any) -> dict[str, Any]:
    """Returns `float32_convolutions`, the modules of those whose operands are all float32, and
    `transposed_activations`, how many transposes are of arrays with an axis of `images`.

    A product that a compiler writes as a convolution, as TPUs' do, is none. Arrays of fewer than
    four axes are no images, and those with the sides of one of `params` are kernels.
    """
    kernels = {tuple(sorted(leaf.shape)) for leaf in jax.tree.leaves(params)}
    types = {each.name: each.result for lines in program.computations.values() for each in lines}
    wide, turned = set(), 0
    for lines in program.computations.values():
        for each in lines:
            if _is_convolution(each):
                operands = [types.get(name, "") for name in each.operands[:2]]
                if operands and all(operand.startswith("f32[") for operand in operands):
                    wide.add(_module(each.path))
            elif each.opcode == "transpose":
                turned += _is_activation(each.result, images, kernels)
    return {"float32_convolutions": sorted(wide), "transposed_activations": turned}


def _is_convolution(each: Instruction) -> bool:
    if each.opcode == "custom-call":
        return bool(re.search(r'custom_call_target="__cudnn\$conv', each.line))
    return each.opcode == "convolution" and "dot_general" not in each.path


# What stands between a module and its primitive: the branches of its platforms, and gradients.
_BETWEEN = re.compile(r"cond|branch_\d+_fun|\w+\(.*\)")


def _module(path: str) -> str:
    """Returns the last module of a path: conv_in, of …/conv_in/cond/branch_0_fun/name."""
    names = [name for name in path.split("/")[:-1] if not _BETWEEN.fullmatch(name)]
    return names[-1] if names else path


def _is_activation(result: str, images: int, kernels: set[tuple[int, ...]]) -> bool:
    met = re.match(r"\w+\[([\d,]+)\]", result)
    sides = [int(side) for side in met[1].split(",")] if met else []
    return len(sides) >= 4 and images in sides and tuple(sorted(sides)) not in kernels
