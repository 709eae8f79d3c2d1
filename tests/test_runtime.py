"""The hub on an event loop: the program's calls and callbacks, time, faults of others, and the end."""

import asyncio
import functools
import gc
import json
import logging
import math
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.lowlevel import checkpoint

from roomhub import Hub, Limits, Message, MessageRefused, Position, Runtime, application_close_reason
from roomhub.core import errors
from roomhub.core.codec import Chunk, Lane
from roomhub.core.deadlines import Deadlines
from roomhub.core.errors import CloseReason
from roomhub.core.events import Blocked, Connected, Disconnected, Writable
from roomhub.core.identity import Identity
from roomhub.core.sanctions import Sanction
from roomhub.ports import Client
from roomhub.testing import ManualClock
from roomhub.transports.memory import PLAIN_TEXT, ClientClosed, MemoryClient, connect, v1_lane

pytestmark = pytest.mark.anyio


async def settle() -> None:
    """Let the runtime's tasks do what there is to do."""
    for _ in range(12):
        await checkpoint()


def frames(client: MemoryClient) -> list[dict[str, str]]:
    seen = []
    while True:
        try:
            seen.append(json.loads(client.receive_nowait()))
        except (anyio.WouldBlock, ClientClosed):
            return seen


def chats(client: MemoryClient) -> list[str]:
    """The chats that it has by now, ``ann: hi``."""
    return [f"{seen['username']}: {seen['content']}" for seen in frames(client) if seen["type"] == "chat"]


class Wire:
    """A client of a transport that a test drives by hand."""

    def __init__(self, runtime: Runtime, username: str, *rooms: str, shares: bool = False) -> None:
        self.runtime = runtime
        self.lane: Lane = PLAIN_TEXT
        self.notified = 0
        self.probed = 0
        self.closed: CloseReason | None = None
        self.written: list[Chunk] = []
        runtime.submit(Connected(self, self.lane, username, rooms, shares=shares))

    def notify(self) -> None:
        self.notified += 1
        while chunk := self.runtime.pull(self):
            self.written.append(chunk)

    def write(self, chunk: Chunk) -> None:
        self.written.append(chunk)

    def close(self, reason: CloseReason) -> None:
        self.notify()
        self.closed = reason
        self.leave()

    def leave(self) -> None:
        self.runtime.submit(Disconnected(self))

    def probe(self) -> None:
        self.probed += 1


class Stuck(Wire):
    """A client whose connection does not end when it is closed."""

    def leave(self) -> None:
        pass


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another thread does."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # a thread cannot set an anyio.Event
            await anyio.sleep(0.001)


def tasks_now() -> set[int]:
    return {task.id for task in anyio.get_running_tasks()}


# -- publishing --------------------------------------------------------------------------------------------------------


async def test_publish_is_heard_by_all_in_the_room_and_no_other() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with (
            connect(runtime, "ann", "one") as ann,
            connect(runtime, "ben", "one") as ben,
            connect(runtime, "cat", "2") as cat,
        ):
            runtime.publish("one", "as nobody")
            runtime.publish("one", "as the bot", "bot")
            await settle()
            assert chats(ann) == chats(ben) == [": as nobody", "bot: as the bot"]
            assert chats(cat) == []


async def test_publish_confirmed_gives_the_position() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.send("mine")
            second = await runtime.publish_confirmed("lobby", "yours", "ben")
            third = await runtime.publish_confirmed("lobby", "ours")
            assert (second.offset, third.offset) == (2, 3)
            assert isinstance(second, Position)
            assert second.epoch == third.epoch
            assert [message.offset for message in runtime.history("lobby")] == [1, 2, 3]
        nobody_there = await runtime.publish_confirmed("lobby", "hello?")
        assert nobody_there.offset == 1
        assert nobody_there.epoch != second.epoch
        assert runtime.rooms() == ()


async def test_a_flush_comes_once_a_tick_however_much_was_published() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        wire = Wire(runtime, "ann", "lobby")
        await settle()
        before = wire.notified
        for number in range(100):
            runtime.publish("lobby", str(number))
        assert wire.notified == before
        await settle()
        assert wire.notified == before + 1


@pytest.mark.parametrize(
    ("room", "content", "username", "error"),
    [
        ("../x", "hi", "", ValueError),
        ("", "hi", "", ValueError),
        ("lobby", "\ud800", "", ValueError),
        ("lobby", "hi", "\udfff", ValueError),
        ("lobby", 5, "", TypeError),
        ("lobby", "hi", None, TypeError),
    ],
)
async def test_what_cannot_be_published_raises_and_changes_nothing(
    room: str, content: Any, username: Any, error: type[Exception]
) -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            with pytest.raises(error):
                runtime.publish(room, content, username)
            with pytest.raises(error):
                await runtime.publish_confirmed(room, content, username)
            raised: list[Exception] = []

            def publish() -> None:
                try:
                    runtime.publish_from_thread(room, content, username)
                except Exception as failure:
                    raised.append(failure)

            await anyio.to_thread.run_sync(publish)
            assert [type(failure) for failure in raised] == [error]
            runtime.publish("lobby", "fine")
            assert chats(ann) == [": fine"]
            assert runtime.rooms() == ("lobby",)
            assert runtime.statistics().messages_published == 1


# -- other threads -----------------------------------------------------------------------------------------------------


async def test_threads_publish_and_get_positions() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        positions: list[Position] = []

        def talk(name: str) -> None:
            positions.extend(runtime.publish_from_thread("lobby", str(number), name) for number in range(25))

        with connect(runtime, "ann", "lobby") as ann:
            threads = [threading.Thread(target=talk, args=(f"thread-{number}",)) for number in range(4)]
            for thread in threads:
                thread.start()
            await until(lambda: not any(thread.is_alive() for thread in threads))
            assert sorted(position.offset for position in positions) == list(range(1, 101))
            heard = chats(ann)
            assert len(heard) == 100
            for number in range(4):  # a sender's messages keep their order
                own = [said for said in heard if said.startswith(f"thread-{number}:")]
                assert own == [f"thread-{number}: {said}" for said in range(25)]


async def test_a_thread_hears_of_a_refusal() -> None:
    async with Runtime(clock=ManualClock(), rewrite_message=lambda message: None) as runtime:
        with pytest.raises(MessageRefused, match="'lobby'"):
            await anyio.to_thread.run_sync(runtime.publish_from_thread, "lobby", "hi")


async def test_callbacks_of_a_threads_message_run_in_the_event_loop() -> None:
    threads: list[int] = []

    def note(message: Message) -> None:
        threads.append(threading.get_ident())
        if message.content == "hi":
            runtime.publish("lobby", "and hi to you")
            anyio.Event()  # needs to know which event loop runs

    async with Runtime(clock=ManualClock(), on_message=note) as runtime:
        await anyio.to_thread.run_sync(runtime.publish_from_thread, "lobby", "hi")
        assert threads == [threading.get_ident()] * 2


