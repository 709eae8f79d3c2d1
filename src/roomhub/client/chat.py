"""The driver of the client: it owns the socket, the tasks and the time, and decides nothing (see ``protocol.py``)."""

import math
import os
import socket
import ssl
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from random import random as chance
from types import TracebackType
from typing import Any, Final, Self, TypeAlias
from urllib.parse import urlsplit
from uuid import uuid4

import anyio
from anyio.abc import ByteStream, TaskGroup
from anyio.lowlevel import checkpoint

from roomhub.client.backoff import Backoff, Ended
from roomhub.client.errors import ChatClosed, ConnectFailed, RequestRefused
from roomhub.client.events import Connected, Event, Sent
from roomhub.client.outbox import Request
from roomhub.client.protocol import ClientProtocol, HangUp, Phase, Probe, direct_message, message
from roomhub.client.room import DirectPage, Room, check_text, oldest_first, sent
from roomhub.client.wire import Item, Wire
from roomhub.core.message import Position
from roomhub.core.protocol import ModAction
from roomhub.core.sanctions import milliseconds
from roomhub.ports import Clock, SystemClock
from roomhub.transports.websocket.opening import Address, Opened, parse_url

__all__ = ["Chat", "Token", "connect"]

SUBPROTOCOL: Final = "roomhub.v1.json"
READ_BYTES: Final = 65_536
ATTEMPT_TIMEOUT_S: Final = 10.0
"""How long one try may take: name, TCP, TLS and the handshake."""
CLOSE_TIMEOUT_S: Final = 1.0
"""How long a server may take to answer our close."""
AWAITED_FACTOR: Final = 4
"""So many times the buffer is read while the program waits for an answer, which comes behind the events."""

Token: TypeAlias = str | Callable[[], Awaitable[str]]
"""A token, or what gives one: it is awaited for each connection, and again before a token ends."""


def connect(
    url: str,
    *,
    username: str | None = None,
    token: Token | None = None,
    ssl_context: ssl.SSLContext | None = None,
    open_timeout_s: float = 30.0,
    timeout_s: float = 30.0,
    buffer: int = 256,
    outbox: int = 1_000,
    backoff: Backoff = Backoff(),  # noqa: B008  # immutable
    random: Callable[[], float] = chance,
    clock: Clock | None = None,
    on_fault: Callable[[str], object] | None = None,
) -> "Chat":
    """A client of the chat at this URL; it connects as it is entered, and stays connected until it is left.

    ::

        async with connect("ws://127.0.0.1:8080/ws", username="ann") as chat:
            room = await chat.join("lobby")
            await room.send("hello")
            async for event in chat:
                print(event)

    Args:
        url: ``ws://`` or ``wss://``; without a path it is that of ``/ws``.
        username: who this is, where the server believes it; or it is in the URL already.
        token: for a server that wants one.
        ssl_context: for ``wss://``; the system's authorities by default.
        open_timeout_s: how long the first connection may take, with all its tries; ``inf`` waits for a server that is
            not there yet.
        timeout_s: how long a request may take, connecting again included, unless it says otherwise.
        buffer: how many events may wait for the program. When they do, nothing more is read; the server waits too, and
            closes after a while. Then the client resumes.
        outbox: how many requests may wait for an answer, those asked while there is no connection among them.
        backoff: the delays before connecting again.
        random: gives numbers from 0 to less than 1.
        clock: where time comes from.
        on_fault: called with what went wrong each time that a try fails before the first connection, such as
            ``"127.0.0.1:9: Connection refused"``: more tries follow. Later ones are told by ``Disconnected``.

    Raises:
        ValueError: the URL is none of a chat's, or names two users; the message says what to mend.
    """
    return Chat(
        address_of(url, username),
        ClientProtocol(
            key=lambda: uuid4().hex,
            random=random,
            backoff=backoff,
            outbox=outbox,
            client=f"roomhub/{version('roomhub')} (Python {sys.version_info.major}.{sys.version_info.minor})",
        ),
        token=token,
        ssl_context=ssl_context,
        open_timeout_s=open_timeout_s,
        timeout_s=timeout_s,
        buffer=buffer,
        clock=SystemClock() if clock is None else clock,
        on_fault=on_fault,
    )


