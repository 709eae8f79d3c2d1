"""A server that is killed under load, and the clients that come back to it."""

import statistics
from pathlib import Path
from typing import Any

import pytest

from tests.client.storm import histogram, storm

pytestmark = pytest.mark.anyio


async def test_nothing_acknowledged_is_lost_when_the_server_is_killed(
    tmp_path: Path, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    if anyio_backend[1].get("use_uvloop"):
        pytest.skip("two event loops are enough for what takes so long")
    result = await storm(60, 3, tmp_path / "history.db", pause_s=0.3, load_s=0.5)
    assert result.faults == []
    assert sum(len(record.acknowledged) for record in result.records) > 60
    assert len(result.waited_s) >= 3 * 60
    assert 0.1 < statistics.mean(result.waited_s[: 3 * 60]) < 5, "they are spread over time, as full jitter has it"


def test_a_histogram_has_a_bar_for_each_step() -> None:
    assert histogram([0.1, 0.2, 0.6]) == (f"  0.00 s     2 {'#' * 50}\n  0.25 s     0 \n  0.50 s     1 {'#' * 25}")
    assert histogram([]) == "nobody waited"
