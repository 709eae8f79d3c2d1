"""Protocols for what a deployment plugs into a ``Runtime``, and the clock that comes with it."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import anyio
from anyio.lowlevel import checkpoint

from roomhub.core.codec import Chunk, Lane
from roomhub.core.errors import CloseReason
from roomhub.core.identity import Identity, Refusal
from roomhub.core.sanctions import Sanction
from roomhub.core.storage import Report, Snapshot, StoredMessage

__all__ = [
    "Authenticator",
    "Client",
    "Clock",
    "ConnectionInfo",
    "HistoryStore",
    "Identity",
    "Refusal",
    "Sanction",
    "SharingClient",
    "SystemClock",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionInfo:
    """What is known of a peer that wants in.

    Attributes:
        address: where it comes from, behind the proxies that are trusted; ``""`` where there is none.
        secure: whether it comes by TLS.
        path: of its request, without the query.
        room: the room in the path, ``""`` for none.
        username: the name it gives itself, ``""`` for none.
        token: what it shows: from the ``token`` of its hello or ``auth``, from the subprotocol ``roomhub.bearer.…``, or
            from ``Authorization: Bearer``; None where it shows nothing. It is in no ``repr``, and roomhub writes it to
            no log. Of a token and a cookie the token should count: it may be the newer one.
        cookies: by name; of several with one name the first.
        headers: by name in lower case; of several with one name the last.
    """

    address: str = ""
    secure: bool = False
    path: str = ""
    room: str = ""
    username: str = ""
    token: str | None = field(default=None, repr=False)
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class Authenticator(Protocol):
    """Says who peers are and what they may. Both are awaited for ``auth_timeout_s``; one that raises refuses."""

    async def authenticate(self, info: ConnectionInfo) -> Identity | Refusal:
        """Who this is. Asked at the handshake, and again for each token that comes by hello or ``auth``."""
        ...

    async def authorize(self, identity: Identity, action: str, room: str) -> bool:
        """Whether it may do this: ``action`` is "join", or "kick", "ban", "unban", "mute" or "unmute" in the room.

        Where a moderator wants it everywhere, ``room`` is "".
        """
        ...


class Client(Protocol):
    """One connection as a transport shows it to the runtime: the whole contract of an adapter's author.

    None of the methods may block, await or raise. All are called from the event loop's thread. A client is a handle
    too, so it must be hashable and compare by identity, as objects do by default.
    """

    @property
    def lane(self) -> Lane:
        """How it is written to. Lanes are shared: one object for all clients of a kind."""
        ...

    def __hash__(self) -> int: ...

    def notify(self) -> None:
        """There is something to pull: call ``Runtime.pull`` until it gives nothing, now or from a task of yours.

        It is not said again until then, or until ``Writable`` after a ``Blocked``.
        """
        ...

    def close(self, reason: CloseReason) -> None:
        """Pull the last frames, write them, close with the reason; in the end submit ``Disconnected``."""
        ...

    def probe(self) -> None:
        """Make the peer show that it lives, and submit ``Heard`` once it does."""
        ...


class SharingClient(Client, Protocol):
    """A client whose transport can write at once (``Connected(..., shares=True)``)."""

    def write(self, chunk: Chunk) -> None:
        """Write this chunk now. Submit ``Blocked`` if not all of it went out, and keep the rest."""
        ...


class Clock(Protocol):
    """Where a runtime's time comes from. ``roomhub.testing.ManualClock`` is one that a test moves."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def unix_ms(self) -> int:
        """Wall time in Unix milliseconds."""
        ...

    async def sleep_until(self, when: float) -> None:
        """Return once ``now()`` has reached ``when``, never for ``inf``."""
        ...


class HistoryStore(Protocol):
    """Where rooms' messages are kept. ``roomhub.stores.sqlite.SqliteHistory`` is one.

    ``append`` and ``load`` are called in the event loop and never block. What becomes of what they ask for is told
    later, from any thread, by the function that ``open`` was given. No offset above what was reserved is ever given to
    a message, so that none is given twice, whenever the process may end. A room that runs out of offsets lives in an
    epoch that is not stored until a ``Stored`` has reserved more for the one before: a store that has failed, or was
    asked for too much, says so of its own accord once it can.
    """

    @property
    def queued(self) -> int:
        """How many messages are taken and not yet stored."""
        ...

    @property
    def is_healthy(self) -> bool:
        """False from a failure until something is stored."""
        ...

    @property
    def reserve(self) -> int:
        """How many offsets of a new epoch may be given before the first of its messages is stored."""
        ...

    def open(self, report: Callable[[Report], None]) -> Snapshot:
        """Begin; called once, in a thread of its own. Raises ``roomhub.core.storage.StoreError``."""
        ...

    def append(self, messages: Sequence[StoredMessage], refs: Sequence[Hashable]) -> int:
        """Store messages, in this order; ``Stored`` or ``StoreFailed`` has the refs of those that have one, not None.

        Returns:
            How many it has taken, from the first on. The others are not kept, and nothing more is said of them.
        """
        ...

    def load(
        self,
        room: str,
        ref: Hashable,
        *,
        after: int | None = None,
        before: int | None = None,
        limit: int,
        most_bytes: float = inf,
    ) -> bool:
        """Read the oldest messages above ``after``, otherwise the newest, and only below ``before``.

        At most ``limit`` of them and so many bytes, but at least one if there is one. ``Loaded`` has the ref, and sees
        all that was appended before. False if it is not taken.
        """
        ...

    def erase_message(self, room: str, offset: int, ref: Hashable = None) -> bool:
        """Erase a message, if it is there; ``Stored`` or ``StoreFailed`` has the ref. False if it is not taken.

        Its key stays, and its offset becomes a gap, "expired".
        """
        ...

    def erase_user(self, user: str, ref: Hashable = None) -> bool:
        """Erase all that a user said, and the user's keys; as ``erase_message``."""
        ...

    def impose(self, sanction: Sanction, ref: Hashable = None) -> bool:
        """Keep a ban or a mute, in place of one of its kind for its user and room; as ``erase_message``.

        ``open`` gives those that are kept and not over.
        """
        ...

    def lift(self, sanction: Sanction, ref: Hashable = None) -> bool:
        """Keep it no more, if it is kept: the one of its kind for its user and room; as ``erase_message``."""
        ...

    def close(self) -> None:
        """Store what was taken, and end; called in a thread of its own."""
        ...


class SystemClock:
    """The machine's clocks."""

    def __init__(self) -> None:
        self.now: Callable[[], float] = time.monotonic  # every message asks: no call in between

    def unix_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep_until(self, when: float) -> None:
        await checkpoint()  # also where it is late already: deadlines that come thick must not take all the loop
        # anyio's backends take no infinite sleep on every version; a day is as good.
        while (left := when - time.monotonic()) > 0:  # noqa: ASYNC110  # time is what is waited for
            await anyio.sleep(min(left, 86_400))