async def test_orders_from_another_thread_are_refused_by_a_name_of_what_to_use() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            raised: list[str] = []

            def misuse() -> None:
                for order in (
                    lambda: runtime.publish("lobby", "hi"),
                    lambda: runtime.kick("ann"),
                    lambda: runtime.close_room("lobby"),
                    lambda: runtime.enter_room(ann, "two"),
                    lambda: runtime.exit_room(ann, "lobby"),
                    lambda: runtime.publish_confirmed("lobby", "hi").send(None),
                ):
                    try:
                        order()
                    except RuntimeError as error:
                        raised.append(str(error))

            await anyio.to_thread.run_sync(misuse)
            assert ["publish_from_thread" in text for text in raised] == [True, False, False, False, False, True]
            assert all("from_thread" in text for text in raised)
            assert runtime.members("lobby") == ("ann",)
            assert chats(ann) == []


async def test_publish_from_thread_in_the_event_loops_own_thread_does_not_block_it() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with pytest.raises(RuntimeError, match="publish_confirmed"):
            runtime.publish_from_thread("lobby", "hi")


async def test_publish_before_and_after_says_that_nothing_runs() -> None:
    runtime = Runtime(clock=ManualClock())
    with pytest.raises(RuntimeError, match="not running"):
        runtime.publish("lobby", "hi")
    async with runtime:
        runtime.publish("lobby", "hi")
    with pytest.raises(RuntimeError, match="not running"):
        runtime.publish("lobby", "hi")


async def test_publish_from_thread_before_and_after_says_that_nothing_runs() -> None:
    runtime = Runtime(clock=ManualClock())
    with pytest.raises(RuntimeError, match="not running"):
        await anyio.to_thread.run_sync(runtime.publish_from_thread, "lobby", "hi")
    async with runtime:
        pass
    with pytest.raises(RuntimeError, match="not running"):
        await anyio.to_thread.run_sync(runtime.publish_from_thread, "lobby", "hi")


@pytest.mark.parametrize("round_", range(5))
def test_a_thread_that_publishes_all_along_is_never_left_waiting(
    anyio_backend: tuple[str, dict[str, Any]], round_: int
) -> None:
    """Also in the event loop's last moments, in which asyncio takes calls that it never makes."""
    answers: list[object] = []
    started = threading.Event()
    runtime = Runtime(clock=ManualClock())

    def talk() -> None:
        try:
            while True:
                answers.append(runtime.publish_from_thread("lobby", "hi"))
                started.set()
        except RuntimeError as error:
            answers.append(error)

    async def main() -> None:
        async with runtime:
            thread.start()
            await until(started.is_set)

    thread = threading.Thread(target=talk, daemon=True)
    anyio.run(main, backend=anyio_backend[0], backend_options=anyio_backend[1])
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(answers[-1], RuntimeError)
    assert all(isinstance(answer, Position) for answer in answers[:-1])


async def test_a_cancelled_program_that_waits_for_its_thread_does_not_wait_for_ever() -> None:
    started, cancelled = threading.Event(), threading.Event()
    answers: list[Position] = []

    def work() -> None:
        started.set()
        assert cancelled.wait(10)
        answers.append(runtime.publish_from_thread("lobby", "my last words"))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:

            async def cancel() -> None:
                await until(started.is_set)
                tasks.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await settle()
                cancelled.set()

            async with Runtime(clock=ManualClock()) as runtime:
                tasks.start_soon(cancel)
                await anyio.to_thread.run_sync(work)
    assert len(answers) == 1


async def test_a_thread_whose_message_ends_the_program_is_not_left_waiting() -> None:
    def leave(message: Message) -> None:
        raise Abrupt

    raised: list[Exception] = []

    def talk() -> None:
        try:
            runtime.publish_from_thread("lobby", "goodbye")
        except RuntimeError as error:
            raised.append(error)

    async def run() -> None:
        async with runtime:
            thread.start()
            await anyio.sleep_forever()

    runtime = Runtime(clock=ManualClock(), on_message=leave)
    thread = threading.Thread(target=talk, daemon=True)
    with pytest.raises(BaseExceptionGroup) as caught:
        await run()
    assert caught.group_contains(Abrupt)
    thread.join(10)
    assert not thread.is_alive()
    assert "has stopped" in str(raised[0])


# -- questions and orders ----------------------------------------------------------------------------------------------


async def test_rooms_members_history_statistics() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        assert (runtime.rooms(), runtime.members("lobby"), runtime.history("lobby")) == ((), (), ())
        with (
            connect(runtime, "ann", "lobby") as ann,
            connect(runtime, "ben", "lobby", "den"),
            connect(runtime, "ann", "den"),
        ):
            assert runtime.rooms() == ("lobby", "den")
            assert runtime.members("lobby") == ("ann", "ben")
            assert runtime.members("den") == ("ben", "ann")
            for number in range(4):
                ann.send(str(number))
            assert [message.content for message in runtime.history("lobby")] == ["0", "1", "2", "3"]
            assert [message.content for message in runtime.history("lobby", 2)] == ["2", "3"]
            assert list(runtime.history("lobby", 0)) == []
            assert list(runtime.history("nowhere")) == []
            statistics = runtime.statistics()
            assert (statistics.connections, statistics.rooms, statistics.members) == (3, 2, 4)
            assert (statistics.messages_in, statistics.messages_published) == (4, 4)


async def test_the_program_bans_and_mutes() -> None:
    clock = ManualClock()
    async with Runtime(clock=clock) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "Ben", "lobby")
        runtime.ban("BEN", "lobby", for_s=60, reason="spam")
        assert ben.closed is errors.BANNED
        assert ann.closed is None
        assert connect(runtime, "ben", "lobby").closed is errors.BANNED
        assert connect(runtime, "ben", "den").closed is None
        [ban] = runtime.sanctions()
        assert ban == Sanction("ban", "ben", "lobby", clock.unix_ms() + 60_000, "spam", "", clock.unix_ms())
        assert runtime.ban_of("ben", "lobby") == ban
        assert runtime.ban_of("ben") is None
        clock.advance(60)
        assert connect(runtime, "ben", "lobby").closed is None
        runtime.mute("ann")
        ann.send("hello?")
        runtime.unmute("ann")
        ann.send("hello!")
        assert [message.content for message in runtime.history("lobby")] == ["hello!"]
        runtime.ban("ben")
        runtime.unban("ben")
        assert runtime.sanctions() == []
        with pytest.raises(ValueError, match="for_s must be seconds"):
            runtime.mute("ann", for_s=-1)
        with pytest.raises(ValueError, match="room"):
            runtime.ban("ann", "no room")
    for order in (runtime.ban, runtime.unban, runtime.mute, runtime.unmute):
        with pytest.raises(RuntimeError, match="is not running"):
            order("ann")


