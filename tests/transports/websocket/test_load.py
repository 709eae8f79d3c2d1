"""Members that do not read, and floods, through sockets."""

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import pytest

from roomhub import Limits
from roomhub.testing import ManualClock
from roomhub.transports.websocket import frames, reactor
from roomhub.transports.websocket.chat import ChatApplication
from roomhub.transports.websocket.connection import Connection, Phase
from tests.transports.websocket.support import (
    PING,
    PONG,
    TEXT,
    Driver,
    Peer,
    Wire,
    World,
    chat,
    close,
    close_of,
    frame,
    left,
    request,
    roster,
    serving,
    text,
    turn,
    until,
)

pytestmark = pytest.mark.anyio

FAST = Limits(message_rate_per_s=1e9, message_burst=1e9, send_buffer_bytes=4096)


async def stall(world: World, user: str = "sloth") -> object:
    """A member that reads nothing from now on."""
    return await world.join(user, receive_buffer_bytes=4096)


def blocked(world: World) -> int:
    """How many connections have something waiting to be written."""
    return sum(connection.is_blocked for connection in world.server._service.connections)


def most_held(world: World) -> int:
    """The most bytes that any connection keeps for writing."""
    most = 0
    for connection in world.server._service.connections:
        held: list[Any] = [getattr(connection, "_rest", None) or b""]
        held += getattr(connection, "_behind", None) or []
        held += getattr(connection, "_pending", [])
        most = max(most, sum(map(len, held)))
    return most


async def test_who_never_reads_is_evicted_once_and_nobody_waits_for_it(driver: Driver) -> None:
    """Row 55; defect 12 of the seed: an evicted client is told why."""
    async with serving(driver, limits=FAST) as world:
        ann = await world.join("ann")
        sloth = await world.join("sloth", receive_buffer_bytes=4096)
        await ann.receive_until({**left("sloth"), "type": "user_joined", "content": "sloth joined the room"})
        sent = 0
        while "sloth" in world.runtime.members("lobby"):
            await ann.say(f"{sent:0400}")
            wire = await ann.receive()
            if wire == left("sloth"):
                break
            assert wire == chat("ann", f"{sent:0400}")
            sent += 1
            assert sent < 1000, "never evicted"
        assert sent > FAST.lag_messages
        rest = await ann.receive_until(roster("ann"))
        assert left("sloth") in rest or wire == left("sloth")
        assert world.runtime.statistics().evictions == {"slow_consumer": 1}
        # It reads now: what it had been given, whole frames in order, then why.
        number = 0
        while (got := await sloth.frame()).opcode == TEXT:
            assert f'"{number:0400}"'.encode() in got.payload
            number += 1
        assert close_of(got) == (1008, "slow_consumer")
        assert number < sent


async def test_a_member_behind_in_bytes_is_slow_too(driver: Driver) -> None:
    """Defect 10 of the seed: the queue is bounded in bytes."""
    limits = Limits(
        lag_messages=1e9, lag_bytes=100_000, send_buffer_bytes=4096, message_rate_per_s=1e9, message_burst=1e9
    )
    async with serving(driver, limits=limits) as world:
        ann = await world.join("ann")
        await world.join("sloth", receive_buffer_bytes=4096)
        said = 0
        while "sloth" in world.runtime.members("lobby"):
            await ann.say("x" * 500)
            await ann.receive()
            said += 1
            assert said < 500
        assert said > 100
        [room] = world.runtime.hub._rooms.values()
        for log in room.lanes.values():
            assert log.totals[-1] - log.totals[0] <= 200_000


async def test_a_slow_members_memory_is_one_chunk(driver: Driver) -> None:
    """Law 5: what it has not read is a range of the room's log."""
    limits = Limits(lag_messages=1e9, lag_bytes=1e9, send_buffer_bytes=4096, chunk_bytes=10_000)
    async with serving(driver, limits=limits) as world:
        for number in range(5):
            await world.join(f"sloth{number}", receive_buffer_bytes=4096)
        for number in range(2000):
            world.runtime.publish("lobby", "x" * 200)
            if number % 100 == 0:
                await turn(8)
        await turn(30)
        assert blocked(world) == 5
        assert most_held(world) <= 10_000


async def lag_behind(world: World, messages: int) -> Peer:
    """A member that is blocked and has so many messages of 400 bytes to come."""
    sloth = await world.join("sloth", receive_buffer_bytes=4096)
    for number in range(messages):
        world.runtime.publish("lobby", f"{number:0400}")
    await until(lambda: blocked(world) == 1)
    await turn()
    return sloth


