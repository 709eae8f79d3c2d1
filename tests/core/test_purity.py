"""``roomhub.core`` is pure: its modules import nothing that could do I/O, tell the time, roll dice, log or wait."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import roomhub.core

MODULES = sorted(Path(roomhub.core.__path__[0]).glob("**/*.py"))
# Everything the core may import. Whatever is missing here has to be argued for.
ALLOWED = {
    "bisect",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "functools",
    "heapq",
    "itertools",
    "json",
    "json.encoder",
    "math",
    "re",
    "typing",
    "typing_extensions",
    "unicodedata",
}
IMPURE_BUILTINS = {"open", "print", "input", "__import__", "eval", "exec", "compile", "breakpoint"}


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative"
            assert node.module is not None
            if node.module in ("roomhub", "roomhub.core"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module


def test_there_are_modules_to_look_at() -> None:
    assert {"hub.py", "room.py", "session.py", "codec.py", "names.py"} <= {path.name for path in MODULES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_core_module_imports_only_what_is_pure(path: Path) -> None:
    for name in imports(ast.parse(path.read_text())):
        assert name in ALLOWED or name.startswith("roomhub.core."), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_core_module_waits_for_nothing_and_opens_nothing(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_BUILTINS


@pytest.mark.parametrize(
    "source", ["import time", "from os import path", "def f():\n    import random", "from roomhub import runtime"]
)
def test_the_walk_finds_what_is_not_pure(source: str) -> None:
    assert any(name not in ALLOWED and not name.startswith("roomhub.core.") for name in imports(ast.parse(source)))