async def test_a_ban_ends_by_the_clock_as_it_is_when_it_begins() -> None:
    """The machine slept: its wall clock went on, the monotonic one did not, and nothing has looked since."""

    class Clock(ManualClock):
        slept_ms = 0

        def unix_ms(self) -> int:
            return super().unix_ms() + self.slept_ms

    clock = Clock()
    async with Runtime(clock=clock) as runtime:
        clock.slept_ms = 8 * 3_600_000
        runtime.ban("ann", for_s=60)
        runtime.mute("ben", for_s=60)
        assert [each.until_ms for each in runtime.sanctions()] == [clock.unix_ms() + 60_000] * 2


async def test_a_callback_bans_who_says_something_bad() -> None:
    def judge(message: Message) -> None:
        if message.content == "bad":
            runtime.ban(message.user, message.room, reason="that was bad")

    async with Runtime(clock=ManualClock(), on_message=judge) as runtime:
        ann = connect(runtime, "ann", "lobby")
        ann.send("bad")
        assert ann.closed is errors.BANNED
        assert [sanction.reason for sanction in runtime.sanctions()] == ["that was bad"]


async def test_bans_of_callbacks_that_answer_one_another_keep_nobody_waiting() -> None:
    """As their other orders: a hundred a turn, and the rest with the next flush."""

    def go_on(room: str, user: str) -> None:
        runtime.ban(f"u{int(user[1:]) + 1}", room)

    async with Runtime(clock=ManualClock(), on_leave=go_on, limits=Limits(join_burst=math.inf)) as runtime:
        clients = [connect(runtime, f"u{number}", "lobby") for number in range(150)]
        runtime.ban("u0", "lobby")
        assert 0 < len(runtime.members("lobby")) < 50, "a turn takes so many"
        while runtime.members("lobby"):
            await runtime.flushed()
        assert all(client.closed is errors.BANNED for client in clients)
        assert len(runtime.sanctions()) == 151


async def test_nobody_moderates_where_nobody_says_who_may() -> None:
    """A transport of the program's own may know who its clients are; but without an authenticator none has a right."""
    clock = ManualClock()
    async with Runtime(clock=clock) as runtime:
        ann = MemoryClient(runtime, v1_lane(runtime.limits))
        runtime.submit(Connected(ann, ann.lane, "", secret="s", identity=Identity(user="ann")))
        ann.send('{"type":"hello","id":1}')
        ann.send('{"type":"mod","id":2,"room":"lobby","action":"ban","user":"ben"}')
        runtime.flush()
        assert json.loads(await ann.receive())["type"] == "welcome"
        assert json.loads(await ann.receive())["name"] == "forbidden"
        ann.close()


async def test_kick_closes_every_connection_of_a_user_with_the_reason() -> None:
    banned = application_close_reason("no_more_of_this", 4500)
    async with Runtime(clock=ManualClock()) as runtime:
        clients = [
            connect(runtime, "ann", "lobby"),
            connect(runtime, "ann", "den", "lobby"),
            connect(runtime, "ben", "den"),
        ]
        runtime.kick("nobody")
        runtime.kick("ann", "nowhere")
        runtime.kick("ann", "den")
        assert [client.closed for client in clients] == [None, None, None]
        assert runtime.members("den") == ("ben",)
        runtime.kick("ann", close_reason=banned)
        assert [client.closed for client in clients] == [banned, banned, None]
        with pytest.raises(TypeError, match="CloseReason"):
            runtime.kick("ben", close_reason="because")  # type: ignore[arg-type]
        assert runtime.members("den") == ("ben",)


async def test_close_room_puts_everybody_out() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby", "den")
        runtime.close_room("nowhere")
        ann.send("last orders")
        runtime.close_room("lobby")
        assert (ann.closed, ben.closed) == (errors.ROOM_CLOSED, None)
        assert chats(ann) == ["ann: last orders"]
        assert runtime.rooms() == ("den",)


async def test_enter_and_exit_room() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "den")
        runtime.enter_room(ann, "den")
        runtime.enter_room(ann, "den")  # is there already
        assert runtime.members("den") == ("ben", "ann")
        runtime.exit_room(ann, "nowhere")
        runtime.exit_room(ann, "den")
        assert runtime.members("den") == ("ben",)
        await settle()
        assert [seen["type"] for seen in frames(ben)][-3:] == ["user_joined", "user_left", "online_users"]
        with pytest.raises(ValueError, match="room"):
            runtime.enter_room(ann, "../x")
        ann.close()
        with pytest.raises(KeyError):
            runtime.enter_room(ann, "den")
        runtime.exit_room(ann, "lobby")
        assert runtime.rooms() == ("den",)


# -- callbacks ---------------------------------------------------------------------------------------------------------


async def test_callbacks_hear_of_joins_leaves_and_messages_in_order() -> None:
    told: list[object] = []
    async with Runtime(
        clock=ManualClock(),
        on_join=lambda room, user: told.append((room, "+" + user)),
        on_leave=lambda room, user: told.append((room, "-" + user)),
        on_message=lambda message: told.append((message.room, message.username, message.content, message.offset)),
    ) as runtime:
        ann, second = connect(runtime, "ann", "lobby"), connect(runtime, "ann", "lobby")
        ben = connect(runtime, "ben", "lobby")
        ann.send("hi")
        runtime.publish("lobby", "news")
        second.close()
        ann.close()
        ben.stop_reading()
    assert told == [
        ("lobby", "+ann"),
        ("lobby", "+ben"),
        ("lobby", "ann", "hi", 1),
        ("lobby", "", "news", 2),
        ("lobby", "-ann"),
        ("lobby", "-ben"),
    ]


async def test_rewrite_message_rewrites_and_refuses() -> None:
    def polite(message: Message) -> str | None:
        assert message.offset == 0
        return None if "spam" in message.content else message.content.upper()

    heard: list[str] = []
    async with Runtime(
        clock=ManualClock(), rewrite_message=polite, on_message=lambda message: heard.append(message.content)
    ) as runtime:
        ann = connect(runtime, "ann", "lobby")
        ann.send("spam")
        ann.send("hi")
        runtime.publish("lobby", "spam, again")
        runtime.publish("lobby", "news")
        assert (await runtime.publish_confirmed("lobby", "more")).offset == 3
        with pytest.raises(MessageRefused, match="'lobby'"):
            await runtime.publish_confirmed("lobby", "spam and eggs")
        await settle()
        assert chats(ann) == ["ann: HI", ": NEWS", ": MORE"]
        assert heard == ["HI", "NEWS", "MORE"]
        assert runtime.statistics().messages_dropped == 3