LAGGING = Limits(send_buffer_bytes=4096, lag_messages=1e9, chunk_bytes=3000)


@pytest.mark.parametrize("order", ["kick", "close_room", "drain"])
async def test_a_blocked_member_that_must_go_gets_the_rest_as_it_reads(driver: Driver, order: str) -> None:
    async with serving(driver, limits=LAGGING) as world:
        sloth = await lag_behind(world, 200)
        async with anyio.create_task_group() as tasks:
            if order == "kick":
                world.runtime.kick("sloth")
            elif order == "close_room":
                world.runtime.close_room("lobby")
            else:
                tasks.start_soon(world.runtime.drain)
            await turn()
            assert most_held(world) <= 3000
            for number in range(200):
                assert await sloth.receive() == chat("", f"{number:0400}")
                assert most_held(world) <= 3000
            ends = {"kick": (1008, "kicked"), "close_room": (1008, "room_closed"), "drain": (1012, "draining")}
            assert await sloth.closed() == ends[order]
        await until(lambda: world.is_quiet)


async def test_a_stopping_server_gives_blocked_members_the_rest_as_they_read(driver: Driver) -> None:
    """... and neither hears that the other goes."""
    async with anyio.create_task_group() as tasks, serving(driver, limits=LAGGING) as world:
        slow = [await world.join(user, receive_buffer_bytes=4096) for user in ("ann", "bob")]
        for number in range(200):
            world.runtime.publish("lobby", f"{number:0400}")
        await until(lambda: blocked(world) == 2)
        await turn()
        world.peers.clear()  # they stay open while the server ends

        async def read() -> None:
            await until(lambda: all(c.phase is Phase.CLOSING for c in world.server._service.connections))
            assert most_held(world) <= 3000
            for peer in slow:
                wires = await peer.receive_until(chat("", f"{199:0400}"))
                assert wires[-200:] == [chat("", f"{number:0400}") for number in range(200)]
                assert await peer.closed() == (1012, "draining")

        tasks.start_soon(read)


async def test_a_kicked_member_that_closes_before_it_has_all_is_answered_at_once(driver: Driver) -> None:
    async with serving(driver, limits=LAGGING) as world:
        sloth = await lag_behind(world, 200)
        world.runtime.kick("sloth")
        await turn()
        await sloth.send(close(1000))
        await until(lambda: all(c.phase is Phase.ENDING for c in world.server._service.connections))
        received = 0
        while (got := await sloth.frame()).opcode == TEXT:
            received += 1
        assert close_of(got) == (1008, "kicked")
        assert received < 100
        assert await sloth.end() == b""


