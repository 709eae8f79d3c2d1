"""The client through real sockets: with a real server, and with servers that misbehave."""

import gc
import json
import math
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from anyio.lowlevel import checkpoint

from roomhub import Limits, Runtime
from roomhub.client import (
    Backoff,
    Changed,
    ChatClosed,
    ChatError,
    Connected,
    ConnectFailed,
    DirectMessage,
    Disconnected,
    Draining,
    Event,
    Joined,
    Kicked,
    Left,
    Message,
    Missed,
    NotAnswered,
    NotConnected,
    RequestRefused,
    Restarted,
    Shout,
    StayAway,
    Typing,
    connect,
)
from roomhub.core.errors import CLOSE_REASONS
from roomhub.ports import ConnectionInfo, Identity, Refusal
from roomhub.stores.sqlite import SqliteHistory
from roomhub.testing import ManualClock
from roomhub.transports.websocket import serve
from roomhub.transports.websocket.frames import text_frame
from tests.client.support import QUICK, Line, cable_to, dial, hear, restartable, scripted
from tests.transports.websocket.support import PATIENCE_S, open_files, serving, until

pytestmark = pytest.mark.anyio


async def never() -> None:
    await anyio.sleep_forever()


# -- a healthy server --------------------------------------------------------------------------------------------------


async def test_two_talk() -> None:
    async with serving("reactor") as world, dial(world.server.url) as ann, dial(world.server.url, "ben") as ben:
        lobby = await ann.join("lobby", meta={"mood": "fine"})
        assert (ann.user, ann.username, ann.is_connected, list(ann.rooms)) == ("ann", "ann", True, ["lobby"])
        there = await ben.join("lobby")
        sent = await lobby.send("hello")
        heard = await hear(ben, Message)
        assert (heard.room, heard.user, heard.content, heard.offset) == ("lobby", "ann", "hello", sent.offset)
        assert (heard.epoch, heard.ts_ms, sent.is_repeat) == (sent.epoch, sent.ts_ms, False)
        assert there.position == (sent.epoch, 1)
        assert (await hear(ann, Message)).content == "hello", "who says it hears it too"
        assert there.members["ann"].meta == {"mood": "fine"}
        assert [(await hear(ben, Connected)) for _ in ()] == []


async def test_the_room_of_the_url() -> None:
    async with serving("reactor") as world, connect(f"{world.server.url}/ws/lobby?username=ann") as ann:
        joined = await hear(ann, Joined)
        assert (joined.room, joined.member.user) == ("lobby", "ann")
        await ann.rooms["lobby"].send("hello")
        assert (await ann.join("lobby")) is ann.rooms["lobby"]


async def test_history_comes_with_the_join_and_in_pages() -> None:
    async with serving("reactor") as world, dial(world.server.url) as ann, dial(world.server.url, "ben") as ben:
        lobby = await ann.join("lobby")
        for number in range(1, 8):
            await lobby.send(f"m{number}")
        there = await ben.join("lobby", history=2)
        assert [message.content for message in there.backlog] == ["m6", "m7"]
        page = await there.history(before=there.backlog[0].offset, limit=3)
        assert ([message.content for message in page.messages], page.more) == (["m3", "m4", "m5"], True)
        page = await there.history(before=3)
        assert ([message.content for message in page.messages], page.more) == (["m1", "m2"], False)
        page = await there.history(since=there.position._replace(offset=5))
        assert [message.content for message in page.messages] == ["m6", "m7"]
        page = await there.history(limit=1)
        assert [message.content for message in page.messages] == ["m7"]
        with pytest.raises(ValueError, match="exclude"):
            await there.history(before=1, since=there.position)
        with pytest.raises(RequestRefused) as caught:
            await there.history(since=there.position._replace(epoch="other"))
        assert caught.value.name == "unrecoverable"


async def test_a_program_goes_on_where_an_earlier_run_of_it_stopped() -> None:
    async with serving("reactor") as world, dial(world.server.url) as ann:
        lobby = await ann.join("lobby")
        seen = await lobby.send("one")
        await lobby.send("two")
        async with dial(world.server.url, "bot") as bot:
            await bot.join("lobby", since=lobby.position._replace(offset=seen.offset, epoch=seen.epoch))
            assert (await hear(bot, Message)).content == "two"


