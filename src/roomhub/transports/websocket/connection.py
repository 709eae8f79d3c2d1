"""One WebSocket connection, from its first byte to its last, without I/O: the same under both drivers.

    HANDSHAKE --upgrade--> OPEN --we close--> CLOSING --peer's close, or end--> ENDING --> GONE
        \\--reply--> ENDING     \\--peer closes, fails, vanishes--> ENDING or GONE

A driver subclasses ``Connection``: it gives what is abstract there, and says with ``feed``, ``eof`` and ``ended`` what
came in. What the connection is for (the hub, an echo) is its ``Application``.
"""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias

import anyio

from roomhub.core.codec import Chunk, Lane
from roomhub.core.deadlines import Deadlines
from roomhub.core.errors import DRAINING, OVER_CAPACITY, CloseReason
from roomhub.core.limits import Limits
from roomhub.transports.websocket.frames import (
    PONG,
    CloseReceived,
    Failed,
    FrameLimits,
    FrameReader,
    Item,
    MessageInflater,
    Ping,
    close_frame,
    ping_frame,
    pong_frame,
)
from roomhub.transports.websocket.handshake import (
    Handshake,
    Policy,
    Reply,
    Upgrade,
    error_reply,
    timeout_reply,
    unavailable_reply,
)
from roomhub.transports.websocket.negotiate import is_trusted

__all__ = ["Application", "Connection", "Phase", "Service"]

_log = logging.getLogger("roomhub")

RETRY_AFTER_S: Final = 5
"""What a refused connection is told to wait."""
DRAINING_RETRY_AFTER_S: Final = 1
"""The same of a server that ends: its clients may come back half a second later, before it has ended, and should not
lose five seconds to that."""
PONGS_WAITING: Final = 16
"""So many unwritten pongs are kept one by one; more become the newest alone (RFC 6455 section 5.5.3 allows it)."""

_MESSAGE: Final = (str, bytes)

WRITE_STUCK_S: Final = 1.0
"""A stream's write that takes longer counts as blocked, also where nothing more is to be written behind it."""

Timer: TypeAlias = Literal["handshake", "message", "write", "close", "accept"]


class Phase(Enum):
    HANDSHAKE = "handshake"
    WAITING = "waiting"  # for who it is
    OPEN = "open"
    CLOSING = "closing"
    ENDING = "ending"
    GONE = "gone"


# An Enum's member by its name costs 0.08 µs on Python 3.11, more than most calls; a message asks four times.
OPEN: Final = Phase.OPEN
GONE: Final = Phase.GONE


class Application(Protocol):
    """What connections are for. No method blocks or raises for what a peer sent."""

    def frame_limits(self, upgrade: Upgrade) -> FrameLimits: ...

    def refusal(self, address: str) -> CloseReason | None:
        """Why a connection from this address is not taken now, with 503. None if it is."""
        ...

    def admits(self, connection: "Connection", upgrade: Upgrade) -> bool:
        """Whether this request may become a connection. False: the connection's ``admitted`` or ``refused`` follows."""
        ...

    def withdrawn(self, connection: "Connection") -> None:
        """What waited to be admitted will not become a connection: it was refused, or has gone."""
        ...

    def opened(self, connection: "Connection", upgrade: Upgrade) -> None: ...

    def received(self, connection: "Connection", message: str | bytes) -> None: ...

    def heard(self, connection: "Connection") -> None:
        """Something came in that is no message: a sign of life."""
        ...

    def pinged(self, connection: "Connection") -> CloseReason | None:
        """A ping came in: a sign of life too. A reason closes the connection."""
        ...

    def warn(self, connections: "Sequence[Connection]", in_s: float) -> None:
        """The server will stop in so many seconds."""
        ...

    def dismiss(self, connections: "Sequence[Connection]", reason: CloseReason) -> None:
        """The server stops: ``Connection.close`` each of them, which are open."""
        ...

    def blocked(self, connection: "Connection") -> None: ...

    def writable(self, connection: "Connection") -> None: ...

    def closed(self, connection: "Connection") -> None:
        """The connection is over for the application; said once for each ``opened``."""
        ...

    def pull(self, connection: "Connection") -> Chunk: ...

    def holds_back(self, connection: "Connection") -> bool:
        """Whether the connection should not be read from now."""
        ...

    async def flushed(self) -> None:
        """Return when it is time to ask ``holds_back`` again."""
        ...