async def test_a_burst_of_the_programs_evicts_no_healthy_reader(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        for number in range(2000):
            world.runtime.publish("lobby", str(number))
        async with anyio.create_task_group() as tasks:
            for peer in (ann, bob):

                async def read(peer: object = peer) -> None:
                    for number in range(2000):
                        assert await peer.receive() == chat("", str(number))  # type: ignore[attr-defined]

                tasks.start_soon(read)
        assert world.runtime.statistics().evictions == {}


def times_of_progress(world: World, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the hub is told from now on that a member is blocked, or that a blocked one took something; it grows."""
    application = world.server._service.application
    told: list[float] = []

    def noting(tell: Callable[[Connection], None]) -> Callable[[Connection], None]:
        def note(connection: Connection) -> None:
            told.append(world.clock.now())
            tell(connection)

        return note

    monkeypatch.setattr(application, "blocked", noting(application.blocked))
    monkeypatch.setattr(application, "writable", noting(application.writable))
    return told


async def test_a_stuck_write_is_timed_out_after_10_seconds(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = Limits(send_buffer_bytes=4096, lag_messages=1e9)
    async with serving(driver, limits=limits) as world:
        told = times_of_progress(world, monkeypatch)
        ann = await world.join("ann")
        await world.join("sloth", receive_buffer_bytes=4096)
        await ann.receive_until({**left("sloth"), "type": "user_joined", "content": "sloth joined the room"})
        for _ in range(100):
            world.runtime.publish("lobby", "x" * 400)
            assert (await ann.receive())["type"] == "chat"
        await until(lambda: told)
        # The kernel may take a little more meanwhile, as it does when it probes a closed window: that is progress.
        while "sloth" in world.runtime.members("lobby"):
            assert world.clock.now() - told[-1] < 12
            world.clock.advance(0.5)
            await turn()
        assert 10 <= world.clock.now() - told[-1] <= 11.5, (
            "a write may be under way for a second before it is called stuck"
        )
        assert await ann.receive() == left("sloth")
        assert await ann.receive() == roster("ann")
        assert world.runtime.statistics().evictions == {"slow_consumer": 1}


async def test_a_byte_a_second_is_no_progress(driver: Driver) -> None:
    """Row 56."""
    limits = Limits(send_buffer_bytes=4096, lag_messages=1e9)
    async with serving(driver, limits=limits) as world:
        ann = await world.join("ann")
        sloth = await world.join("sloth", receive_buffer_bytes=4096)
        await ann.receive_until({**left("sloth"), "type": "user_joined", "content": "sloth joined the room"})
        for _ in range(100):
            world.runtime.publish("lobby", "x" * 400)
            assert (await ann.receive())["type"] == "chat"
        await until(lambda: blocked(world) == 1)
        await turn()
        # The kernel may let the first byte through as a little progress; what comes after is none.
        for _ in range(25):
            assert len(sloth.sock.recv(1)) == 1
            world.clock.advance(1)
            await turn(8)
            if world.runtime.members("lobby") == ("ann",):
                break
        assert await ann.receive() == left("sloth")
        assert world.runtime.statistics().evictions == {"slow_consumer": 1}


async def test_a_slow_reader_that_makes_progress_stays(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 55: some kilobytes in ten seconds, of a chunk that takes it minutes."""
    limits = Limits(send_buffer_bytes=4096, lag_messages=1e9, lag_bytes=1e9, chunk_bytes=1e6)
    async with serving(driver, limits=limits) as world:
        told = times_of_progress(world, monkeypatch)
        sloth = await lag_behind(world, 500)
        world.clock.advance(1.1)  # a stream's write says then that it is stuck, if nothing more waits behind it
        await until(lambda: told)
        for _ in range(5):
            await sloth.receive_exactly(20_000)
            await until(lambda: told[-1] == world.clock.now())
            world.clock.advance(9)
            await turn(8)
        assert world.runtime.members("lobby") == ("sloth",)


async def test_who_reads_again_in_time_gets_everything_in_order(driver: Driver) -> None:
    limits = Limits(send_buffer_bytes=4096, lag_messages=1e9, chunk_bytes=3000)
    async with serving(driver, limits=limits) as world:
        ann = await world.join("ann")
        sloth = await world.join("sloth", receive_buffer_bytes=4096)
        await ann.receive_until({**left("sloth"), "type": "user_joined", "content": "sloth joined the room"})
        for number in range(200):
            world.runtime.publish("lobby", f"{number:0400}")
            assert await ann.receive() == chat("", f"{number:0400}")
        await until(lambda: blocked(world) == 1)
        world.clock.advance(9)
        await turn()
        for number in range(200):
            assert await sloth.receive() == chat("", f"{number:0400}")
        world.runtime.publish("lobby", "again")
        assert await sloth.receive() == chat("", "again")
        world.clock.advance(20)
        await turn()
        assert world.runtime.members("lobby") == ("ann", "sloth")


async def test_a_stalled_member_that_is_kicked_is_cut_in_the_end(driver: Driver) -> None:
    limits = Limits(send_buffer_bytes=4096, lag_messages=1e9)
    async with serving(driver, limits=limits) as world:
        await world.join("sloth", receive_buffer_bytes=4096)
        for _ in range(100):
            world.runtime.publish("lobby", "x" * 400)
        await until(lambda: blocked(world) == 1)
        await turn()
        world.runtime.kick("sloth")
        assert world.runtime.rooms() == ()
        await turn()
        world.clock.advance(5.1)
        await until(lambda: world.is_quiet)


async def test_several_slow_members_leave_once_each_and_all_see_one_order(driver: Driver) -> None:
    """Row 62."""
    async with serving(driver, limits=FAST) as world:
        ann, bob = await world.room_of("ann", "bob")
        for number in range(3):
            await world.join(f"sloth{number}", receive_buffer_bytes=4096)
        said = 0
        seen: list[Wire] = []
        others: list[Wire] = []
        while len(world.runtime.members("lobby")) > 2:
            words = chat("ann", f"{said:0400}")
            await ann.say(words["content"])
            seen += await ann.receive_until(words)
            others += await bob.receive_until(words)
            said += 1
            assert said < 1000
        world.runtime.publish("lobby", "end")
        seen += await ann.receive_until(chat("", "end"))
        others += await bob.receive_until(chat("", "end"))
        assert others == seen
        members = {"ann", "bob"}
        for wire in seen:
            if wire["type"] == "user_joined":
                members.add(wire["username"])
            elif wire["type"] == "user_left":
                members.remove(wire["username"])
            elif wire["type"] == "online_users":
                assert set(wire["content"].split(",")) >= members - {wire["username"]}
        assert members == {"ann", "bob"}
        assert world.runtime.statistics().evictions == {"slow_consumer": 3}


# -- floods -----------------------------------------------------------------------------------------------------------


async def test_rooms_are_capped_and_empty_ones_freed(driver: Driver) -> None:
    """Row 57."""
    async with serving(driver, limits=Limits(rooms=2)) as world:
        first = await world.join("ann", "one")
        await world.join("ann", "two")
        third = await world.open("ann", "three")
        assert await third.closed() == (1013, "over_capacity")
        first.disconnect()
        await until(lambda: world.runtime.rooms() == ("two",))
        await world.join("ann", "three")


async def test_join_and_leave_spam_ends_with_nothing(driver: Driver) -> None:
    """Row 58, and defect 4 of the seed."""
    async with serving(driver) as world:
        ann = await world.join("ann")
        for _ in range(30):
            peers = [world.connect() for _ in range(5)]
            for number, peer in enumerate(peers):
                await peer.send(request(f"/ws/lobby?username=user{number}"))
            for peer in peers:
                peer.disconnect()
        await world.get("/health")  # so all before it were accepted
        await until(lambda: world.server.connections == 1)
        world.runtime.publish("lobby", "end")
        members = {"ann"}
        for wire in await ann.receive_until(chat("", "end")):
            if wire["type"] == "user_joined":
                members.add(wire["username"])
            elif wire["type"] == "user_left":
                members.remove(wire["username"])
        assert members == {"ann"}
        assert world.runtime.members("lobby") == ("ann",)


async def test_connections_of_one_address_are_capped(driver: Driver) -> None:
    """Row 59: it is told, and may still ask how the server is."""
    async with serving(driver, limits=Limits(connections_per_address=3)) as world:
        peers = [await world.join(f"user{number}") for number in range(3)]
        response = await world.refused(request("/ws/lobby?username=more"))
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        assert (await world.get("/health")).status == 200
        peers[0].disconnect()
        await until(lambda: world.server.connections == 2)
        await world.join("more")


async def test_a_trusted_proxy_is_not_capped_at_the_door(driver: Driver) -> None:
    """Row 59: all its clients have one address there."""
    limits = Limits(connections_per_address=1)
    async with serving(driver, limits=limits, trusted_proxies=["127.0.0.0/8"]) as world:
        for number in range(4):
            await world.open(f"user{number}", lines=[f"X-Forwarded-For: 192.0.2.{number}"])
        response = await world.refused(request("/ws/lobby?username=more", lines=["X-Forwarded-For: 192.0.2.0"]))
        assert (response.status, response.headers["retry-after"]) == (503, "5")


async def test_connections_in_all_are_capped(driver: Driver) -> None:
    async with serving(driver, limits=Limits(connections=1)) as world:
        await world.join("ann")
        response = await world.refused(request("/ws/lobby?username=more"))
        assert (response.status, response.headers["retry-after"]) == (503, "5")


async def test_sockets_in_all_are_capped_at_twice_the_connections(driver: Driver) -> None:
    async with serving(driver, limits=Limits(connections=1)) as world:
        silent = [world.connect() for _ in range(2)]
        await until(lambda: world.server.connections == 2)
        response = await world.connect().response()
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        silent[0].disconnect()
        await until(lambda: world.server.connections == 1)
        assert (await world.get("/health")).status == 200


async def test_who_was_answered_and_does_not_go_counts_at_the_door(driver: Driver) -> None:
    async with serving(driver, limits=Limits(connections_per_address=1)) as world:
        for _ in range(2):
            peer = world.connect()
            await peer.send(b"nonsense\r\n\r\n")
            assert (await peer.response()).status == 400
        for _ in range(5):
            more = world.connect()
            assert (await more.response()).status == 503
            assert await more.end() == b""
        assert world.server.connections == 2
        world.clock.advance(5.1)
        await until(lambda: world.server.connections == 0)
        await world.join("ann")


@pytest.mark.parametrize("trusted", [(), ("10.0.0.0/8",)], ids=["no proxy", "other proxy"])
async def test_a_flood_of_silent_connections_is_refused_at_the_door(driver: Driver, trusted: Sequence[str]) -> None:
    """Row 59: twice as many sockets as connections, then 503 before anything is allocated."""
    limits = Limits(connections_per_address=2)
    async with serving(driver, limits=limits, trusted_proxies=trusted) as world:
        silent = [world.connect() for _ in range(4)]
        await until(lambda: world.server.connections == 4)
        peer = world.connect()
        response = await peer.response()
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        assert await peer.end() == b""
        assert world.server.connections == 4
        # Each that goes makes room; the time of the others ends too.
        silent[0].disconnect()
        await until(lambda: world.server.connections == 3)
        await world.join("ann")
        world.clock.advance(10.1)
        for other in silent[1:]:
            assert (await other.response()).status == 408
            other.disconnect()
        await until(lambda: world.server.connections == 1)
        assert world.server._service.live == {"127.0.0.1": 1}


async def test_a_storm_of_stops_and_joins_ends(driver: Driver) -> None:
    """Defects 5 and 14 of the seed: the server stops while many come and go."""
    clock = ManualClock()
    async with serving(driver, clock=clock, limits=Limits(connections_per_address=1000)) as world:
        await world.join("ann")
        for number in range(100):
            peer = world.connect()
            await peer.send(request(f"/ws/lobby?username=user{number}"))
            if number % 3 == 0:
                peer.reset()
            elif number % 3 == 1:
                peer.disconnect()
            if number == 60:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(world.runtime.drain)
                    await turn(3)
                    for other in world.peers:
                        other.sock.close()
        await until(lambda: world.runtime.hub.is_empty)
        assert world.runtime.rooms() == ()


async def test_a_late_answer_to_the_close_gives_no_further_time(driver: Driver) -> None:
    async with serving(driver) as world:
        _, bob = await world.room_of("ann", "bob")
        world.runtime.kick("bob")
        assert await bob.close_frame() == (1008, "kicked")
        world.clock.advance(4.9)
        await bob.send(close())
        assert await bob.end() == b""
        assert world.server.connections == 2
        world.clock.advance(0.2)
        await until(lambda: world.server.connections == 1)


async def test_a_read_full_of_pongs_is_heard_once(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    times = 0
    heard = ChatApplication.heard

    def count(self: ChatApplication, connection: Any) -> None:
        nonlocal times
        times += 1
        heard(self, connection)

    async with serving(driver) as world:
        ann = await world.join("ann")
        monkeypatch.setattr(ChatApplication, "heard", count)
        await ann.send(frame(PONG) * 100 + text("hi"))
        assert await ann.receive() == chat("ann", "hi")
        assert times == 1


async def test_a_ping_flood_is_stopped_within_one_read(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 33: however much of it has come in."""
    pings = 0

    class Counting(frames.Ping):
        def __init__(self, payload: bytes) -> None:
            nonlocal pings
            pings += 1
            super().__init__(payload)

    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        monkeypatch.setattr(frames, "Ping", Counting)
        await bob.send(frame(PING) * 20_000)
        assert await bob.closed() == (1008, "rate_limited")
        assert 250 < pings <= reactor.READ_BYTES // 6 + 1
        assert await ann.receive() == left("bob")


async def test_many_ready_sockets_do_not_keep_other_tasks_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0
    on_readable = reactor.ReactorConnection.on_readable

    def count(self: reactor.ReactorConnection) -> None:
        nonlocal read
        read += 1
        on_readable(self)

    async with serving("reactor", limits=Limits(join_burst=1000)) as world:
        peers = [await world.join("ann", f"room{number}") for number in range(100)]
        await turn()
        monkeypatch.setattr(reactor, "YIELD_AFTER_S", 0)
        monkeypatch.setattr(reactor.ReactorConnection, "on_readable", count)
        for peer in peers:
            peer.sock.send(text("hi"))
        seen = []
        while read < 100:
            await turn(1)
            seen.append(read)
        assert {32, 64, 96} & set(seen)
        for number, peer in enumerate(peers):
            assert await peer.receive() == chat("ann", "hi", f"room{number}")
        # Who is cut while others are being served is passed over.
        await turn()
        for peer in peers:
            peer.sock.send(text("more"))
        while read < 132:
            await turn(1)
        for connection in list(world.server._service.connections):
            connection.cut()
        assert world.server.connections == 0
        await until(lambda: world.is_quiet)
        assert read < 200
