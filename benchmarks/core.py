"""What the core alone costs: microseconds a call, and nanoseconds a member and message.

    python benchmarks/core.py

Compare figures of one run only; machines drift. No sockets: what the kernel takes for each send comes on top.
"""

import math
import time
from collections.abc import Callable

from roomhub.core.codec import Lane, PlainCodec
from roomhub.core.commands import Publish
from roomhub.core.events import Connected, Disconnected, Received, Ticked
from roomhub.core.hub import Hub
from roomhub.core.limits import Limits
from roomhub.transports.websocket.frames import text_frame

LANE = Lane(PlainCodec(), text_frame, b"".join)  # type: ignore[arg-type]
LINE = "x" * 64


def hub_of(members: int, *, shares: bool) -> Hub[int]:
    hub: Hub[int] = Hub(epoch="bench", limits=Limits(message_rate_per_s=math.inf))
    for client in range(members):
        hub.handle(Connected(client, LANE, f"u{client}", ("room",), shares=shares), 0.0)
    serve(hub)
    return hub


def serve(hub: Hub[int]) -> None:
    hub.handle(Ticked(), 0.0)
    while hub.share() is not None:
        pass
    for client in hub.ready():
        while hub.pull(client):
            pass


def microseconds(call: Callable[[], object], seconds: float = 0.3) -> float:
    """The median of five timings, each of as many calls as fit."""
    calls = 1
    while True:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        if time.perf_counter() - start > seconds / 10:
            break
        calls *= 2
    timings: list[float] = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        timings.append((time.perf_counter() - start) / calls)
    return sorted(timings)[2] * 1e6


def main() -> None:
    print(f"{'':34}{'µs a call':>10}{'ns a member':>13}")
    for members in (10, 1_000, 10_000):
        for shares in (True, False):
            hub = hub_of(members, shares=shares)

            def one(hub: Hub[int] = hub) -> None:
                hub.handle(Publish("room", LINE, "u1"), 1.0)
                serve(hub)

            took = microseconds(one)
            how = "shared" if shares else "pulled"
            print(f"{f'publish to {members:,}, {how}':34}{took:10.1f}{took * 1000 / members:13.0f}")
    hub = hub_of(10, shares=True)

    def said() -> None:
        hub.handle(Received(1, LINE), 1.0)
        serve(hub)

    print(f"{'a line of a client, room of 10':34}{microseconds(said):10.1f}")

    def came_and_went() -> None:
        hub.handle(Connected(99, LANE, "late", ("room",), shares=True), 1.0)
        hub.handle(Disconnected(99), 1.0)
        serve(hub)

    print(f"{'join and leave, room of 10':34}{microseconds(came_and_went):10.1f}")


if __name__ == "__main__":
    main()
