"""Every async test runs on asyncio, uvloop and trio."""

import gc
from typing import Any

import pytest

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


def pytest_collection_finish() -> None:
    """What is there before the first test stays to the end. Thousands of tests look for garbage of their own, which
    would take each a tenth of a second for looking at that too."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Hypothesis, if it is imported only now, looks for what refers to an object, which is not found while frozen."""
    gc.unfreeze()


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    backend: tuple[str, dict[str, Any]] = request.param
    return backend
