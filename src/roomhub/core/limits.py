"""Every bound roomhub keeps, as one immutable table.

A field's name carries its unit; its value is a number and ``math.inf`` means "no bound". Where two fields differ
only by the prefix ``v1_``, the plain one is for clients of the plain dialect.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Self

__all__ = ["FIELD_NAMES", "Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of one hub and of the transports in front of it.

    Raises:
        ValueError: a value is negative, NaN, or zero where zero would stop everything; the message names the field.
        TypeError: a value is no number.
    """

    message_bytes: float = 512
    """Largest inbound message of a plain client, in UTF-8 bytes; a larger one closes with 1009."""
    v1_message_bytes: float = 65_536
    """The same for clients of a v1 lane."""
    lag_messages: float = 256
    """How many room messages a blocked plain client may fall behind by before it is slow."""
    v1_lag_messages: float = 1_024
    """The same for clients of a v1 lane."""
    lag_bytes: float = 1024 * 1024
    """The same in bytes of rendered frames, for both dialects."""
    chunk_bytes: float = 64 * 1024
    """Most bytes one pull gives, unless a single frame is larger."""
    direct_bytes: float = 256 * 1024
    """Bytes of frames for one client alone that it has not pulled yet; a blocked client past it is slow."""
    log_messages: float = 1_024
    """How many messages a room keeps for its history."""
    log_bytes: float = 1024 * 1024
    """The same in bytes: each message's text and 64 for the rest of it."""
    log_age_s: float = math.inf
    """How many seconds a room keeps a message; it may go an eighth sooner, never later."""
    write_timeout_s: float = 10
    """A blocked client without write progress for so many seconds is slow."""
    ping_interval_s: float = 54
    """Seconds from one ping to the next; less than ``pong_timeout_s``."""
    pong_timeout_s: float = 60
    """A client of which nothing, not even a pong, was heard for so many seconds is gone."""
    hello_timeout_s: float = 10
    """Seconds a v1 client has for its hello; then 4204."""
    idle_timeout_s: float = math.inf
    """A client whose user sent no message for so many seconds is closed."""
    handshake_timeout_s: float = 10
    """Seconds a connection has for TLS and its whole request; 408, or cut."""
    message_timeout_s: float = 30
    """How many seconds one inbound message may stay unfinished; then 1009."""
    fragments: float = 64
    """How many frames one inbound message may come in; more close with 1009."""
    close_timeout_s: float = 5
    """Seconds a peer has to answer the close; then it is cut."""
    drain_timeout_s: float = 5
    """Seconds a drain waits for clients to go."""
    drain_notice_s: float = 0
    """So long before a drain v1 clients are told of it."""
    send_buffer_bytes: float = 65_536
    """SO_SNDBUF: without it the kernel alone holds megabytes for a client that does not read."""
    name_bytes: float = 64
    """Longest user name, in UTF-8 bytes."""
    room_bytes: float = 64
    """Longest room name, in bytes; a ``room_rule`` of the program's own takes its place."""
    meta_bytes: float = 2_048
    """Largest metadata of a v1 client, in bytes of JSON."""
    label_bytes: float = 128
    """Longest id, idempotency key or event name of a v1 client, in UTF-8 bytes."""
    message_rate_per_s: float = 50
    """Messages a second that one connection may send in the long run; past it a plain client is closed."""
    message_burst: float = 250
    """How many of them at once."""
    join_rate_per_s: float = 10
    """Joins a second of one user at one address in the long run; past it they are refused."""
    join_burst: float = 50
    """How many of them at once."""
    error_burst: float = 20
    """How many errors a v1 client may cause at once, and in a minute; past it it is closed."""
    rooms_per_client: float = 128
    """How many rooms one connection may be in; further joins are refused."""
    rooms: float = 100_000
    """How many rooms there may be in all; joins that would make one more are refused."""
    stored_rooms: float = 1_000_000
    """How many rooms and mailboxes a store may have; a row each, in memory too. What would make one more is refused."""
    room_linger_s: float = 300
    """How many seconds an empty room that v1 clients used keeps its log; one of plain clients alone goes at once."""
    connections_per_address: float = 256
    """How many connections one address may have, those that are being closed included."""
    connections: float = math.inf
    """The same in all."""
    header_bytes: float = 16 * 1024
    """Largest head of a request, in bytes; 431."""
    headers: float = 100
    """How many header lines a request may have; 431."""
    target_bytes: float = 8 * 1024
    """Longest target of a request, in bytes; 414."""
    presence_batch_members: float = 100
    """Rooms with more members than this hear of joins and leaves in batches."""
    presence_grace_s: float = 10
    """A user of the v1 dialect that vanished and is back within so many seconds was never gone."""
    typing_interval_s: float = 3
    """Seconds from one sign of typing that goes out to the next."""
    typing_timeout_s: float = 6
    """Typing that is not renewed for so many seconds has ended."""
    history_page: float = 100
    """How many messages one reply holds at most."""
    auth_timeout_s: float = 5
    """Seconds an authenticator has to say who a peer is, or whether it may do something; then it may not."""
    history_timeout_s: float = 5
    """Seconds a store has to bring what it was asked for; then it counts as not there."""
    session_ttl_s: float = 300
    """How many seconds a v1 session can be resumed after its connection ended."""
    sessions: float = 100_000
    """How many ended sessions are kept for that; past it the oldest is forgotten, and its rooms are joined anew."""
    key_ttl_s: float = 300
    """How many seconds an idempotency key is remembered."""
    keys: float = 100_000
    """How many of them in all; past it the oldest is forgotten."""
    sanctions: float = 100_000
    """How many bans and mutes there may be; a further one is refused."""
    presence_interval_s: float = 0.5
    """Seconds between two such batches; plain clients get theirs at twice this interval."""

    def __post_init__(self) -> None:
        for name in FIELD_NAMES:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, not {value!r}")
            if math.isnan(value) or value < 0 or (value == 0 and name not in _MAY_BE_ZERO):
                raise ValueError(f"{name} must be more than 0 (inf for no bound), not {value!r}")
        if not math.isfinite(self.send_buffer_bytes):
            raise ValueError("send_buffer_bytes must be finite: it is the kernel's buffer a connection is given")
        if self.ping_interval_s >= self.pong_timeout_s and math.isfinite(self.pong_timeout_s):
            raise ValueError(
                f"ping_interval_s ({self.ping_interval_s:g}) must be less than pong_timeout_s "
                f"({self.pong_timeout_s:g}): a client that only listens would be cut before it is pinged"
            )

    def override(self, assignments: dict[str, str]) -> Self:
        """A copy with fields replaced by numbers given as text, as ``serve --set NAME=VALUE`` has them.

        Raises:
            ValueError: an unknown field or a value that is no number in its range; the message names it.
        """
        values: dict[str, float] = {}
        for name, text in assignments.items():
            if name not in FIELD_NAMES:
                close = [known for known in FIELD_NAMES if name.replace("_", "")[:5] in known.replace("_", "")]
                hint = f"; did you mean {' or '.join(close[:3])}?" if close else ""
                raise ValueError(f"no limit is called {name!r}{hint}")
            try:
                values[name] = int(text)
            except ValueError:
                try:
                    values[name] = float(text)
                except ValueError:
                    raise ValueError(f"{name} must be a number or inf, not {text!r}") from None
        return dataclasses.replace(self, **values)


FIELD_NAMES = tuple(field.name for field in dataclasses.fields(Limits))
_MAY_BE_ZERO = frozenset({"presence_interval_s", "presence_grace_s", "room_linger_s", "drain_notice_s"})
