"""The hub behind WebSocket connections: what a connection's facts mean to a ``Runtime``."""

import secrets
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from roomhub.core.codec import Chunk, Codec, Lane, PlainCodec
from roomhub.core.commands import Dismiss
from roomhub.core.errors import DRAINING, OVER_CAPACITY, RATE_LIMITED, CloseReason
from roomhub.core.events import Blocked, Connected, Disconnected, Heard, Received, Writable
from roomhub.core.identity import identity_fault
from roomhub.core.json_codec import JsonCodec
from roomhub.core.limits import Limits
from roomhub.core.rates import Rate
from roomhub.ports import ConnectionInfo, Identity, Refusal
from roomhub.runtime import Runtime
from roomhub.transports.websocket.connection import Connection
from roomhub.transports.websocket.frames import FrameLimits, text_frame
from roomhub.transports.websocket.handshake import Request, Upgrade

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


BEARER = "roomhub.bearer."
"""A subprotocol of this kind carries a token: a page's script can send no header with a WebSocket's request."""


def connection_info(upgrade: Upgrade) -> ConnectionInfo:
    """What an authenticator is told of a request."""
    request, route = upgrade.request, upgrade.route
    parts = [part.partition("=") for line in request.values("cookie") for part in line.split(";")]
    # Of two with one name the first counts, that of the longer path (RFC 6265 section 5.4): so it is put in last.
    cookies = {name.strip(): value.strip().strip('"') for name, equals, value in reversed(parts) if equals}
    return ConnectionInfo(
        address=upgrade.address,
        secure=upgrade.secure,
        path=request.path,
        room=route.room,
        username=route.username,
        token=_token(request),
        cookies=cookies,
        headers=dict(request.headers),
    )


def _token(request: Request) -> str | None:
    for offer in request.elements("sec-websocket-protocol"):
        if offer.startswith(BEARER):
            coded = offer.removeprefix(BEARER)
            try:
                return urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()
            except ValueError:
                return ""  # something was shown, and it is nothing good
    for value in request.values("authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    return None


class ChatApplication:
    """Connections that are members of rooms."""

    def __init__(self, runtime: Runtime) -> None:
        limits = runtime.limits
        self._runtime = runtime
        self._plain_frames = FrameLimits(limits.message_bytes, limits.fragments, binary=False)
        self._v1_frames = FrameLimits(limits.v1_message_bytes, limits.fragments, binary=False)
        self._ping_rate = Rate(limits.message_rate_per_s, limits.message_burst)
        self._deflated: dict[tuple[Lane, int], Lane] = {}
        self._asked: dict[Connection, str] = {}  # the addresses of those whom an authenticator is asked about
        self._asked_at: Counter[str] = Counter()  # how many of them at each
        self._identities: dict[Connection, Identity] = {}  # of those that are just being opened

    def frame_limits(self, upgrade: Upgrade) -> FrameLimits:
        return self._plain_frames if upgrade.subprotocol is None else self._v1_frames

    def refusal(self, address: str) -> CloseReason | None:
        return self._runtime.hub.refusal(address)

    def admits(self, connection: Connection, upgrade: Upgrade) -> bool:
        room = upgrade.route.room
        if not self._runtime.authenticates:
            return self._lets_in(connection, self._runtime.hub.user_key(upgrade.route.username), room)
        limits, address = self._runtime.limits, upgrade.address
        if len(upgrade.request.values("authorization")) > 1:
            connection.refused(400, "Authorization is given more than once: send it once")
            return False
        # They hold sockets and questions, so there may be no more of them than there may be clients.
        is_crowd = bool(address) and self._asked_at[address] >= limits.connections_per_address
        if is_crowd or len(self._asked) >= limits.connections:
            connection.turned_away(OVER_CAPACITY)
            return False
        info = connection_info(upgrade)
        is_v1 = upgrade.subprotocol is not None

        def identified(outcome: Identity | Refusal | None) -> None:
            if outcome is None:
                connection.unanswered()
            elif isinstance(outcome, Identity):
                fault = identity_fault(outcome, max_bytes=limits.name_bytes, plain=not is_v1)
                if fault is not None:
                    connection.refused(403, fault)
                elif self._lets_in(connection, outcome.user, room):
                    self._identities[connection] = outcome
                    connection.admitted()
            elif outcome.name == "forbidden":
                connection.refused(403, outcome.message)
            elif is_v1 and info.token is None:
                connection.admitted()  # its hello may have a token
            else:
                # RFC 9110 section 11.6.1: a 401 names what would be taken.
                connection.refused(401, outcome.message, (("WWW-Authenticate", "Bearer"),))

        self._asked[connection] = address
        self._asked_at[address] += 1
        self._runtime.identify(connection, info, identified)
        return False

    def _lets_in(self, connection: Connection, user: str, room: str) -> bool:
        """Whether no ban keeps it out; otherwise it is refused."""
        ban = self._runtime.ban_of(user, room)
        if ban is not None:
            connection.refused(403, ban.told())
        return ban is None

    def withdrawn(self, connection: Connection) -> None:
        self._answered(connection)
        self._runtime.forget_peer(connection)

    def _answered(self, connection: Connection) -> Identity | None:
        """It is not asked about any more; who it is, if that is known."""
        address = self._asked.pop(connection, None)
        if address is not None:
            self._asked_at[address] -= 1
            if not self._asked_at[address]:
                del self._asked_at[address]
        return self._identities.pop(connection, None)

    def opened(self, connection: Connection, upgrade: Upgrade) -> None:
        is_v1 = upgrade.subprotocol is not None
        identity = self._answered(connection)
        lane = v1_lane(self._runtime.limits) if is_v1 else PLAIN
        deflate = upgrade.deflate
        connection.lane = lane if deflate is None else self._deflate_lane(lane, deflate.server_max_window_bits)
        route = upgrade.route
        self._runtime.submit(
            Connected(
                connection,
                connection.lane,
                "" if self._runtime.authenticates else route.username,
                (route.room,) if route.room or not is_v1 else (),
                address=upgrade.address,
                shares=connection.shares,
                secret=secrets.token_urlsafe(SECRET_BYTES) if is_v1 else "",
                identity=identity,
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
