"""Clients in the same process: what they send, what they are given, how they end."""

import json
import weakref
from collections.abc import Iterator

import anyio
import pytest
from anyio.lowlevel import checkpoint

from roomhub import Limits, Runtime
from roomhub.core import errors
from roomhub.core.codec import Lane, PlainCodec
from roomhub.testing import ManualClock
from roomhub.transports.memory import TOO_LARGE, ClientClosed, MemoryClient, connect

pytestmark = pytest.mark.anyio


def brief(text: str) -> str:
    """``ann: hi``, ``online ann,ben``, ``+ann``, ``-ann``."""
    seen = json.loads(text)
    assert list(seen) == ["type", "content", "room", "username"]
    match seen["type"]:
        case "chat":
            return f"{seen['username']}: {seen['content']}"
        case "online_users":
            return f"online {seen['content']}"
        case "user_joined":
            return f"+{seen['username']}"
        case kind:
            assert kind == "user_left"
            return f"-{seen['username']}"


def received(client: MemoryClient) -> list[str]:
    """All that the client has by now."""

    def texts() -> Iterator[str]:
        while True:
            try:
                yield brief(client.receive_nowait())
            except (anyio.WouldBlock, ClientClosed):
                return

    return list(texts())


async def settle() -> None:
    """Let the runtime's tasks do what there is to do."""
    for _ in range(10):
        await checkpoint()


# -- sending and receiving ---------------------------------------------------------------------------------------------


async def test_everybody_in_the_room_receives_what_is_sent() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann, connect(runtime, "ben", "lobby") as ben:
            ann.send("hi, ben")
            assert [brief(await ben.receive()) for _ in range(3)] == ["online ann,ben", "+ben", "ann: hi, ben"]
            assert received(ann) == ["online ann", "+ann", "online ann,ben", "+ben", "ann: hi, ben"]


async def test_receive_waits_for_the_next_message() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            await settle()
            received(ann)
            seen: list[str] = []

            async def wait() -> None:
                seen.append(brief(await ann.receive()))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await settle()
                assert seen == []
                runtime.publish("lobby", "news")
            assert seen == [": news"]


async def test_receive_nowait_has_it_at_once_or_says_so() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            assert received(ann) == ["online ann", "+ann"]  # no flush was needed
            with pytest.raises(anyio.WouldBlock):
                ann.receive_nowait()
            ann.send("x")
            assert brief(ann.receive_nowait()) == "ann: x"


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            received(ann)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ann.receive)
                await settle()
                ann.send("kept")
                tasks.cancel_scope.cancel()
            assert received(ann) == ["ann: kept"]


async def test_receive_is_a_checkpoint_also_when_there_is_much() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann, anyio.CancelScope() as scope:
            ann.send("x")
            scope.cancel()
            await ann.receive()
        assert scope.cancelled_caught


async def test_two_tasks_that_receive_both_wake() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            received(ann)
            seen: list[str] = []

            async def wait() -> None:
                seen.append(brief(await ann.receive()))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await settle()
                tasks.start_soon(wait)
                await settle()
                ann.send("one")
                await settle()
                ann.send("two")
                await settle()
                tasks.cancel_scope.cancel()  # a task that missed its wake-up would be left
            assert seen == ["ann: one", "ann: two"]


async def test_two_tasks_that_wait_both_hear_of_the_end() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        ann = connect(runtime, "ann", "lobby")
        received(ann)
        ends: list[object] = []

        async def wait() -> None:
            try:
                await ann.receive()
            except ClientClosed as closed:
                ends.append(closed.reason)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            tasks.start_soon(wait)
            await settle()
            runtime.kick("ann")
        assert ends == [errors.KICKED, errors.KICKED]


# -- not reading -------------------------------------------------------------------------------------------------------


