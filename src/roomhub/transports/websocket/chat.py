"""The hub behind WebSocket connections: what a connection's facts mean to a ``Runtime``."""

import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from roomhub.core.codec import Chunk, Codec, Lane, PlainCodec
from roomhub.core.commands import Dismiss
from roomhub.core.errors import DRAINING, RATE_LIMITED, CloseReason
from roomhub.core.events import Blocked, Connected, Disconnected, Heard, Received, Writable
from roomhub.core.json_codec import JsonCodec
from roomhub.core.limits import Limits
from roomhub.core.rates import Rate
from roomhub.runtime import Runtime
from roomhub.transports.websocket.connection import Connection
from roomhub.transports.websocket.frames import FrameLimits, text_frame
from roomhub.transports.websocket.handshake import Upgrade

__all__ = ["PLAIN", "SECRET_BYTES", "ChatApplication", "deflate_lane", "v1_lane"]

SECRET_BYTES: Final = 24
"""So many random bytes are in a session's secret: more than anybody could try."""

PLAIN: Final = Lane(PlainCodec(), text_frame, b"".join)  # type: ignore[arg-type]  # its frames are bytes
"""The lane of every plain WebSocket client, on every driver."""


@lru_cache(maxsize=64)
def v1_lane(limits: Limits) -> Lane:
    """The lane of every v1 WebSocket client with these limits."""
    return Lane(JsonCodec(limits), text_frame, b"".join, v1=True)  # type: ignore[arg-type]  # its frames are bytes


def deflate_lane(codec: Codec, window_bits: int, *, v1: bool = False) -> Lane:
    """A lane with permessage-deflate: without context takeover one compression serves everybody in it.

    It holds a compressor, so it is for one thread only.
    """
    from roomhub.transports.websocket.deflate import Deflated

    return Lane(codec, Deflated(window_bits).frame, b"".join, direct=text_frame, v1=v1)  # type: ignore[arg-type]


class ChatApplication:
    """Connections that are members of rooms."""

    def __init__(self, runtime: Runtime) -> None:
        limits = runtime.limits
        self._runtime = runtime
        self._plain_frames = FrameLimits(limits.message_bytes, limits.fragments, binary=False)
        self._v1_frames = FrameLimits(limits.v1_message_bytes, limits.fragments, binary=False)
        self._ping_rate = Rate(limits.message_rate_per_s, limits.message_burst)
        self._deflated: dict[tuple[Lane, int], Lane] = {}

    def frame_limits(self, upgrade: Upgrade) -> FrameLimits:
        return self._plain_frames if upgrade.subprotocol is None else self._v1_frames

    def refusal(self, address: str) -> CloseReason | None:
        return self._runtime.hub.refusal(address)

    def opened(self, connection: Connection, upgrade: Upgrade) -> None:
        is_v1 = upgrade.subprotocol is not None
        lane = v1_lane(self._runtime.limits) if is_v1 else PLAIN
        deflate = upgrade.deflate
        connection.lane = lane if deflate is None else self._deflate_lane(lane, deflate.server_max_window_bits)
        route = upgrade.route
        self._runtime.submit(
            Connected(
                connection,
                connection.lane,
                route.username,
                (route.room,) if route.room or not is_v1 else (),
                address=upgrade.address,
                shares=connection.shares,
                secret=secrets.token_urlsafe(SECRET_BYTES) if is_v1 else "",
            )
        )

    def _deflate_lane(self, lane: Lane, window_bits: int) -> Lane:
        found = self._deflated.get((lane, window_bits))
        if found is None:
            found = self._deflated[lane, window_bits] = deflate_lane(lane.codec, window_bits, v1=lane.v1)
        return found

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
            if not connection.lane.v1:
                return RATE_LIMITED
            self.dismiss((connection,), RATE_LIMITED)  # the hub says bye first
            return None
        connection.ping_due_s = due
        return None

    def warn(self, connections: Sequence[Connection], in_s: float) -> None:
        self._runtime.submit(Dismiss(connections, DRAINING, in_s=in_s))

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