class Service:
    """What the connections of one server share: the application, the policy, the limits, and the clock's deadlines.

    Attributes:
        refusals: connections that were not let in, by the reason's name, or ``http_`` and the status they got.
        failures: connections closed for what the peer sent or left unfinished, by ``close_`` and the code, or reason.
        is_stopping: nobody is let in any more.
        live: sockets there are, in whatever phase, TLS handshakes included, by the socket's address.
    """

    def __init__(
        self,
        application: Application,
        policy: Policy,
        limits: Limits,
        now: Callable[[], float],
        armed: Callable[[], None],
    ) -> None:
        self.application = application
        self.policy = policy
        self.limits = limits
        self.now = now
        self.armed = armed
        self.deadlines: Deadlines[Timer, Any] = Deadlines(
            {
                "handshake": limits.handshake_timeout_s,
                "message": limits.message_timeout_s,
                "write": WRITE_STUCK_S,
                "close": limits.close_timeout_s,
                "accept": 1.0,
            }
        )
        self.connections: set[Connection] = set()
        self.live: Counter[str] = Counter()
        self._sockets = 0
        self.refusals: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()
        self.is_stopping: bool = False
        self._end = anyio.Event()

    def admission(self, peer: str) -> Reply | None:
        """At accept, before anything is allocated: None, or the 503 for a flood, or while the server stops.

        Connections are counted at the request (``Application.refusal``), where a proxy's client is known and the
        answer can be read. Here all sockets count, those that were answered and do not go too, and there may be twice
        as many: room for those who come and go, and for ``/health``. Who is refused here may see a reset instead.
        """
        reason = OVER_CAPACITY
        if self.is_stopping:
            reason, fault = DRAINING, "draining: try again later"
        elif self._sockets >= self.limits.connections * 2:
            fault = "too many connections"
        elif (
            peer
            and self.live[peer] >= self.limits.connections_per_address * 2
            and not is_trusted(peer, self.policy.trusted_proxies)
        ):
            fault = "too many connections from this address"
        else:
            return None
        self.refusals[reason.name] += 1
        return unavailable_reply(fault, retry_after_s=retry_after_s(reason))

    def hold(self, peer: str) -> None:
        """Count a socket of this address; ``release`` follows."""
        self.live[peer] += 1
        self._sockets += 1

    def release(self, peer: str) -> None:
        self._sockets -= 1
        self.live[peer] -= 1
        if not self.live[peer]:
            del self.live[peer]

    async def next_end(self) -> None:
        """Wait until a connection is gone."""
        self._end = anyio.Event()
        await self._end.wait()

    def forget(self, connection: "Connection") -> None:
        self.connections.discard(connection)
        self.release(connection.peer)
        self.deadlines.cancel_all(connection)
        self._end.set()

    def arm(self, kind: Timer, key: object) -> None:
        self.deadlines.arm(kind, key, self.now())
        self.armed()

    def expire(self, kind: Timer, key: Any) -> None:
        """A deadline of a connection ended; that of ``accept`` is a listener's, whose key is what to call."""
        if kind == "accept":
            key()
        else:
            key.timed_out(kind)