async def test_who_stopped_reading_gets_nothing_and_has_all_after_resuming() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann, connect(runtime, "ben", "lobby") as ben:
            await settle()
            received(ann)
            ann.stop_reading()
            ann.stop_reading()  # twice is once
            for number in range(3):
                ben.send(str(number))
                await settle()
            with pytest.raises(anyio.WouldBlock):
                ann.receive_nowait()
            assert runtime.statistics().lag_messages == 3
            ann.resume_reading()
            await settle()
            assert received(ann) == ["ben: 0", "ben: 1", "ben: 2"]
            await settle()
            assert runtime.statistics().lag_messages == 0


async def test_resuming_wakes_who_waits_in_receive() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            received(ann)
            ann.stop_reading()
            runtime.publish("lobby", "late")
            seen: list[str] = []

            async def wait() -> None:
                seen.append(brief(await ann.receive()))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await settle()
                assert seen == []
                ann.resume_reading()
            assert seen == [": late"]


async def test_resuming_without_having_stopped_changes_nothing() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.resume_reading()
            assert received(ann) == ["online ann", "+ann"]


async def test_a_client_never_received_from_is_put_out_within_its_bound_and_nobody_is_delayed() -> None:
    limits = Limits(lag_messages=10, chunk_bytes=300)
    async with Runtime(limits=limits, clock=ManualClock()) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby")
        said = 0
        while ann.closed is None:
            runtime.publish("lobby", f"{said:020}")
            await settle()
            seen = received(ben)
            assert f": {said:020}" in seen
            said += 1
            assert said < 30
            assert runtime.statistics().lag_messages <= 11
        assert ann.closed == errors.SLOW_CONSUMER
        # What it holds is what one chunk allows, and a frame more.
        assert sum(map(len, drain(ann))) < 300 + 120
        with pytest.raises(ClientClosed, match="slow_consumer"):
            ann.receive_nowait()
        assert seen[-2:] == ["-ann", "online ben"]
        assert runtime.statistics().evictions == {"slow_consumer": 1}


def drain(client: MemoryClient) -> Iterator[str]:
    while True:
        try:
            yield client.receive_nowait()
        except (anyio.WouldBlock, ClientClosed):
            return


async def test_more_than_a_chunk_at_once_still_makes_an_unread_client_slow() -> None:
    """A client that took one chunk of several and never said that it is blocked would never be judged."""
    limits = Limits(lag_messages=4, chunk_bytes=200)
    async with Runtime(limits=limits, clock=ManualClock()) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby")
        await settle()
        received(ann)
        for _ in range(3):  # bursts: each is several chunks
            for number in range(20):
                runtime.publish("lobby", f"{number:050}")
            await settle()
            received(ben)
            await settle()
        assert ann.closed == errors.SLOW_CONSUMER
        assert ben.closed is None


