"""What decides in the client is pure, as the core is: no I/O, no clock, no dice, nothing that waits."""

import ast
from pathlib import Path

import pytest

import roomhub.client
from tests.core.test_purity import ALLOWED, IMPURE_BUILTINS, imports

NAMES = ("backoff", "errors", "events", "incoming", "outbox", "protocol", "rooms")
FOLDER = Path(roomhub.client.__path__[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_module_that_decides_is_pure(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    pure = {*ALLOWED, "heapq", *(f"roomhub.client.{other}" for other in NAMES)}
    for imported in imports(tree):
        assert imported in pure or imported.startswith("roomhub.core."), imported
    for node in ast.walk(tree):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in IMPURE_BUILTINS


def test_every_other_module_of_the_client_is_a_known_one() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == {*NAMES, "__init__", "chat", "room", "wire"}
