"""No private or deprecated name of another project decides whether anything runs.

A name that a version may lack must be probed: looked up inside a `try`, or by `getattr`.
"""

import ast
import importlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WATCHED = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "numpy"}
FILES = sorted(
    path
    for folder in ("ddpm_jax", "configs", "launch", "tests")
    for path in (ROOT / folder).rglob("*.py")
)


def is_private(name: str) -> bool:
    return name.startswith("_") and not re.fullmatch(r"__\w+__", name)


def probed(tree: ast.AST) -> set[int]:
    """The nodes inside the body of a `try` that catches something."""
    bodies = (node.body for node in ast.walk(tree) if isinstance(node, ast.Try) and node.handlers)
    return {id(inner) for body in bodies for part in body for inner in ast.walk(part)}


def imported(tree: ast.AST) -> dict[str, str]:
    """The names that stand for a module or a member of the watched packages, and what they are."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                whole = alias.name if alias.asname else alias.name.split(".")[0]
                found[alias.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return {name: whole for name, whole in found.items() if whole.split(".")[0] in WATCHED}


def chains(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every import and every chain of attributes that begins with a watched package."""
    known = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute):
            parts, base = [node.attr], node.value
            while isinstance(base, ast.Attribute):
                parts.append(base.attr)
                base = base.value
            if isinstance(base, ast.Name) and base.id in known:
                yield node, ".".join([known[base.id], *reversed(parts)])


def private_names(source: str) -> list[str]:
    tree = ast.parse(source)
    known = probed(tree)
    return [
        f"{name}, line {node.lineno}"  # type: ignore[attr-defined]
        for node, name in chains(tree)
        if name.split(".")[0] in WATCHED
        and any(map(is_private, name.split(".")))
        and id(node) not in known
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_private_name_is_used_without_a_probe(path):
    assert not private_names(path.read_text())


@pytest.mark.parametrize(
    "source",
    [
        "import jax._src.core",
        "from jax._src import config",
        "import jax\njax._src.config",
        "import jax\ndef f():\n    return jax.tree._registry",
        "import orbax.checkpoint as ocp\nocp._src.handlers",
        "from flax import core\ncore._hidden()",
        "import jax\ntry:\n    pass\nexcept Exception:\n    jax._src",
        "import jax\ntry:\n    jax._src\nfinally:\n    pass",
    ],
)
def test_a_private_name_is_found(source):
    assert private_names(source)


@pytest.mark.parametrize(
    "source",
    [
        "import jax\ntry:\n    jax._src.config\nexcept AttributeError:\n    pass",
        "import jax\ngetattr(jax, '_src', None)",
        "import jax\njax.__version__",
        "self._private",
    ],
)
def test_a_probe_and_other_names_are_let_through(source):
    assert not private_names(source)


def test_no_public_name_is_deprecated_or_missing():
    """Looks up each name that the package uses, on the paths too that no test runs."""
    wrong = []
    for path in FILES:
        if "tests" in path.relative_to(ROOT).parts:
            continue
        tree = ast.parse(path.read_text())
        known = probed(tree)
        names = {name for node, name in chains(tree) if id(node) not in known}
        wrong += [f"{path.name}: {why}" for name in names if (why := complaint(name))]
    assert not wrong


def complaint(name: str) -> str | None:
    """What is wrong with a dotted name; None if it is there without a warning."""
    first, *rest = name.split(".")
    if first not in WATCHED:
        return None
    try:
        found = importlib.import_module(first)
    except ImportError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        where = first
        for part in rest:
            where = f"{where}.{part}"
            try:
                found = getattr(found, part)
            except DeprecationWarning as warning:
                return f"{where}: {warning}"
            except AttributeError:
                try:
                    found = importlib.import_module(where)
                except ImportError:
                    # Attributes of values, such as a flag of jax.config, are not followed.
                    return None if not hasattr(found, "__path__") else f"{where} is not there"
    return None


def test_a_deprecated_and_a_missing_name_are_found(monkeypatch):
    def looked_up(name):
        if name == "old":
            warnings.warn("old is deprecated", DeprecationWarning, stacklevel=2)
            return 1
        raise AttributeError(name)

    monkeypatch.setattr(importlib.import_module("jax"), "__getattr__", looked_up, raising=False)
    assert complaint("jax.old") == "jax.old: old is deprecated"
    assert complaint("jax.never_there") == "jax.never_there is not there"
    assert complaint("jax.numpy.zeros") is None
