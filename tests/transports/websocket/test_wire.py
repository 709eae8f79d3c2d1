"""Bad handshakes and bad frames through sockets; numbers are rows of the list of bad inputs.

What is wrong with them is tested without sockets in ``test_handshake.py`` and ``test_frames.py``; here each is sent
once on every driver and backend, and a bystander must hear nothing but one leave.
"""

import json
import logging
import struct
import tracemalloc
import zlib

import pytest

from roomhub import Limits
from tests.transports.websocket.support import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    TEXT,
    Driver,
    chat,
    close,
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

ROOM_AND_USER = {"error": "room and username are required"}
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


def refusals() -> list[object]:
    cases: list[tuple[str, int, bytes]] = [
        ("1 foreign origin", 403, request(lines=["Origin: https://evil.example"])),
        ("2 null origin", 403, request(lines=["Origin: null"])),
        ("3 suffix trick", 403, request(lines=["Origin: http://chat.example.evil"])),
        ("4 two origins", 400, request(lines=["Origin: http://chat.example", "Origin: http://chat.example"])),
        ("6 not GET", 405, request(method="POST")),
        ("7 wrong version", 426, request(version="12")),
        ("8 no key", 400, request(without=["Sec-WebSocket-Key"])),
        ("8 two keys", 400, request(lines=[f"Sec-WebSocket-Key: {KEY}"])),
        ("8 short key", 400, request(without=["Sec-WebSocket-Key"], lines=["Sec-WebSocket-Key: c2hvcnQ="])),
        ("9 content-length", 400, request(lines=["Content-Length: 4"]) + b"body"),
        ("9 transfer-encoding", 400, request(lines=["Transfer-Encoding: chunked"]) + b"0\r\n\r\n"),
        ("10 long headers in one read", 431, request(lines=[f"X-{n}: {'x' * 1000}" for n in range(20)])),
        ("10 many headers in one read", 431, request(lines=[f"X-{n}: x" for n in range(101)])),
        ("11 long target in one read", 414, request(f"/ws/lobby?username=ann&pad={'x' * 8192}")),
        ("12 host not ASCII", 400, request(without=["Host"], lines=["Host: ch\xe4t.example"])),
        ("12 host malformed", 400, request(without=["Host"], lines=["Host: a b"])),
        ("17 CR in the name", 400, request("/ws/lobby?username=a%0D%0ASet-Cookie:x")),
        ("17 CRLF in the room", 400, request("/ws/a%0D%0Ab?username=ann")),
        ("19 no room", 400, request("/ws/?username=ann")),
        ("19 no room, no slash", 400, request("/ws?username=ann")),
        ("19 no name", 400, request("/ws/lobby")),
        ("19 empty name", 400, request("/ws/lobby?username=")),
        ("19 two names", 400, request("/ws/lobby?username=ann&username=bob")),
        ("48 long name", 400, request(f"/ws/lobby?username={'x' * 65}")),
        ("48 4 KiB of a name", 400, request(f"/ws/lobby?username={'x' * 4096}")),
        ("48 NUL", 400, request("/ws/lobby?username=a%00b")),
        ("49 bidi control", 400, request("/ws/lobby?username=a%E2%80%AEb")),
        ("49 zero-width", 400, request("/ws/lobby?username=a%E2%80%8Bb")),
        ("49 escape", 400, request("/ws/lobby?username=%1B%5B31mred")),
        ("52 dots", 400, request("/ws/..%2Fx?username=ann")),
        ("52 star", 400, request("/ws/*?username=ann")),
        ("9 of the seed: a comma", 400, request("/ws/lobby?username=a,b")),
        ("no such path", 404, request("/chat")),
        ("no upgrade", 426, b"GET /ws/lobby?username=ann HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("TLS spoken here", 400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ]
    return [pytest.param(data, status, id=name) for name, status, data in cases]


@pytest.mark.parametrize(("data", "status"), refusals())
async def test_a_bad_handshake_is_refused_before_anything_is_allocated_for_it(
    driver: Driver, data: bytes, status: int
) -> None:
    async with serving(driver) as world:
        response = await world.refused(data)
        assert response.status == status, response
        assert response.headers["connection"].startswith("close")
        await until(lambda: world.server.connections == 0)
        assert world.runtime.statistics().connections == 0
        assert world.runtime.rooms() == ()
        page = (await world.get("/metrics")).body.decode()
        assert f'roomhub_refusals_total{{reason="http_{status}"}} 1' in page


@pytest.mark.parametrize("target", ["/ws/", "/ws/lobby", "/ws/?username=ann", "/ws/lobby?username="])
async def test_without_room_or_name_the_answer_is_the_seeds(driver: Driver, target: str) -> None:
    async with serving(driver) as world:
        assert (await world.refused(request(target))).json() == ROOM_AND_USER
        assert (await world.get(target)).json() == ROOM_AND_USER


async def test_no_origin_the_hosts_own_and_those_allowed_are_taken(driver: Driver) -> None:
    """Row 5, and defect 8 of the seed: a page elsewhere cannot use its visitors' place in the network."""
    async with serving(driver, allow_origins=["https://app.example"]) as world:
        for lines in ([], ["Origin: http://chat.example"], ["Origin: https://app.example"]):
            await world.open(lines=lines)
        assert (await world.refused(request(lines=["Origin: https://app.example.evil"]))).status == 403
    async with serving(driver, require_origin=True) as world:
        assert (await world.refused(request())).status == 403
        await world.open(lines=["Origin: http://chat.example"])


@pytest.mark.parametrize("offer", ["client_max_window_bits=abc", "server_max_window_bits=8", "unknown", "mux; mux"])
async def test_bad_extension_parameters_decline_the_extension(driver: Driver, offer: str) -> None:
    """Row 13."""
    async with serving(driver, compression=True) as world:
        peer = world.connect()
        response = await peer.upgrade(request(lines=[f"{DEFLATE}; {offer}"]))
        assert "sec-websocket-extensions" not in response.headers
        await peer.send(frame(TEXT, b"x", rsv=4))
        code, _ = await peer.closed()
        assert code == 1002


async def test_an_unknown_subprotocol_is_not_selected(driver: Driver) -> None:
    """Row 18."""
    async with serving(driver) as world:
        peer = world.connect()
        response = await peer.upgrade(request(lines=["Sec-WebSocket-Protocol: soap, roomhub.bearer.c2VjcmV0"]))
        assert "sec-websocket-protocol" not in response.headers
        assert await peer.receive() == roster("ann")


@pytest.mark.parametrize("begun", [b"", b"GET /ws/x?u"], ids=["silent", "slow"])
async def test_a_handshake_that_takes_too_long_is_closed_at_10_seconds(driver: Driver, begun: bytes) -> None:
    """Rows 14 and 15."""
    async with serving(driver) as world:
        peer = world.connect()
        await until(lambda: world.server.connections == 1)
        for byte in begun:
            await peer.send(bytes([byte]))
            world.clock.advance(9.9 / len(begun))
            await turn(3)
        if not begun:
            world.clock.advance(9.9)
        await turn()
        assert world.server.connections == 1
        with pytest.raises(BlockingIOError):
            peer.sock.recv(1)
        world.clock.advance(0.2)
        assert (await peer.response()).status == 408
        assert await peer.end() == b""
        peer.disconnect()
        await until(lambda: world.server.connections == 0)


async def test_frames_pipelined_behind_the_request_are_processed(driver: Driver) -> None:
    """Row 16."""
    async with serving(driver) as world:
        peer = world.connect()
        await peer.send(request() + text("one") + frame(PING, b"p") + text("two") + text("three")[:4])
        assert (await peer.response()).status == 101
        frames = [await peer.frame() for _ in range(5)]
        assert [f.payload for f in frames if f.opcode == PONG] == [b"p"]
        assert [f.payload for f in frames if f.opcode == TEXT][-1:] != []
        await peer.send(text("three")[4:])
        seen = [f.payload.decode() for f in frames if f.opcode == TEXT]
        wires = [*seen, (await peer.frame()).payload.decode()]
        assert [word for wire in wires for word in ("one", "two", "three") if f'"content":"{word}"' in wire] == [
            "one",
            "two",
            "three",
        ]


# -- frames -----------------------------------------------------------------------------------------------------------


def faults() -> list[object]:
    cases: list[tuple[str, int, bytes]] = [
        ("23 unmasked", 1002, frame(TEXT, b"x", masked=False)),
        ("24 RSV1", 1002, frame(TEXT, b"x", rsv=4)),
        ("24 RSV2", 1002, frame(TEXT, b"x", rsv=2)),
        ("24 RSV3", 1002, frame(PING, rsv=1)),
        ("24 opcode 3", 1002, frame(3, b"x")),
        ("24 opcode 11", 1002, frame(11)),
        ("25 long ping", 1002, frame(PING, b"x" * 126)),
        ("25 long close", 1002, frame(CLOSE, b"\x03\xe8" + b"x" * 124)),
        ("25 fragmented ping", 1002, frame(PING, fin=False)),
        ("26 declared 513", 1009, frame(TEXT, b"x" * 513)[:8]),
        ("26 declared 2^62", 1009, b"\x81\xff" + struct.pack("!Q", 1 << 62) + b"mask"),
        ("27 sum of fragments", 1009, frame(TEXT, b"x" * 512, fin=False) + frame(CONTINUATION, b"x")),
        ("28 65 fragments", 1009, frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 64),
        ("31 bad UTF-8", 1007, frame(TEXT, b"\xff")),
        ("31 bad UTF-8 over fragments", 1007, frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION, b"x")),
        ("31 UTF-8 cut short", 1007, frame(TEXT, b"\xe2\x82", fin=False) + frame(CONTINUATION)),
        ("31 surrogate", 1007, frame(TEXT, b"\xed\xa0\x80")),
        ("32 binary", 1003, frame(BINARY, b"x")),
        ("continuation of nothing", 1002, frame(CONTINUATION, b"x")),
        ("text within a text", 1002, frame(TEXT, b"x", fin=False) + frame(TEXT, b"x")),
        ("37 code 999", 1002, close(999)),
        ("37 code 1005", 1002, close(1005)),
        ("37 code 5000", 1002, close(5000)),
        ("37 body of one byte", 1002, frame(CLOSE, b"\x03")),
        ("31 bad UTF-8 in a close", 1007, frame(CLOSE, b"\x03\xe8\xff")),
    ]
    return [pytest.param(data, code, id=name) for name, code, data in cases]


@pytest.mark.parametrize(("data", "code"), faults())
async def test_a_bad_frame_closes_with_its_code_and_leaves_once(driver: Driver, data: bytes, code: int) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        # What was said before counts, what comes after does not.
        await bob.send(text("before") + data + text("after"))
        end = await bob.close_frame()
        assert end[0] == code
        assert end[1], "a reason is given"
        assert await bob.end() == b""
        assert await ann.receive() == chat("bob", "before")
        assert await ann.receive() == left("bob")
        assert await ann.receive() == roster("ann")
        bob.disconnect()
        await ann.say("after that")
        assert await ann.receive() == chat("ann", "after that")


async def test_a_huge_declared_length_costs_nothing(driver: Driver) -> None:
    """Row 26."""
    async with serving(driver, limits=Limits(message_bytes=1 << 50)) as world:
        bob = await world.join("bob")
        tracemalloc.start()
        try:
            await bob.send(b"\x81\xff" + struct.pack("!Q", 1 << 49) + b"mask" + b"x" * 1000)
            await turn()
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()
        await bob.send(b"x")
        bob.disconnect()


@pytest.mark.parametrize("cut", [1, 2, 7], ids="{} bytes a read".format)
async def test_messages_arrive_whole_however_they_are_cut(driver: Driver, cut: int) -> None:
    async with serving(driver) as world:
        bob = await world.join("bob")
        word = "wör".encode()
        data = text("hällo") + frame(TEXT, word[:2], fin=False) + frame(PING) + frame(CONTINUATION, word[2:])
        for start in range(0, len(data), cut):
            await bob.send(data[start : start + cut])
            await turn(2)
        frames = [await bob.frame() for _ in range(3)]
        assert [json.loads(f.payload) for f in frames if f.opcode == TEXT] == [chat("bob", "hällo"), chat("bob", "wör")]


async def test_64_fragments_are_one_message(driver: Driver) -> None:
    async with serving(driver) as world:
        bob = await world.join("bob")
        await bob.send(frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 62 + frame(CONTINUATION))
        assert await bob.receive() == chat("bob", "x" * 63)


async def test_a_message_unfinished_for_30_seconds_closes(driver: Driver) -> None:
    """Row 29."""
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        await bob.send(frame(TEXT, b"slow", fin=False))
        await turn()
        world.clock.advance(20)
        # A control frame, or another fragment, does not make it a new one.
        await bob.send(frame(PING) + frame(CONTINUATION, b"er", fin=False))
        assert (await bob.frame()).opcode == PONG
        world.clock.advance(9.9)
        await turn()
        assert world.runtime.members("lobby") == ("ann", "bob")
        world.clock.advance(0.2)
        assert await bob.closed() == (1009, "message_timeout")
        assert await ann.receive() == left("bob")


async def test_each_message_has_its_own_30_seconds(driver: Driver) -> None:
    async with serving(driver) as world:
        bob = await world.join("bob")
        await bob.send(frame(TEXT, b"a", fin=False))
        await turn()
        world.clock.advance(20)
        await bob.send(frame(CONTINUATION, b"b") + frame(TEXT, b"c", fin=False))
        assert await bob.receive() == chat("bob", "ab")
        world.clock.advance(20)
        await bob.send(frame(CONTINUATION, b"d"))
        assert await bob.receive() == chat("bob", "cd")
        world.clock.advance(31)
        await turn()
        assert world.runtime.members("lobby") == ("bob",)


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -12)
    return (compressor.compress(data) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


async def test_a_decompression_bomb_closes_with_1009(driver: Driver) -> None:
    """Row 30."""
    limits = Limits(message_bytes=1 << 20)
    async with serving(driver, compression=True, limits=limits) as world:
        bob = await world.open("bob", lines=[DEFLATE])
        bomb = frame(TEXT, deflated(b"\0" * (100 << 20)), rsv=4)
        assert len(bomb) < 1 << 20
        tracemalloc.start()
        try:
            await bob.send(bomb)
            assert await bob.close_frame() == (1009, "message too big")
            assert tracemalloc.get_traced_memory()[1] < 4 << 20
        finally:
            tracemalloc.stop()


async def test_a_ping_between_compressed_fragments_leaves_the_message_intact(driver: Driver) -> None:
    """Row 35."""
    async with serving(driver, compression=True) as world:
        bob = await world.open("bob", lines=[DEFLATE])
        for _ in range(2):
            assert (await bob.frame()).opcode == TEXT
        whole = deflated(b"in pieces")
        await bob.send(frame(TEXT, whole[:3], fin=False, rsv=4) + frame(PING, b"?") + frame(CONTINUATION, whole[3:]))
        assert (await bob.frame()).payload == b"?"
        answer = await bob.frame()
        plain = answer.payload
        if answer.rsv1:
            plain = zlib.decompressobj(-12).decompress(plain + b"\0\0\xff\xff")
        assert b'"in pieces"' in plain


async def test_a_ping_flood_is_closed_for_its_rate(driver: Driver) -> None:
    """Row 33."""
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        await bob.send(frame(PING, b"x") * 249 + frame(PING, b"last"))
        # Of pongs that wait together the newest may stand for all.
        while (got := await bob.frame()).payload != b"last":
            assert got.opcode == PONG
        await bob.send(frame(PING))
        assert await bob.closed() == (1008, "rate_limited")
        assert await ann.receive() == left("bob")
        page = (await world.get("/metrics")).body.decode()
        assert 'roomhub_evictions_total{reason="rate_limited"} 1' in page


async def test_pongs_to_a_peer_that_does_not_read_are_coalesced(driver: Driver) -> None:
    """Row 33: what waits for it stays small, and the newest of the pongs goes out."""
    limits = Limits(message_rate_per_s=1e9, message_burst=1e9, lag_messages=1e9, send_buffer_bytes=4096)
    async with serving(driver, limits=limits) as world:
        bob = await world.join("bob", receive_buffer_bytes=4096)
        for number in range(400):
            world.runtime.publish("lobby", f"{number:0400}")
        await turn(30)
        for number in range(1000):
            await bob.send(frame(PING, b"%0100d" % number))
        await turn(30)
        [connection] = world.server._service.connections
        waiting = getattr(connection, "_behind", None) or getattr(connection, "_pending", None) or []
        assert sum(map(len, waiting)) < 16 * 110
        pongs: list[bytes] = []
        chats = 0
        while chats < 400 or b"%0100d" % 999 not in pongs:
            got = await bob.frame()
            chats += got.opcode == TEXT
            if got.opcode == PONG:
                pongs.append(got.payload)
        assert len(pongs) < 1000


async def test_a_pong_flood_costs_nothing(driver: Driver) -> None:
    """Row 34."""
    async with serving(driver) as world:
        bob = await world.join("bob")
        await bob.send(frame(PONG, b"x" * 125) * 2000)
        await bob.say("done")
        assert await bob.receive() == chat("bob", "done")


async def test_data_after_a_close_is_ignored(driver: Driver) -> None:
    """Row 36."""
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        await bob.send(close(1000) + text("too late") + frame(3))
        assert await bob.close_frame() == (1000, "")
        assert await bob.end() == b""
        await bob.send(text("far too late"))
        bob.disconnect()
        assert await ann.receive() == left("bob")
        assert await ann.receive() == roster("ann")
        await ann.say("on")
        assert await ann.receive() == chat("ann", "on")


async def test_data_between_our_close_and_the_peers_is_ignored(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        world.runtime.kick("bob")
        assert await bob.close_frame() == (1008, "kicked")
        await bob.send(text("wait!") + frame(PING) + close(1000))
        assert await bob.end() == b""
        assert await ann.receive() == left("bob")
        assert await ann.receive() == roster("ann")
        await ann.say("on")
        assert await ann.receive() == chat("ann", "on")


@pytest.mark.parametrize("how", ["kicked", "failed"])
async def test_a_peer_that_ignores_the_close_is_cut_after_5_seconds(driver: Driver, how: str) -> None:
    """Row 38."""
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        if how == "kicked":
            world.runtime.kick("bob")
        else:
            await bob.send(frame(3))
        await bob.close_frame()
        assert await ann.receive() == left("bob")
        world.clock.advance(4.9)
        await turn()
        assert world.server.connections == 2
        world.clock.advance(0.2)
        await until(lambda: world.server.connections == 1)
        assert await bob.end() == b""
        assert world.runtime.statistics().connections == 1


async def test_a_peer_that_answers_the_close_but_never_ends_is_cut(driver: Driver) -> None:
    async with serving(driver) as world:
        bob = await world.join("bob")
        world.runtime.kick("bob")
        assert await bob.close_frame() == (1008, "kicked")
        await bob.send(close(1000))
        assert await bob.end() == b""  # our side has ended
        assert world.server.connections == 1
        world.clock.advance(5.1)
        await until(lambda: world.is_quiet)


# -- logs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["a%0Ab", "%1B%5B31m", "a%0D%0AINFO forged".replace(" ", "%20")])
async def test_names_and_rooms_reach_no_log_raw(driver: Driver, bad: str, caplog: pytest.LogCaptureFixture) -> None:
    """Row 54."""
    caplog.set_level(logging.DEBUG, "roomhub")
    async with serving(driver) as world:
        for target in (f"/ws/{bad}?username=ann", f"/ws/lobby?username={bad}", f"/{bad}"):
            await world.refused(request(target))
        ann = await world.join("ann")
        await ann.say("\x1b[31m\nINFO forged")
        await ann.receive()
    for record in caplog.records:
        message = record.getMessage()
        assert message.isprintable(), message
        assert "forged" not in message


def test_the_support_client_masks_as_the_rfc_does() -> None:
    """The example of RFC 6455, section 5.7."""
    assert frame(TEXT, b"Hello") == bytes.fromhex("818537fa213d7f9f4d5158")
    assert close_of_bytes(close(1000)) == b"\x03\xe8"


def close_of_bytes(data: bytes) -> bytes:
    mask, payload = data[2:6], data[6:]
    return bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