async def test_direct_messages() -> None:
    async with serving("reactor") as world, dial(world.server.url) as ann:
        assert await ann.mailbox() == ((), False)
        async with dial(world.server.url, "ben") as ben, dial(world.server.url) as phone:
            sent = await ann.dm("ben", "psst")
            assert (sent.room, sent.offset) == ("@ben", 1)
            assert (await hear(ann, DirectMessage)).offset == 1, "its copy is in the own mailbox"
            heard = await hear(ben, DirectMessage)
            assert (heard.user, heard.to, heard.content) == ("ann", "ben", "psst")
            assert (await hear(phone, DirectMessage)).to == "ben"
            page = await ben.mailbox()
            assert ([message.content for message in page.messages], page.more) == (["psst"], False)


async def test_presence_typing_and_shouts() -> None:
    async with serving("reactor") as world, dial(world.server.url) as ann, dial(world.server.url, "ben") as ben:
        lobby, there = await ann.join("lobby"), await ben.join("lobby")
        assert (await hear(ann, Joined)).member.user == "ann"
        assert (await hear(ann, Joined)).member.user == "ben"
        await there.set_meta({"mood": "fine"})
        changed = await hear(ann, Changed)
        assert (changed.member.user, changed.member.meta) == ("ben", {"mood": "fine"})
        await there.typing()
        await there.typing()
        typing = await hear(ann, Typing)
        assert (typing.user, typing.is_typing) == ("ben", True)
        await there.typing(False)
        assert not (await hear(ann, Typing)).is_typing
        await there.shout("wave", "to all")
        shout = await hear(ann, Shout)
        assert (shout.name, shout.content, shout.user) == ("wave", "to all", "ben")
        await there.leave()
        await there.leave()
        left = await hear(ann, Left)
        assert (left.member.user, left.reason, list(lobby.members)) == ("ben", "", ["ann"])
        assert (there.is_joined, list(ben.rooms)) == (False, [])
        with pytest.raises(ChatClosed, match="not in lobby"):
            await there.send("too late")
        again = await ben.join("lobby")
        await again.send("back")
        assert (await hear(ann, Message)).content == "back"


async def test_a_request_that_is_refused() -> None:
    async with serving("reactor") as world, dial(world.server.url) as ann:
        with pytest.raises(RequestRefused) as caught:
            await ann.join("a b")
        assert (caught.value.name, caught.value.code, caught.value.field) == ("bad_request", 400, "room")
        lobby = await ann.join("lobby")
        with pytest.raises(RequestRefused) as caught:
            await lobby.send("x" * 70_000)
        assert caught.value.name == "too_large"
        with pytest.raises(ValueError, match="surrogate"):
            await lobby.send("\ud800")
        await lobby.send("fine")


async def test_a_key_of_ones_own_is_good_once() -> None:
    async with serving("reactor") as world, dial(world.server.url) as ann:
        lobby = await ann.join("lobby")
        first = await lobby.send("x", key="mine")
        assert await lobby.send("x", key="mine") == first.__class__(
            first.room, first.epoch, first.offset, first.ts_ms, True
        )


async def test_more_than_the_rate_is_said_in_order_and_nothing_is_refused() -> None:
    limits = Limits(message_rate_per_s=1_000, message_burst=20)
    clock = ManualClock()
    async with (
        serving("reactor", limits=limits, clock=clock) as world,
        dial(world.server.url, clock=clock) as ann,
    ):
        lobby = await ann.join("lobby")
        clock.advance(1)
        done: list[str] = []

        async def send(content: str) -> None:
            await lobby.send(content)
            done.append(content)

        async def tick() -> None:
            while True:
                clock.advance(0.001)
                await anyio.sleep(0.001)

        async with anyio.create_task_group() as ticking:
            ticking.start_soon(tick)
            async with anyio.create_task_group() as tasks:
                for number in range(100):
                    tasks.start_soon(send, f"m{number}")
                    await checkpoint()
            ticking.cancel_scope.cancel()
        said = [message.content for message in world.runtime.history("lobby")]
        assert said == [f"m{number}" for number in range(100)]
        assert sorted(done) == sorted(said)


