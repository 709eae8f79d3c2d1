"""The clock that a test moves by hand."""

import math

import anyio
import pytest
from anyio.lowlevel import checkpoint

from roomhub.ports import Clock, SystemClock
from roomhub.testing import ManualClock


async def settle() -> None:
    for _ in range(5):
        await checkpoint()


def test_time_stands_still_and_wall_time_goes_with_it() -> None:
    clock = ManualClock(now=5.0, unix_ms=1_000_000)
    assert (clock.now(), clock.unix_ms()) == (5.0, 1_000_000)
    clock.advance(1.5)
    assert (clock.now(), clock.unix_ms()) == (6.5, 1_001_500)


def test_time_never_falls() -> None:
    clock = ManualClock()
    with pytest.raises(ValueError, match="negative"):
        clock.advance(-1)
    assert clock.now() == ManualClock().now()


@pytest.mark.anyio
async def test_sleepers_wake_once_their_time_has_come_and_not_before() -> None:
    clock = ManualClock()
    begin = clock.now()
    woken: list[float] = []

    async def sleep(seconds: float) -> None:
        await clock.sleep_until(begin + seconds)
        woken.append(seconds)

    async with anyio.create_task_group() as tasks:
        for seconds in (3, 1, 2, 2):
            tasks.start_soon(sleep, seconds)
        await settle()
        clock.advance(0.999)
        await settle()
        assert woken == []
        clock.advance(1.001)
        await settle()
        assert sorted(woken) == [1, 2, 2]
        clock.advance(100)
    assert woken[-1] == 3


@pytest.mark.anyio
async def test_what_is_past_returns_at_once_and_infinity_never() -> None:
    clock = ManualClock()
    await clock.sleep_until(clock.now())
    await clock.sleep_until(-math.inf)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep_until, math.inf)
        await settle()
        clock.advance(1e12)
        await settle()
        assert len(anyio.get_running_tasks()) > 1
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_cancelled_sleeper_is_forgotten() -> None:
    clock = ManualClock()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(clock.sleep_until, clock.now() + 1)
        tasks.start_soon(clock.sleep_until, clock.now() + 1)
        await settle()
        tasks.cancel_scope.cancel()
    clock.advance(2)
    await clock.sleep_until(clock.now())


@pytest.mark.anyio
@pytest.mark.parametrize("make", [ManualClock, SystemClock])
async def test_sleeping_until_now_lets_others_run(make: type[Clock]) -> None:
    """Deadlines that come thick must not take all the loop."""
    clock: Clock = make()
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await checkpoint()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(others)
        for _ in range(10):
            await clock.sleep_until(clock.now() - 1)
        assert turns > 2
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_the_system_clock_sleeps_until_its_time() -> None:
    clock = SystemClock()
    when = clock.now() + 0.02
    await clock.sleep_until(when)
    assert clock.now() >= when
    assert clock.unix_ms() > 1_700_000_000_000
    with anyio.move_on_after(0.02) as scope:
        await clock.sleep_until(math.inf)
    assert scope.cancelled_caught