@pytest.mark.parametrize("answer", [5, b"bytes", True, "\ud800", object()])
async def test_rewrite_message_that_gives_nonsense_refuses(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    async with Runtime(clock=ManualClock(), rewrite_message=lambda message: answer) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.send("hi")
            with anyio.fail_after(5), pytest.raises(MessageRefused):
                await runtime.publish_confirmed("lobby", "hi")
            await settle()
            assert chats(ann) == []
            assert runtime.statistics().messages_dropped == 2


async def test_a_hook_that_sends_the_message_to_a_bad_place_refuses_it(caplog: pytest.LogCaptureFixture) -> None:
    def misplace(message: Message) -> str:
        message.room = "../x"
        return "hi"

    async with Runtime(clock=ManualClock(), rewrite_message=misplace) as runtime:
        with anyio.fail_after(5), pytest.raises(MessageRefused):
            await runtime.publish_confirmed("lobby", "hi")
        assert runtime.statistics().messages_dropped == 1
    assert "wrong" in caplog.text


async def test_allow_join_lets_in_and_refuses() -> None:
    asked: list[tuple[str, str]] = []

    def allow(room: str, username: str) -> bool:
        asked.append((room, username))
        return username == "ann"

    async with Runtime(clock=ManualClock(), allow_join=allow) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby")
        assert asked == [("lobby", "ann"), ("lobby", "ben")]
        assert (ann.closed, ben.closed) == (None, errors.FORBIDDEN)
        assert runtime.members("lobby") == ("ann",)
        assert runtime.statistics().refusals == {"forbidden": 1}


@pytest.mark.parametrize("answer", [None, 1, "yes"])
async def test_only_true_lets_in(answer: Any) -> None:
    async with Runtime(clock=ManualClock(), allow_join=lambda room, username: answer) as runtime:
        assert connect(runtime, "ann", "lobby").closed == errors.FORBIDDEN
        assert runtime.rooms() == ()


def raising(*args: object) -> Any:
    raise ZeroDivisionError("the program's own fault")


async def test_callbacks_that_raise_are_logged_and_contained(caplog: pytest.LogCaptureFixture) -> None:
    async with Runtime(clock=ManualClock(), on_join=raising, on_leave=raising, on_message=raising) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby")
        ann.send("hi")
        assert (await runtime.publish_confirmed("lobby", "news")).offset == 2
        ann.close()
        await settle()
        assert chats(ben) == ["ann: hi", ": news"]
        assert runtime.members("lobby") == ("ben",)
    records = [record for record in caplog.records if record.name == "roomhub"]
    assert len(records) == 6
    assert all(record.levelno == logging.ERROR and record.exc_info for record in records)
    assert [record.getMessage() for record in records] == [
        f"{name} raised; the hub goes on"
        for name in ("on_join", "on_join", "on_message", "on_message", "on_leave", "on_leave")
    ]


async def test_hooks_that_raise_refuse(caplog: pytest.LogCaptureFixture) -> None:
    async with Runtime(clock=ManualClock(), allow_join=raising) as runtime:
        assert connect(runtime, "ann", "lobby").closed == errors.FORBIDDEN
    async with Runtime(clock=ManualClock(), rewrite_message=raising) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.send("hi")
            with pytest.raises(MessageRefused):
                await runtime.publish_confirmed("lobby", "hi")
            await settle()
            assert chats(ann) == []
    assert caplog.text.count("ZeroDivisionError: the program's own fault") == 3


async def a_coroutine_function(*args: object) -> Any: ...


class AsyncCallable:
    async def __call__(self, *args: object) -> Any: ...


NAMES = ["on_join", "on_leave", "on_message", "allow_join", "rewrite_message"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "callback",
    [a_coroutine_function, functools.partial(a_coroutine_function, 1), AsyncCallable(), AsyncCallable().__call__],
)
def test_async_callbacks_are_refused_by_name(name: str, callback: Any) -> None:
    with pytest.raises(TypeError, match=name):
        Runtime(**{name: callback})


@pytest.mark.parametrize("name", NAMES)
async def test_a_callback_that_gives_a_coroutine_counts_as_raised(name: str, caplog: pytest.LogCaptureFixture) -> None:
    options: dict[str, Any] = {name: lambda *args: a_coroutine_function(*args)}
    async with Runtime(clock=ManualClock(), **options) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            if name != "allow_join":
                ann.send("hi")
    gc.collect()  # "never awaited" would be said now, and is an error
    assert f"{name} gave a coroutine" in caplog.text


async def test_what_a_callback_publishes_comes_right_after_and_in_order() -> None:
    told: list[str] = []

    def answer(message: Message) -> None:
        told.append(message.content)
        if message.content == "a":
            runtime.publish("lobby", "b")
            runtime.publish("lobby", "c")
        if message.content == "b":
            runtime.publish("lobby", "d")

    async with Runtime(clock=ManualClock(), on_message=answer) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.send("a")
            ann.send("e")
            await settle()
            assert chats(ann) == ["ann: a", ": b", ": c", ": d", "ann: e"]
            assert told == ["a", "b", "c", "d", "e"]


async def test_a_callback_kicks_who_just_joined() -> None:
    told: list[str] = []

    def join(room: str, user: str) -> None:
        told.append("+" + user)
        if user == "troll":
            runtime.kick(user)

    async with Runtime(
        clock=ManualClock(), on_join=join, on_leave=lambda room, user: told.append("-" + user)
    ) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            troll = connect(runtime, "troll", "lobby")
            assert troll.closed == errors.KICKED
            await settle()
            assert runtime.members("lobby") == ("ann",)
            assert told == ["+ann", "+troll", "-troll"]
            kinds = [(seen["type"], seen["content"]) for seen in frames(ann)]
            assert kinds.count(("user_left", "troll left the room")) == kinds.count(
                ("user_joined", "troll joined the room")
            )


async def test_a_callback_closes_the_room_it_hears_of() -> None:
    async with Runtime(clock=ManualClock(), on_message=lambda message: runtime.close_room(message.room)) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby")
        ann.send("bye")
        assert (ann.closed, ben.closed) == (errors.ROOM_CLOSED, errors.ROOM_CLOSED)
        assert chats(ben) == ["ann: bye"]
        assert runtime.hub.is_empty


async def test_a_callback_connects_and_talks_as_a_bot() -> None:
    bots: list[MemoryClient] = []

    def join(room: str, user: str) -> None:
        if user != "bot":
            bot = connect(runtime, "bot", room)
            bot.send(f"welcome, {user}")
            bots.append(bot)

    async with Runtime(clock=ManualClock(), on_join=join) as runtime:
        ann = connect(runtime, "ann", "lobby")
        await settle()
        assert chats(ann) == ["bot: welcome, ann"]
        assert runtime.members("lobby") == ("ann", "bot")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda runtime: runtime.publish("../x", "hi"),
        lambda runtime: runtime.publish("lobby", 5),
        lambda runtime: runtime.publish("lobby", "\ud800"),
        lambda runtime: runtime.kick("ann", close_reason="because"),
        lambda runtime: runtime.enter_room(object(), "lobby"),
        lambda runtime: runtime.submit("nonsense"),
    ],
)
async def test_a_wrong_order_from_inside_a_callback_is_logged_and_hurts_nobody(
    wrong: Callable[[Runtime], None], caplog: pytest.LogCaptureFixture
) -> None:
    def misuse(message: Message) -> None:
        if message.content == "now":
            wrong(runtime)
            runtime.publish("lobby", "after")

    async with Runtime(clock=ManualClock(), on_message=misuse) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.send("now")
            ann.send("and then")
            await settle()
            assert chats(ann) == ["ann: now", ": after", "ann: and then"]
    (record,) = [record for record in caplog.records if record.name == "roomhub"]
    assert "an order from inside a callback was wrong" in record.getMessage()


