"""The v1 dialect on the wire, through real sockets: every named part of the protocol, on both drivers."""

import json
from typing import Any
from urllib.parse import unquote

import anyio
import pytest

from roomhub import Limits, Runtime
from roomhub.core.commands import CloseRoom
from roomhub.testing import ManualClock
from roomhub.transports.websocket import serve
from tests.core.playbook import check_shape
from tests.transports.websocket.support import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    Driver,
    Peer,
    World,
    chat,
    close_of,
    frame,
    joined,
    left,
    request,
    roster,
    serving,
    turn,
    until,
)

pytestmark = pytest.mark.anyio

SUBPROTOCOL = "Sec-WebSocket-Protocol: roomhub.v1.json"


class Client:
    """A v1 client that checks the shape of all it gets."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.welcome: dict[str, Any] = {}

    async def say(self, kind: str, **fields: Any) -> None:
        await self.peer.say(json.dumps({"type": kind, **fields}))

    async def hear(self) -> dict[str, Any]:
        frame = await self.peer.frame()
        assert frame.opcode == TEXT, frame
        message: dict[str, Any] = json.loads(frame.payload)
        check_shape(message)
        return message

    async def hear_until(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """What comes up to a message of this type with these fields, which is the last of the list."""
        heard = [await self.hear()]
        while heard[-1]["type"] != kind or any(heard[-1].get(name) != value for name, value in fields.items()):
            heard.append(await self.hear())
        return heard

    async def ask(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Say it, and return the reply."""
        await self.say(kind, **fields)
        while (message := await self.hear()).get("id") != fields["id"]:
            pass
        return message

    async def bye(self) -> tuple[dict[str, Any], tuple[int | None, str]]:
        """The last message, and the close frame behind it."""
        last: dict[str, Any] = {}
        while (frame := await self.peer.frame()).opcode != CLOSE:
            last = json.loads(frame.payload)
        check_shape(last)
        return last, close_of(frame)


async def connect(world: World, user: str, path: str = "/ws", **hello: Any) -> Client:
    peer = world.connect()
    response = await peer.upgrade(request(f"{path}?username={user}", lines=[SUBPROTOCOL]))
    assert response.headers["sec-websocket-protocol"] == "roomhub.v1.json"
    client = Client(peer)
    client.welcome = await client.ask("hello", id="hello", **hello)
    assert client.welcome["type"] == "welcome"
    return client


async def join(world: World, user: str, room: str = "lobby") -> Client:
    client = await connect(world, user)
    reply = await client.ask("join", id="join", room=room)
    assert reply["type"] == "ok"
    await client.hear_until("user_joined", user=unquote(user))
    return client


async def test_both_dialects_in_one_room(driver: Driver) -> None:
    async with serving(driver) as world:
        pat = await world.join("pat")
        ann = await join(world, "ann")
        assert await pat.receive_until(joined("ann")) == [roster("pat", "ann"), joined("ann")]
        reply = await ann.ask("chat", id=1, room="lobby", content="hello, pat")
        assert (reply["type"], reply["offset"]) == ("ok", 1)
        assert await pat.receive() == chat("ann", "hello, pat")
        await pat.say("hello, ann")
        [*_, heard] = await ann.hear_until("chat", content="hello, ann")
        assert heard == {
            "type": "chat",
            "room": "lobby",
            "username": "pat",
            "content": "hello, ann",
            "user": "pat",
            "epoch": reply["epoch"],
            "offset": 2,
            "ts": 1_700_000_000_000,
        }


async def test_the_room_of_the_address_is_joined(driver: Driver) -> None:
    async with serving(driver) as world:
        ann = await connect(world, "ann", "/ws/lobby")
        assert (await ann.hear())["id"] is None
        assert (await ann.hear())["type"] == "user_joined"
        reply = await ann.ask("members", id=1, room="lobby")
        assert reply["users"] == [{"user": "ann", "username": "ann", "devices": 1}]


async def test_a_name_with_comma_and_quote_goes_round(driver: Driver) -> None:
    """Row 51."""
    async with serving(driver) as world:
        ann = await join(world, "a%2C%22b")
        reply = await ann.ask("members", id=1, room="lobby")
        assert reply["users"][0]["username"] == 'a,"b'
        pat = await world.open("pat")
        assert (await pat.receive())["content"] == 'a\uff0c"b,pat'


