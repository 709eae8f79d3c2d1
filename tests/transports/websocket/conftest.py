"""Tests of the server run on each driver, and each of those on every backend of ``tests/conftest.py``."""

import pytest

from tests.transports.websocket.support import Driver


@pytest.fixture(params=["reactor", "streams"])
def driver(request: pytest.FixtureRequest) -> Driver:
    name: Driver = request.param
    return name