async def test_a_rule_of_the_programs_that_raises_for_an_order_of_a_callback_hurts_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def rule(room: str) -> str | None:
        return raising() if room == "bad" else None

    def answer(message: Message) -> None:
        if message.content == "now":
            runtime.publish("bad", "hi")
            runtime.publish("lobby", "after")

    hub: Hub[Client] = Hub(epoch="e", room_rule=rule)
    async with Runtime(hub, clock=ManualClock(), on_message=answer) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.send("now")
            await settle()
            assert chats(ann) == ["ann: now", ": after"]
    assert "Publish: the program's own fault" in caplog.text


async def test_as_many_orders_as_a_callback_gives_at_once_follow_at_once() -> None:
    def answer(message: Message) -> None:
        if message.content == "all":
            for number in range(1_000):
                runtime.publish("lobby", str(number))

    async with Runtime(clock=ManualClock(), on_message=answer) as runtime:
        runtime.publish("lobby", "all")
        assert runtime.statistics().messages_published == 1_001


async def test_a_callback_that_answers_itself_without_end_starves_nobody() -> None:
    told = 0

    def answer(message: Message) -> None:
        nonlocal told
        told += 1
        assert told < 100_000, "nobody else had a turn"
        if message.username != "ann":
            runtime.publish("echo", "and on", "bot")

    async with Runtime(clock=ManualClock(), limits=Limits(chunk_bytes=1e6), on_message=answer) as runtime:
        with connect(runtime, "ann", "lobby") as ann, connect(runtime, "ben", "lobby", "echo") as ben:
            runtime.publish("echo", "hi", "bot")
            assert 1 < told < 1_000
            for number in range(5):  # everybody else is served, and it goes on meanwhile
                before = told
                ann.send(str(number))
                await settle()
                assert chats(ann) == [f"ann: {number}"]
                heard = chats(ben)
                assert f"ann: {number}" in heard
                assert "bot: and on" in heard
                assert before < told
                assert ben.closed is None


async def test_what_waits_for_the_next_flush_keeps_its_order_and_is_done_also_where_nobody_hears_it() -> None:
    told: list[str] = []

    def answer(message: Message) -> None:
        told.append(message.content)
        if int(message.content) < 1_000:
            runtime.publish("lobby", str(int(message.content) + 1))
        else:
            runtime.close_room("lobby")

    async with Runtime(clock=ManualClock(), on_message=answer) as runtime:
        runtime.publish("lobby", "0")
        assert 100 <= len(told) < 1_000
        await settle()
        assert told == [str(number) for number in range(1_001)]
        with connect(runtime, "ann", "lobby") as ann:
            runtime.publish("lobby", "0")
            await settle()
            assert list(chats(ann)) == [f": {number}" for number in range(1_001)]
            assert ann.closed == errors.ROOM_CLOSED


async def test_the_end_does_not_wait_for_callbacks_that_answer_one_another_without_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Runtime(
        clock=ManualClock(), on_message=lambda message: runtime.publish(message.room, "and on")
    ) as runtime:
        ann = connect(runtime, "ann", "lobby")
        ann.send("hi")
    assert ann.closed == errors.DRAINING
    assert runtime.hub.is_empty
    assert "1 orders of callbacks that answer one another were left undone" in caplog.text


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_confirmed_publish_that_the_end_leaves_undone_is_told() -> None:
    waiting: list[Any] = []

    def answer(message: Message) -> None:
        waiting.append(runtime.publish_confirmed("lobby", "and on"))
        waiting[-1].send(None)  # as an eager task does

    async with Runtime(clock=ManualClock(), on_message=answer) as runtime:
        runtime.publish("lobby", "hi")
    for coroutine in waiting[:-1]:
        with pytest.raises(StopIteration):
            coroutine.send(None)
    with pytest.raises(RuntimeError, match="has stopped"):
        waiting[-1].send(None)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_confirmed_publish_that_began_inside_a_callback_still_ends() -> None:
    """An eager task may begin there."""
    waiting: list[Any] = []

    def answer(message: Message) -> None:
        if message.content == "hi":
            for content in ("fine", "\ud800"):
                waiting.append(runtime.publish_confirmed("lobby", content))
                waiting[-1].send(None)

    async with Runtime(clock=ManualClock(), on_message=answer) as runtime:
        runtime.publish("lobby", "hi")
        with pytest.raises(StopIteration) as done:
            waiting[0].send(None)
        assert isinstance(done.value.value, Position)
        with pytest.raises(ValueError, match="surrogate"):
            waiting[1].send(None)


async def test_a_hubs_own_settings_give_way_to_the_callbacks() -> None:
    hub: Hub[Client] = Hub(epoch="e", limits=Limits(rooms=3))
    hub.announces = hub.authorizes = hub.reports = True  # whose answers nobody would give
    async with Runtime(hub, clock=ManualClock()) as runtime:
        assert runtime.limits is hub.limits
        with connect(runtime, "ann", "lobby"):
            assert (await runtime.publish_confirmed("lobby", "hi")).epoch.startswith("e")
            assert runtime.members("lobby") == hub.members("lobby") == ("ann",)


def test_limits_go_to_the_hub_or_to_the_runtime() -> None:
    with pytest.raises(ValueError, match="limits"):
        Runtime(Hub(epoch="e"), limits=Limits())
    with pytest.raises(ValueError, match="slow"):
        Runtime(Hub(epoch="e"), slow="skip")
    assert Runtime(limits=Limits(rooms=7)).hub.limits.rooms == 7


# -- others' faults ----------------------------------------------------------------------------------------------------


class Faulty(Wire):
    """A client of a transport that raises where it must not."""

    fault = ""

    def notify(self) -> None:
        self._maybe("notify")
        super().notify()

    def write(self, chunk: Chunk) -> None:
        self._maybe("write")
        super().write(chunk)

    def close(self, reason: CloseReason) -> None:
        self._maybe("close")
        super().close(reason)

    def probe(self) -> None:
        self._maybe("probe")
        super().probe()

    def _maybe(self, method: str) -> None:
        if self.fault == method:
            raise ZeroDivisionError(method)


