"""The hub behind WebSocket connections: what a connection's facts mean to a ``Runtime``."""

from collections.abc import Sequence
from typing import Final

from roomhub.core.codec import Chunk, Lane, PlainCodec
from roomhub.core.commands import Dismiss
from roomhub.core.errors import RATE_LIMITED, CloseReason
from roomhub.core.events import Blocked, Connected, Disconnected, Heard, Received, Writable
from roomhub.core.rates import Rate
from roomhub.runtime import Runtime
from roomhub.transports.websocket.connection import Connection
from roomhub.transports.websocket.frames import FrameLimits, text_frame
from roomhub.transports.websocket.handshake import Upgrade

__all__ = ["PLAIN", "ChatApplication", "plain_deflate_lane"]

PLAIN: Final = Lane(PlainCodec(), text_frame, b"".join)  # type: ignore[arg-type]  # its frames are bytes
"""The lane of every plain WebSocket client, on every driver."""


def plain_deflate_lane(window_bits: int) -> Lane:
    """A lane of plain clients with permessage-deflate: without context takeover one compression serves them all.

    It holds a compressor, so it is for one thread only.
    """
    from roomhub.transports.websocket.deflate import Deflated

    return Lane(PlainCodec(), Deflated(window_bits).frame, b"".join, direct=text_frame)  # type: ignore[arg-type]


class ChatApplication:
    """Connections that are members of rooms."""

    def __init__(self, runtime: Runtime) -> None:
        limits = runtime.limits
        self._runtime = runtime
        self._frame_limits = FrameLimits(limits.message_bytes, limits.fragments, binary=False)
        self._ping_rate = Rate(limits.message_rate_per_s, limits.message_burst)
        self._deflated: dict[int, Lane] = {}

    @property
    def frame_limits(self) -> FrameLimits:
        return self._frame_limits

    def refusal(self, address: str) -> CloseReason | None:
        return self._runtime.hub.refusal(address)

    def opened(self, connection: Connection, upgrade: Upgrade) -> None:
        deflate = upgrade.deflate
        connection.lane = PLAIN if deflate is None else self._deflate_lane(deflate.server_max_window_bits)
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

    def _deflate_lane(self, window_bits: int) -> Lane:
        lane = self._deflated.get(window_bits)
        if lane is None:
            lane = self._deflated[window_bits] = plain_deflate_lane(window_bits)
        return lane

    def received(self, connection: Connection, message: str | bytes) -> None:
        if isinstance(message, str):  # FrameLimits.binary is off: bytes never come
            self._runtime.submit(Received(connection, message))

    def heard(self, connection: Connection) -> None:
        self._runtime.submit(Heard(connection))

    def pinged(self, connection: Connection) -> CloseReason | None:
        """Pings are paid for like messages: each makes us write."""
        self._runtime.submit(Heard(connection))
        due = self._ping_rate.take(connection.ping_due_s, self._runtime.clock.now())
        if due is None:
            return RATE_LIMITED
        connection.ping_due_s = due
        return None

    def dismiss(self, connections: Sequence[Connection], reason: CloseReason) -> None:
        self._runtime.submit(Dismiss(connections, reason))

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

    async def flushed(self) -> None:
        await self._runtime.flushed()