@pytest.mark.parametrize("path", ["/ws", "/ws/", "/ws?username=", "/ws/a%20b?username=x", "/other?username=x"])
async def test_a_request_that_names_nobody_is_refused(driver: Driver, path: str) -> None:
    async with serving(driver) as world:
        response = await world.refused(request(path, lines=[SUBPROTOCOL]))
        assert response.status in (400, 404)


async def test_an_unknown_subprotocol_is_the_plain_dialect(driver: Driver) -> None:
    async with serving(driver) as world:
        peer = await world.open("ann", lines=["Sec-WebSocket-Protocol: roomhub.v9.cbor"])
        assert await peer.receive() == roster("ann")


async def test_no_hello_in_time(driver: Driver) -> None:
    """Row 21."""
    async with serving(driver) as world:
        peer = world.connect()
        await peer.upgrade(request("/ws?username=ann", lines=[SUBPROTOCOL]))
        world.clock.advance(10)
        bye, close = await Client(peer).bye()
        assert (bye["code"], close) == (4204, (4204, "hello_timeout"))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 30_000,
        '{"type":"chat","id":' + "9" * 5_000 + "}",
        '{"type":"chat","room":"lobby","content":Infinity}',
        '{"type":"chat","room":"lobby","content":"a","content":"b"}',
        '{"type":"chat","room":"lobby","content":"\\ud800"}',
        '{"type":"chat","room":"lobby"}',
        '{"type":"sing"}',
    ],
)
async def test_bad_input_gets_an_error_and_disturbs_nobody(driver: Driver, text: str) -> None:
    """Rows 40 to 46."""
    async with serving(driver) as world:
        ann, ben = await join(world, "ann"), await join(world, "ben")
        await ann.peer.say(text)
        [*_, error] = await ann.hear_until("error")
        assert error["name"] in ("bad_request", "unknown_type")
        await ann.say("chat", room="lobby", content="still here")
        heard = await ben.hear_until("chat")
        assert [message["content"] for message in heard if message["type"] == "chat"] == ["still here"]


async def test_metadata_of_any_depth_disturbs_nobody(driver: Driver) -> None:
    """Row 40. With two devices it is rendered from two depths of the program's stack."""
    async with serving(driver, limits=Limits(error_burst=1_000, message_burst=10_000)) as world:
        ann, phone, ben = await join(world, "ann"), await connect(world, "ann"), await join(world, "ben")
        await phone.ask("join", id="join", room="lobby")
        for depth in (3, 30, *range(930, 1_000, 3)):
            meta = '{"a":' + "[" * depth + "]" * depth + "}"
            await phone.peer.say(f'{{"type":"presence","id":{depth},"room":"lobby","meta":{meta}}}')
            while (reply := await phone.hear())["type"] not in ("ok", "error"):
                pass
            assert reply["type"] == ("ok" if depth == 3 else "error")
        for device in (ann, phone):
            assert (await device.ask("leave", id="bye", room="lobby"))["type"] == "ok"
        assert (await ben.ask("members", id="m", room="lobby"))["type"] == "ok"


async def test_questions_in_one_packet_cost_no_more_than_their_answers_one_by_one(driver: Driver) -> None:
    async with serving(driver) as world:
        ann = await join(world, "ann")
        for number in range(100):
            await ann.ask("chat", id=number, room="lobby", content="x" * 900)
        question = json.dumps({"type": "history", "id": "page", "room": "lobby", "before": 101}).encode()
        await ann.peer.send(frame(TEXT, question) * 100)
        await until(lambda: world.runtime.statistics().messages_in == 202)
        [client] = world.runtime.hub.clients()
        assert world.runtime.hub._sessions[client].direct_bytes < 30_000
        pages = [await ann.hear_until("ok", id="page") for _ in range(100)]
        assert all(len(page[-1]["messages"]) == 67 for page in pages), "as many as a chunk holds"


async def test_many_errors_close(driver: Driver) -> None:
    """Row 46."""
    async with serving(driver, limits=Limits(error_burst=3)) as world:
        ann = await join(world, "ann")
        for _ in range(4):
            await ann.say("sing")
        bye, close = await ann.bye()
        assert (bye["name"], close) == ("rate_limited", (4103, "rate_limited"))


