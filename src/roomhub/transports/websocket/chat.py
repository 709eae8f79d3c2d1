"""The hub behind WebSocket connections: what a connection's facts mean to a ``Runtime``."""

from functools import cache
from typing import Final

from roomhub.core.codec import Chunk, Lane, PlainCodec
from roomhub.core.errors import RATE_LIMITED, CloseReason
from roomhub.core.events import Blocked, Connected, Disconnected, Heard, Received, Writable
from roomhub.runtime import Runtime
from roomhub.transports.websocket.connection import Connection
from roomhub.transports.websocket.frames import FrameLimits, text_frame
from roomhub.transports.websocket.handshake import Upgrade

__all__ = ["PLAIN", "ChatApplication", "plain_deflate_lane"]

PLAIN: Final = Lane(PlainCodec(), text_frame, b"".join)  # type: ignore[arg-type]  # its frames are bytes
"""The lane of every plain WebSocket client, on every driver."""


@cache
def plain_deflate_lane(window_bits: int) -> Lane:
    """The lane of plain clients with permessage-deflate: without context takeover one compression serves them all."""
    from roomhub.transports.websocket.deflate import Deflated

    return Lane(PlainCodec(), Deflated(window_bits).frame, b"".join, direct=text_frame)  # type: ignore[arg-type]


class ChatApplication:
    """Connections that are members of rooms."""

    def __init__(self, runtime: Runtime) -> None:
        limits = runtime.limits
        self._runtime = runtime
        self._frame_limits = FrameLimits(limits.message_bytes, limits.fragments, binary=False)
        self._ping_interval_s = 1 / limits.message_rate_per_s
        # As the hub reckons for messages: a hundredth of an interval for the rounding of sums.
        self._ping_burst_s = (limits.message_burst - 0.99) * self._ping_interval_s

    @property
    def frame_limits(self) -> FrameLimits:
        return self._frame_limits

    def refusal(self, address: str) -> str | None:
        reason = self._runtime.hub.refusal(address)
        if reason is None:
            return None
        return f"{reason.name}: try again later"

    def opened(self, connection: Connection, upgrade: Upgrade) -> None:
        deflate = upgrade.deflate
        connection.lane = PLAIN if deflate is None else plain_deflate_lane(deflate.server_max_window_bits)
        route = upgrade.route
        self._runtime.submit(
            Connected(
                connection,
                connection.lane,
                route.username,
                (route.room,),
                address=upgrade.address,
                shares=connection.shares,
            )
        )

    def received(self, connection: Connection, message: str | bytes) -> None:
        if isinstance(message, str):  # FrameLimits.binary is off: bytes never come
            self._runtime.submit(Received(connection, message))

    def heard(self, connection: Connection) -> None:
        self._runtime.submit(Heard(connection))

    def pinged(self, connection: Connection) -> CloseReason | None:
        """Pings are paid for like messages: each makes us write."""
        self._runtime.submit(Heard(connection))
        now = self._runtime.clock.now()
        due = max(connection.ping_allowance_s, now)
        if due - now > self._ping_burst_s:
            return RATE_LIMITED
        connection.ping_allowance_s = due + self._ping_interval_s
        return None

    def blocked(self, connection: Connection) -> None:
        self._runtime.submit(Blocked(connection))

    def writable(self, connection: Connection) -> None:
        self._runtime.submit(Writable(connection))

    def closed(self, connection: Connection) -> None:
        self._runtime.submit(Disconnected(connection))

    def pull(self, connection: Connection) -> Chunk:
        return self._runtime.pull(connection)

    def holds_back(self, connection: Connection) -> bool:
        return self._runtime.hub.is_backlogged(connection)