async def test_all_of_several_chunks_arrives_in_order() -> None:
    async with Runtime(limits=Limits(chunk_bytes=200), clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            received(ann)
            for number in range(50):
                runtime.publish("lobby", str(number))
            assert [brief(await ann.receive()) for _ in range(50)] == [f": {number}" for number in range(50)]


async def test_who_receives_a_little_makes_progress_and_stays() -> None:
    clock = ManualClock()
    limits = Limits(chunk_bytes=300, lag_messages=1000, write_timeout_s=10, pong_timeout_s=1e6, ping_interval_s=1e5)
    async with Runtime(limits=limits, clock=clock) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            for number in range(40):
                runtime.publish("lobby", f"{number:060}")
            await settle()
            for _ in range(20):
                clock.advance(9)
                await settle()
                ann.receive_nowait()
                await settle()
            assert ann.closed is None
            clock.advance(11)
            await settle()
            assert ann.closed == errors.SLOW_CONSUMER


async def test_who_holds_less_than_a_chunk_is_not_slow_however_long_it_waits() -> None:
    clock = ManualClock()
    async with Runtime(clock=clock) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            for _ in range(20):
                runtime.publish("lobby", "tick")
                clock.advance(9)
                await settle()
            assert ann.closed is None
            assert received(ann)[2:] == [": tick"] * 20


async def test_without_write_progress_a_stuck_client_is_closed_in_time() -> None:
    clock = ManualClock()
    async with Runtime(clock=clock) as runtime:
        ann = connect(runtime, "ann", "lobby")
        await settle()
        ann.stop_reading()
        await settle()
        clock.advance(9.9)
        await settle()
        assert ann.closed is None
        clock.advance(0.2)
        await settle()
        assert ann.closed == errors.SLOW_CONSUMER


async def test_who_does_not_read_shows_no_life_when_probed() -> None:
    clock = ManualClock()
    limits = Limits(write_timeout_s=1000)
    async with Runtime(limits=limits, clock=clock) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby")
        ann.stop_reading()
        for _ in range(12):
            clock.advance(5.5)
            await settle()
        assert (ann.closed, ben.closed) == (errors.NO_PONG, None)


# -- ends --------------------------------------------------------------------------------------------------------------


async def test_what_was_said_before_a_kick_is_received_before_the_end() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby")
        await settle()
        received(ann)
        ben.send("so long")
        ben.send("farewell")
        runtime.kick("ann")
        ben.send("is she gone?")
        assert [brief(await ann.receive()) for _ in range(2)] == ["ben: so long", "ben: farewell"]
        for _ in range(2):  # and so it stays
            with pytest.raises(ClientClosed, match=r"^closed by the hub: kicked$") as caught:
                await ann.receive()
            assert caught.value.reason == errors.KICKED == ann.closed
            with pytest.raises(ClientClosed):
                ann.receive_nowait()
        with pytest.raises(ClientClosed):
            ann.send("let me in")
        await settle()
        assert received(ben)[-3:] == ["-ann", "online ben", "ben: is she gone?"]


async def test_a_kicked_client_with_many_chunks_unread_receives_them_all() -> None:
    async with Runtime(limits=Limits(chunk_bytes=150), clock=ManualClock()) as runtime:
        ann = connect(runtime, "ann", "lobby")
        for number in range(30):
            runtime.publish("lobby", str(number))
        runtime.kick("ann")
        assert received(ann)[2:] == [f": {number}" for number in range(30)]


async def test_hanging_up_leaves_the_room_at_once() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby")
        await settle()
        ann.close()
        ann.close()
        assert runtime.members("lobby") == ("ben",)
        assert ann.closed is None  # not by the hub
        with pytest.raises(ClientClosed, match=r"^closed by this side$") as caught:
            ann.send("hello?")
        assert caught.value.reason is None
        assert received(ann) == ["online ann", "+ann", "online ann,ben", "+ben"]  # what had come before
        with pytest.raises(ClientClosed):
            await ann.receive()
        assert received(ben)[-2:] == ["-ann", "online ben"]
        runtime.kick("ann")
        assert runtime.statistics().evictions == {}


async def test_a_client_that_hung_up_while_stuck_has_an_end_too() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.stop_reading()
        received(ann)
        with anyio.fail_after(5), pytest.raises(ClientClosed):
            await ann.receive()


async def test_as_a_context_manager_it_ends_also_by_an_error() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with pytest.raises(ZeroDivisionError), connect(runtime, "ann", "lobby"):
            assert 1 / len(runtime.members("nowhere"))
        assert runtime.rooms() == ()
        with connect(runtime, "ann", "lobby"):
            runtime.kick("ann")  # the end of the block finds it closed already
        assert runtime.hub.is_empty


async def test_a_message_too_large_ends_the_connection() -> None:
    async with Runtime(limits=Limits(message_bytes=10), clock=ManualClock()) as runtime:
        ann, ben = connect(runtime, "ann", "lobby"), connect(runtime, "ben", "lobby")
        ann.send("é" * 5)
        ann.send("é" * 5 + "x")
        assert ann.closed == TOO_LARGE
        assert TOO_LARGE.plain_code == 1009
        with pytest.raises(ClientClosed, match="too_large"):
            ann.send("x")
        await settle()
        assert received(ben)[-3:] == ["ann: ééééé", "-ann", "online ben"]


async def test_text_with_a_lone_surrogate_is_dropped_and_hurts_nobody() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.send("\ud800")
            ann.send("fine")
            await settle()
            assert received(ann)[-1] == "ann: fine"
            assert runtime.statistics().messages_dropped == 1


# -- rooms, refusals ---------------------------------------------------------------------------------------------------


async def test_one_client_in_several_rooms() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "one", "two") as ann:
            await settle()
            received(ann)
            runtime.publish("two", "2")
            runtime.publish("one", "1")
            rooms = [json.loads(await ann.receive()) for _ in range(2)]
            assert sorted((seen["room"], seen["content"]) for seen in rooms) == [("one", "1"), ("two", "2")]
            assert runtime.statistics().members == 2
            runtime.kick("ann", "one")
            assert runtime.rooms() == ("two",)
            assert ann.closed is None
            runtime.kick("ann", "two")
            assert ann.closed == errors.KICKED