async def test_a_large_message_is_for_v1_alone(driver: Driver) -> None:
    async with serving(driver, limits=Limits(v1_message_bytes=3_000)) as world:
        ann, ben = await join(world, "ann"), await join(world, "ben")
        await ann.say("chat", room="lobby", content="x" * 2_000)
        [*_, heard] = await ben.hear_until("chat")
        assert len(heard["content"]) == 2_000
        await ann.say("chat", room="lobby", content="x" * 3_000)
        assert (await ann.bye())[1][0] == 1009


async def test_a_connection_that_broke_is_resumed(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, ben = await join(world, "ann"), await join(world, "ben")
        position = await ann.ask("chat", id=1, room="lobby", content="one")
        ann.peer.reset()
        await until(lambda: world.server.connections == 1)
        for content in ("two", "three"):
            await ben.ask("chat", id=content, room="lobby", content=content)
        rooms = {"lobby": {"epoch": position["epoch"], "offset": 1}}
        ann = await connect(world, "ann", resume={"session": ann.welcome["session"], "rooms": rooms})
        assert ann.welcome["resumed"]
        assert ann.welcome["rooms"]["lobby"] == {**rooms["lobby"], "recovered": "full", "rev": 3}
        heard = await ann.hear_until("chat", content="three")
        assert [message["content"] for message in heard] == ["two", "three"]
        assert (await ben.ask("members", id="m", room="lobby"))["rev"] == 3, "ann was never gone"


async def test_a_room_that_is_not_rejoined_is_told_with_the_reason(driver: Driver) -> None:
    runtime = Runtime(clock=(clock := ManualClock()), allow_join=lambda room, user: room != "staff")
    async with serving(driver, runtime=runtime, clock=clock) as world:
        rooms = {room: {"epoch": "", "offset": 0} for room in ("lobby", "staff", "a b")}
        ann = await connect(world, "ann", resume={"session": "of yesterday", "rooms": rooms})
        assert set(ann.welcome["rooms"]) == {"lobby", "@ann"}
        refused = [await ann.hear() for _ in range(2)]
        assert {(message["name"], message["room"]) for message in refused} == {
            ("forbidden", "staff"),
            ("bad_request", "a b"),
        }


async def test_a_live_session_is_taken_over(driver: Driver) -> None:
    async with serving(driver) as world:
        ann = await join(world, "ann")
        other = await connect(world, "ann", resume={"session": ann.welcome["session"], "rooms": {}})
        bye, close = await ann.bye()
        assert (bye["name"], close, other.welcome["resumed"]) == ("replaced", (4005, "replaced"), True)


async def test_history_since_and_pages(driver: Driver) -> None:
    async with serving(driver, limits=Limits(log_messages=5, message_burst=1_000)) as world:
        ann = await join(world, "ann")
        for number in range(1, 9):
            last = await ann.ask("chat", id=number, room="lobby", content=f"m{number}")
        epoch = last["epoch"]
        ben = await connect(world, "ben")
        reply = await ben.ask("join", id=1, room="lobby", since={"epoch": epoch, "offset": 2}, history=1)
        assert (reply["recovered"], reply["offset"], reply["messages"][0]["content"]) == ("partial", 2, "m8")
        gap, *chats, _ = await ben.hear_until("user_joined", user="ben")
        assert (gap["type"], gap["from"], gap["to"], gap["reason"]) == ("gap", 3, 3, "expired")
        assert [message["offset"] for message in chats] == [4, 5, 6, 7, 8]
        page = await ben.ask("history", id=2, room="lobby", before=8, limit=2)
        assert ([message["offset"] for message in page["messages"]], page["more"]) == ([7, 6], True)


async def test_a_key_is_good_once(driver: Driver) -> None:
    async with serving(driver) as world:
        ann = await join(world, "ann")
        first = await ann.ask("chat", id=1, room="lobby", content="x", key="k")
        again = await ann.ask("chat", id=2, room="lobby", content="x", key="k")
        assert (again["offset"], again["dup"]) == (first["offset"], True)


async def test_direct_messages(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, ben, laptop = await connect(world, "ann"), await connect(world, "ben"), await connect(world, "ben")
        reply = await ann.ask("dm", id=1, to="ben", content="psst")
        assert (reply["room"], reply["offset"]) == ("@ben", 1)
        for device in (ben, laptop):
            heard = await device.hear()
            assert (heard["type"], heard["user"], heard["content"]) == ("dm", "ann", "psst")
        phone = await connect(world, "ann")
        await ann.say("dm", to="ben", content="and psst")
        for device in (ann, phone):
            [*_, copy] = await device.hear_until("dm", content="and psst")
            assert (copy["room"], copy["offset"], copy["to"]) == ("@ann", 2, "ben")


async def test_presence_has_devices_and_metadata(driver: Driver) -> None:
    """Row 64: the same user twice is one entry with two devices."""
    async with serving(driver) as world:
        ann, ben = await join(world, "ann"), await join(world, "ben")
        await ben.say("presence", id=1, room="lobby", meta={"mood": "fine"})
        [*_, news] = await ann.hear_until("presence")
        assert news["updated"] == [{"user": "ben", "username": "ben", "devices": 1, "meta": {"mood": "fine"}}]
        laptop = await connect(world, "ben")
        await laptop.ask("join", id=1, room="lobby")
        [*_, news] = await ann.hear_until("presence")
        assert news["updated"][0]["devices"] == 2
        ben.peer.reset()
        await until(lambda: world.server.connections == 2)
        world.clock.advance(0.5)
        [*_, news] = await ann.hear_until("presence")
        assert news["updated"][0]["devices"] == 1


async def test_a_user_that_vanished_has_left_after_the_grace(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, ben, pat = await join(world, "ann"), await join(world, "ben"), await world.join("pat")
        ben.peer.reset()
        await until(lambda: world.server.connections == 2)
        await turn()
        assert world.runtime.members("lobby") == ("ann", "ben", "pat")
        world.clock.advance(10)
        [*_, news] = await ann.hear_until("user_left")
        assert (news["user"], news["devices"]) == ("ben", 0)
        assert await pat.receive() == left("ben")


async def test_typing_and_events_pass(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, ben = await join(world, "ann"), await join(world, "ben")
        await ann.say("typing", room="lobby", state="start")
        assert [message["state"] for message in await ben.hear_until("typing")] == ["start"]
        world.clock.advance(6)
        assert [message["state"] for message in await ben.hear_until("typing")] == ["stop"]
        await ann.say("event", room="lobby", name="wave", content="hi")
        [*_, event] = await ben.hear_until("event")
        assert (event["name"], event["content"], event["user"]) == ("wave", "hi", "ann")
        assert world.runtime.history("lobby") == []


async def test_the_program_puts_out(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, ben = await join(world, "ann"), await join(world, "ben")
        world.runtime.kick("ben", "lobby")
        [*_, kicked] = await ben.hear_until("kicked")
        assert (kicked["room"], kicked["code"]) == ("lobby", 4004)
        [*_, news] = await ann.hear_until("user_left")
        assert news["reason"] == "kicked"
        world.runtime.submit(CloseRoom("lobby"))
        [*_, kicked] = await ann.hear_until("kicked")
        assert kicked["reason"] == "room_closed"
        world.runtime.kick("ann")
        bye, close = await ann.bye()
        assert (bye["retry"], close) == ("no", (4004, "kicked"))


async def test_a_drain_is_announced(driver: Driver) -> None:
    async with serving(driver, limits=Limits(drain_notice_s=3)) as world:
        ann, pat = await join(world, "ann"), await world.join("pat")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(world.runtime.drain)
            [*_, notice] = await ann.hear_until("draining")
            assert (notice["in_ms"], notice["reconnect_ms"][0]) == (3_000, 500)
            reply = await ann.ask("chat", id=1, room="lobby", content="last words")
            assert reply["type"] == "ok"
            world.clock.advance(3)
            bye, close = await ann.bye()
            assert (bye["name"], bye["retry"], close) == ("draining", "after", (4100, "draining"))
            ann.peer.disconnect()
            await pat.receive_until(chat("ann", "last words"))
            assert await pat.closed() == (1012, "draining")


@pytest.mark.parametrize("stays", [True, False])
async def test_a_server_that_ends_gives_notice_too(driver: Driver, stays: bool) -> None:
    """As in ``async with Runtime() as runtime, serve(runtime)``, where the server ends before the runtime drains."""
    clock = ManualClock()
    async with Runtime(limits=Limits(drain_notice_s=3), clock=clock) as runtime, anyio.create_task_group() as tasks:
        leave = anyio.Event()

        async def serve_until_then(task_status: Any) -> None:
            async with serve(runtime, port=0, driver=driver) as server:
                task_status.started(server)
                await leave.wait()

        serving_now = await tasks.start(serve_until_then)
        world = World(runtime, serving_now, clock)
        ann = await connect(world, "ann")
        leave.set()
        notice = await ann.hear()
        assert (notice["type"], notice["in_ms"]) == ("draining", 3_000)
        if stays:
            assert (await ann.ask("ping", id=1))["type"] == "pong"
            clock.advance(3)
            bye, close = await ann.bye()
            assert (bye["name"], close) == ("draining", (4100, "draining"))
        ann.peer.disconnect()
        await until(lambda: not serving_now.connections)
        ann.peer.sock.close()


async def test_a_client_that_does_not_read_is_put_out(driver: Driver) -> None:
    """Row 55."""
    async with serving(driver, limits=Limits(v1_lag_messages=50, message_burst=10_000)) as world:
        ann = await join(world, "ann")
        await join(world, "ben")
        await ann.hear_until("user_joined", user="ben")
        number = 0
        while not world.runtime.statistics().evictions:
            number += 1
            await ann.ask("chat", id=number, room="lobby", content="x" * 20_000)
        assert world.runtime.statistics().evictions == {"slow_consumer": 1}


async def test_a_client_that_does_not_read_may_skip(driver: Driver) -> None:
    clock = ManualClock()
    runtime = Runtime(limits=Limits(v1_lag_messages=50, message_burst=10_000), slow="skip", clock=clock)
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann, ben = await join(world, "ann"), await join(world, "ben")
        for number in range(1, 401):
            reply = await ann.ask("chat", id=number, room="lobby", content="x" * 20_000)
        *heard, gap = await ben.hear_until("gap")
        before = [message["offset"] for message in heard if message["type"] == "chat"]
        assert before == list(range(1, gap["from"]))
        assert (gap["reason"], runtime.statistics().evictions) == ("slow", {})
        *_, roster = await ben.hear_until("presence")
        assert [user["user"] for user in roster["users"]] == ["ann", "ben"]
        await ben.hear_until("chat", offset=reply["offset"])


async def test_compressed(driver: Driver) -> None:
    async with serving(driver, compression=True) as world:
        peer = world.connect()
        lines = [SUBPROTOCOL, "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover"]
        response = await peer.upgrade(request("/ws/lobby?username=ann", lines=lines))
        assert "permessage-deflate" in response.headers["sec-websocket-extensions"]
        await peer.say('{"type":"hello","id":1}')
        await peer.say('{"type":"chat","room":"lobby","content":"' + "x" * 500 + '"}')
        frames = [await peer.frame() for _ in range(4)]
        assert [frame.rsv1 for frame in frames] == [False, False, True, True], "what is for one alone is not compressed"


async def test_a_flood_of_pings_is_over_the_rate_too(driver: Driver) -> None:
    async with serving(driver, limits=Limits(message_burst=5)) as world:
        ann = await connect(world, "ann")
        await ann.peer.send(frame(PING) * 10)
        frames = [await ann.peer.frame() for _ in range(7)]
        assert [seen.opcode for seen in frames] == [PONG] * 5 + [TEXT, CLOSE]
        assert json.loads(frames[5].payload)["name"] == "rate_limited"
        assert close_of(frames[6]) == (4103, "rate_limited")


# -- load and races ----------------------------------------------------------------------------------------------------


async def test_a_client_that_takes_nothing_for_too_long(driver: Driver) -> None:
    """Row 56: however far one may lag, a write must make progress."""
    far = {"v1_lag_messages": float("inf"), "lag_bytes": float("inf"), "direct_bytes": float("inf")}
    async with serving(driver, limits=Limits(message_burst=10_000, **far)) as world:
        ann = await join(world, "ann")
        await join(world, "ben")
        for number in range(400):
            await ann.ask("chat", id=number, room="lobby", content="x" * 20_000)
        assert world.runtime.statistics().evictions == {}
        world.clock.advance(11)
        await until(lambda: world.runtime.statistics().evictions == {"slow_consumer": 1})
        assert (await ann.ask("ping", id="p"))["type"] == "pong"


async def test_a_flood_of_rooms(driver: Driver) -> None:
    """Row 57: a cap for each client and in all, and empty rooms go."""
    limits = Limits(rooms_per_client=3, rooms=5, room_linger_s=2)
    async with serving(driver, limits=limits) as world:
        ann, ben = await connect(world, "ann"), await connect(world, "ben")
        names = [(await ann.ask("join", id=n, room=f"a{n}")).get("name") for n in range(4)]
        assert names == [None, None, None, "rate_limited"]
        names = [(await ben.ask("join", id=n, room=f"b{n}")).get("name") for n in range(3)]
        assert names == [None, None, "over_capacity"]
        for n in range(3):
            await ann.ask("leave", id=f"leave {n}", room=f"a{n}")
        world.clock.advance(2)
        await until(lambda: len(world.runtime.hub._rooms) == 2)


async def test_many_come_back_at_once(driver: Driver) -> None:
    """Row 61: each is resumed, and who joins another room meanwhile is served. For the advice see the drain."""
    async with serving(driver) as world:
        ann = await join(world, "ann")
        crowd = [await connect(world, f"u{number}") for number in range(20)]
        for client in crowd:
            await client.ask("join", id="join", room="lobby")
        for client in crowd:
            client.peer.reset()
        await until(lambda: world.server.connections == 1)
        said = await ann.ask("chat", id=1, room="lobby", content="while they were gone")
        since = {"lobby": {"epoch": said["epoch"], "offset": 0}}

        async def come_back(number: int) -> None:
            secret = crowd[number].welcome["session"]
            client = await connect(world, f"u{number}", resume={"session": secret, "rooms": since})
            assert client.welcome["resumed"]
            await client.hear_until("chat", content="while they were gone")

        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(come_back, number)
            new = await connect(world, "new")
            assert (await new.ask("join", id=0, room="elsewhere"))["type"] == "ok"
            assert (await new.ask("chat", id=1, room="elsewhere", content="hi"))["type"] == "ok"


async def test_who_is_put_out_while_the_room_goes_on_leaves_once(driver: Driver) -> None:
    """Row 62: one leave, in its place among the chats that the others hear, none of which is missing."""
    limits = Limits(v1_lag_messages=20, message_burst=10_000, presence_grace_s=0)
    async with serving(driver, limits=limits) as world:
        ann, cy = await join(world, "ann"), await join(world, "cy")
        await join(world, "ben")
        number = 0
        while not world.runtime.statistics().evictions:
            number += 1
            await ann.ask("chat", id=number, room="lobby", content="x" * 20_000)
            while (heard := await cy.hear())["type"] != "chat":
                assert heard["type"] in ("user_joined", "user_left")
            assert heard["offset"] == number
        await ann.ask("chat", id="last", room="lobby", content="last")
        *heard_, last = await cy.hear_until("chat", content="last")
        assert [message["type"] for message in heard_] in (["user_left"], [])
        assert last["offset"] == number + 1


async def test_a_join_races_the_last_leave(driver: Driver) -> None:
    """Row 63: never a room without anybody in it, nor anybody in a room that is not there."""
    async with serving(driver, limits=Limits(room_linger_s=0, join_rate_per_s=float("inf"))) as world:
        ann, ben = await connect(world, "ann"), await connect(world, "ben")
        inside, outside = ann, ben
        await inside.ask("join", id="j", room="lobby")
        for number in range(50):
            await inside.say("leave", id=f"l{number}", room="lobby")
            await outside.say("join", id=f"j{number}", room="lobby")
            for client, id_ in ((inside, f"l{number}"), (outside, f"j{number}")):
                assert (await client.hear_until("ok", id=id_))[-1]["type"] == "ok"
            assert len(world.runtime.members("lobby")) == 1
            inside, outside = outside, inside
        await inside.ask("leave", id="end", room="lobby")
        assert not world.runtime.hub._rooms


async def test_what_the_program_raises_costs_that_message_alone(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 66."""

    def rewrite(message: Any) -> str:
        if message.content == "bad":
            raise LookupError(message.content)
        return str(message.content)

    def hear(message: Any) -> None:
        raise LookupError("in on_message")

    clock = ManualClock()
    runtime = Runtime(clock=clock, rewrite_message=rewrite, on_message=hear)
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann = await join(world, "ann")
        assert (await ann.ask("chat", id=1, room="lobby", content="bad"))["name"] == "forbidden"
        assert (await ann.ask("dm", id=2, to="ann", content="bad"))["name"] == "forbidden"
        assert (await ann.ask("chat", id=3, room="lobby", content="good"))["offset"] == 1
    assert len(caplog.records) == 3
