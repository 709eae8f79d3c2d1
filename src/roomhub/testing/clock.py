"""A clock that a test moves by hand, for real sockets in virtual time."""

import math

import anyio
from anyio.lowlevel import checkpoint

__all__ = ["ManualClock"]


class ManualClock:
    """A ``Clock`` that stands still until ``advance``.

    Args:
        now: where monotonic time begins, in seconds.
        unix_ms: the wall time that goes with it.
    """

    def __init__(self, now: float = 1_000.0, unix_ms: int = 1_700_000_000_000) -> None:
        self._now = now
        self._offset_ms = unix_ms - now * 1000
        self._sleepers: list[tuple[float, anyio.Event]] = []

    def now(self) -> float:
        return self._now

    def unix_ms(self) -> int:
        return int(self._now * 1000 + self._offset_ms)

    async def sleep_until(self, when: float) -> None:
        if when <= self._now:
            await checkpoint()
            return
        sleeper = (when, anyio.Event())
        if when != math.inf:
            self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)

    def advance(self, seconds: float) -> None:
        """Move time on and wake who is due; they run at the caller's next ``await``.

        Raises:
            ValueError: ``seconds`` is negative: monotonic time never falls.
        """
        if seconds < 0:
            raise ValueError(f"seconds must not be negative: {seconds!r}")
        self._now += seconds
        for when, event in self._sleepers:
            if when <= self._now:
                event.set()
