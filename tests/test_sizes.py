"""Modules fit a sitting and functions fit a screen."""

import ast
from pathlib import Path

import pytest

import ddpm_jax

ROOT = Path(ddpm_jax.__file__).parent
MODULES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_fits_a_sitting(name):
    most = 150 if name.startswith("cli/") else 450
    assert len(MODULES[name].read_text().splitlines()) <= most


@pytest.mark.parametrize("name", MODULES)
def test_a_function_fits_a_screen(name):
    tree = ast.parse(MODULES[name].read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]
    lines = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: count for name, count in lines.items() if count > 60} == {}
