"""What the pure hub costs, timed by pyperf; no sockets, no clock, no event loop.

    python -m benchmarks core [options of pyperf's Runner, such as --rigorous]

``publish`` is the call that puts one message into a room: it must not grow with the members. ``deliver`` is handing it
to all of them in shared chunks, all that a driver does but the send itself. ``handle`` is a line that a member said.
"""

import math
from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Final, Protocol, TypeAlias

from roomhub.core.codec import Lane, PlainCodec
from roomhub.core.commands import Publish
from roomhub.core.events import Connected, Disconnected, Received, Ticked
from roomhub.core.hub import Hub
from roomhub.core.limits import Limits
from roomhub.runtime import TURN_MEMBERS
from roomhub.transports.websocket.frames import text_frame

LANE: Final = Lane(PlainCodec(), text_frame, b"".join)  # type: ignore[arg-type]  # its frames are bytes
LINE: Final = "x" * 64
ROOM: Final = "room"
LIFTED: Final = Limits(message_rate_per_s=math.inf, join_rate_per_s=math.inf)
LATE: Final = -1
"""The client that comes and goes."""
AT_ONCE: Final = 100
"""Messages published between two deliveries, which are not timed but in a large room take far longer."""
NOW_S: Final = 10.0
"""Late enough for the roster of a large room, so that none falls into what is timed."""


class Runner(Protocol):
    """What is used of ``pyperf.Runner``, so that this module can be imported without pyperf."""

    def bench_time_func(self, name: str, time_func: Callable[[int], float], *, inner_loops: int = 1) -> object:
        """Times ``time_func``: given a number of loops, it returns the seconds they took."""


@cache
def hub_of(members: int, *, shares: bool = True) -> Hub[int]:
    """A hub with one room of so many members, all of whom have everything there is.

    To be called by what is timed: pyperf runs this program anew for each benchmark, and most of those need only one.
    """
    hub: Hub[int] = Hub(epoch="bench", limits=LIFTED)
    for client in range(members):
        hub.handle(Connected(client, LANE, f"u{client}", (ROOM,), shares=shares), 0.0)
    serve(hub)
    return hub


def serve(hub: Hub[int]) -> None:
    """What a driver does at the end of a tick, without writing."""
    hub.handle(Ticked(), NOW_S)
    while hub.share(TURN_MEMBERS) is not None:
        pass
    for client in hub.ready():
        while hub.pull(client):
            pass


Step: TypeAlias = Callable[[Hub[int]], object]


def timed(make: Callable[[], Hub[int]], before: Step, step: Step, after: Step) -> Callable[[int], float]:
    """For pyperf: the seconds that so many calls of ``step`` take, and nothing of what is called around each."""

    def loop(loops: int) -> float:
        hub = make()
        total_s = 0.0
        for _ in range(loops):
            before(hub)
            start_s = perf_counter()
            step(hub)
            total_s += perf_counter() - start_s
            after(hub)
        return total_s

    return loop


def nothing(hub: Hub[int]) -> None:
    pass


def publish(hub: Hub[int]) -> None:
    hub.handle(Publish(ROOM, LINE, "u1"), NOW_S)


def publish_many(hub: Hub[int]) -> None:
    for _ in range(AT_ONCE):
        publish(hub)


def say(hub: Hub[int]) -> None:
    hub.handle(Received(1, LINE), NOW_S)


def join(hub: Hub[int]) -> None:
    hub.handle(Connected(LATE, LANE, "late", (ROOM,), shares=True), NOW_S)


def leave(hub: Hub[int]) -> None:
    hub.handle(Disconnected(LATE), NOW_S)


def pull(hub: Hub[int]) -> None:
    for client in range(10):
        hub.pull(client)


def add_publishing(runner: Runner, members: int) -> None:
    def make() -> Hub[int]:
        return hub_of(members)

    runner.bench_time_func(f"publish to {members:,}", timed(make, nothing, publish_many, serve), inner_loops=AT_ONCE)
    runner.bench_time_func(f"deliver to {members:,}", timed(make, publish, serve, nothing))


def add_membership(runner: Runner) -> None:
    def make() -> Hub[int]:
        return hub_of(10)

    def join_and_serve(hub: Hub[int]) -> None:
        join(hub)
        serve(hub)

    def leave_and_serve(hub: Hub[int]) -> None:
        leave(hub)
        serve(hub)

    runner.bench_time_func("join a room of 10", timed(make, nothing, join, leave_and_serve))
    runner.bench_time_func("leave a room of 11", timed(make, join_and_serve, leave, serve))


def add_messages(runner: Runner) -> None:
    runner.bench_time_func("handle a member's line", timed(lambda: hub_of(10), nothing, say, serve))

    def make() -> Hub[int]:
        return hub_of(10, shares=False)

    runner.bench_time_func("pull one chunk", timed(make, publish, pull, serve), inner_loops=10)


def add_all(runner: Runner) -> None:
    for members in (10, 1_000, 10_000):
        add_publishing(runner, members)
    add_membership(runner)
    add_messages(runner)


def main() -> None:
    import pyperf  # only in requirements/bench.txt

    add_all(pyperf.Runner(metadata={"description": "roomhub.core"}))


if __name__ == "__main__":
    main()
