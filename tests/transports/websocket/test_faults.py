"""Peers that vanish at any byte, descriptors that run out, callbacks that raise."""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
import pytest

from roomhub import Hub, Message, Runtime
from roomhub.ports import Client
from roomhub.testing import ManualClock
from roomhub.transports.websocket.handshake import Request, Route
from tests.transports.websocket.support import (
    CONTINUATION,
    PING,
    TEXT,
    Driver,
    Peer,
    World,
    chat,
    close,
    frame,
    joined,
    left,
    request,
    roster,
    serving,
    text,
    turn,
    until,
)

pytestmark = pytest.mark.anyio

VANISH: list[Callable[[Peer], None]] = [Peer.reset, Peer.disconnect]


async def settled(world: World, connections: int) -> None:
    """All that connected so far were accepted, and so many are left."""
    await world.get("/health")
    await until(lambda: world.server.connections == connections)


@pytest.mark.parametrize("vanish", VANISH, ids=["RST", "FIN"])
async def test_vanishing_at_any_byte_of_the_handshake_leaves_nothing(
    driver: Driver, vanish: Callable[[Peer], None]
) -> None:
    """Row 39."""
    data = request()
    async with serving(driver) as world:
        for cut in range(0, len(data), 5):
            peer = world.connect()
            await peer.send(data[:cut])
            if cut % 2:
                await turn(3)
            vanish(peer)
        await settled(world, 0)
        assert world.runtime.rooms() == ()
        statistics = world.runtime.statistics()
        assert (statistics.connections, statistics.messages_published) == (0, 0)
        assert not world.server._service.live
        await until(lambda: len(world.server._service.deadlines) == 0)


@pytest.mark.parametrize("vanish", VANISH, ids=["RST", "FIN"])
async def test_vanishing_at_any_byte_of_the_frames_is_exactly_one_leave(
    driver: Driver, vanish: Callable[[Peer], None]
) -> None:
    """Row 39, and defect 1 of the seed."""
    data = text("one") + frame(PING, b"?") + frame(TEXT, b"tw", fin=False) + frame(CONTINUATION, b"o") + close(1000)
    async with serving(driver) as world:
        ann = await world.join("ann")
        for cut in range(len(data) + 1):
            bob = await world.join("bob")
            assert await ann.receive() == roster("ann", "bob")
            assert await ann.receive() == joined("bob")
            await bob.send(data[:cut])
            if cut % 2:
                await turn(3)
            vanish(bob)
            seen = await ann.receive_until(left("bob"))
            assert [wire["content"] for wire in seen[:-1]] in ([], ["one"], ["one", "two"])
            assert await ann.receive() == roster("ann")
        await settled(world, 1)
        assert world.runtime.statistics().connections == 1
        await ann.say("alone")
        assert await ann.receive() == chat("ann", "alone")
        await until(lambda: len(world.server._service.deadlines) == 0)


async def test_a_peer_that_resets_before_it_is_accepted_stops_nobody(driver: Driver) -> None:
    async with serving(driver) as world:
        ann = await world.join("ann")
        for _ in range(50):
            world.connect().reset()
        await settled(world, 1)
        await ann.say("on")
        assert await ann.receive() == chat("ann", "on")


@pytest.mark.parametrize("order", ["kick first", "reset first"])
async def test_a_reset_racing_a_kick_is_one_leave(driver: Driver, order: str) -> None:
    """Defect 1 of the seed."""
    async with serving(driver) as world:
        ann = await world.join("ann")
        for _ in range(10):
            bob = await world.join("bob")
            await ann.receive_until(joined("bob"))
            if order == "kick first":
                world.runtime.kick("bob")
                bob.reset()
            else:
                bob.reset()
                world.runtime.kick("bob")
            assert await ann.receive() == left("bob")
            assert await ann.receive() == roster("ann")
        await settled(world, 1)


