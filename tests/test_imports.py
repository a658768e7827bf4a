"""Imports go one way. The table is the architecture: a module may import what stands below it."""

import ast
from pathlib import Path

import pytest

import ddpm_jax

ROOT = Path(ddpm_jax.__file__).parent

# Lowest first; modules of one row do not know each other, but for the inside of one package.
LAYERS = (
    ("errors", "typing"),
    ("files", "streams", "distributed", "diffusion", "training.board", "training.quiet"),
    ("training.commit", "training.inventory", "training.writer"),
    ("backend", "models", "plots", "communication"),
    ("config", "hardware"),
    ("data",),
    ("experiment",),
    ("mesh",),
    ("training.state", "training.checkpoint", "training.journal", "sampling"),
    ("training.step", "training.meter", "training.stop"),
    ("training.diagnosis",),
    ("training.session",),
    ("run", "training.loop", "metrics"),
    ("figures", "info", "evaluation", "shards"),
    ("bench", "scaling"),
    ("cli",),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# What the two cores and the plots may take from outside.
OUTSIDE = {
    "diffusion": {"jax", "numpy", "jaxtyping"},
    "models": {"jax", "flax", "einops", "jaxtyping"},
    "plots": {"numpy", "matplotlib", "PIL"},
}
INSIDE = {
    "diffusion": {"typing", "errors"},
    "models": {"typing", "errors"},
    "plots": {"files", "errors", "typing"},
}


def imports(path: Path) -> set[str]:
    """Every module a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def unit(dotted: str) -> str:
    """The row entry that a module of ddpm_jax belongs to, or nothing."""
    parts = dotted.split(".")[1:]
    for length in (2, 1):
        if ".".join(parts[:length]) in RANKS:
            return ".".join(parts[:length])
    return ""


MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def test_every_module_has_a_place():
    free = {"ddpm_jax", "ddpm_jax.training"}
    assert {name for name in MODULES if not unit(name)} == free


@pytest.mark.parametrize("name", [name for name in MODULES if unit(name)])
def test_a_module_imports_only_what_stands_below_it(name):
    own = unit(name)
    upward = {
        other
        for other in imports(MODULES[name])
        if other.startswith("ddpm_jax.")
        and (below := unit(other))
        and below != own
        and RANKS[below] >= RANKS[own]
    }
    assert not upward


@pytest.mark.parametrize("name", [name for name in MODULES if unit(name) in OUTSIDE])
def test_the_cores_stay_on_their_own(name):
    import sys

    own = unit(name)
    found = imports(MODULES[name])
    outside = {other.split(".")[0] for other in found} - set(sys.stdlib_module_names)
    assert outside - {"ddpm_jax"} <= OUTSIDE[own]
    inside = {unit(other) for other in found if other.startswith("ddpm_jax.")} - {own, ""}
    assert inside <= INSIDE[own]