def address_of(url: str, username: str | None = None) -> Address:
    """Read the URL of a chat. Raises ValueError with words that say what to mend, none of Python's."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError("a chat's URL names a host, such as ws://chat.example/ws or ws://[::1]:8080/ws") from None
    if parts.scheme not in ("ws", "wss"):
        scheme, separator, _ = url.partition("://")
        raise ValueError(f"a chat's URL begins with ws:// or wss://, not {(scheme + separator)[:64]!r}")
    try:
        is_port = parts.port != 0
    except ValueError:
        is_port = False
    if not is_port:
        port = parts.netloc.rpartition(":")[2]
        raise ValueError(f"the port in a chat's URL is a number from 1 to 65535, not {port[:64]!r}")
    return parse_url(url, username)


class Chat:
    """A connection to a chat that mends itself; made by ``connect``.

    Leaving the ``async with`` leaves the rooms too, at once for whoever is there. Only a program that is cancelled or
    killed, or whose connection breaks, is shown as there until the server's ``presence_grace_s`` is over.

    Iterate over it for what happens. The iteration ends when the ``async with`` does, or raises ``StayAway`` when the
    server wants this client no more. If several tasks iterate, each event goes to one of them.

    Entering raises:
        StayAway: the server does not let this client in.
        ConnectFailed: it could not be reached in ``open_timeout_s``.
    """

    def __init__(
        self,
        address: Address,
        protocol: ClientProtocol,
        *,
        token: Token | None,
        ssl_context: ssl.SSLContext | None,
        open_timeout_s: float,
        timeout_s: float,
        buffer: int,
        clock: Clock,
        on_fault: Callable[[str], object] | None = None,
    ) -> None:
        self._address = address
        self._protocol = protocol
        self._token = token
        self._ssl_context = ssl_context
        self._open_timeout_s = open_timeout_s
        self._timeout_s = timeout_s
        self._most_events = buffer
        self._clock = clock
        self._on_fault = on_fault
        self._rooms: dict[str, Room] = {}
        self._events: deque[Event] = deque()
        self._tasks: TaskGroup | None = None
        self._last_fault = "the time was over before the first try was"
        self._news = anyio.Event()  # there is an event, or an end
        self._space = anyio.Event()  # an event was taken, or an answer is waited for
        self._work = anyio.Event()  # there may be something to send
        self._opened = anyio.Event()  # the first welcome, or the end
        self._parted = anyio.Event()  # there is no connection and will be none
        self._sleep: anyio.CancelScope | None = None  # of the task that keeps the time
        self._wakes_at = math.inf
        self._sending: anyio.CancelScope | None = None  # of a write under way

    # -- its life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("a chat is entered once: connect again")
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        try:
            self._tasks.start_soon(self._run, name="roomhub chat")
            self._tasks.start_soon(self._keep_time, name="roomhub chat time")
            with anyio.move_on_after(self._open_timeout_s):
                await self._opened.wait()
            if not self._opened.is_set():
                # Its query is left out: a token may be in it.
                scheme, path = "wss" if self._address.is_secure else "ws", self._address.target.partition("?")[0]
                url = f"{scheme}://{self._address.authority}{path}"
                raise ConnectFailed(f"no connection to {url} in {self._open_timeout_s:g} s: {self._last_fault}")
            if self._protocol.final is not None:
                raise self._protocol.final
        except BaseException as error:
            await self.__aexit__(type(error), error, error.__traceback__)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        cancelled = error if isinstance(error, anyio.get_cancelled_exc_class()) else None
        is_speaking = self._protocol.phase in (Phase.GREETING, Phase.OPEN)
        try:
            self._protocol.close(ChatClosed("this chat is closed: its async with was left"))
            self._finish()
            if cancelled is None and is_speaking:
                with anyio.move_on_after(CLOSE_TIMEOUT_S):
                    await self._parted.wait()
        except anyio.get_cancelled_exc_class() as late:
            cancelled = late
            raise
        finally:
            self._tasks.cancel_scope.cancel()
            # An error of the caller's own passes by the task group, which would wrap it into an ExceptionGroup.
            if cancelled is None:
                await self._tasks.__aexit__(None, None, None)
            else:
                await self._tasks.__aexit__(type(cancelled), cancelled, cancelled.__traceback__)

    @property
    def user(self) -> str:
        """Who the server takes this client for, as an identity."""
        return self._protocol.user

    @property
    def username(self) -> str:
        """The same for people to read."""
        return self._protocol.username

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._protocol.phase is Phase.OPEN

    @property
    def limits(self) -> Mapping[str, Any]:
        """What the server told of its limits, such as ``message_bytes``; None stands for no limit."""
        return self._protocol.limits

    @property
    def rooms(self) -> Mapping[str, "Room"]:
        """The rooms that this client is in, by name; while it is disconnected, those that it comes back to."""
        return {name: self._room(name) for name in self._protocol.rooms if not name.startswith("@")}

    # -- events -------------------------------------------------------------------------------------------------------

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        """The next event; waits for it. ``anext(chat)`` gives a single one.

        Raises:
            StayAway: the server wants this client no more, and all that came before was given.
            StopAsyncIteration: the ``async with`` was left.
        """
        await checkpoint()
        while not self._events:
            if self._protocol.final is not None:
                if isinstance(self._protocol.final, ChatClosed):
                    raise StopAsyncIteration
                raise self._protocol.final
            if self._news.is_set():
                self._news = anyio.Event()
            await self._news.wait()
        event = self._events.popleft()
        self._space.set()
        return event

    # -- requests -----------------------------------------------------------------------------------------------------

    async def join(
        self,
        room: str,
        *,
        history: int = 0,
        since: Position | None = None,
        presence: bool = True,
        meta: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> "Room":
        """Enter a room; where the client is in it already, that one is given as it is.

        Args:
            room: its name.
            history: so many of the newest messages come as ``Room.backlog``.
            since: what was said after this place comes as events, for a program that remembers what it has seen last.
            presence: whether ``Room.members`` is kept; without it a large room costs less.
            meta: what this user tells of itself in the room, an object for JSON.
            timeout_s: how long it may take.

        Raises:
            RequestRefused: ``forbidden``, ``bad_request`` for a bad name, or any other.
            NotAnswered: there was no answer in time; then the client is not in the room.
            OutboxFull, ChatClosed, StayAway: it was not asked at all.
            ValueError: a lone surrogate, which has no UTF-8.
        """
        check_text(room)
        due = self._due(timeout_s)
        if room not in self._protocol.rooms:
            reply = await self._answer(
                self._protocol.join(room, due, history=history, since=since, presence=presence, meta=meta)
            )
            self._rooms[room] = Room(self, room, tuple(message(item) for item in reply.get("messages", ())))
        return self._room(room)

    async def dm(self, user: str, content: str, *, key: str | None = None, timeout_s: float | None = None) -> Sent:
        """Say something to one user, connected or not. As ``Room.send`` for the rest."""
        check_text(user + content)
        return sent(await self._answer(self._protocol.write_to(user, content, self._due(timeout_s), key)))

    async def mailbox(
        self, *, before: int | None = None, limit: int = 50, timeout_s: float | None = None
    ) -> DirectPage:
        """The newest direct messages of this user, or those before an offset.

        Raises:
            RequestRefused, NotAnswered, OutboxFull, ChatClosed, StayAway: as for ``join``.
        """
        due, room = self._due(timeout_s), f"@{self.user}"
        try:
            reply = await self._answer(self._protocol.history(room, due, before=before, limit=limit))
        except RequestRefused as error:
            if error.name == "unknown_room":  # nobody has written yet
                return DirectPage((), False)
            raise
        return DirectPage([direct_message(item) for item in oldest_first(reply)], bool(reply.get("more")))

    async def moderate(
        self,
        action: ModAction,
        user: str,
        room: str | None = None,
        *,
        for_s: float = math.inf,
        reason: str = "",
        timeout_s: float | None = None,
    ) -> None:
        """Kick, ban, unban, mute or unmute a user, where this client's rights allow it; in force when it returns.

        Args:
            action: what to do.
            user: an identity, that of ``Member.user`` or ``Message.user``; it need not be there, but to be kicked.
            room: where; None for everywhere. This client need not be in it. An "unban" and an "unmute" end what was
                imposed for the same room, or for everywhere.
            for_s: how many seconds a "ban" or "mute" lasts; ``inf`` until it is ended.
            reason: a word to the user.
            timeout_s: how long it may take.

        Raises:
            RequestRefused: ``forbidden`` where this client may not; ``bad_request`` where there is nobody to kick or
                nothing to end, and for what cannot be; or any other.
            NotConnected: the connection ended before the answer came; a "ban" or a "mute" is asked for again instead.
            NotAnswered, OutboxFull, ChatClosed, StayAway: as for ``join``.
            ValueError: ``for_s`` is not more than 0, or there is a lone surrogate.
        """
        check_text(user + reason + (room or ""))
        for_ms = milliseconds(for_s)
        due = self._due(timeout_s)
        await self._answer(self._protocol.moderate(action, user, room, due, for_ms=for_ms, reason=reason))

    # -- for Room -----------------------------------------------------------------------------------------------------

    def _room(self, name: str) -> "Room":
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(self, name, ())
        return room

    def _due(self, timeout_s: float | None) -> float:
        if self._protocol.final is not None:
            raise self._protocol.final
        if self._tasks is None:
            raise ChatClosed("this chat is not open yet: enter it with async with")
        return self._clock.now() + (self._timeout_s if timeout_s is None else timeout_s)

    async def _answer(self, request: Request) -> dict[str, Any]:
        """Wait until a request is over. Who is cancelled here has taken it back, if it was not sent."""
        done = anyio.Event()
        request.add_waiter(done.set)
        try:
            self._changed()
            self._space.set()  # its answer may be behind what is not read
            if request.is_over:
                await checkpoint()
            else:
                await done.wait()
        finally:
            request.remove_waiter(done.set)
            if not request.is_over and not request.has_waiters:
                self._protocol.outbox.forget(request.id)
                request.finish(error=ChatClosed(f"{request.kind}: nobody waits for the answer"))
        if request.error is not None:
            raise request.error
        assert request.reply is not None
        return request.reply

    # -- inside -------------------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        """Something happened: there may be something to send, and another time at which to wake."""
        self._work.set()
        if self._sending is not None and self._protocol.is_hanging_up:
            if self._protocol.final is None:
                self._sending.cancel()  # a server that takes nothing must not keep us
            else:  # half a frame is no goodbye: what is being written may end, in time for the leaving to follow it
                self._sending.deadline = min(self._sending.deadline, anyio.current_time() + CLOSE_TIMEOUT_S / 2)
        self._reschedule()

    def _reschedule(self) -> None:
        if self._sleep is not None and self._next_due() < self._wakes_at:
            self._sleep.cancel()

    def _next_due(self) -> float:
        return min(self._protocol.next_due, self._protocol.refresh_at)

    def _finish(self) -> None:
        """It is over: whoever waits learns of it."""
        for event in (self._opened, self._news, self._space):
            event.set()
        self._changed()

    def _emit(self, events: Sequence[Event]) -> None:
        if any(isinstance(event, Connected) for event in events):
            self._opened.set()
        if events:
            self._events.extend(events)
            self._news.set()

    async def _room_for_events(self) -> None:
        """Return once the program has taken enough of its events, or nobody wants any more."""
        is_held = False
        while len(self._events) >= self._most_events * (AWAITED_FACTOR if self._protocol.outbox.is_awaited else 1):
            if self._protocol.final is not None:
                break
            is_held = True
            self._protocol.heard(math.inf)  # what is not read cannot be heard
            self._space = anyio.Event()
            await self._space.wait()
        if is_held:
            self._protocol.heard(self._clock.now())
            self._reschedule()

    # -- tasks --------------------------------------------------------------------------------------------------------

    async def _keep_time(self) -> None:
        while True:
            self._wakes_at = self._next_due()
            with anyio.CancelScope() as self._sleep:
                await self._clock.sleep_until(self._wakes_at)
            self._sleep = None
            now = self._clock.now()
            self._protocol.tick(now)
            if now >= self._protocol.refresh_at:
                self._protocol.refresh_at = math.inf
                assert self._tasks is not None
                self._tasks.start_soon(self._refresh, name="roomhub chat token")
            self._changed()

    async def _refresh(self) -> None:
        token, _ = await self._fresh_token()
        # Without one: the server will say when the old one has ended, and then another is asked for.
        if token is not None and callable(self._token):
            self._protocol.refresh(token)
            self._changed()

    async def _fresh_token(self) -> tuple[str | None, str]:
        """A token, and what went wrong in getting it."""
        if not callable(self._token):
            return None if self._token is None else self._token.strip(), ""
        try:
            return (await self._token()).strip(), ""  # what was read from a file has a line's end
        except Exception as error:
            return None, f"token() raised {error!r}"

    async def _run(self) -> None:
        """Connect, and again, until the end."""
        protocol = self._protocol
        try:
            while protocol.final is None:
                await self._clock.sleep_until(protocol.reconnect_at)
                await self._room_for_events()
                end = await self._attempt()
                self._last_fault = end.reason
                events = protocol.lost(end, self._clock.now())
                if self._opened.is_set():
                    self._emit(events)
                elif self._on_fault is not None and protocol.final is None:
                    self._on_fault(f"{self._address.authority}: {end.reason}")
                self._changed()
        finally:
            self._parted.set()
        self._finish()

    async def _attempt(self) -> Ended:
        """One connection, from the first try to its end."""
        wire = Wire(self._address, SUBPROTOCOL)
        stream: ByteStream | None = None
        try:
            with anyio.move_on_after(ATTEMPT_TIMEOUT_S) as opening:
                token, fault = await self._fresh_token()
                if fault:
                    return Ended(None, fault)
                stream = await self._open_stream()
                await stream.send(wire.pull())
                items: list[Item] = []
                while not items:
                    items = list(wire.feed(await _receive(stream)))
                if not isinstance(items[0], Opened):
                    assert isinstance(items[0], Ended)
                    return items[0]
                self._protocol.connected(self._clock.now(), token)
            if opening.cancelled_caught or stream is None:
                return Ended(None, f"no answer in {ATTEMPT_TIMEOUT_S:g} s")
            return await self._converse(stream, wire, items)
        except (OSError, UnicodeError, anyio.BrokenResourceError, anyio.EndOfStream) as error:
            return Ended(None, _fault(error))
        finally:
            if stream is not None:
                # Shielded and yet it does not wait: asyncio's transports would keep a cancelled one for what they could
                # not write, as long as the server takes nothing.
                with anyio.CancelScope(shield=True):
                    await stream.aclose()

    async def _open_stream(self) -> ByteStream:
        host, port = self._address.host, self._address.port
        if not self._address.is_secure:
            return await anyio.connect_tcp(host, port)
        context = self._ssl_context or ssl.create_default_context()
        return await anyio.connect_tcp(host, port, ssl_context=context, tls_standard_compatible=False)

    async def _converse(self, stream: ByteStream, wire: Wire, items: Iterable[Item]) -> Ended:
        """Read and write until one of both has come to the end."""
        ends: list[Ended] = []
        done = anyio.Event()

        async def write() -> None:
            ends.append(await self._write(stream, wire))
            done.set()
            if len(ends) == 1:
                tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, name="roomhub chat writing")
            ends.append(await self._read(stream, wire, items))
            self._work.set()
            with anyio.move_on_after(CLOSE_TIMEOUT_S):
                await done.wait()  # the close, or the answer to one; a server that takes nothing is not waited for
            tasks.cancel_scope.cancel()
        return ends[0]

    async def _read(self, stream: ByteStream, wire: Wire, items: Iterable[Item]) -> Ended:
        protocol = self._protocol
        while True:
            for item in items:
                if isinstance(item, Ended):
                    return item
                if isinstance(item, str):
                    await self._room_for_events()
                    self._emit(protocol.received(item, self._clock.now()))
            self._changed()
            data = await _receive(stream)
            protocol.heard(self._clock.now())
            items = wire.feed(data)

    async def _write(self, stream: ByteStream, wire: Wire) -> Ended:
        """Send what there is to send, to the end of the reading, or until it is this side that has enough."""
        while True:
            self._work = anyio.Event()
            hang_up: HangUp | None = None
            for order in self._protocol.pull(self._clock.now()):
                if isinstance(order, str):
                    wire.say(order)
                elif isinstance(order, Probe):
                    wire.ping()
                else:
                    hang_up = order
                    if order.code is not None:
                        wire.close(order.code, order.reason)
            self._reschedule()
            with anyio.CancelScope() as self._sending:
                await _send(stream, wire)
            self._sending = None
            if wire.has_ended:
                return Ended(None, "")
            if hang_up is not None:
                if hang_up.code is not None:
                    with anyio.move_on_after(CLOSE_TIMEOUT_S):
                        while not wire.has_ended:  # the answer is read
                            self._work = anyio.Event()
                            await self._work.wait()
                return Ended(None, hang_up.reason)
            await self._work.wait()


async def _receive(stream: ByteStream) -> bytes:
    """What came; b"" once nothing more will."""
    try:
        return await stream.receive(READ_BYTES)
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        return b""


async def _send(stream: ByteStream, wire: Wire) -> None:
    """Send what the wire has. A connection that is broken is noticed by who reads."""
    while not wire.is_torn and (data := wire.pull()):
        wire.is_torn = True  # for as long as part of a frame may be out
        try:
            await stream.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            return
        wire.is_torn = False


def _fault(error: BaseException) -> str:
    """What went wrong, in a line; anyio's own words for several addresses hide it."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, BaseExceptionGroup):
        return _fault(error.exceptions[0])
    if isinstance(error, socket.gaierror) and error.strerror:
        return error.strerror
    number = error.errno if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    if number is not None and number > 0:
        return os.strerror(number)
    return str(error) or type(error).__name__