async def test_a_kick_from_a_room_and_from_the_server() -> None:
    async with serving("reactor") as world, dial(world.server.url) as ann:
        lobby = await ann.join("lobby")
        world.runtime.kick("ann", "lobby")
        kicked = await hear(ann, Kicked)
        assert (kicked.room, kicked.code, kicked.reason, lobby.is_joined) == ("lobby", 4004, "kicked", False)
        world.runtime.kick("ann")
        with pytest.raises(StayAway, match="4004 kicked: the user was put out") as caught:
            await hear(ann, Message)
        assert (caught.value.code, caught.value.name) == (4004, "kicked")
        with pytest.raises(StayAway):
            await ann.join("lobby")


class Rights:
    """A token is a name; ann moderates."""

    async def authenticate(self, info: ConnectionInfo) -> Identity | Refusal:
        return Identity(user=info.token, username=info.token.title()) if info.token else Refusal("show a token")

    async def authorize(self, identity: Identity, action: str, room: str) -> bool:
        return action == "join" or identity.user == "ann"


async def test_a_moderator_kicks_bans_and_mutes() -> None:
    clock = ManualClock()
    runtime = Runtime(authenticator=Rights(), clock=clock)
    async with (
        runtime,
        serve(runtime, port=0) as server,
        connect(server.url, token="ann") as ann,
        connect(server.url, token="ben") as ben,
    ):
        lobby = await ben.join("lobby")
        await ann.moderate("mute", "ben", "lobby", for_s=60, reason="calm down")
        with pytest.raises(RequestRefused, match="muted: you are muted: calm down") as muted:
            await lobby.send("what?")
        assert muted.value.retry_after_s == 60
        await ann.moderate("unmute", "ben", "lobby")
        await lobby.send("thank you")
        await ann.moderate("kick", "ben", "lobby", reason="off with you")
        assert await hear(ben, Kicked) == Kicked("lobby", 4004, "off with you")
        with pytest.raises(RequestRefused, match="this user is not here"):
            await ann.moderate("kick", "ben", "lobby")
        with pytest.raises(RequestRefused, match="forbidden: you may not ban anybody here"):
            await ben.moderate("ban", "ann")
        await ann.moderate("ban", "ben", "lobby", for_s=2.007)
        assert [each.until_ms for each in runtime.sanctions()] == [clock.unix_ms() + 2_007]
        with pytest.raises(RequestRefused, match="you are banned from this room"):
            await ben.join("lobby")
        clock.advance(2.007)
        await ben.join("lobby")
        await ann.moderate("ban", "ben", for_s=60, reason="enough")
        with pytest.raises(StayAway, match=r"4002 banned \(enough\)") as caught:
            await hear(ben, Message)
        assert caught.value.until_s is not None
        with pytest.raises(StayAway, match=r"4002 banned \(enough\)"):
            async with connect(server.url, token="ben"):
                pass
        with pytest.raises(ValueError, match="for_s must be seconds"):
            await ann.moderate("ban", "ben", for_s=0)
        with pytest.raises(ValueError, match="lone surrogate"):
            await ann.moderate("ban", "ben", reason="\ud800")
        for user, room in (("\ud800", "lobby"), ("ben", "\ud800")):
            with pytest.raises(ValueError, match="lone surrogate"):
                await ann.moderate("ban", user, room)
        with pytest.raises(ValueError, match="lone surrogate"):
            await ann.join("\ud800")
        with pytest.raises(ValueError, match="lone surrogate"):
            await ann.dm("\ud800", "hello")
        assert ann.is_connected


async def test_wss_with_an_authority_of_ones_own() -> None:
    server_side, ours = tls()
    async with serving("streams", tls=server_side) as world:
        async with dial(world.server.url, ssl_context=ours) as ann:
            await (await ann.join("lobby")).send("hello")
        with pytest.raises(ConnectFailed, match="certificate"):
            async with dial(world.server.url, open_timeout_s=0.5):
                pass


async def test_leaving_says_goodbye() -> None:
    async def script(line: Line) -> None:
        await line.open()
        closes.append(await line.rest())
        await line.close(1000)

    closes: list[Any] = []
    async with scripted(script) as url:
        async with dial(url):
            pass
        await until(lambda: closes)
        assert closes[0].code == 1000


async def test_who_leaves_is_gone_at_once() -> None:
    async with serving("reactor") as world, dial(world.server.url) as ann:
        await ann.join("lobby")
        async with dial(world.server.url, "ben") as ben:
            await ben.join("lobby")
            assert (await hear(ann, Joined)).member.user == "ann"
            assert (await hear(ann, Joined)).member.user == "ben"
        left = await hear(ann, Left)  # the time of this server stands still, so no grace ends
        assert (left.member.user, left.reason) == ("ben", "")


