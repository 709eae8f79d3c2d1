"""The async face of a hub: its clock, its tasks, its ports.

    async with Runtime() as runtime:
        runtime.publish("lobby", "the bakery opens in five minutes")

A runtime turns facts into hub events (``submit``), applies the effects in order, and flushes once a tick: however many
messages came in, each client is written to once.
"""

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import inf
from os import PathLike
from types import TracebackType
from typing import Any, Final, Literal, Self, assert_never

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from roomhub.authentication import Questions
from roomhub.callbacks import Callbacks, JoinHook, MessageHook, MessageListener, RoomListener
from roomhub.confirmations import Confirmation, ThreadCalls
from roomhub.core import errors
from roomhub.core.codec import Chunk
from roomhub.core.commands import (
    Ban,
    CloseRoom,
    Command,
    Drain,
    Enter,
    EraseMessage,
    EraseUser,
    Exit,
    Kick,
    Mute,
    Publish,
    Unban,
    Unmute,
)
from roomhub.core.deadlines import Deadlines
from roomhub.core.effects import (
    Announce,
    Authenticate,
    Authorize,
    Close,
    Effect,
    Impose,
    Lift,
    Load,
    Moderated,
    Probe,
    Report,
    Settle,
    Store,
)
from roomhub.core.errors import CloseReason
from roomhub.core.events import (
    Authenticated,
    Authorized,
    ClockSet,
    Denied,
    Disconnected,
    Event,
    Loaded,
    Published,
    Refused,
    Stored,
    StoreFailed,
    Ticked,
)
from roomhub.core.hub import Hub
from roomhub.core.limits import Limits
from roomhub.core.message import Message, Position
from roomhub.core.sanctions import EVERYWHERE, Sanction
from roomhub.core.statistics import Statistics
from roomhub.core.storage import Report as StoreReport
from roomhub.core.storage import Snapshot, StoreError
from roomhub.identity_keys import user_key
from roomhub.ports import Authenticator, Client, Clock, ConnectionInfo, HistoryStore, Identity, Refusal, SystemClock

__all__ = ["Runtime"]

_log = logging.getLogger("roomhub")

FLUSH_BUDGET_S: Final = 0.001
"""How long one slice of a flush may take before sockets are read and other tasks run."""
TURN_MEMBERS: Final = 64
"""How many members are written to between two looks at the clock."""
CLOCK_CHECK_S: Final = 60.0
"""How often the wall clock is compared: it may have been set."""
LATE_S: Final = 1.0
"""So long after a deadline the program was held up: its machine slept, or something kept its event loop busy."""
LATE_TURNS: Final = 100
"""How many turns the event loop gets then before deadlines of transports end, to read what has come in meanwhile."""
FOLLOW_UPS: Final = 100
"""How many orders a turn takes that callbacks gave because of what other callbacks had ordered. The rest waits for the
next flush: a program that answers itself without end keeps a core busy, but nobody waiting."""
_Order: Final = (Publish, Enter, Exit, Kick, Ban, Unban, CloseRoom)


class _Timers:
    """A transport's deadlines, and what to call with those that ended."""

    __slots__ = ("deadlines", "expire")

    def __init__(self, deadlines: Deadlines[Any, Any], expire: Callable[[Any, Any], None]) -> None:
        self.deadlines: Deadlines[Any, Any] = deadlines
        self.expire: Callable[[Any, Any], None] = expire


class _Opening:
    """Opens a store in a thread. That goes on where whoever waits is cancelled; then the store is closed again."""

    def __init__(self, history: HistoryStore) -> None:
        self._history = history
        self._lock = threading.Lock()
        self._is_open = self._is_abandoned = False

    def open(self, report: Callable[[StoreReport], None]) -> Snapshot:
        with self._lock:
            if self._is_abandoned:
                raise RuntimeError("abandoned before it began")
            snapshot = self._history.open(report)
            self._is_open = True
        return snapshot

    def abandon(self) -> None:
        with self._lock:
            self._is_abandoned = True
            if self._is_open:
                self._history.close()