async def test_a_peer_that_resets_while_it_is_written_to_is_one_leave(driver: Driver) -> None:
    async with serving(driver) as world:
        ann = await world.join("ann")
        for _ in range(10):
            bob = await world.join("bob")
            await ann.receive_until(joined("bob"))
            bob.reset()
            for number in range(3):
                world.runtime.publish("lobby", str(number))
            seen = await ann.receive_until(roster("ann"))
            assert [wire for wire in seen if wire["type"] == "user_left"] == [left("bob")]
            assert [wire["content"] for wire in seen if wire["type"] == "chat"] in (
                ["0", "1", "2"][:count] for count in range(4)
            )
            world.runtime.publish("lobby", "next")
            await ann.receive_until(chat("", "next"))
        await settled(world, 1)


async def test_last_words_are_heard_before_a_fin(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        await bob.send(text("bye") + text("all"))
        bob.half_close()
        assert await ann.receive() == chat("bob", "bye")
        assert await ann.receive() == chat("bob", "all")
        assert await ann.receive() == left("bob")


async def test_a_join_racing_the_last_leave_leaves_no_orphan_room(driver: Driver) -> None:
    """Row 63."""
    async with serving(driver) as world:
        last = await world.join("user0")
        for number in range(1, 40):
            user = f"user{number}"
            if number % 2:
                last.disconnect()
                peer = await world.open(user)
            else:
                peer = world.connect()
                await peer.send(request(f"/ws/lobby?username={user}"))
                last.reset()
                assert (await peer.response()).status == 101
            await peer.receive_until(joined(user))
            await until(lambda user=user: world.runtime.members("lobby") == (user,))  # type: ignore[misc]
            await peer.say("mine")
            await peer.receive_until(chat(user, "mine"))
            last = peer
        last.disconnect()
        await settled(world, 0)
        assert world.runtime.rooms() == ()


async def test_a_descriptor_reused_at_once_is_another_connection(driver: Driver) -> None:
    async with serving(driver) as world:
        ann = await world.join("ann")
        for number in range(20):
            peers = [await world.join(f"u{number}x{i}") for i in range(3)]
            for peer in peers:
                await peer.send(close(1000))
                peer.disconnect()
            fresh = [world.connect() for _ in range(3)]
            for i, peer in enumerate(fresh):
                await peer.send(request(f"/ws/lobby?username=f{number}x{i}"))
            for i, peer in enumerate(fresh):
                assert (await peer.response()).status == 101
                await peer.receive_until(joined(f"f{number}x{i}"))
                peer.reset()
        await settled(world, 1)
        world.runtime.publish("lobby", "end")
        members = {"ann"}
        for wire in await ann.receive_until(chat("", "end")):
            if wire["type"] == "user_joined":
                members.add(wire["username"])
            elif wire["type"] == "user_left":
                members.remove(wire["username"])
        assert members == {"ann"}


@contextmanager
def no_more_files() -> Iterator[None]:
    """Let the process open no descriptor more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files: list[int] = []
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 2, hard))
    try:
        while True:
            try:
                files.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in files:
            os.close(file)


async def test_out_of_descriptors_accepting_rests_and_recovers(driver: Driver) -> None:
    """Row 60."""
    async with serving(driver) as world:
        ann = await world.join("ann")
        with socket.socket() as sock:
            with no_more_files():
                sock.connect(("127.0.0.1", world.server.port))
                for number in range(5):  # those who are here are served meanwhile
                    await turn()
                    await ann.say(str(number))
                    assert await ann.receive() == chat("ann", str(number))
                assert world.server.connections == 1
            late = Peer(sock)
            await late.send(request("/ws/lobby?username=late"))
            world.clock.advance(1.1)
            assert (await late.response()).status == 101
            await ann.receive_until(joined("late"))
        await ann.receive_until(left("late"))


# -- row 66: what the program's own code raises -----------------------------------------------------------------------


async def test_a_callback_that_raises_is_logged_and_the_hub_goes_on(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    def boom(*_: object) -> None:
        raise RuntimeError("boom")

    clock = ManualClock()
    runtime = Runtime(clock=clock, on_join=boom, on_leave=boom, on_message=boom)
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann, bob = await world.room_of("ann", "bob")
        await bob.say("hi")
        assert await ann.receive() == await bob.receive() == chat("bob", "hi")
        bob.disconnect()
        assert await ann.receive() == left("bob")
    assert {record.levelname for record in caplog.records} == {"ERROR"}
    assert len(caplog.records) == 5


async def test_a_hook_that_raises_refuses(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    def allow(room: str, username: str) -> bool:
        if username == "eve":
            raise LookupError
        return True

    def rewrite(message: Message) -> str:
        if message.content == "bad":
            raise ValueError
        return message.content

    clock = ManualClock()
    runtime = Runtime(clock=clock, allow_join=allow, rewrite_message=rewrite)
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann = await world.join("ann")
        eve = await world.open("eve")
        assert await eve.closed() == (1008, "forbidden")
        await ann.send(text("bad") + text("good"))
        assert await ann.receive() == chat("ann", "good")
    assert len(caplog.records) == 2


@pytest.mark.parametrize("room", ["no such name!", None, 5])
async def test_a_wrong_order_from_a_callback_is_logged_and_the_hub_goes_on(
    driver: Driver, room: object, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    runtime: Runtime

    def answer(message: Message) -> None:
        if message.username != "bot":
            runtime.publish(room, "hi", "bot")  # type: ignore[arg-type]
            runtime.publish("lobby", "fine", "bot")

    runtime = Runtime(clock=clock, on_message=answer)
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann = await world.join("ann")
        await ann.say("hello")
        assert await ann.receive() == chat("ann", "hello")
        assert await ann.receive() == chat("bot", "fine")
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_callback_may_kick_who_it_hears(driver: Driver) -> None:
    clock = ManualClock()
    runtime: Runtime

    def bounce(message: Message) -> None:
        if message.content == "spam":
            runtime.kick(message.user)

    runtime = Runtime(clock=clock, on_message=bounce)
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann, bob = await world.room_of("ann", "bob")
        await bob.send(text("spam") + text("unheard"))
        assert await bob.receive() == chat("bob", "spam")
        assert await bob.closed() == (1008, "kicked")
        assert await ann.receive() == chat("bob", "spam")
        assert await ann.receive() == left("bob")
        assert await ann.receive() == roster("ann")
        await ann.say("on")
        assert await ann.receive() == chat("ann", "on")


async def test_a_rewriter_that_makes_what_no_wire_can_carry_refuses(driver: Driver) -> None:
    clock = ManualClock()
    runtime = Runtime(
        clock=clock, rewrite_message=lambda message: "\ud800" if message.content == "bad" else message.content
    )
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann = await world.join("ann")
        await ann.send(text("bad") + text("good"))
        assert await ann.receive() == chat("ann", "good")
        with anyio.fail_after(3), pytest.raises(Exception, match="lobby"):
            await runtime.publish_confirmed("lobby", "bad")


async def test_what_raises_for_one_connection_ends_that_one_alone(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    def rule(room: str) -> str | None:
        if room == "boom":
            raise RuntimeError("boom")
        return None

    def route(request: Request) -> Route:
        [user] = [value for name, value in request.query if name == "username"]
        return Route(request.segments[-1], user)

    clock = ManualClock()
    runtime = Runtime(Hub[Client](epoch="e", room_rule=rule), clock=clock)
    async with serving(driver, runtime=runtime, clock=clock, route=route) as world:
        ann = await world.join("ann")
        bob = world.connect()
        await bob.send(request("/ws/boom?username=bob"))
        await bob.end()
        await until(lambda: world.server.connections == 1)
        await ann.say("on")
        assert await ann.receive() == chat("ann", "on")
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_server_that_was_late_reads_what_came_in_time(driver: Driver) -> None:
    """A machine that slept, a program that kept its loop busy: peers that had said all in time are not timed out."""
    async with serving(driver) as world:
        ann = await world.join("ann")
        await ann.send(frame(TEXT, b"in ", fin=False))
        bob = world.connect()
        await until(lambda: world.server.connections == 2)
        await until(lambda: len(world.server._service.deadlines) == 2)
        bob.sock.send(request("/ws/lobby?username=bob"))
        ann.sock.send(frame(CONTINUATION, b"time"))
        world.clock.advance(45)
        assert (await bob.response()).status == 101
        assert await ann.receive_until(chat("ann", "in time"))
        await until(lambda: len(world.server._service.deadlines) == 0)