async def test_whose_connection_breaks_is_shown_until_the_grace_is_over() -> None:
    async with serving("reactor") as world, cable_to(world.server.port) as cable, dial(world.server.url) as ann:
        await ann.join("lobby")
        async with dial(cable.url, "ben") as ben:
            lobby = await ben.join("lobby")
            await until(lambda: "ben" in ann.rooms["lobby"].members)
            cable.cut()
            await hear(ben, Disconnected)
            cable.mend()
            await lobby.send("back")
            heard = []
            while not isinstance(event := await anext(ann), Message):
                heard.append(event)
            assert not any(isinstance(event, Left) for event in heard)


async def test_leaving_does_not_wait_for_a_server_that_is_dead() -> None:
    async def script(line: Line) -> None:
        await line.open()
        join = await line.hear_kind("join")
        await line.say("ok", id=join["id"], room="lobby", epoch="e", offset=0, recovered="none", rev=0, users=[])
        await never()

    async with scripted(script) as url:
        with anyio.fail_after(5):
            async with dial(url) as ann:
                await ann.join("lobby")


async def test_the_iteration_ends_with_the_chat() -> None:
    async with serving("reactor") as world, anyio.create_task_group() as tasks:
        heard: list[Event] = []

        async def listen() -> None:
            async for event in ann:
                heard.append(event)  # noqa: PERF401
            heard.append(Draining(0))

        async with dial(world.server.url) as ann:
            tasks.start_soon(listen)
            await ann.join("lobby")
        await until(lambda: Draining(0) in heard)
        with pytest.raises(ChatClosed):
            await ann.join("lobby")
        with pytest.raises(RuntimeError, match="once"):
            async with ann:
                pass


async def test_an_error_of_the_program_comes_out_as_it_is() -> None:
    async with serving("reactor") as world:
        with pytest.raises(ZeroDivisionError):
            async with dial(world.server.url):
                _ = 1 / 0