async def test_in_no_room_at_first() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann") as ann:
            ann.send("into the void")
            runtime.enter_room(ann, "lobby")
            ann.send("here")
            assert received(ann) == ["online ann", "+ann", "ann: here"]


@pytest.mark.parametrize(
    ("username", "room", "reason"),
    [
        ("ann", "../x", errors.PROTOCOL),
        ("", "lobby", errors.PROTOCOL),
        ("a,b", "lobby", errors.PROTOCOL),
        ("ann", "full", errors.OVER_CAPACITY),
        ("ann", "secret", errors.FORBIDDEN),
    ],
)
async def test_who_is_refused_hears_why_and_nothing_else(username: str, room: str, reason: object) -> None:
    def allow(room: str, username: str) -> bool:
        return room != "secret"

    async with Runtime(limits=Limits(rooms=1), clock=ManualClock(), allow_join=allow) as runtime:
        with connect(runtime, "ben", "lobby"):
            refused = connect(runtime, username, room)
            with pytest.raises(ClientClosed) as caught:
                await refused.receive()
            assert caught.value.reason == reason
            assert runtime.rooms() == ("lobby",)
            assert runtime.statistics().connections == 1


async def test_too_many_of_one_address_are_refused() -> None:
    async with Runtime(limits=Limits(connections_per_address=1), clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby", address="10.0.0.1"), connect(runtime, "ben", "lobby"):
            cat = connect(runtime, "cat", "lobby", address="10.0.0.1")
            assert cat.closed == errors.OVER_CAPACITY
        with connect(runtime, "cat", "lobby", address="10.0.0.1") as cat:
            assert cat.closed is None


async def test_a_lane_of_bytes_is_refused_before_anything_happened() -> None:
    lane = Lane(PlainCodec(), str.encode, lambda frames: b"".join(frames))  # type: ignore[arg-type]
    async with Runtime(clock=ManualClock()) as runtime:
        with pytest.raises(ValueError, match="text_lane"):
            connect(runtime, "ann", "lobby", lane=lane)
        assert runtime.hub.is_empty


async def test_a_client_that_is_gone_is_held_by_nobody() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        with connect(runtime, "ann", "lobby") as ann:
            ann.send("x")
            await checkpoint()
        gone = weakref.ref(ann)
        del ann
        await settle()
        assert gone() is None


async def test_a_stalled_client_that_is_kicked_gets_the_rest_if_it_reads_again() -> None:
    async with Runtime(clock=ManualClock()) as runtime:
        ann = connect(runtime, "ann", "lobby")
        assert [json.loads(await ann.receive())["type"] for _ in range(2)] == ["online_users", "user_joined"]
        ann.stop_reading()
        runtime.publish("lobby", "one")
        runtime.publish("lobby", "two")
        await settle()
        runtime.kick("ann")
        with pytest.raises(anyio.WouldBlock):
            ann.receive_nowait()
        ann.resume_reading()
        assert [json.loads(await ann.receive())["content"] for _ in range(2)] == ["one", "two"]
        with pytest.raises(ClientClosed, match="kicked"):
            await ann.receive()