@pytest.mark.parametrize("fault", ["notify", "write", "close", "probe"])
async def test_a_transport_that_raises_loses_its_client_and_nobody_else(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    async with Runtime(clock=clock) as runtime:
        shares = fault == "write"
        bad = Faulty(runtime, "bad", "lobby", shares=shares)
        others = [Wire(runtime, f"w{number}", "lobby", shares=shares) for number in range(5)]
        with connect(runtime, "ann", "lobby") as ann:
            await settle()
            bad.fault = fault
            if fault == "close":
                runtime.kick("bad")
            elif fault == "probe":
                clock.advance(54)
            else:
                runtime.publish("lobby", "one")
            await settle()
            assert runtime.members("lobby") == ("w0", "w1", "w2", "w3", "w4", "ann")
            runtime.publish("lobby", "two")
            await settle()
            assert chats(ann)[-1] == ": two"
            for other in others:
                text = "".join(str(chunk) for chunk in other.written)
                assert text.count("bad left the room") == 1
                assert '"two"' in text
            assert runtime.statistics().connections == 6
            assert f"ZeroDivisionError: {fault}" in caplog.text


async def test_a_transports_deadline_that_raises_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock()
    ended: list[object] = []

    def expire(kind: str, key: str) -> None:
        if key == "bad":
            raise ZeroDivisionError
        ended.append((kind, key))

    async with Runtime(clock=clock) as runtime:
        deadlines: Deadlines[str, str] = Deadlines({"slow": 5, "quick": 1})
        unwatch = runtime.watch(deadlines, expire)
        await settle()
        for key in ("bad", "good"):
            deadlines.arm("slow", key, clock.now())
        runtime.reschedule()
        clock.advance(4)
        await settle()
        deadlines.arm("quick", "good", clock.now())  # sooner than what is waited for? as soon.
        runtime.reschedule()
        clock.advance(1)
        await settle()
        assert ended == [("slow", "good"), ("quick", "good")]
        assert "ZeroDivisionError" in caplog.text
        unwatch()
        unwatch()
        deadlines.arm("quick", "late", clock.now())
        runtime.reschedule()
        clock.advance(2)
        await settle()
        assert len(ended) == 2


async def test_a_sooner_deadline_of_a_transport_wakes_the_clock() -> None:
    clock = ManualClock()
    ended: list[str] = []
    async with Runtime(clock=clock) as runtime:
        deadlines: Deadlines[str, str] = Deadlines({"slow": 50, "quick": 1})
        runtime.watch(deadlines, lambda kind, key: ended.append(kind))
        for kind in ("slow", "quick"):
            deadlines.arm(kind, "key", clock.now())
            runtime.reschedule()
            await settle()
        clock.advance(1)
        await settle()
        assert ended == ["quick"]
        clock.advance(49)
        await settle()
        assert ended == ["quick", "slow"]


async def test_many_reschedules_in_one_turn_are_as_one() -> None:
    clock = ManualClock()
    ended: list[str] = []
    async with Runtime(clock=clock) as runtime:
        deadlines: Deadlines[str, str] = Deadlines({f"{delay}": delay for delay in range(1, 31)})
        runtime.watch(deadlines, lambda kind, key: ended.append(kind))
        await settle()
        for delay in range(30, 0, -1):
            deadlines.arm(str(delay), "key", clock.now())
            runtime.reschedule()
            if delay % 3 == 0:
                await checkpoint()
        for _ in range(30):
            clock.advance(1)
            await settle()
        assert ended == [str(delay) for delay in range(1, 31)]


# -- time --------------------------------------------------------------------------------------------------------------


class WrongClock(ManualClock):
    """A clock whose wall time can be set."""

    error_ms = 0

    def unix_ms(self) -> int:
        return super().unix_ms() + self.error_ms


async def test_the_wall_clock_is_looked_at_each_minute_and_ts_never_falls() -> None:
    clock = WrongClock()
    limits = Limits(pong_timeout_s=math.inf)  # time goes in leaps here, and nobody could answer within one
    async with Runtime(limits=limits, clock=clock) as runtime:
        await settle()
        with connect(runtime, "ann", "lobby"):

            def ts() -> int:
                runtime.publish("lobby", "what time is it?")
                return runtime.history("lobby", 1)[0].ts_ms

            begin = clock.unix_ms()
            assert ts() == begin
            clock.error_ms = 5_000
            clock.advance(40)
            await settle()
            assert ts() == begin + 40_000
            clock.advance(20)
            await settle()
            assert ts() == begin + 65_000
            clock.error_ms = -3_600_000  # set back by an hour
            for _ in range(3):
                clock.advance(30)
                await settle()
                assert ts() >= begin + 65_000
            offsets = [message.ts_ms for message in runtime.history("lobby")]
            assert offsets == sorted(offsets)
            assert ts() == begin + 95_000  # stands still until the wall clock is past it
        with connect(runtime, "ann", "lobby"):
            assert ts() == clock.unix_ms()  # a new room has no past


async def test_clients_are_probed_and_the_silent_closed() -> None:
    clock = ManualClock()
    async with Runtime(clock=clock) as runtime:
        wire = Wire(runtime, "ann", "lobby")
        with connect(runtime, "ben", "lobby") as ben:
            clock.advance(53.9)
            await settle()
            assert wire.probed == 0
            clock.advance(0.1)
            await settle()
            assert wire.probed == 1
            assert wire.closed is None
            clock.advance(6)
            await settle()
            assert wire.closed == errors.NO_PONG
            assert ben.closed is None


async def test_idle_users_are_closed() -> None:
    clock = ManualClock()
    async with Runtime(limits=Limits(idle_timeout_s=30), clock=clock) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby")
        clock.advance(20)
        await settle()
        ann.send("still here")
        clock.advance(10)
        await settle()
        assert (ann.closed, ben.closed) == (None, errors.IDLE)


async def test_a_deadline_armed_outside_of_a_flush_is_kept_in_time() -> None:
    """What is blocked while nothing waits to be written brings no flush, but a write deadline."""
    clock = ManualClock()
    async with Runtime(clock=clock) as runtime:
        wire = Wire(runtime, "ann", "lobby")
        await settle()
        runtime.submit(Blocked(wire))
        clock.advance(9)
        await settle()
        runtime.submit(Blocked(wire))  # again: something went out
        clock.advance(9)
        await settle()
        assert wire.closed is None
        clock.advance(1)
        await settle()
        assert wire.closed == errors.SLOW_CONSUMER


async def test_writable_in_time_calls_the_deadline_off() -> None:
    clock = ManualClock()
    async with Runtime(clock=clock) as runtime:
        wire = Wire(runtime, "ann", "lobby")
        await settle()
        runtime.submit(Blocked(wire))
        runtime.publish("lobby", "news")
        await settle()
        assert "news" not in str(wire.written)
        clock.advance(9)
        await settle()
        runtime.submit(Writable(wire))
        await settle()
        assert "news" in str(wire.written)
        clock.advance(30)
        await settle()
        assert wire.closed is None


async def test_a_held_flush_waits_for_its_holder() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        wire = Wire(runtime, "ann", "lobby")
        await settle()
        runtime.hold_flush()
        runtime.hold_flush()
        runtime.publish("lobby", "one")
        await settle()
        assert "one" not in str(wire.written)
        runtime.release_flush()
        await settle()
        assert "one" not in str(wire.written)
        runtime.release_flush()
        await settle()
        assert "one" in str(wire.written)


async def test_a_long_flush_lets_others_run_and_serves_all() -> None:
    async with Runtime(clock=ManualClock(), limits=Limits(presence_batch_members=1)) as runtime:
        wires = [Wire(runtime, f"u{number}", "lobby", shares=True) for number in range(300)]
        await settle()
        runtime.publish("lobby", "news")
        slices = 1
        while not runtime.flush(-1):
            slices += 1
        assert slices > 2
        assert all("news" in str(wire.written) for wire in wires)


# -- the end -----------------------------------------------------------------------------------------------------------


async def test_at_the_end_clients_are_told_and_nothing_is_left() -> None:
    before = tasks_now()
    async with Runtime(clock=ManualClock()) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby", "den")
        ben.send("good night")
    assert ann.closed == ben.closed == errors.DRAINING
    assert chats(ann) == ["ben: good night"]
    assert runtime.hub.is_empty
    assert runtime.rooms() == ()
    assert tasks_now() == before
    late = connect(runtime, "cat", "lobby")
    assert late.closed == errors.DRAINING
    assert runtime.hub.is_empty


async def test_drain_waits_for_the_last_to_go() -> None:
    clock = ManualClock()
    async with Runtime(clock=clock) as runtime:
        wire = Stuck(runtime, "ann", "lobby")
        done: list[str] = []

        async def drain(name: str) -> None:
            await runtime.drain()
            done.append(name)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain, "one")
            await settle()
            tasks.start_soon(drain, "two")
            await settle()
            assert wire.closed == errors.DRAINING
            assert done == []
            late = connect(runtime, "cat", "lobby")
            assert late.closed == errors.DRAINING
            clock.advance(4.9)
            await settle()
            assert done == []
            runtime.submit(Disconnected(wire))
        assert sorted(done) == ["one", "two"]
        assert clock.now() == ManualClock().now() + 4.9