def test_a_chat_that_was_not_entered_cannot_be_asked() -> None:
    async def main() -> None:
        with pytest.raises(ChatClosed, match="async with"):
            await connect("ws://127.0.0.1").join("lobby")

    anyio.run(main)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("http://x/ws", "ws://"), ("x", "ws://"), ("ws:///ws", "host"), ("ws://x:99999/", "port.* not '99999'"),
        ("ws://x:ninety/", "port.* not 'ninety'"), ("ws://x:0/", "port.* not '0'"), ("ws://[x/", "host"),
        ("localhost:8080/ws", "not 'localhost:8080/ws'"), ("http://x", "not 'http://'"),
        ("ws://ü/", "ASCII"),
        ("ws://a:b@x/", "token"), ("ws://x/#f", "fragment"), ("ws://x/ws?username=b", "once"),
    ],
)  # fmt: skip
def test_a_url_that_is_none(url: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        connect(url, username="ann")


# -- connections that break --------------------------------------------------------------------------------------------


async def test_a_cut_is_mended_and_nothing_is_lost_or_doubled() -> None:
    async with (
        serving("reactor") as world,
        cable_to(world.server.port) as cable,
        dial(cable.url) as ann,
        dial(world.server.url, "ben") as ben,
    ):
        lobby, there = await ann.join("lobby"), await ben.join("lobby")
        await there.send("one")
        await hear(ann, Message)
        cable.cut()
        disconnected = await hear(ann, Disconnected)
        assert (disconnected.code, ann.is_connected, lobby.is_joined) == (None, False, False)
        await there.send("two")
        async with anyio.create_task_group() as tasks:
            for content in ("three", "four"):
                tasks.start_soon(lobby.send, content)
                await checkpoint()
            with pytest.raises(NotConnected):
                await lobby.shout("wave")
            await anyio.sleep(0.05)
            cable.mend()
        assert (await hear(ann, Connected)).resumed
        assert [(await hear(ann, (Message, Missed))).content for _ in range(3)] == ["two", "three", "four"]
        assert [(await hear(ben, Message)).content for _ in range(4)] == ["one", "two", "three", "four"]
        assert set(lobby.members) == {"ann", "ben"}


async def test_an_answer_that_was_lost_with_the_connection_is_no_second_message() -> None:
    async with serving("reactor") as world, cable_to(world.server.port) as cable, dial(cable.url) as ann:
        lobby = await ann.join("lobby")
        async with anyio.create_task_group() as tasks:
            found: list[Any] = []

            async def send() -> None:
                found.append(await lobby.send("once"))

            tasks.start_soon(send)
            await until(lambda: world.runtime.history("lobby"))
            cable.cut()  # before its ok was passed on, or behind it
            cable.mend()
        assert [message.content for message in world.runtime.history("lobby")] == ["once"]
        assert found[0].offset == 1


async def test_a_server_that_falls_silent_is_given_up() -> None:
    async def script(line: Line) -> None:
        await line.open(ping_ms=60, pong_ms=200)
        await never()

    async def second(line: Line) -> None:
        await line.open()
        await line.rest()

    async with scripted(script, second) as url, dial(url) as ann:
        disconnected = await hear(ann, Disconnected)
        assert disconnected.reason == "nothing was heard of the server"
        await hear(ann, Connected)


async def test_a_server_that_answers_pings_is_not() -> None:
    async def script(line: Line) -> None:
        lines.append(line)
        await line.open(ping_ms=30, pong_ms=10_000)
        await line.rest()

    lines: list[Line] = []
    async with scripted(script) as url, dial(url) as ann:
        await until(lambda: lines[0].pings >= 3)
        assert ann.is_connected


async def test_a_server_that_takes_nothing_is_given_up() -> None:
    """It pings, so that it is heard, but reads nothing: requests fail in their time, and leaving is quick."""

    async def script(line: Line) -> None:
        await line.open(ping_ms=60, pong_ms=200, rooms={"@ann": {"epoch": "", "offset": 0, "recovered": "none"}})
        await never()

    async with scripted(script) as url:
        files = open_files()
        async with dial(url) as ann:
            with pytest.raises(NotAnswered) as caught:
                await ann.dm("ben", "x" * 10_000_000, timeout_s=0.1)
            assert caught.value.was_sent
            await hear(ann, Disconnected)
            await hear(ann, Connected)
            with pytest.raises(NotAnswered):
                await ann.dm("ben", "x" * 10_000_000, timeout_s=0.05)
        # What the kernel took is with the server, whose ends are open still; ours are not.
        await until(lambda: open_files() <= files + 2)


async def test_a_server_that_never_answers_the_handshake() -> None:
    async def script(line: Line) -> None:
        await never()

    async with scripted(script) as url:
        with pytest.raises(ConnectFailed, match=r"no connection to .* in 0\.1 s"):
            async with dial(url, open_timeout_s=0.1):
                pass


async def test_nobody_listens() -> None:
    async with scripted(lambda line: line.open()) as url:
        pass
    faults: list[str] = []
    with pytest.raises(ConnectFailed, match=f"no connection to {url}/ws in .*refused"):
        async with dial(url, open_timeout_s=0.2, on_fault=faults.append):
            pass
    assert len(faults) > 1
    assert faults[0].startswith(f"{url.removeprefix('ws://')}: ")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302, 200])
async def test_a_handshake_that_says_no(status: int) -> None:
    async def script(line: Line) -> None:
        await line.refuse(status, body=b'{"error":"because"}')

    async with scripted(script) as url:
        with pytest.raises(StayAway, match="because") as caught:
            async with dial(url):
                pass
        assert caught.value.code == status


async def test_the_real_servers_refusal_is_told_in_its_words() -> None:
    async with serving("reactor") as world:
        with pytest.raises(StayAway, match="400 username"):
            async with connect(f"{world.server.url}/ws"):
                pass


async def test_a_server_without_v1() -> None:
    async def script(line: Line) -> None:
        await line.accept(subprotocol=None)

    async with scripted(script) as url:
        with pytest.raises(StayAway, match=r"does not speak roomhub\.v1\.json"):
            async with dial(url):
                pass


async def test_a_busy_server_is_asked_again_when_it_said() -> None:
    async def busy(line: Line) -> None:
        await line.refuse(503, "Retry-After: 1", body=b'{"error":"full"}')

    async def ready(line: Line) -> None:
        await line.open()
        await line.rest()

    async with scripted(busy, ready) as url:
        begun = anyio.current_time()
        async with dial(url):
            assert 1 <= anyio.current_time() - begun < 5


