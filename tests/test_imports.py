"""Imports go one way. The table is the architecture: a module may import what stands below it."""

import ast
from pathlib import Path

import pytest

import ddpm_jax

ROOT = Path(ddpm_jax.__file__).parent

# Lowest first; the rooms of one row do not know each other.
LAYERS = (
    ("errors", "typing"),
    ("tables", "files"),
    ("diffusion", "plots"),
    ("runtime",),
    ("ops",),
    ("models", "optimizers", "averages", "data"),
    ("config",),
    ("experiment",),
    ("checkpoints",),
    ("sampling",),
    ("weights",),
    ("evaluation",),
    ("training",),
    ("reports",),
    ("api",),
    ("studio", "tutorial"),
    ("cli",),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# What the two cores and the plots may take from outside.
OUTSIDE = {
    "diffusion": {"jax", "numpy", "jaxtyping"},
    "ops": {"jax", "einops", "jaxtyping"},
    "models": {"jax", "flax", "einops", "jaxtyping"},
    "plots": {"numpy", "matplotlib", "PIL"},
}
INSIDE = {
    "diffusion": {"typing", "errors", "tables"},
    "ops": {"typing", "errors"},
    "models": {"typing", "errors", "tables", "ops"},
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
    free = {"ddpm_jax"}
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