async def test_drain_gives_up_in_time_and_the_end_is_clean_all_the_same() -> None:
    clock = ManualClock()
    before = tasks_now()
    left: list[str] = []
    async with anyio.create_task_group() as tasks:

        async def let_time_pass() -> None:
            await settle()
            assert not runtime.hub.is_empty
            clock.advance(4.9)
            await settle()
            assert not runtime.hub.is_empty
            clock.advance(0.2)

        async with Runtime(clock=clock, on_leave=lambda room, user: left.append(user)) as runtime:
            wire = Stuck(runtime, "ann", "lobby")
            tasks.start_soon(let_time_pass)
        assert wire.closed == errors.DRAINING
        assert runtime.hub.is_empty
        assert left == ["ann"]
    assert tasks_now() == before


async def test_after_a_drain_of_the_programs_own_the_end_is_immediate() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        ann = connect(runtime, "ann", "lobby")
        await runtime.drain()
        await runtime.drain()
        assert ann.closed == errors.DRAINING
        runtime.publish("lobby", "to nobody")
        assert (await runtime.publish_confirmed("lobby", "to nobody")).offset == 1


async def test_publish_confirmed_while_stopping_is_answered() -> None:
    clock = ManualClock()
    answers: list[Position] = []
    async with anyio.create_task_group() as tasks:

        async def publish() -> None:
            await settle()
            assert runtime.hub.draining
            answers.append(await runtime.publish_confirmed("lobby", "late"))
            answers.append(await anyio.to_thread.run_sync(runtime.publish_from_thread, "lobby", "later"))
            clock.advance(5)

        async with Runtime(clock=clock) as runtime:
            Stuck(runtime, "ann", "lobby")
            tasks.start_soon(publish)
    assert [answer.offset for answer in answers] == [1, 1]


class Failure(Exception):
    pass


class Abrupt(BaseException):
    pass


@pytest.mark.parametrize("error", [Failure, ValueError, ExceptionGroup("", [Failure()]), Abrupt])
async def test_an_error_of_the_programs_own_passes_as_it_is(error: Any) -> None:
    before = tasks_now()
    runtime = Runtime(clock=ManualClock())
    with pytest.raises(error if isinstance(error, type) else ExceptionGroup) as caught:
        await leave_by(runtime, error)
    assert caught.value is error or type(caught.value) is error
    assert caught.value.__context__ is None
    assert runtime.hub.is_empty
    assert runtime.rooms() == ()
    assert tasks_now() == before


async def leave_by(runtime: Runtime, error: Any) -> None:
    async with runtime:
        ann = connect(runtime, "ann", "lobby")
        Stuck(runtime, "ben", "lobby")
        try:
            await settle()
            raise error
        finally:
            assert ann.closed is None


async def test_a_runtime_runs_once() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with pytest.raises(RuntimeError, match="another"):
            await runtime.__aenter__()
        runtime.publish("lobby", "not disturbed")
    with pytest.raises(RuntimeError, match="another"):
        await runtime.__aenter__()


async def test_a_clock_that_raises_at_the_start_leaves_nothing() -> None:
    class Broken(ManualClock):
        def unix_ms(self) -> int:
            raise OSError("no clock")

    before = tasks_now()
    with pytest.raises(OSError, match="no clock"):
        await Runtime(clock=Broken()).__aenter__()
    assert tasks_now() == before


async def test_a_crash_inside_ends_the_program_and_not_in_silence() -> None:
    class Breaking(ManualClock):
        async def sleep_until(self, when: float) -> None:
            raise OSError("no clock any more")

    async def run() -> None:
        async with runtime:
            connect(runtime, "ann", "lobby")
            await anyio.sleep_forever()

    runtime = Runtime(clock=Breaking())
    with pytest.raises(ExceptionGroup) as caught:
        await run()
    assert caught.group_contains(OSError, match="no clock any more")
    assert runtime.hub.is_empty
    with pytest.raises(RuntimeError, match="not running"):
        runtime.publish("lobby", "hi")


async def test_cancelled_from_outside_it_ends_at_once() -> None:
    before = tasks_now()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, Runtime(clock=ManualClock()) as runtime:
            ann = connect(runtime, "ann", "lobby")
            wire = Stuck(runtime, "ben", "lobby")
            tasks.cancel_scope.cancel()
            await anyio.sleep_forever()
    assert ann.closed == wire.closed == errors.DRAINING
    assert runtime.hub.is_empty
    with pytest.raises(RuntimeError, match="not running"):
        runtime.publish("lobby", "hi")
    assert tasks_now() == before


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_cancellation_that_is_asyncios_own_passes() -> None:
    runtimes: list[Runtime] = []

    async def run() -> None:
        async with Runtime(clock=ManualClock()) as runtime:
            runtimes.append(runtime)
            connect(runtime, "ann", "lobby")
            await asyncio.sleep(1000)

    task = asyncio.create_task(run())
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert runtimes[0].hub.is_empty

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await run()
    assert runtimes[1].hub.is_empty