GARBAGE = [
    b"\x81\x06hello?", b"\x81\x02[]", b"\x82\x02hi", b"\x81\x85\x00\x00\x00\x00hello", b"\xf1\x01x",
    b"\x81\x02\xff\xfe",
    b"\x81\x7f" + b"\x7f" + b"\xff" * 7, b"\x88\x01\x03", b"\x03\x00", b"HTTP/1.1 200 OK\r\n\r\n", b"\x00" * 100,
    text_frame('{"type":"chat","room":7}'),
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_ends_the_connection_with_a_code_and_the_client_comes_back(garbage: bytes) -> None:
    async def bad(line: Line) -> None:
        await line.open()
        await line.stream.send(garbage)
        closes.append(await line.rest())

    async def good(line: Line) -> None:
        await line.open()
        await line.rest()

    closes: list[Any] = []
    async with scripted(bad, good) as url, dial(url) as ann:
        await hear(ann, Connected)
        await hear(ann, Disconnected)
        await hear(ann, Connected)
        await until(lambda: closes)
        assert closes[0].code in (1002, 1003, 1007, 1009, 4000)


@pytest.mark.parametrize(
    "noise", [b"", b"\x16\x03\x01", b"HTTP/1.1 101 x\r\n\r\n", b"SSH-2.0\r\n\r\n", b"\r\n" * 9_000]
)
async def test_what_answers_is_no_websocket(noise: bytes) -> None:
    async def script(line: Line) -> None:
        await line.take_request()
        await line.stream.send(noise)

    async with scripted(script) as url:
        with pytest.raises((ConnectFailed, StayAway)):
            async with dial(url, open_timeout_s=0.3):
                pass


async def test_every_close_code_does_what_it_says() -> None:
    codes = [None, 1000, 1001, 1011, 1012, 1013, 4500, 4700, *(reason.code for reason in CLOSE_REASONS.values())]
    for code in codes:

        async def bad(line: Line, code: int | None = code) -> None:
            await line.open()
            if code is None:
                return
            await line.close(code, "why")
            await line.rest()

        async def good(line: Line) -> None:
            await line.open()
            await line.rest()

        async with scripted(bad, good) as url, dial(url) as ann:
            assert isinstance(await anext(ann), Connected)
            if code is not None and (4000 <= code < 4100 or code == 4500):
                with pytest.raises(StayAway) as caught:
                    await anext(ann)
                assert caught.value.code == code
            else:
                disconnected = await anext(ann)
                assert isinstance(disconnected, Disconnected)
                assert disconnected.code == code
                assert isinstance(await anext(ann), Connected)


async def test_a_drain_and_a_restart_with_its_history(tmp_path: Path) -> None:
    """Stopped and started again in this process: nothing acknowledged is lost, nothing comes twice."""
    limits = Limits(drain_notice_s=0.05, drain_timeout_s=1, close_timeout_s=1)
    heard: list[Event] = []
    acknowledged: list[str] = []

    def messages() -> list[Message]:
        return [event for event in heard if isinstance(event, Message)]

    async def listen() -> None:
        async for event in ann:
            heard.append(event)  # noqa: PERF401

    async def speak() -> None:
        for number in range(60):
            await lobby.send(f"m{number}")
            acknowledged.append(f"m{number}")
            await anyio.sleep(0.005)

    async with (
        restartable(lambda: Runtime(limits=limits, history=SqliteHistory(tmp_path / "history.db"))) as server,
        dial(server.url, random=lambda: 0.0) as ann,
        anyio.create_task_group() as tasks,
    ):
        lobby = await ann.join("lobby")
        tasks.start_soon(listen)
        tasks.start_soon(speak)
        for count in (20, 40):
            await until(lambda count=count: len(acknowledged) >= count)  # type: ignore[misc]
            await server.stop()
            await server.start()
        await until(lambda: len(acknowledged) == len(messages()) == 60)
        tasks.cancel_scope.cancel()
    assert [message.content for message in messages()] == acknowledged == [f"m{number}" for number in range(60)]
    assert [message.offset for message in messages()] == list(range(1, 61))
    assert len({message.epoch for message in messages()}) == 1
    assert len([event for event in heard if isinstance(event, Draining)]) == 2
    assert not [event for event in heard if isinstance(event, Missed | Restarted)]


async def test_a_restart_without_a_history_begins_anew_and_says_so() -> None:
    async with restartable(Runtime) as server, dial(server.url, random=lambda: 0.0) as ann:
        lobby = await ann.join("lobby", meta={"mood": "fine"})
        await lobby.send("gone soon")
        await server.stop()
        await server.start()
        assert (await hear(ann, Restarted)).room == "lobby"
        await lobby.send("anew")
        message = await hear(ann, Message)
        assert (message.content, message.offset) == ("anew", 1)
        await until(lambda: "ann" in lobby.members and lobby.members["ann"].meta)


# -- tokens ------------------------------------------------------------------------------------------------------------


async def test_a_token_is_asked_for_on_each_connect_and_before_it_ends() -> None:
    async def first(line: Line) -> None:
        hellos.append(await line.open(expires_ms=100))
        auth = await line.hear_kind("auth")
        hellos.append(auth)
        await line.say_text(json.dumps({"type": "ok", "id": auth["id"], "expires_ms": 60_000}))
        await line.close(4202, "token_expired")
        await line.rest()

    async def second(line: Line) -> None:
        hellos.append(await line.open())
        await line.rest()

    async def token() -> str:
        await checkpoint()
        return f"t{len(hellos)}"

    hellos: list[dict[str, Any]] = []
    async with scripted(first, second) as url, dial(url, token=token) as ann:
        await hear(ann, Disconnected)
        await hear(ann, Connected)
        assert [hello["token"] for hello in hellos] == ["t0", "t1", "t2"]
        assert "resume" in hellos[2]


async def test_a_token_that_cannot_be_had_is_tried_again() -> None:
    async def token() -> str:
        tries.append(1)
        raise LookupError("the vault is closed")

    tries: list[int] = []
    async with scripted(lambda line: line.open()) as url:
        with pytest.raises(ConnectFailed, match="the vault is closed"):
            async with dial(url, token=token, open_timeout_s=0.2):
                pass
    assert len(tries) > 1


async def test_a_token_from_a_file_has_a_lines_end() -> None:
    async def from_a_file() -> str:
        return "ann\n"

    runtime = Runtime(authenticator=Rights())
    async with runtime, serve(runtime, port=0) as server:
        for token in ("ann\n", from_a_file):
            async with connect(server.url, token=token) as ann:
                assert ann.user == "ann"
        with pytest.raises(StayAway, match=r"4001 unauthorized \(a token is needed\)"):
            async with connect(server.url):
                pass


async def test_a_token_that_is_not_taken() -> None:
    async def script(line: Line) -> None:
        await line.accept()
        hello = await line.hear()
        assert hello["token"] == "bad"
        fields = {"code": 401, "name": "unauthorized", "message": "no such token", "retry": "no"}
        await line.say("error", id=hello["id"], **fields)
        await line.rest()

    async with scripted(script) as url:
        with pytest.raises(StayAway, match="no such token"):
            async with dial(url, token="bad"):
                pass


# -- a program that does not read --------------------------------------------------------------------------------------


async def test_who_does_not_read_holds_the_server_and_not_memory() -> None:
    limits = Limits(v1_lag_messages=math.inf, lag_bytes=math.inf, log_messages=math.inf, log_bytes=math.inf)
    async with serving("reactor", limits=limits) as world, dial(world.server.url, buffer=10) as ann:
        lobby = await ann.join("lobby")
        for number in range(3_000):
            await world.runtime.publish_confirmed("lobby", f"{number} " + "x" * 1_000)
        assert len(ann._events) <= 40
        got = [await hear(ann, (Message, Missed)) for _ in range(3_000)]
        assert [message.offset for message in got] == list(range(1, 3_001))
        await lobby.send("still here")


async def test_who_is_too_slow_is_put_out_and_resumes() -> None:
    limits = Limits(v1_lag_messages=100, message_burst=math.inf, message_rate_per_s=math.inf, log_messages=100_000,
                    log_bytes=math.inf)  # fmt: skip
    async with (
        serving("reactor", limits=limits) as world,
        dial(world.server.url, buffer=10, random=lambda: 0.0) as ann,
    ):
        await ann.join("lobby")
        count = 0
        while not world.runtime.statistics().evictions:
            await world.runtime.publish_confirmed("lobby", "x" * 4_000)
            count += 1
        world.clock.advance(10)
        got = [await hear(ann, (Message, Missed)) for _ in range(count)]
        assert [message.offset for message in got] == list(range(1, count + 1))


async def test_an_answer_behind_a_full_buffer_is_read_all_the_same() -> None:
    async with serving("reactor") as world, dial(world.server.url, buffer=5) as ann:
        lobby = await ann.join("lobby")
        for number in range(100):
            await world.runtime.publish_confirmed("lobby", str(number))
            if number % 10 == 9:
                await lobby.send("from the loop that reads nothing", timeout_s=PATIENCE_S)
                for _ in range(11):
                    await hear(ann, Message)


# -- cancelled anywhere ------------------------------------------------------------------------------------------------


async def lifecycle(url: str, **options: Any) -> None:
    """All that a client does, in one go."""
    async with dial(url, backoff=Backoff(0, 0), **options) as ann:
        lobby = await ann.join("lobby", history=5)
        await lobby.send("hello")
        await hear(ann, Message)
        await lobby.history()
        await ann.dm("ben", "psst")
        await lobby.typing()
        await lobby.leave()


async def cancelled_after(turns: int, what: Callable[[], Awaitable[None]]) -> bool:
    """Run it for so many turns of the event loop; True if it was over by then."""
    is_over = False
    with anyio.CancelScope() as scope:

        async def cancel() -> None:
            for _ in range(turns):
                await checkpoint()
            scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cancel)
            await what()
            is_over = True
            tasks.cancel_scope.cancel()
    return is_over