class Runtime:
    """Runs one hub on the current event loop, asyncio or trio, while it is entered.

    Args:
        hub: the hub; one of its own, with ``limits``, if not given.
        limits: the bounds, where no hub is given.
        slow: what becomes of a v1 client that is too far behind, where no hub is given: ``Hub`` has the choices.
        clock: where time comes from.
        on_join: called with (room, user) when a user's first connection came into a room.
        on_leave: called with (room, user) when a user's last connection left a room.
        on_message: called with each chat ``Message`` once it has its place.
        allow_join: called with (room, username); False refuses the join.
        rewrite_message: called with a ``Message`` before it has a place; the content to publish, or None to refuse it.
        authenticator: says who peers are, and whether they may come into a room. Without one the name is the peer's own
            word. It is asked after ``allow_join``, and not of clients in memory.
        history: where rooms' messages are kept, also beyond the end of this process; it is opened and closed here.
        confirms_stored: whether a v1 client's ``ok`` waits until its message is stored. Live delivery never waits.

    The callables are plain functions and must be quick: they run inside the hub's turn. One that raises is logged and
    contained; a hook that raises refuses. They may call the runtime's synchronous methods, which then take effect
    right after the turn.

    Raises:
        TypeError: a callback is a coroutine function.
        ValueError: both ``hub`` and ``limits`` or ``slow`` are given.
    """

    def __init__(
        self,
        hub: Hub[Client] | None = None,
        *,
        limits: Limits | None = None,
        slow: Literal["close", "skip"] = "close",
        clock: Clock | None = None,
        on_join: RoomListener | None = None,
        on_leave: RoomListener | None = None,
        on_message: MessageListener | None = None,
        allow_join: JoinHook | None = None,
        rewrite_message: MessageHook | None = None,
        authenticator: Authenticator | None = None,
        history: HistoryStore | None = None,
        confirms_stored: bool = True,
    ) -> None:
        if hub is not None and (limits is not None or slow != "close"):
            raise ValueError("give limits and slow to the hub, or no hub: Runtime(limits=..., slow=...) makes one")
        self._callbacks = Callbacks(
            on_join=on_join,
            on_leave=on_leave,
            on_message=on_message,
            allow_join=allow_join,
            rewrite_message=rewrite_message,
        )
        self.hub: Hub[Client] = hub or Hub(epoch=secrets.token_urlsafe(5), limits=limits, slow=slow, user_key=user_key)
        self.limits: Limits = self.hub.limits
        self.clock: Clock = clock or SystemClock()
        self.hub.reports = self._callbacks.tells
        self.hub.authorizes = self._callbacks.decides_joins or authenticator is not None
        self.hub.authenticates = authenticator is not None
        self.hub.announces = self._callbacks.decides_messages
        if isinstance(history, str | bytes | PathLike):
            raise TypeError(f'history must be a store, such as SqliteHistory("{history!s}"), not a path')
        self._authenticator = authenticator
        self._questions: Questions | None = None
        self._history = history
        self._confirms_stored = confirms_stored
        self._handling = False
        # What came in while an item was handled, and the orders among it that wait for the next flush.
        self._queue: deque[Event[Client] | Command[Client]] = deque()
        self._later: deque[Event[Client] | Command[Client]] = deque()
        self._named: deque[Client] = deque()  # of whom there is something to pull, and who are yet to be told
        self._flush_wanted = anyio.Event()
        self._flush_holders = 0
        self._flushed: anyio.Event | None = None
        self._erasures: set[Confirmation] = set()
        self._timers: list[_Timers] = []
        self._timer_due = 0.0
        self._empty = anyio.Event()
        self._is_draining = False
        self._tasks: TaskGroup | None = None
        self._thread: int | None = None  # the event loop's, while the runtime runs
        self._calls = ThreadCalls(self._wake_flusher)

    # -- life ---------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._tasks is not None:
            raise RuntimeError("a runtime runs once: make another")
        if self._history is not None:
            self._calls.begin()  # the store may speak as soon as it is open
            opening = _Opening(self._history)
            try:
                snapshot = await anyio.to_thread.run_sync(opening.open, self._calls.post)
                reserve, now = self._history.reserve, self.clock.now()
                self.hub.restore(snapshot, reserve=reserve, confirms=self._confirms_stored, now=now)
            except BaseException:
                self._calls.end()
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(opening.abandon)
                raise
        self._look_at_clock()
        # Not before: a runtime may be made where no event loop runs yet.
        self._flusher = anyio.CancelScope(shield=True)
        self._timer_scope = anyio.CancelScope()
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        if self._authenticator is not None:
            self._questions = Questions(self._authenticator, self.clock, self.limits.auth_timeout_s, self._tasks)
        self._thread = threading.get_ident()
        self._calls.begin()
        self._tasks.start_soon(self._flush_forever, name="roomhub flush")
        self._tasks.start_soon(self._keep_time, name="roomhub time")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        try:
            if error is None:
                await self.drain()
        finally:
            self._abandon()
            self._flusher.cancel()
            self._tasks.cancel_scope.cancel()
            try:
                # An error of the caller's own passes by the task group, which would wrap it into an ExceptionGroup.
                if isinstance(error, anyio.get_cancelled_exc_class()):
                    await self._tasks.__aexit__(kind, error, traceback)
                else:
                    await self._tasks.__aexit__(None, None, None)
            finally:
                self._thread = None
                if self._history is not None:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(self._history.close)

    async def drain(self) -> None:
        """Close every connection with the reason ``draining``; return when all are gone, or ``drain_timeout_s`` later.

        Clients of v1 are told ``drain_notice_s`` before.

        From then on nobody is let in. What was published before is written first.
        """
        self._is_draining = True
        if self.limits.drain_notice_s and not self.hub.is_empty:
            self.submit(Drain(self.limits.drain_notice_s))
            await self.clock.sleep_until(self.clock.now() + self.limits.drain_notice_s)
        self.submit(Drain())
        deadline = self.clock.now() + self.limits.drain_timeout_s
        async with anyio.create_task_group() as waiting:

            async def give_up() -> None:
                await self.clock.sleep_until(deadline)
                waiting.cancel_scope.cancel()

            waiting.start_soon(give_up)
            while not self.hub.is_empty:
                if self._empty.is_set():
                    self._empty = anyio.Event()
                await self._empty.wait()
            waiting.cancel_scope.cancel()

    def _abandon(self) -> None:
        """Whatever is still connected is not any more, so that the hub ends empty."""
        self._calls.end()
        for erasure in list(self._erasures):
            self._end_erasure(erasure, RuntimeError("the runtime has stopped; the store still does what it took"))
        self.submit(Drain())
        for client in self.hub.clients():
            self.submit(Disconnected(client))
        if self._later:
            _log.warning("%d orders of callbacks that answer one another were left undone", len(self._later))
            for order in self._later:
                _fail(order, RuntimeError("the runtime has stopped"))
        self._tell_flushed()

    # -- what transports call -----------------------------------------------------------------------------------------

    def submit(self, item: Event[Client] | Command[Client]) -> None:
        """Hand one fact or order to the hub, apply what follows in order, and see that a flush comes.

        Called from within itself (by a callback, by a client's ``close``) it queues the item until the current one is
        done with; then what is wrong with a queued order is logged, since its caller has gone on.

        Raises:
            ValueError, KeyError, TypeError: as ``Hub.handle``.
        """
        if self._handling:
            self._queue.append(item)
            return
        self._handling = True
        try:
            effects = self.hub.handle(item, self.clock.now())
            for effect in effects:
                self._apply(effect)
            if self._queue:
                self._work_off()
        finally:
            self._handling = False
        if self._questions is not None and isinstance(item, Disconnected):
            self._questions.forget(item.client)
        if self._is_draining and self.hub.is_empty:
            self._empty.set()
        if not self._flush_holders:
            if self.hub.is_settled:
                self.reschedule()  # otherwise the flush does it
            else:
                self._flush_wanted.set()

    def pull(self, client: Client) -> Chunk:
        """A client's next frames, falsy when it has all: ``Hub.pull``."""
        chunk = self.hub.pull(client)
        if not chunk and not self.hub.is_settled:
            self._flush_wanted.set()  # what it is to get next has to be asked of the store
        return chunk

    def watch(self, deadlines: Deadlines[Any, Any], expire: Callable[[Any, Any], None]) -> Callable[[], None]:
        """Let this runtime's clock serve a transport's deadlines too: ``expire(kind, key)`` for each that ends.

        Returns:
            A function that ends the watch.
        """
        timers = _Timers(deadlines, expire)
        self._timers.append(timers)
        self.reschedule()

        def unwatch() -> None:
            if timers in self._timers:
                self._timers.remove(timers)

        return unwatch

    def reschedule(self) -> None:
        """A deadline may have become due sooner than any before."""
        if self._next_deadline() < self._timer_due:
            self._timer_scope.cancel()

    def hold_flush(self) -> None:
        """A reactor begins a tick and flushes at its end: until ``release_flush``, ``submit`` wakes nobody."""
        self._flush_holders += 1

    def release_flush(self) -> None:
        """The tick is over."""
        self._flush_holders -= 1
        if not self._flush_holders and (self._named or not self.hub.is_settled):
            self._flush_wanted.set()

    def flush(self, budget_s: float = FLUSH_BUDGET_S) -> bool:
        """Write what is to be written, for about ``budget_s`` seconds; True once all is."""
        self.submit(Ticked())
        if self._later:
            self._work_off_later()
        hub = self.hub
        end = time.perf_counter() + budget_s
        self._notify(end)
        while (share := hub.share(TURN_MEMBERS)) is not None:
            chunk = share.chunk
            clients: Sequence[Any] = share.clients  # SharingClients: others are named, not served together
            for sharing in clients:
                try:
                    sharing.write(chunk)
                except Exception:
                    self._give_up(sharing)
            if time.perf_counter() > end and not hub.is_settled:
                break
        else:
            if not self._named:
                self._notify(end)
        while self._queue:
            self.submit(self._queue.popleft())
        self.reschedule()
        self._tell_flushed()
        return hub.is_settled and not self._later and not self._named

    async def flushed(self) -> None:
        """Return after the next flush, when a client may no longer be ``is_backlogged``. Also when the runtime ends."""
        if self._flushed is None:
            self._flushed = anyio.Event()
        self._flush_wanted.set()
        await self._flushed.wait()

    def _tell_flushed(self) -> None:
        if self._flushed is not None:
            self._flushed.set()
            self._flushed = None

    # -- what the program calls ---------------------------------------------------------------------------------------

    def publish(self, room: str, content: str, username: str = "") -> None:
        """Say something in a room, as ``username`` or as nobody. Never blocks; from any coroutine of this event loop.

        ``user`` of the message is the identity key of that name; with an authenticator, which gives the keys, ``""``.

        Raises:
            ValueError: a bad room name, or text that UTF-8 cannot carry.
            RuntimeError: the runtime is not running, or this is another thread; see ``publish_from_thread``.
        """
        self._check_thread("publish_from_thread")
        self.submit(Publish(room, content, username))

    async def publish_confirmed(self, room: str, content: str, username: str = "") -> Position:
        """As ``publish``, and wait for the message's place in the room.

        Raises:
            MessageRefused: ``rewrite_message`` refused it.
            ValueError, RuntimeError: as ``publish``.
        """
        self._check_thread("publish_from_thread")
        done = anyio.Event()
        confirmation = Confirmation(done)
        self.submit(Publish(room, content, username, ref=confirmation))
        await done.wait()
        return confirmation.result(room)

    def publish_from_thread(self, room: str, content: str, username: str = "") -> Position:
        """As ``publish_confirmed``, from any thread but the event loop's; blocks the calling thread meanwhile.

        Raises:
            MessageRefused, ValueError: as ``publish_confirmed``.
            RuntimeError: the runtime is not running, or this is the event loop's own thread.
        """
        if threading.get_ident() == self._thread:
            raise RuntimeError("called from the event loop's own thread, which it would block: use publish_confirmed")
        return self._calls.publish(room, content, username)

    async def erase_message(self, room: str, offset: int) -> None:
        """Take a message out of a room's history, or of a mailbox ``@{user}``, and of the store; until it is done.

        Who has had it keeps it. To others its offset is a gap; that there is none is no error.

        Raises:
            StoreError: the store did not do it.
            RuntimeError: as ``publish``.
        """
        self._check_thread("anyio.from_thread.run")
        self.submit(EraseMessage(room, offset))
        if self._history is not None:
            await self._erase(self._history.erase_message, room, offset)

    async def erase_user(self, user: str) -> None:
        """The same with all that a user said, anywhere, and the user's idempotency keys.

        Raises:
            ValueError: no user is named.
            StoreError, RuntimeError: as ``erase_message``.
        """
        self._check_thread("anyio.from_thread.run")
        self.submit(EraseUser(user))
        if self._history is not None:
            await self._erase(self._history.erase_user, self.hub.user_key(user))

    async def _erase(self, erase: Callable[..., bool], *what: object) -> None:
        done = anyio.Event()
        confirmation = Confirmation(done)
        if not erase(*what, ref=confirmation):
            raise StoreError("the store takes no more at the moment: try again")
        self._erasures.add(confirmation)
        await done.wait()
        confirmation.result("")

    def _take_report(self, report: Publish | StoreReport) -> None:
        error = StoreError(report.error) if isinstance(report, StoreFailed) else None
        for ref in report.refs if isinstance(report, Stored | StoreFailed) else ():
            if isinstance(ref, Confirmation):
                self._end_erasure(ref, error)
        self.submit(report)

    def _end_erasure(self, erasure: Confirmation, error: Exception | None) -> None:
        self._erasures.discard(erasure)
        if error is None:
            erasure.settle(Position("", 0))
        else:
            erasure.fail(error)

    def rooms(self) -> Sequence[str]:
        """The names of the rooms there are."""
        return self.hub.rooms()

    def members(self, room: str) -> Sequence[str]:
        """The identity keys of the users in a room in order of joining; empty if there is no such room."""
        return self.hub.members(room)

    def history(self, room: str, limit: int | None = None) -> Sequence[Message]:
        """The newest messages a room keeps, oldest first."""
        return self.hub.history(room) if limit is None else self.hub.history(room, limit)

    def kick(
        self, user: str, room: str | None = None, *, reason: str = "", close_reason: CloseReason = errors.KICKED
    ) -> None:
        """Put a user out of a room, or of all (None); it may come back.

        Put out of a room, a plain connection that is in no other is closed; out of all, every one. ``reason`` is a
        word about it to v1 clients, and ``close_reason`` what connections are closed with.
        """
        self._check_thread("anyio.from_thread.run_sync")
        self.submit(Kick(user, room, reason=reason, close_reason=close_reason))

    def ban(self, user: str, room: str | None = None, *, for_s: float = inf, reason: str = "") -> None:
        """Put a user out of a room, or of all (None), and let it in no more, for so many seconds or for ever.

        It holds at once, also for who is not here, and takes the place of one before. With ``history`` it outlives the
        process. A ban from all is one of its own beside those from rooms.

        Raises:
            ValueError: a bad room, an empty user, or ``for_s`` is not more than 0.
            RuntimeError: there are as many bans and mutes as ``Limits.sanctions``; or as ``publish``.
        """
        self._check_thread("anyio.from_thread.run_sync")
        self._look_at_clock()
        self.submit(Ban(user, room, for_s=for_s, reason=reason))

    def unban(self, user: str, room: str | None = None) -> None:
        """End the ban from a room, or that from all (None). Nothing happens if there is none."""
        self._check_thread("anyio.from_thread.run_sync")
        self.submit(Unban(user, room))

    def mute(self, user: str, room: str | None = None, *, for_s: float = inf, reason: str = "") -> None:
        """Let a user say nothing in a room, or anywhere (None); as ``ban`` otherwise.

        It may come, listen and go. What the program publishes in its name is said all the same.
        """
        self._check_thread("anyio.from_thread.run_sync")
        self._look_at_clock()
        self.submit(Mute(user, room, for_s=for_s, reason=reason))

    def unmute(self, user: str, room: str | None = None) -> None:
        """End a mute, as ``unban`` a ban."""
        self._check_thread("anyio.from_thread.run_sync")
        self.submit(Unmute(user, room))

    def sanctions(self) -> Sequence[Sanction]:
        """The bans and mutes in force."""
        return self.hub.sanctions(self.clock.now())

    def ban_of(self, user: str, room: str = EVERYWHERE) -> Sanction | None:
        """What keeps a user, by its identity key, out of a room, or out of all; for a transport to refuse it early."""
        return self.hub.ban_of(user, room, self.clock.now())

    def close_room(self, room: str) -> None:
        """Put everybody out of a room and forget it."""
        self._check_thread("anyio.from_thread.run_sync")
        self.submit(CloseRoom(room))

    def enter_room(self, client: Client, room: str) -> None:
        """Let a connected client join a further room.

        Raises:
            ValueError: a bad room name.
            KeyError: the client is not connected.
        """
        self._check_thread("anyio.from_thread.run_sync")
        self.submit(Enter(client, room))

    def exit_room(self, client: Client, room: str) -> None:
        """Let a client leave a room."""
        self._check_thread("anyio.from_thread.run_sync")
        self.submit(Exit(client, room))

    def statistics(self) -> Statistics:
        """The hub's numbers now, and its store's."""
        numbers, history = self.hub.statistics(), self._history
        if history is None:
            return numbers
        return replace(numbers, store_queued=history.queued, store_is_healthy=history.is_healthy)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _check_thread(self, instead: str) -> None:
        if self._thread is None:
            raise RuntimeError("the runtime is not running, or no more: call inside its 'async with'")
        if threading.get_ident() != self._thread:
            raise RuntimeError(f"called from outside the runtime's event loop: use {instead}")

    def _work_off(self) -> None:
        """Take what came in meanwhile: all of it, but of orders that follow from orders of callbacks only so many."""
        orders_left = len(self._queue) + FOLLOW_UPS
        while self._queue:
            item = self._queue.popleft()
            if isinstance(item, _Order):
                if orders_left == 0 or self._later:  # none overtakes those that wait
                    self._later.append(item)
                    self._flush_wanted.set()
                    continue
                orders_left -= 1
            self._take(item)

    def _work_off_later(self) -> None:
        """Take orders that wait; those that follow from them wait behind the others."""
        self._handling = True
        try:
            for _ in range(min(FOLLOW_UPS, len(self._later))):
                self._take(self._later.popleft())
                self._work_off()
        finally:
            self._handling = False

    def _take(self, item: Event[Client] | Command[Client]) -> None:
        try:
            effects = self.hub.handle(item, self.clock.now())
        except Exception as error:
            # Its caller has gone on; whoever's turn this is has nothing to do with it.
            _log.exception("an order from inside a callback was wrong: %s: %s", type(item).__name__, error)
            if isinstance(item, Published):  # of what rewrite_message made
                self._queue.appendleft(Refused(item.message, item.ref))
            else:
                _fail(item, error)
            return
        for effect in effects:
            self._apply(effect)
        if self._questions is not None and isinstance(item, Disconnected):
            self._questions.forget(item.client)

    def _apply(self, effect: Effect[Client]) -> None:
        match effect:
            case Report():
                self._callbacks.tell(effect.message)
            case Announce():
                message = effect.message
                content = self._callbacks.rewritten(message)
                if content is None:
                    self._queue.append(Refused(message, effect.ref))
                else:
                    message.content = content
                    self._queue.append(Published(message, effect.ref))
            case Authorize() if effect.action != "join":
                if self._questions is None or effect.identity is None:
                    self._queue.append(Denied(effect.client, effect.room, effect.ref))
                else:
                    self._ask_whether(effect, effect.identity, self._questions)
            case Authorize():
                callbacks = self._callbacks
                if callbacks.decides_joins and not callbacks.allows(effect.room, effect.username):
                    self._queue.append(Denied(effect.client, effect.room, effect.ref))
                elif self._questions is None or effect.identity is None:
                    self._queue.append(Authorized(effect.client, effect.room, effect.ref))
                else:
                    self._ask_whether(effect, effect.identity, self._questions)
            case Authenticate():
                assert self._questions is not None
                self._questions.authenticate(effect.client, effect.token, self._authenticated(effect))
            case Close():
                try:
                    effect.client.close(effect.reason)
                except Exception:
                    self._give_up(effect.client)
            case Probe():
                try:
                    effect.client.probe()
                except Exception:
                    self._give_up(effect.client)
            case Store():
                assert self._history is not None
                taken = self._history.append(effect.messages, effect.refs)
                if taken < len(effect.messages):
                    refs = [ref for ref in effect.refs[taken:] if ref is not None]
                    self._queue.append(StoreFailed(refs, "the store takes no more"))
            case Load():
                assert self._history is not None
                taken = self._history.load(
                    effect.room,
                    effect.ref,
                    after=effect.after,
                    before=effect.before,
                    limit=effect.limit,
                    most_bytes=effect.most_bytes,
                )
                if not taken:
                    self._queue.append(Loaded(effect.ref, None, "the store is asked for too much"))
            case Impose():
                assert self._history is not None
                keep = self._history.lift if isinstance(effect, Lift) else self._history.impose
                if not keep(effect.sanction, effect.ref):
                    _log.error("the store takes no more: not kept: %r", effect)
                    refs = [] if effect.ref is None else [effect.ref]
                    self._queue.append(StoreFailed(refs, "the store takes no more"))
            case Moderated():
                # %r: a peer's words, and a log is read in a terminal.
                where = f"in {effect.room!r}" if effect.room else "everywhere"
                until = "" if effect.until_ms is None else f" until {_date(effect.until_ms)}"
                why = f": {effect.reason!r}" if effect.reason else ""
                _log.info("%s of %r %s%s by %r%s", effect.action, effect.user, where, until, effect.by, why)
            case Settle():
                if isinstance(effect.ref, Confirmation):
                    effect.ref.settle(effect.position)
            case _:
                assert_never(effect)

    # -- who they are -------------------------------------------------------------------------------------------------

    @property
    def authenticates(self) -> bool:
        """Whether there is an authenticator, so that a transport has to ask ``identify`` who a peer is."""
        return self._authenticator is not None

    def identify(self, client: Client, info: ConnectionInfo, then: Callable[[Identity | Refusal | None], None]) -> None:
        """Ask who a peer is, before it is ``Connected``; call ``then`` with the answer, None if there is none in time.

        What is known of it is kept until it is ``Disconnected``, or ``forget_peer`` is called: a token that comes later
        is shown together with it.
        """
        self._check_thread("anyio.from_thread.run_sync")
        assert self._questions is not None

        def identified(outcome: Identity | Refusal | None) -> None:
            try:
                then(outcome)
            except Exception:
                # It is that peer's end at most: its transport has to see to it.
                _log.exception("taking in an identified peer raised")

        self._questions.identify(client, info, identified)

    def forget_peer(self, client: Client) -> None:
        """A peer that was asked about will not become a client; ``then`` is not called any more."""
        if self._questions is not None:
            self._questions.forget(client)

    def _authenticated(self, effect: Authenticate[Client]) -> Callable[[Identity | Refusal | None], None]:
        return lambda outcome: self._submit_answer(effect.client, Authenticated(effect.ref, outcome))

    def _ask_whether(self, effect: Authorize[Client], identity: Identity, questions: Questions) -> None:
        def answered(is_allowed: bool) -> None:
            if effect.action != "join":
                self._look_at_clock()
            answer = (Authorized if is_allowed else Denied)(effect.client, effect.room, effect.ref)
            self._submit_answer(effect.client, answer)

        questions.authorize(effect.client, identity, effect.action, effect.room, answered)

    def _submit_answer(self, client: Client, answer: Event[Client]) -> None:
        try:
            self.submit(answer)
        except Exception:
            # A room_rule of the program's, say: it costs this connection and not the server.
            _log.exception("what an authenticator's answer has led to raised; that connection ends")
            try:
                client.close(errors.INTERNAL)
            finally:
                self.submit(Disconnected(client))

    def _notify(self, end: float) -> None:
        """Let clients pull that pull for themselves, at least one, until the time is up; the others wait their turn."""
        named = self._named
        named.extend(self.hub.take_named())
        while named:
            client = named.popleft()
            try:
                client.notify()
            except Exception:
                self._give_up(client)
            # Two hundred that come back at once have a second's worth of history to write.
            if time.perf_counter() > end:
                return

    def _give_up(self, client: Client) -> None:
        """A transport's method raised, which it must not. For the hub that client is gone; the others are served."""
        _log.exception("%r raised; it is taken for disconnected", client)
        self._queue.append(Disconnected(client))

    def _wake_flusher(self) -> None:
        self._flush_wanted.set()

    async def _flush_forever(self) -> None:
        # Shielded until the exit: a cancelled program may still wait for a thread that waits for its answer.
        with self._flusher:
            while True:
                await self._flush_wanted.wait()
                self._flush_wanted = anyio.Event()
                self._calls.take(self._take_report)
                while not self.flush():
                    await checkpoint()

    def _next_deadline(self) -> float:
        due = self.hub.next_deadline()
        for timers in self._timers:
            due = min(due, timers.deadlines.next())
        return due

    async def _keep_time(self) -> None:
        wall_check = self.clock.now() + CLOCK_CHECK_S
        while True:
            self._timer_due = min(self._next_deadline(), wall_check)
            with anyio.CancelScope() as self._timer_scope:
                await self.clock.sleep_until(self._timer_due)
            now = self.clock.now()
            if now >= wall_check:
                self._look_at_clock()
                wall_check = now + CLOCK_CHECK_S
            self._tick_in_time()
            if any(timers.deadlines.next() + LATE_S < now for timers in self._timers):
                # We were late, not the peers: let what they have said be read before they are told that they have not.
                for _ in range(LATE_TURNS):
                    await checkpoint()
                    self._tick_in_time()
            for timers in list(self._timers):
                for kind, key in timers.deadlines.expired(now):
                    try:
                        timers.expire(kind, key)
                    except Exception:
                        _log.exception("a transport's deadline %r raised for %r; the hub goes on", kind, key)

    def _look_at_clock(self) -> None:
        """Before a time is counted from now on: the wall clock may have been set since the last look."""
        self.submit(ClockSet(self.clock.unix_ms()))

    def _tick_in_time(self) -> None:
        if self.hub.next_deadline() <= self.clock.now():
            self.submit(Ticked())


def _date(unix_ms: int) -> str:
    """In UTC; the number itself where no calendar goes so far."""
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{unix_ms} ms"


def _fail(item: Event[Client] | Command[Client], error: Exception) -> None:
    """Tell whoever waits for this order, if anybody does, that it will not be done."""
    if isinstance(item, Publish) and isinstance(item.ref, Confirmation):
        item.ref.fail(error)