async def program(runtime: Runtime) -> None:
    async with runtime:
        with connect(runtime, "ann", "lobby") as ann:
            runtime.publish("lobby", "hi")
            await ann.receive()
            await runtime.publish_confirmed("lobby", "hi")
            await checkpoint()
        connect(runtime, "ben", "lobby")
        Slow(runtime, "cat", "lobby")


class Slow(Wire):
    """It closes a few turns of the event loop after it was told to."""

    def leave(self) -> None:
        spawn(self._leave)

    async def _leave(self) -> None:
        with anyio.CancelScope(shield=True):
            for _ in range(5):
                await checkpoint()
        self.runtime.submit(Disconnected(self))


spawn: Callable[[Any], object] = print


@pytest.mark.parametrize("extra", [False, True])
async def test_cancelled_at_any_point_nothing_is_left(extra: bool) -> None:
    """``extra``: by a scope that another task cancels between any two turns of the event loop; else by level."""
    global spawn
    before = tasks_now()
    turns = 0
    while True:
        runtime = Runtime(clock=ManualClock())
        finished = False
        async with anyio.create_task_group() as closers:
            spawn = closers.start_soon
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def cancel(scope: anyio.CancelScope = scope, turns: int = turns) -> None:
                        for _ in range(turns):
                            await checkpoint()
                        scope.cancel()

                    if extra:
                        tasks.start_soon(cancel)
                        await checkpoint()
                    else:
                        closers.start_soon(cancel)
                    await program(runtime)
                    finished = True
                    tasks.cancel_scope.cancel()
        assert runtime.hub.is_empty
        assert runtime.rooms() == ()
        assert runtime.statistics().members == 0
        assert tasks_now() == before
        if finished:
            break
        turns += 1
    assert turns > 4


async def test_two_runtimes_in_one_loop_know_nothing_of_each_other() -> None:
    clock = ManualClock()
    async with Runtime(clock=clock) as one, Runtime(clock=clock) as two:
        with connect(one, "ann", "lobby") as ann, connect(two, "ben", "lobby") as ben:
            one.publish("lobby", "1")
            two.publish("lobby", "2")
            first, second = await one.publish_confirmed("lobby", "x"), await two.publish_confirmed("lobby", "x")
            assert first.epoch != second.epoch
            await settle()
            assert (chats(ann), chats(ben)) == ([": 1", ": x"], [": 2", ": x"])
            two.kick("ann")
            await two.drain()
            assert (ann.closed, ben.closed) == (None, errors.DRAINING)
            one.publish("lobby", "still here")
            assert chats(ann) == [": still here"]


async def test_a_storm_of_joins_and_leaves_that_races_the_stop_ends_with_nothing_left() -> None:
    before = tasks_now()
    joined: list[str] = []
    left: list[str] = []
    async with (
        anyio.create_task_group() as tasks,
        Runtime(
            clock=ManualClock(),
            on_join=lambda room, user: joined.append(f"{room}/{user}"),
            on_leave=lambda room, user: left.append(f"{room}/{user}"),
        ) as runtime,
    ):

        async def come_and_go(number: int) -> None:
            for turn in range(20):
                with connect(runtime, f"user{number % 25}", f"room{(number + turn) % 7}", "lobby") as client:
                    try:
                        client.send("hi")
                        await client.receive()
                        if turn % 3 == 0:
                            await checkpoint()
                    except ClientClosed:
                        continue

        for number in range(50):
            tasks.start_soon(come_and_go, number)
        while len(joined) < 500:
            await checkpoint()
        assert not runtime.hub.is_empty
    assert runtime.hub.is_empty
    assert runtime.rooms() == ()
    assert sorted(joined) == sorted(left)
    assert runtime.statistics().connections == runtime.statistics().members == 0
    assert runtime.hub.next_deadline() == math.inf
    assert tasks_now() == before


async def test_who_waits_for_a_flush_goes_on_after_it_and_at_the_end() -> None:
    went_on = 0

    async def wait() -> None:
        nonlocal went_on
        await runtime.flushed()
        went_on += 1

    async with anyio.create_task_group() as tasks, Runtime(clock=ManualClock()) as runtime:
        for _ in range(3):
            tasks.start_soon(wait)
        await settle()
        assert went_on == 3
        runtime.flush = lambda budget_s=0.0: True  # type: ignore[method-assign]
        tasks.start_soon(wait)
        await settle()
        assert went_on == 3
    assert went_on == 4


def test_a_callback_that_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"on_join\(room, user\) must be a function, not 'x'"):
        Runtime(on_join="x")  # type: ignore[arg-type]


async def test_an_answer_that_is_no_text_drops_the_message_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    hook: Any = len
    async with Runtime(clock=ManualClock(), rewrite_message=lambda message: hook(message.content)) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.send("seven")
            await settle()
            assert chats(ann) == []
    assert "rewrite_message must return text, or None to drop the message: it returned 5" in caplog.text


async def test_no_order_of_a_callback_overtakes_those_that_wait_for_the_next_flush() -> None:
    def relay(message: Message) -> None:
        if message.room == "a":
            runtime.publish("mirror", message.content)
        if message.content == "!help" and message.room == "a":
            for number in range(400):
                runtime.publish("a", str(number))

    async with Runtime(clock=ManualClock(), on_message=relay) as runtime:
        with connect(runtime, "ann", "a") as ann, connect(runtime, "eve", "mirror") as eve:
            ann.send("!help")
            ann.send("after")
            await settle()
            said = [line.partition(": ")[2] for line in chats(ann)]
            assert len(said) == 402
            assert [line.partition(": ")[2] for line in chats(eve)] == said


async def test_clients_that_pull_take_turns_with_everything_else() -> None:
    """A flush that is out of time lets one pull, not all; the others are not forgotten."""
    async with Runtime(clock=ManualClock()) as runtime:
        wires = [Wire(runtime, f"u{number}", "lobby") for number in range(5)]
        await settle()
        runtime.hold_flush()
        before = [wire.notified for wire in wires]
        runtime.publish("lobby", "news")
        for served in range(1, 6):
            assert runtime.flush(-1) is (served == 5)
            assert sum(wire.notified for wire in wires) - sum(before) == served
        assert all("news" in str(wire.written) for wire in wires)
        runtime.publish("lobby", "more")
        runtime.flush(-1)
        runtime.release_flush()
        await settle()
        assert all("more" in str(wire.written) for wire in wires)