def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server needs, and what its client does."""
    authority = trustme.CA()
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize(("is_secure", "step"), [(False, 1), (True, 7)])
async def test_cancelled_at_any_turn_leaves_nothing(is_secure: bool, step: int) -> None:
    server_side, client_side = tls() if is_secure else (None, None)
    limits = Limits(presence_grace_s=0, room_linger_s=0, join_burst=math.inf)
    async with serving("streams" if is_secure else "reactor", limits=limits, tls=server_side) as world:

        async def main() -> None:
            await lifecycle(world.server.url, ssl_context=client_side)

        await main()
        gc.collect()
        await until(lambda: world.server.connections == 0)
        files, tasks = open_files(), len(anyio.get_running_tasks())
        turns = 0
        while not await cancelled_after(turns, main):
            turns += step
            await until(lambda: world.server.connections == 0)
            await until(lambda: open_files() <= files)
            await until(lambda: len(anyio.get_running_tasks()) <= tasks)
            assert turns < 2_000
        assert turns > 20


async def test_cancelled_while_reconnecting_leaves_nothing() -> None:
    async def script(line: Line) -> None:
        await line.open()

    async def main() -> None:
        async with dial(url, backoff=Backoff(0, 0)) as ann:
            for _ in range(5):
                await hear(ann, Disconnected)

    async with scripted(script) as url:
        await main()
        files, tasks = open_files(), len(anyio.get_running_tasks())
        for turns in range(0, 200, 3):
            await cancelled_after(turns, main)
            await until(lambda: open_files() <= files)
            await until(lambda: len(anyio.get_running_tasks()) <= tasks)


async def test_who_is_cancelled_while_sending_offline_has_not_sent() -> None:
    async with serving("reactor") as world, cable_to(world.server.port) as cable, dial(cable.url) as ann:
        lobby = await ann.join("lobby")
        cable.cut()
        await hear(ann, Disconnected)
        with anyio.move_on_after(0.02):
            await lobby.send("never mind")
        cable.mend()
        await lobby.send("this")
        assert [message.content for message in world.runtime.history("lobby")] == ["this"]


async def test_closing_while_offline_fails_who_waits() -> None:
    async with serving("reactor") as world, cable_to(world.server.port) as cable:
        errors: list[ChatError] = []

        async def send() -> None:
            try:
                await lobby.send("x")
            except ChatError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks, dial(cable.url, backoff=QUICK) as ann:
            lobby = await ann.join("lobby")
            cable.cut()
            await hear(ann, Disconnected)
            tasks.start_soon(send)
            await until(lambda: ann._protocol.outbox.is_awaited)
        assert [type(error) for error in errors] == [ChatClosed]
