"""The seed's wire, and every orderly way to come and go, through sockets."""

import contextlib
import socket

import anyio
import pytest
from anyio.abc import SocketStream

from roomhub import Limits, Runtime, application_close_reason
from roomhub.testing import ManualClock
from roomhub.transports.websocket import serve
from tests.transports.websocket.support import (
    ACCEPT,
    PING,
    PONG,
    Driver,
    Peer,
    Wire,
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


# -- the seed's wire --------------------------------------------------------------------------------------------------


async def test_the_101_is_the_whole_of_the_answer(driver: Driver) -> None:
    async with serving(driver) as world:
        peer = world.connect()
        response = await peer.upgrade(request())
        assert response.headers == {
            "upgrade": "websocket",
            "connection": "Upgrade",
            "sec-websocket-accept": ACCEPT,
        }


async def test_join_chat_and_leave_are_the_seeds_wire(driver: Driver) -> None:
    async with serving(driver) as world:
        ann = await world.open("ann")
        assert await ann.receive() == roster("ann")
        assert await ann.receive() == joined("ann")
        bob = await world.open("bob")
        for peer in (ann, bob):
            assert await peer.receive() == roster("ann", "bob")
            assert await peer.receive() == joined("bob")
        await bob.say("hello")
        for peer in (ann, bob):
            assert await peer.receive() == chat("bob", "hello")
        await bob.send(close(1000))
        assert await bob.closed() == (1000, "")
        assert await ann.receive() == left("bob")
        assert await ann.receive() == roster("ann")


@pytest.mark.parametrize(
    "content",
    ["", " ", '{"type":"user_left"}', "</script>\u2028", "\x00\x1b[31m\r\n\t", "ünï 漢字 \U0001f600", "x" * 512],
)
async def test_content_goes_round_as_it_is(driver: Driver, content: str) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        await ann.say(content)
        assert await ann.receive() == await bob.receive() == chat("ann", content)


async def test_a_percent_encoded_name_is_shown_decoded(driver: Driver) -> None:
    async with serving(driver) as world:
        peer = await world.open("J%C3%BCrgen+M.", room="%6c%6Fbby")
        assert await peer.receive() == roster("Jürgen M.")
        assert await peer.receive() == joined("Jürgen M.")
        await peer.say("hi")
        assert await peer.receive() == chat("Jürgen M.", "hi")


async def test_rooms_hear_nothing_of_one_another(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob", room="red")
        [eve] = await world.room_of("eve", room="blue")
        assert set(world.runtime.rooms()) == {"red", "blue"}
        await eve.say("secret")
        assert await eve.receive() == chat("eve", "secret", "blue")
        await ann.say("open")
        assert await ann.receive() == await bob.receive() == chat("ann", "open", "red")
        eve.disconnect()
        await until(lambda: world.runtime.rooms() == ("red",))
        await bob.say("on")
        assert await ann.receive() == await bob.receive() == chat("bob", "on", "red")


async def test_everybody_sees_one_order_and_a_senders_messages_keep_theirs(driver: Driver) -> None:
    users = ["ann", "bob", "eve", "joe"]
    async with serving(driver) as world:
        peers = await world.room_of(*users)
        async with anyio.create_task_group() as tasks:
            for user, peer in zip(users, peers, strict=True):
                tasks.start_soon(peer.send, b"".join(text(f"{user} {number}") for number in range(50)))
        seen = [[await peer.receive() for _ in range(200)] for peer in peers]
        assert seen[0] == seen[1] == seen[2] == seen[3]
        for user in users:
            assert [wire["content"] for wire in seen[0] if wire["username"] == user] == [
                f"{user} {number}" for number in range(50)
            ]


async def test_the_same_user_twice_is_present_once_until_the_last_leaves(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        again = await world.open("bob")
        # Only the further session hears of itself.
        assert await again.receive() == roster("ann", "bob")
        assert await again.receive() == joined("bob")
        await again.say("me too")
        for peer in (ann, bob, again):
            assert await peer.receive() == chat("bob", "me too")
        bob.disconnect()
        await until(lambda: world.server.connections == 2)
        assert world.runtime.members("lobby") == ("ann", "bob")
        await again.say("still here")
        assert await ann.receive() == await again.receive() == chat("bob", "still here")
        again.disconnect()
        assert await ann.receive() == left("bob")
        assert await ann.receive() == roster("ann")


async def test_an_empty_room_is_gone_and_one_of_its_name_starts_anew(driver: Driver) -> None:
    async with serving(driver) as world:
        ann = await world.join("ann")
        await ann.say("forget me")
        await ann.receive()
        assert [message.content for message in world.runtime.history("lobby")] == ["forget me"]
        ann.disconnect()
        await until(lambda: world.is_quiet)
        assert world.runtime.rooms() == ()
        bob = await world.open("bob")
        assert await bob.receive() == roster("bob")
        assert await bob.receive() == joined("bob")
        assert world.runtime.history("lobby") == []


async def test_what_the_program_publishes_reaches_everybody(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        world.runtime.publish("lobby", "closing at ten", "janitor")
        position = await world.runtime.publish_confirmed("lobby", "or nine")
        assert position.offset == 2
        for peer in (ann, bob):
            assert await peer.receive() == chat("janitor", "closing at ten")
            assert await peer.receive() == chat("", "or nine")


async def test_publishing_from_a_thread_reaches_everybody(driver: Driver) -> None:
    async with serving(driver) as world:
        [ann] = await world.room_of("ann")
        position = await anyio.to_thread.run_sync(world.runtime.publish_from_thread, "lobby", "hi", "bot")
        assert position.offset == 1
        assert await ann.receive() == chat("bot", "hi")


# -- ways to go -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sent", "answered"), [(1000, 1000), (1001, 1001), (3999, 3999), (4999, 4999), (None, None)])
async def test_a_clients_close_is_answered_with_its_code(
    driver: Driver, sent: int | None, answered: int | None
) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        await bob.send(close(sent))
        assert await bob.close_frame() == (answered, "")
        assert await bob.end() == b""
        # The leave comes with the close, not with the end of the connection.
        assert await ann.receive() == left("bob")
        assert await ann.receive() == roster("ann")


async def test_a_client_that_closes_and_half_closes_still_gets_the_answer(driver: Driver) -> None:
    async with serving(driver) as world:
        for _ in range(5):  # trio shuffles its tasks
            bob = await world.join("bob")
            await bob.send(close(4321))
            bob.half_close()
            assert await bob.close_frame() == (4321, "")
            assert await bob.end() == b""


async def test_an_http_client_that_half_closes_still_gets_the_answer(driver: Driver) -> None:
    async with serving(driver) as world:
        for _ in range(5):
            peer = world.connect()
            await peer.send(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            peer.half_close()
            assert (await peer.response()).json() == {"status": "ok"}
            assert await peer.end() == b""


async def test_a_kick_closes_with_1008_and_its_name_after_what_was_said(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        world.runtime.publish("lobby", "last words")
        world.runtime.kick("bob")
        assert await bob.receive() == chat("", "last words")
        assert await bob.closed() == (1008, "kicked")
        assert await ann.receive() == chat("", "last words")
        assert await ann.receive() == left("bob")
        assert await ann.receive() == roster("ann")
        assert world.runtime.statistics().evictions == {"kicked": 1}


async def test_a_kick_may_give_the_programs_own_reason(driver: Driver) -> None:
    async with serving(driver) as world:
        bob = await world.join("bob")
        world.runtime.kick("bob", "lobby", close_reason=application_close_reason("out of credit", 4500))
        assert await bob.closed() == (1008, "out of credit")


async def test_closing_a_room_closes_all_in_it_and_nobody_else(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        [eve] = await world.room_of("eve", room="den")
        world.runtime.close_room("lobby")
        assert await ann.closed() == await bob.closed() == (1008, "room_closed")
        assert world.runtime.rooms() == ("den",)
        await eve.say("quiet here")
        assert await eve.receive() == chat("eve", "quiet here", "den")


async def test_a_drain_writes_what_was_said_then_closes_with_1012(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        async with anyio.create_task_group() as tasks:
            world.runtime.publish("lobby", "good night")
            tasks.start_soon(world.runtime.drain)
            for peer in (ann, bob):
                assert await peer.receive() == chat("", "good night")
                assert await peer.closed() == (1012, "draining")
        assert world.is_quiet
        response = await world.refused(request())
        # Not five, as where there is no place: those it has closed may come back from half a second on.
        assert (response.status, response.headers["retry-after"]) == (503, "1")
        assert (await world.get("/health")).status == 503


async def test_a_drain_gives_up_on_peers_that_ignore_it(driver: Driver) -> None:
    async with serving(driver, limits=Limits(drain_timeout_s=3)) as world:
        ann = await world.join("ann")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.runtime.drain)
            assert await ann.close_frame() == (1012, "draining")
            await turn()
            world.clock.advance(3)
        assert not world.runtime.hub.is_empty
        world.clock.advance(2)
        assert await ann.end() == b""


async def test_leaving_the_server_closes_with_1012_after_what_was_said(driver: Driver) -> None:
    """Defect 14 of the seed: a notice, a drain, then nothing left."""
    clock = ManualClock()
    ends: list[tuple[int | None, str]] = []
    said: list[list[Wire]] = []
    async with anyio.create_task_group() as tasks, serving(driver, clock=clock) as world:
        ann, bob = await world.room_of("ann", "bob")
        silent = world.connect()
        await until(lambda: world.server.connections == 3)
        world.peers.clear()  # they stay open while the server ends

        async def leave_properly() -> None:
            for peer in (ann, bob):
                said.append([await peer.receive()])
                ends.append(await peer.closed())
            # Who had not said anything yet is cut.
            assert await silent.end() == b""
            silent.disconnect()

        tasks.start_soon(leave_properly)
        world.runtime.publish("lobby", "that was all")
    assert said == [[chat("", "that was all")]] * 2
    assert ends == [(1012, "draining")] * 2


async def test_leaving_the_server_cuts_who_ignores_the_close(driver: Driver) -> None:
    clock = ManualClock()
    async with anyio.create_task_group() as tasks, serving(driver, clock=clock) as world:
        ann = await world.join("ann")
        world.peers.clear()

        async def ignore() -> None:
            assert await ann.close_frame() == (1012, "draining")
            await turn()
            clock.advance(4.9)
            await turn()
            with pytest.raises(BlockingIOError):
                ann.sock.recv(1)
            clock.advance(0.2)
            assert await ann.end() == b""
            ann.disconnect()

        tasks.start_soon(ignore)


async def test_a_cancelled_server_says_goodbye_too(driver: Driver) -> None:
    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with serving(driver) as world:
                ann = await world.join("ann")
                world.peers.clear()
                ends: list[tuple[int | None, str]] = []

                async def receive() -> None:
                    ends.append(await ann.closed())

                tasks.start_soon(receive)
                scope.cancel()
                await anyio.sleep_forever()
    assert ends == [(1012, "draining")]


async def test_a_new_client_is_not_taken_while_the_server_ends(driver: Driver) -> None:
    clock = ManualClock()
    async with anyio.create_task_group() as tasks, serving(driver, clock=clock) as world:
        ann = await world.join("ann")
        world.peers.clear()

        async def try_again() -> None:
            assert await ann.close_frame() == (1012, "draining")
            # The listening socket may take one more turn to go; what came in by then is ended, not kept waiting.
            with contextlib.suppress(ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
                late = world.connect()
                await late.send(request())
                assert await late.end() == b""
                late.disconnect()
            ann.disconnect()

        tasks.start_soon(try_again)


async def test_the_runtime_goes_on_when_one_of_its_servers_ends(driver: Driver) -> None:
    async with serving(driver) as first:
        runtime = first.runtime
        ann = await first.join("ann")
        async with serve(runtime, port=0, driver=driver) as second:
            peer = first.connect(port=second.port)
            await peer.upgrade(request("/ws/lobby?username=bob"))
            assert await ann.receive() == roster("ann", "bob")
            assert await ann.receive() == joined("bob")
            peer.disconnect()
            assert await ann.receive() == left("bob")
            assert await ann.receive() == roster("ann")
        await ann.say("still here")
        assert await ann.receive() == chat("ann", "still here")


# -- time -------------------------------------------------------------------------------------------------------------


async def test_a_client_is_pinged_at_54_seconds_and_its_pong_keeps_it(driver: Driver) -> None:
    async with serving(driver) as world:
        ann = await world.join("ann")
        for _ in range(3):
            world.clock.advance(53.9)
            await turn()
            with pytest.raises(BlockingIOError):
                ann.sock.recv(1)
            world.clock.advance(0.1)
            ping = await ann.frame()
            assert ping.opcode == PING
            await ann.send(frame(PONG, ping.payload))
            heard = frame(PING, b"are you there")
            await ann.send(heard)
            assert (await ann.frame()).opcode == PONG  # so the pong was read
        assert world.runtime.members("lobby") == ("ann",)


async def test_a_client_that_does_not_pong_is_closed_at_60_seconds(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        world.clock.advance(54)
        for peer in (ann, bob):
            assert (await peer.frame()).opcode == PING
        await ann.send(frame(PONG))
        await ann.send(frame(PING))
        assert (await ann.frame()).opcode == PONG
        world.clock.advance(6)
        assert await bob.closed() == (1008, "no_pong")
        assert await ann.receive() == left("bob")
        assert await ann.receive() == roster("ann")
        assert world.runtime.statistics().evictions == {"no_pong": 1}


@pytest.mark.parametrize(
    "sign", [text("x"), text("x")[:3], frame(PING), frame(PONG)], ids=["text", "part", "ping", "pong"]
)
async def test_whatever_is_heard_counts_as_life(driver: Driver, sign: bytes) -> None:
    async with serving(driver, limits=Limits(message_timeout_s=1000)) as world:
        ann = await world.join("ann")
        world.clock.advance(50)
        await turn()
        await ann.send(sign)
        await turn()
        for seconds in (4, 54, 1.9):  # pinged meanwhile, without an answer
            world.clock.advance(seconds)
            await turn()
        assert world.runtime.members("lobby") == ("ann",)
        world.clock.advance(0.2)
        assert await ann.closed() == (1008, "no_pong")


async def test_a_user_who_says_nothing_is_idle_however_often_it_pongs(driver: Driver) -> None:
    limits = Limits(idle_timeout_s=100)
    async with serving(driver, limits=limits) as world:
        ann = await world.join("ann")
        world.clock.advance(54)
        assert (await ann.frame()).opcode == PING
        await ann.send(frame(PONG) + frame(PING))
        assert (await ann.frame()).opcode == PONG
        world.clock.advance(46)
        assert await ann.closed() == (1008, "idle")


async def test_over_its_rate_a_client_is_closed_and_nothing_of_the_burst_is_lost(driver: Driver) -> None:
    limits = Limits(message_rate_per_s=2, message_burst=5)
    async with serving(driver, limits=limits) as world:
        ann, bob = await world.room_of("ann", "bob")
        await bob.send(b"".join(text(str(number)) for number in range(6)))
        for number in range(5):
            assert await ann.receive() == chat("bob", str(number))
            assert await bob.receive() == chat("bob", str(number))
        assert await bob.closed() == (1008, "rate_limited")
        assert await ann.receive() == left("bob")


async def test_at_its_rate_a_client_stays(driver: Driver) -> None:
    limits = Limits(message_rate_per_s=2, message_burst=1)
    async with serving(driver, limits=limits) as world:
        ann = await world.join("ann")
        for number in range(5):
            await ann.say(str(number))
            assert await ann.receive() == chat("ann", str(number))
            world.clock.advance(0.5)


# -- the program's callbacks ------------------------------------------------------------------------------------------


async def test_callbacks_hear_of_users_and_messages(driver: Driver) -> None:
    heard: list[str] = []
    clock = ManualClock()
    runtime = Runtime(
        clock=clock,
        on_join=lambda room, user: heard.append(f"{user} into {room}"),
        on_leave=lambda room, user: heard.append(f"{user} out of {room}"),
        on_message=lambda message: heard.append(f"{message.username}: {message.content} #{message.offset}"),
    )
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann = await world.join("ann")
        again = await world.join("ann")
        await ann.say("hi")
        await ann.receive()
        ann.disconnect()
        again.disconnect()
        await until(lambda: world.is_quiet)
    assert heard == ["ann into lobby", "ann: hi #1", "ann out of lobby"]


async def test_a_refused_join_is_closed_with_a_reason_and_nobody_hears_of_it(driver: Driver) -> None:
    clock = ManualClock()
    runtime = Runtime(clock=clock, allow_join=lambda room, username: username != "eve")
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann = await world.join("ann")
        eve = await world.open("eve")
        assert await eve.closed() == (1008, "forbidden")
        await ann.say("alone")
        assert await ann.receive() == chat("ann", "alone")


async def test_a_message_may_be_rewritten_or_refused(driver: Driver) -> None:
    clock = ManualClock()
    runtime = Runtime(clock=clock, rewrite_message=lambda m: None if "spam" in m.content else m.content.upper())
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann, bob = await world.room_of("ann", "bob")
        await bob.send(text("spam") + text("eggs"))
        assert await ann.receive() == await bob.receive() == chat("bob", "EGGS")
        assert world.runtime.statistics().messages_dropped == 1


async def test_a_client_may_be_let_into_a_further_room_and_out_of_it(driver: Driver) -> None:
    async with serving(driver) as world:
        await world.join("ann")
        eve = await world.join("eve", "den")
        ann = world.peers[0]
        client = world.runtime.hub.clients()[0]
        world.runtime.enter_room(client, "den")
        assert await ann.receive() == roster("eve", "ann", room="den")
        assert await ann.receive() == joined("ann", "den")
        assert await eve.receive() == roster("eve", "ann", room="den")
        assert await eve.receive() == joined("ann", "den")
        await eve.say("welcome")
        assert await ann.receive() == chat("eve", "welcome", "den")
        # What a plain client says goes to the room it came for.
        await ann.say("here")
        assert await ann.receive() == chat("ann", "here", "lobby")
        world.runtime.exit_room(client, "den")
        assert await eve.receive() == chat("eve", "welcome", "den")
        assert await eve.receive() == left("ann", "den")


@pytest.mark.parametrize("last", [close(1000), b"\x81\x01x"], ids=["close", "unmasked"])
@pytest.mark.parametrize("why", ["kicked", "rate_limited"])
async def test_a_peer_whose_end_came_along_with_what_closed_it_is_not_waited_for(
    driver: Driver, why: str, last: bytes
) -> None:
    runtime = Runtime(
        clock=ManualClock(),
        limits=Limits(message_burst=2),
        on_message=lambda message: runtime.kick(message.user) if message.content == "bye" else None,
    )
    async with serving(driver, runtime=runtime) as world:
        bob = await world.join("bob")
        await bob.send((text("bye") if why == "kicked" else text("hi") * 3) + last)
        while (end := await bob.frame()).opcode != 8:
            pass
        assert end.payload[2:].decode() == why
        assert await bob.end() == b"", "without time passing"
        bob.disconnect()
        await until(lambda: world.server.connections == 0)


async def test_a_stopping_server_takes_nobody_in(driver: Driver) -> None:
    """Not even a stream that the program, or a TLS handshake, brings while it says goodbye."""
    async with anyio.create_task_group() as tasks, serving(driver) as world:
        ann = await world.join("ann")
        world.peers.clear()  # it stays open while the server ends
        health = world.server._service.policy.pages["/health"]
        assert health().status == 200

        async def come_late() -> None:
            await until(lambda: world.server._service.is_stopping)
            assert health().status == 503
            near, far = socket.socketpair()
            far.setblocking(False)
            tasks.start_soon(world.server.handle, await SocketStream.from_socket(far))
            with contextlib.closing(near):
                late = Peer(near)
                await late.send(request())
                assert (await late.response()).status == 503
                assert await late.end() == b""
            assert await ann.closed() == (1012, "draining")

        tasks.start_soon(come_late)


async def test_what_the_program_raises_passes_by_the_server(driver: Driver) -> None:
    for error in (SystemExit(3), KeyboardInterrupt(), ValueError("mine")):
        with pytest.raises(type(error)) as caught:
            async with Runtime(clock=ManualClock()) as runtime, serve(runtime, port=0, driver=driver):
                raise error
        assert caught.value is error