class Connection(ABC):
    """A connection's protocol state. Subclasses are the drivers' own and add the socket.

    Attributes:
        shares: whether it has ``write`` and so can be served together with others (``roomhub.ports.SharingClient``).
    """

    shares: ClassVar[bool] = False

    __slots__ = (
        "__weakref__",
        "_early",
        "_farewell",
        "_is_app_open",
        "_is_timed",
        "_lane",
        "_pongs",
        "_reader",
        "_upgrade",
        "peer",
        "phase",
        "ping_due_s",
        "service",
    )

    def __init__(self, service: Service, peer: str, *, secure: bool) -> None:
        self.service: Service = service
        self.phase: Phase = Phase.HANDSHAKE
        self.ping_due_s: float = 0.0
        self.peer: str = peer
        self._farewell: bytes | None = None  # the close frame, while there is something to pull before it
        self._is_app_open = False
        self._is_timed = False  # the message that has begun
        self._lane: Lane | None = None
        self._pongs = 0
        self._upgrade: Upgrade | None = None  # what waits for being admitted
        self._early = b""  # what came in meanwhile
        self._reader: FrameReader | Handshake = Handshake(service.policy, peer, secure=secure)
        service.connections.add(self)
        service.hold(peer)
        service.arm("handshake", self)

    # -- what a driver gives ------------------------------------------------------------------------------------------

    @abstractmethod
    def send(self, data: bytes) -> None:
        """Write this behind all that waits to be written."""

    @abstractmethod
    def finish(self) -> None:
        """Once all is written, end the writing side; reading goes on until the peer ends too."""

    @abstractmethod
    def cut(self) -> None:
        """End the connection now; ``ended`` follows. Twice is once."""

    @abstractmethod
    def notify(self) -> None:
        """There is something to pull (``roomhub.ports.Client``)."""

    @abstractmethod
    def hold_reading(self) -> None:
        """Read nothing more until all that waits to be written is; nothing happens if nothing waits.

        For an application that answers what comes in, so that a peer which does not read cannot make it keep more and
        more answers. A hub has no need of it: what its members have not read stays in the rooms.
        """

    @property
    @abstractmethod
    def is_blocked(self) -> bool:
        """Whether something waits to be written."""

    # -- what a driver says -------------------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes came in."""
        phase = self.phase
        if phase is OPEN:
            self._read(data)
        elif phase is Phase.HANDSHAKE:
            self._shake(data)
        elif phase is Phase.WAITING:
            self._early += data
            if len(self._early) > self.service.limits.header_bytes:
                self.refused(400, "too much was sent before the answer to the request")
        elif phase is Phase.CLOSING:
            assert isinstance(self._reader, FrameReader)
            for item in self._reader.feed(data):
                if isinstance(item, CloseReceived | Failed):
                    self._end()

    def eof(self) -> bool:
        """The peer ended its side; nothing more comes in. True if what waits to be written is still to go out first.

        Only an answer to the peer's last words is waited for: an open connection without its peer's side is over.
        """
        if self.phase is Phase.HANDSHAKE:
            self._shake(b"")
        if self.is_blocked and (self.phase is Phase.CLOSING or self.phase is Phase.ENDING):
            self._end()
            return True
        self.cut()
        return False

    def ended(self) -> None:
        """The driver closed the socket."""
        if self.phase is Phase.GONE:
            return
        is_waiting, self.phase = self.phase is Phase.WAITING, Phase.GONE
        try:
            if is_waiting:
                self.service.application.withdrawn(self)
            self._depart()
        finally:
            self.service.forget(self)

    def pongs_taken(self) -> None:
        """What waited is being written, so that no pong of it can be replaced any more."""
        self._pongs = 0

    def timed_out(self, kind: Timer) -> None:
        if kind == "handshake" and self.phase is Phase.WAITING:
            self.unanswered()  # its request did arrive in time
        elif kind == "handshake":
            # A peer that said nothing gets nothing: it may not even speak HTTP.
            self.service.refusals["http_408"] += 1
            self._reply(timeout_reply())
        elif kind == "message":
            self.fail(1009, "message_timeout")
        elif kind == "write":
            self.write_stuck()
        else:
            self.cut()

    def write_stuck(self) -> None:
        """A write has been under way for ``WRITE_STUCK_S``; for a driver that arms ``write``."""
        return  # the reactor's sockets say themselves when they refuse

    # -- for the hub (roomhub.ports.Client) ---------------------------------------------------------------------------

    @property
    def lane(self) -> Lane:
        assert self._lane is not None
        return self._lane

    @lane.setter
    def lane(self, lane: Lane) -> None:
        self._lane = lane

    def close(self, reason: CloseReason) -> None:
        """Write what is left to pull, as the peer takes it, then the close frame.

        For all of that and its answer the peer has ``close_timeout_s``.
        """
        if self.phase is not Phase.OPEN:
            return
        code = reason.code if self._lane is not None and self._lane.v1 else reason.plain_code
        self._farewell = close_frame(code, reason.name)
        self._begin_close()
        self.notify()

    def probe(self) -> None:
        if self.phase is Phase.OPEN:
            self.send(ping_frame())

    # -- inside -------------------------------------------------------------------------------------------------------

    def _read(self, data: bytes) -> None:
        application = self.service.application
        reader = self._reader
        assert isinstance(reader, FrameReader)
        items = reader.feed(data)
        is_heard = not items
        if is_heard:
            application.heard(self)
        for item in items:
            if isinstance(item, _MESSAGE):
                application.received(self, item)
            elif item is PONG:
                if not is_heard:
                    is_heard = True
                    application.heard(self)
            elif isinstance(item, Ping):
                self._pong(item)
            elif isinstance(item, CloseReceived):
                self._depart()
                self._send_close(item.code, "")
                self._end()
            elif isinstance(item, Failed):
                self.fail(item.code, item.reason)
            if self.phase is not OPEN:
                if self.phase is Phase.CLOSING and reader.ended:
                    self._end()  # the peer's own end was in the same read, and will not be seen again
                return
        if reader.unfinished or self._is_timed:
            self._time_message(reader, items)

    def _time_message(self, reader: FrameReader, items: Sequence[Item]) -> None:
        deadlines = self.service.deadlines
        if not reader.unfinished:
            self._is_timed = False
            deadlines.cancel("message", self)
        # A message that was completed in this read makes way for the time of the one that has begun.
        elif not self._is_timed or any(isinstance(item, _MESSAGE) for item in items):
            self._is_timed = True
            self.service.arm("message", self)

    def _pong(self, ping: Ping) -> None:
        reason = self.service.application.pinged(self)
        if reason is not None:
            self.fail(reason.plain_code, reason.name, counted=reason.name)
            return
        if self.phase is not OPEN:
            return  # the application has closed it instead
        frame = pong_frame(ping.payload)
        if self.is_blocked:
            if self._pongs >= PONGS_WAITING:
                self.replace_pongs(frame)
                self._pongs = 1
                return
            self._pongs += 1
        self.send(frame)

    @abstractmethod
    def replace_pongs(self, frame: bytes) -> None:
        """Of the pongs that wait only this one needs to go out."""

    def fail(self, code: int, reason: str, *, counted: str = "") -> None:
        """The peer broke a rule: it leaves now, and is told why. What it still sends is thrown away.

        It is counted under its close code, unless ``counted`` names a reason that the hub has for the same.
        """
        self.service.failures[counted or f"close_{code}"] += 1
        _log.debug("closed the connection of %r with %d: %r", self.peer, code, reason)
        self._depart()
        self._send_close(code, reason)
        self._end()

    def next_chunk(self) -> bytes:
        """What a driver writes next when nothing waits: what there is to pull, then a close frame; b"" for nothing."""
        if self.phase is Phase.OPEN or self._farewell is not None:
            chunk = self.service.application.pull(self)
            assert isinstance(chunk, bytes)
            if chunk:
                return chunk
        farewell = self._farewell
        if farewell is None:
            return b""
        self._farewell = None
        return farewell

    def _shake(self, data: bytes) -> None:
        handshake = self._reader
        assert isinstance(handshake, Handshake)
        try:
            outcome = handshake.receive(data)
        except Exception:
            # Not the peer's doing: a route or a page of the program's raised.
            _log.exception("answering a request raised; the server goes on")
            outcome = error_reply()
        if outcome is None:
            return
        if isinstance(outcome, Reply):
            if outcome.error:
                self.service.refusals[f"http_{outcome.status}"] += 1
            self._reply(outcome)
            return
        self._upgrade = outcome
        self.phase = Phase.WAITING
        # Whom there is no room for is not asked about either.
        if self.service.application.refusal(outcome.address) or self.service.application.admits(self, outcome):
            self.admitted()

    def refused(self, status: int, error: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        """The application does not want what waits to be admitted; nothing happens if nothing does."""
        if self.phase is Phase.WAITING:
            self.service.refusals[f"http_{status}"] += 1
            self._refuse(status, error, headers)

    def turned_away(self, reason: CloseReason) -> None:
        """There is no room now for what waits to be admitted."""
        self.service.refusals[reason.name] += 1
        self._refuse(503, f"{reason.name}: try again later", (("Retry-After", str(retry_after_s(reason))),))

    def unanswered(self) -> None:
        """Nobody has told in time whether to admit what waits for that."""
        self.refused(503, "nobody could tell who you are: try again later", (("Retry-After", str(RETRY_AFTER_S)),))

    def _refuse(self, status: int, error: str, headers: Iterable[tuple[str, str]]) -> None:
        upgrade, self._upgrade = self._upgrade, None
        assert upgrade is not None
        self._reply(Reply(status, upgrade.refuse(status, error, headers), error))
        self.service.application.withdrawn(self)

    def admitted(self) -> None:
        """The application takes what waits to be admitted; nothing happens if nothing does."""
        if self.phase is not Phase.WAITING:
            return
        outcome = self._upgrade
        assert outcome is not None
        refusal = self.service.application.refusal(outcome.address)
        if refusal is not None:
            self.turned_away(refusal)
            return
        self._upgrade = None
        self.service.deadlines.cancel("handshake", self)
        self.phase = Phase.OPEN
        self._is_app_open = True
        inflater: Callable[[float], MessageInflater] | None = None
        if outcome.deflate is not None:
            inflater = _inflater(outcome.deflate.client_max_window_bits)
        self._reader = FrameReader(self.service.application.frame_limits(outcome), inflater)
        self.send(outcome.accept())
        self.service.application.opened(self, outcome)
        rest, self._early = outcome.rest + self._early, b""
        if rest and self.phase is OPEN:
            self.feed(rest)

    def _reply(self, reply: Reply) -> None:
        self.service.deadlines.cancel("handshake", self)
        if reply.status >= 400:
            # %r: what is said of a request may quote it, and a log is read in a terminal.
            _log.debug("refused a request of %r with %d: %r", self.peer, reply.status, reply.error)
        if reply.data:
            self.send(reply.data)
        self._end()

    def _depart(self) -> None:
        if self._is_app_open:
            self._is_app_open = False
            self.service.application.closed(self)

    def _send_close(self, code: int | None, reason: str) -> None:
        self._begin_close()
        self.send(close_frame(code, reason))

    def _begin_close(self) -> None:
        self.phase = Phase.CLOSING
        self.service.deadlines.cancel("message", self)
        self.service.arm("close", self)

    def _end(self) -> None:
        if self.phase is not Phase.GONE:
            self.phase = Phase.ENDING
            if self._farewell is not None:
                # The peer says farewell before it has all: it is answered now (RFC 6455 section 5.5.1).
                farewell, self._farewell = self._farewell, None
                self.send(farewell)
            # A peer that answered our close has no further time for its end.
            if not self.service.deadlines.is_armed("close", self):
                self.service.arm("close", self)
            self.finish()


def retry_after_s(reason: CloseReason) -> int:
    """How many seconds who is refused for this reason should wait."""
    return DRAINING_RETRY_AFTER_S if reason is DRAINING else RETRY_AFTER_S


def _inflater(window_bits: int) -> Callable[[float], MessageInflater]:
    # Imported where it is needed: zlib's tables are memory that a server without compression need not hold.
    from roomhub.transports.websocket.deflate import bounded_inflater

    return bounded_inflater(window_bits)
