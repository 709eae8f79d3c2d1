"""The opening handshake without I/O: numbers are rows of the list of bad inputs.

Every test that takes `cut` runs twice: the request in one read, and a byte at a time.
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable
from ipaddress import ip_network
from urllib.parse import quote

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection
from wsproto.events import Request as WSRequest
from wsproto.extensions import PerMessageDeflate

from roomhub.core.names import room_fault
from roomhub.transports.websocket.handshake import (
    Deflate,
    Handshake,
    Page,
    Policy,
    Refusal,
    Reply,
    Request,
    Route,
    Upgrade,
    chat_route,
    timeout_reply,
    unavailable_reply,
)

HOST = "chat.example:8080"
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455 section 1.3, as is its answer
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
CHAT = "/ws/general?username=kevin"

Lines = dict[str, str | list[str] | None]


def health() -> Page:
    return Page(200, "application/json", b'{"status":"ok"}')


POLICY = Policy(route=chat_route(), pages={"/health": health})


def policy(**changes: object) -> Policy:
    return dataclasses.replace(POLICY, **changes)  # type: ignore[arg-type]


def upgrade_request(
    changes: Lines | None = None,
    *,
    target: str = CHAT,
    method: str = "GET",
    version: str = "1.1",
    rest: bytes = b"",
) -> bytes:
    """A sound upgrade with header lines changed, added, doubled (a list) or left out (None)."""
    headers: Lines = {
        "Host": HOST,
        "Upgrade": "websocket",
        "Connection": "keep-alive, Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    headers.update(changes or {})
    lines = [f"{method} {target} HTTP/{version}"]
    for name, values in headers.items():
        given_values = [values] if isinstance(values, str) else values or []
        lines += [f"{name}: {value}" for value in given_values]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + rest


def receive(
    data: bytes,
    cut: int = 0,
    rules: Policy = POLICY,
    *,
    peer: str = "192.0.2.1",
    secure: bool = False,
) -> Upgrade | Reply | None:
    """Feed `data` in pieces of `cut` bytes (0: whole). What was not fed is added to `rest`."""
    handshake = Handshake(rules, peer, secure=secure)
    size = cut or len(data)
    for at in range(0, len(data), size):
        answer = handshake.receive(data[at : at + size])
        if isinstance(answer, Upgrade):
            return dataclasses.replace(answer, rest=answer.rest + data[at + size :])
        if answer is not None:
            return answer
    return None


def upgraded(data: bytes, cut: int = 0, rules: Policy = POLICY, **kwargs: object) -> Upgrade:
    answer = receive(data, cut, rules, **kwargs)  # type: ignore[arg-type]
    assert isinstance(answer, Upgrade), answer
    return answer


class Response:
    """What a client makes of the bytes of a reply."""

    def __init__(self, data: bytes, method: str = "GET") -> None:
        client = h11.Connection(h11.CLIENT)
        client.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        client.receive_data(b"")
        event = client.next_event()
        assert isinstance(event, h11.Response), event
        self.status = event.status_code
        self.headers = {k.decode(): v.decode() for k, v in event.headers}
        self.body = b""
        while isinstance(part := client.next_event(), h11.Data):
            self.body += bytes(part.data)
        assert isinstance(part, h11.EndOfMessage)
        assert client.trailing_data == (b"", True)
        assert "close" in self.headers["connection"]

    @property
    def error(self) -> str:
        assert self.headers["content-type"] == "application/json; charset=utf-8"
        body = json.loads(self.body)
        assert list(body) == ["error"]
        assert isinstance(body["error"], str)
        return body["error"]


def refused(data: bytes, cut: int = 0, rules: Policy = POLICY, method: str = "GET", **kwargs: object) -> Response:
    answer = receive(data, cut, rules, **kwargs)  # type: ignore[arg-type]
    assert isinstance(answer, Reply), answer
    response = Response(answer.data, method)
    assert response.status == answer.status
    if method != "HEAD":
        assert response.error == answer.error
    return response


@pytest.fixture(params=[0, 1], ids=["one-read", "byte-by-byte"])
def cut(request: pytest.FixtureRequest) -> int:
    assert isinstance(request.param, int)
    return request.param


# A sound handshake


def test_sound_request_becomes_an_upgrade(cut: int) -> None:
    upgrade = upgraded(upgrade_request(), cut)
    assert upgrade.route == Route("general", "kevin")
    assert (upgrade.subprotocol, upgrade.deflate) == (None, None)
    assert (upgrade.address, upgrade.secure, upgrade.rest) == ("192.0.2.1", False, b"")
    request = upgrade.request
    assert (request.method, request.target, request.path) == ("GET", CHAT, "/ws/general")
    assert request.query == (("username", "kevin"),)
    assert request.values("sec-websocket-key") == [KEY]
    assert request.host == HOST


def test_accept_is_the_response_of_the_rfc() -> None:
    assert upgraded(upgrade_request()).accept() == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + ACCEPT.encode() + b"\r\n\r\n"
    )


def test_refuse_is_a_complete_response() -> None:
    data = upgraded(upgrade_request()).refuse(503, "full", [("Retry-After", "5")])
    response = Response(data)
    assert (response.status, response.error) == (503, "full")
    assert response.headers["retry-after"] == "5"


@pytest.mark.parametrize(
    "changes",
    [
        {"Upgrade": "WebSocket"},
        {"Upgrade": "h2c, websocket"},
        {"Upgrade": ["h2c", "websocket"]},
        {"Connection": "UPGRADE"},
        {"Host": "EXAMPLE.com"},
        {"Host": "[::1]:8080"},
        {"Host": "127.0.0.1"},
        {"X-Odd": "\xff\x01"},
        {"X-Empty": ""},
    ],
)
def test_other_ways_to_write_it_are_fine(changes: Lines, cut: int) -> None:
    assert upgraded(upgrade_request(changes), cut).route.room == "general"


def test_absolute_target_carries_the_host(cut: int) -> None:
    data = upgrade_request({"Origin": "http://a.example"}, target=f"http://a.example{CHAT}")
    upgrade = upgraded(data, cut)
    assert (upgrade.request.host, upgrade.request.path) == ("a.example", "/ws/general")


def test_lines_may_end_in_a_bare_line_feed(cut: int) -> None:
    assert upgraded(upgrade_request().replace(b"\r\n", b"\n"), cut).route.room == "general"


def test_row_16_pipelined_frames_are_kept(cut: int) -> None:
    frames = b"\x81\x82abcd\r\n\r\n" + bytes(range(256)) * 300
    assert upgraded(upgrade_request(rest=frames), cut).rest == frames


def test_secrets_are_not_in_the_representation() -> None:
    data = upgrade_request({"Authorization": "Bearer hush"}, target=CHAT + "&token=hush")
    assert "hush" not in repr(upgraded(data))


# Origin


@pytest.mark.parametrize(
    "origin",
    [
        pytest.param("http://evil.example", id="row-1-foreign"),
        pytest.param("null", id="row-2-null"),
        pytest.param("http://chat.example.evil:8080", id="row-3-suffix"),
        pytest.param("http://chat.example:8080.evil", id="row-3-suffix-behind-the-port"),
        "http://evil-chat.example:8080",
        "http://chat.example:8081",
        "http://chat.example",
        "http://user@chat.example:8080",
        "http://chat.example:8080/",
        "http://chat.example:8080 http://evil.example",
        "ftp://chat.example:8080",
        "chat.example:8080",
        "http://",
        "",
        "\xff",
    ],
)
def test_foreign_origin_is_403(origin: str, cut: int) -> None:
    response = refused(upgrade_request({"Origin": origin}), cut)
    assert response.status == 403
    assert "Origin" in response.error


def test_row_3_suffix_of_an_allowed_origin_is_403(cut: int) -> None:
    rules = policy(allow_origins=frozenset({"https://good.com"}))
    data = upgrade_request({"Origin": "https://good.com.evil"})
    assert refused(data, cut, rules).status == 403


@pytest.mark.parametrize("origins", [["http://a", "http://b"], [f"http://{HOST}"] * 2])
def test_row_4_two_origins_are_400(origins: list[str], cut: int) -> None:
    assert refused(upgrade_request({"Origin": origins}), cut).status == 400


def test_row_5_no_origin_is_allowed_unless_required(cut: int) -> None:
    assert upgraded(upgrade_request(), cut)
    response = refused(upgrade_request(), cut, policy(require_origin=True))
    assert (response.status, response.error) == (403, "Origin is required here")


@pytest.mark.parametrize(
    ("host", "origin", "secure", "fine"),
    [
        (HOST, f"http://{HOST}", False, True),
        (HOST, "HTTP://Chat.Example:8080", False, True),
        (HOST, f"ws://{HOST}", False, True),
        ("a.example", "http://a.example", False, True),
        ("a.example:80", "http://a.example", False, True),
        ("a.example", "http://a.example:80", False, True),
        ("a.example:", "http://a.example", False, True),
        ("a.example", "https://a.example", True, True),
        ("a.example:443", "https://a.example", True, True),
        ("a.example", "wss://a.example:443", True, True),
        ("a.example", "https://a.example", False, True),  # TLS ended at an unknown proxy
        ("a.example", "http://a.example", True, False),  # a page that anybody can forge
        ("a.example:443", "http://a.example", True, False),
        ("a.example:80", "https://a.example", False, False),
        ("[::1]:8080", "http://[::1]:8080", False, True),
        ("[::1]", "http://[::2]", False, False),
    ],
)
def test_origin_of_the_host_itself(host: str, origin: str, secure: bool, fine: bool) -> None:
    answer = receive(upgrade_request({"Host": host, "Origin": origin}), secure=secure)
    assert isinstance(answer, Upgrade) is fine


@pytest.mark.parametrize(
    ("allowed", "origin", "fine"),
    [
        ("https://app.example", "https://app.example", True),
        ("https://app.example", "http://app.example", False),
        ("https://app.example", "https://app.example:444", False),
        ("null", "null", True),
        ("*", "https://any.example", True),
        ("*", "null", True),
        ("https://*.example", "https://app.example", False),
    ],
)
def test_allowed_origins_are_exact_or_all(allowed: str, origin: str, fine: bool) -> None:
    rules = policy(allow_origins=frozenset({allowed}))
    answer = receive(upgrade_request({"Origin": origin}), 0, rules)
    assert isinstance(answer, Upgrade) is fine


# Method, upgrade, version, key


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD", "OPTIONS", "get", "BREW"])
def test_row_6_other_methods_are_405(method: str, cut: int) -> None:
    response = refused(upgrade_request(method=method), cut, method=method)
    assert (response.status, response.headers["allow"]) == (405, "GET")


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"Sec-WebSocket-Version": "8"}, id="row-7-wrong"),
        pytest.param({"Sec-WebSocket-Version": None}, id="row-7-missing"),
        pytest.param({"Sec-WebSocket-Version": ["13", "13"]}, id="row-7-doubled"),
        pytest.param({"Sec-WebSocket-Version": "13, 8"}, id="row-7-list"),
        {"Upgrade": None},
        {"Upgrade": "h2c"},
        {"Connection": None},
        {"Connection": "keep-alive"},
    ],
)
def test_no_upgrade_or_another_version_is_426(changes: Lines, cut: int) -> None:
    response = refused(upgrade_request(changes), cut)
    assert response.status == 426
    assert response.headers["sec-websocket-version"] == "13"
    assert response.headers["upgrade"] == "websocket"
    assert response.headers["connection"] == "close, upgrade"
    assert re.search("|".join(changes), response.error)


def test_upgrade_of_http_1_0_is_426(cut: int) -> None:
    assert refused(upgrade_request(version="1.0"), cut).status == 426
    assert refused(upgrade_request({"Host": None}, version="1.0"), cut).status == 426


@pytest.mark.parametrize(
    "key", [None, [KEY, KEY], "", "AAAA", "A" * 24, KEY + "AAAA", "!" * 22 + "==", KEY[:-1], "\xff"]
)
def test_row_8_key_that_is_not_one_of_16_bytes_is_400(key: str | list[str] | None, cut: int) -> None:
    response = refused(upgrade_request({"Sec-WebSocket-Key": key}), cut)
    assert response.status == 400
    assert "Sec-WebSocket-Key" in response.error


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Length", "0"),
        ("Content-Length", "5"),
        ("Content-Length", ["5", "5"]),
        ("Content-Length", ["5", "6"]),
        ("Content-Length", "x"),
        ("Content-Length", "9" * 30),
        ("Transfer-Encoding", "chunked"),
        ("Transfer-Encoding", "gzip, chunked"),
        ("Transfer-Encoding", ["chunked", "chunked"]),
    ],
)
def test_row_9_body_on_an_upgrade_is_400(name: str, value: str | list[str], cut: int) -> None:
    response = refused(upgrade_request({name: value}), cut)
    assert response.status == 400
    assert name in response.error


# Sizes


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"X": "a" * 16_384}, id="one-long"),
        pytest.param({f"X-{n}": "a" * 400 for n in range(50)}, id="many-long"),
        pytest.param({f"X-{n}": "" for n in range(96)}, id="101"),
        pytest.param({"X": [""] * 1000}, id="1000-equal"),
        pytest.param({"Host": "a" * 60_000}, id="60-kb-host"),
    ],
)
def test_row_10_too_much_header_is_431(changes: Lines, cut: int) -> None:
    assert refused(upgrade_request(changes), cut).status == 431


def test_row_10_bounds_are_exact(cut: int) -> None:
    assert upgraded(upgrade_request({f"X-{n}": "" for n in range(95)}), cut)
    data = upgrade_request({"X": ""})
    fits = upgrade_request({"X": "a" * (16_384 - len(data))})
    assert len(fits) == 16_384
    assert upgraded(fits, cut)
    assert refused(upgrade_request({"X": "a" * (16_385 - len(data))}), cut).status == 431


def test_row_10_refused_before_the_head_ends() -> None:
    data = b"GET / HTTP/1.1\r\nX: " + b"a" * 16_384
    assert refused(data).status == refused(data, 1).status == 431


def test_row_11_target_is_bounded_exactly(cut: int) -> None:
    fits = CHAT + "&x=" + "a" * (8192 - len(CHAT) - 3)
    assert upgraded(upgrade_request(target=fits), cut)
    assert refused(upgrade_request(target=fits + "a"), cut).status == 414
    assert refused(upgrade_request(target="/" + "a" * 70_000), cut).status == 414


def test_row_11_refused_before_the_target_ends(cut: int) -> None:
    assert receive(b"GET " + b"/" * 8192, cut) is None
    assert refused(b"GET " + b"/" * 8193, cut).status == 414
    assert refused(b"HEAD " + b"/" * 8193, cut, method="HEAD").body == b""


def test_infinite_bounds_are_none() -> None:
    inf = float("inf")
    rules = policy(header_bytes=inf, max_headers=inf, target_bytes=inf)
    changes: Lines = {"X": ["a" * 1000] * 200}
    assert upgraded(upgrade_request(changes, target=CHAT + "&x=" + "a" * 70_000), 0, rules)


def test_a_slow_head_is_looked_at_once() -> None:
    """Byte by byte, no step may look at much more than its byte: counted, not timed."""
    handshake = Handshake(POLICY, "", secure=False)
    reader = handshake._reader
    assert reader is not None
    data = b"GET /" + b"a" * 4000 + b" HTTP/1.1\r\nX: " + b"b\r\r" * 3000
    for at in range(len(data)):
        assert handshake.receive(data[at : at + 1]) is None
        assert at < 33 or at + 1 - reader._searched <= 10  # 10: from the target's end to its line's


# Syntax


@pytest.mark.parametrize(
    "host",
    [
        "\xe9.example",
        "a b",
        "a/b",
        "a@b",
        "a:b",
        "a:99999",
        "a:123456",
        "[::1",
        "::1",
        "[zz]",
        "",
        "%41",
        "a,b",
        "http://a",
    ],
)
def test_row_12_malformed_host_is_400(host: str, cut: int) -> None:
    for target in (CHAT, "/health"):
        response = refused(upgrade_request({"Host": host}, target=target), cut)
        assert response.status == 400
        assert "Host" in response.error


@pytest.mark.parametrize("host", [None, [HOST, HOST], ["a", "b"]])
def test_row_12_exactly_one_host_is_needed(host: str | list[str] | None, cut: int) -> None:
    response = refused(upgrade_request({"Host": host}), cut)
    assert response.status == 400
    assert "Host" in response.error


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS ClientHello
        b"\x80\x2e\x01\x00\x02",  # SSL 2
        b"\0",
        b"\r\n",
        b" GET / HTTP/1.1",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"A" * 33,
        b"A" * 70_000,
    ],
)
def test_other_protocols_are_refused_before_any_line_ends(data: bytes, cut: int) -> None:
    response = refused(data, cut)
    assert response.status == 400
    assert "HTTP/1.1" in response.error


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET /a\x00b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n",
    ],
)
def test_malformed_heads_are_400(data: bytes, cut: int) -> None:
    assert refused(data, cut).status == 400


@pytest.mark.parametrize(
    "target",
    [
        "/ws/%",
        "/ws/%zz?username=a",
        "/ws/%ff?username=a",
        "/ws/%c3%28?username=a",
        "/ws/%ed%a0%80?username=a",  # a lone surrogate
        "/ws/a?username=%",
        "/ws/a?username=%4",
        "/ws/a?username=%ff",
        "/ws/a?username=%ed%a0%80",
        "/ws/a?username=a&%ff=a",
    ],
)
def test_broken_percent_encoding_is_400(target: str, cut: int) -> None:
    response = refused(upgrade_request(target=target), cut)
    assert response.status == 400
    assert "percent-encoded" in response.error


def test_percent_encoding_is_undone_by_segment_and_plus_is_a_space() -> None:
    seen: list[Request] = []

    def route(request: Request) -> Route:
        seen.append(request)
        return Route()

    upgraded(upgrade_request(target="/a%2Fb/c+d/%C3%A9?x+y=a+b%2B%26&&z&=q"), 0, policy(route=route))
    assert seen[0].segments == ("a/b", "c+d", "\u00e9")
    assert seen[0].path == "/a/b/c+d/\u00e9"
    assert seen[0].query == (("x y", "a b+&"), ("z", ""), ("", "q"))


@pytest.mark.parametrize(
    "target",
    ["/ws/a%0d%0aSet-Cookie:%20a=b?username=x", "/ws/a?username=x%0d%0aX:%20y", "/%0d%0aX:%20y"],
)
def test_row_17_line_ends_are_never_echoed(target: str, cut: int) -> None:
    answer = receive(upgrade_request(target=target), cut)
    assert isinstance(answer, Reply)
    head, _, body = answer.data.partition(b"\r\n\r\n")
    assert b"Cookie" not in head
    assert b"\nX:" not in head
    assert not re.search(rb"[\r\n\0]", body)


def test_row_17_line_ends_in_what_is_echoed_are_refused(cut: int) -> None:
    data = upgrade_request({"Sec-WebSocket-Protocol": "a\rSet-Cookie: b"})
    rules = policy(subprotocols=["a"])
    assert refused(data, cut, rules).status == 400


# Subprotocols


@pytest.mark.parametrize(
    ("offer", "selected"),
    [
        pytest.param("chat.v9", None, id="row-18-unknown"),
        (None, None),
        ("roomhub.v1.json", "roomhub.v1.json"),
        ("chat.v9, roomhub.v1.json", "roomhub.v1.json"),
        (["chat.v9", "other, roomhub.v1.json"], "roomhub.v1.json"),
        ("ROOMHUB.V1.JSON", None),
        ("roomhub.v2.json,roomhub.v1.json", "roomhub.v2.json"),
        ("roomhub.bearer.c2VjcmV0, roomhub.v1.json", "roomhub.v1.json"),
        ("roomhub.bearer.c2VjcmV0", None),
        (",, roomhub.v1.json ,", "roomhub.v1.json"),
    ],
)
def test_first_offer_that_is_spoken_is_selected(offer: str | list[str] | None, selected: str | None, cut: int) -> None:
    spoken = ["roomhub.v1.json", "roomhub.v2.json", "roomhub.bearer.c2VjcmV0"]
    data = upgrade_request({"Sec-WebSocket-Protocol": offer})
    upgrade = upgraded(data, cut, policy(subprotocols=spoken))
    assert upgrade.subprotocol == selected
    expected = f"Sec-WebSocket-Protocol: {selected}\r\n" if selected else "\r\n\r\n"
    assert expected in upgrade.accept().decode()
    assert b"bearer" not in upgrade.accept()
    assert upgraded(data, cut).subprotocol is None


@pytest.mark.parametrize("offer", ["a b", 'a, "b"', "a;b", "\xe9"])
def test_malformed_subprotocols_are_400(offer: str, cut: int) -> None:
    response = refused(upgrade_request({"Sec-WebSocket-Protocol": offer}), cut)
    assert response.status == 400
    assert "Sec-WebSocket-Protocol" in response.error


# Room and user

REQUIRED = b'{"error":"room and username are required"}'


@pytest.mark.parametrize(
    "target",
    [
        "/ws",
        "/ws/",
        "/ws?username=kevin",
        "/ws/?username=kevin",
        "/ws/general",
        "/ws/general?",
        "/ws/general?username",
        "/ws/general?username=",
        "/ws/general?username=&username=",
        "/ws/general?Username=kevin",
        "/ws/general?user=kevin",
    ],
)
@pytest.mark.parametrize("changes", [{}, {"Upgrade": None, "Connection": None}])
def test_row_19_missing_room_or_username_gets_the_words_of_the_seed(target: str, changes: Lines, cut: int) -> None:
    response = refused(upgrade_request(changes, target=target), cut)
    assert (response.status, response.body) == (400, REQUIRED)


def test_row_19_doubled_username_is_400(cut: int) -> None:
    response = refused(upgrade_request(target=CHAT + "&username=eve"), cut)
    assert response.status == 400
    assert "username" in response.error
    assert response.body != REQUIRED


@pytest.mark.parametrize(
    "name",
    ["a\u202eb", "\u2066a", "a\u200bb", "a\u200db", "a\x07b", "a\r\nb", "a\0", "\u2028", "e\u0301", "a,b", "  "],
)
def test_row_49_hidden_characters_in_a_name_are_400(name: str, cut: int) -> None:
    response = refused(upgrade_request(target=f"/ws/general?username={quote(name)}"), cut)
    assert response.status == 400
    assert response.error.startswith("username")
    assert response.error.isascii()


@pytest.mark.parametrize("room", ["../x", "*", "a\r\nb", "a b", "..", ".", "\u00e9", "a" * 65])
def test_row_52_room_outside_the_charset_is_400(room: str, cut: int) -> None:
    target = f"/ws/{quote(room, safe='')}?username=kevin"
    response = refused(upgrade_request(target=target), cut)
    assert response.status == 400
    assert response.error.startswith("room")
    assert response.body != REQUIRED


def test_limits_of_names_are_arguments() -> None:
    rules = policy(route=chat_route(name_bytes=3, room_rule=lambda room: room_fault(room, max_bytes=3)))
    assert refused(upgrade_request(target="/ws/abcd?username=abc"), 0, rules).status == 400
    assert refused(upgrade_request(target="/ws/abc?username=abcd"), 0, rules).status == 400
    assert upgraded(upgrade_request(target="/ws/abc?username=abc"), 0, rules)


def test_names_are_decoded(cut: int) -> None:
    upgrade = upgraded(upgrade_request(target="/ws/%67en?username=Kevin+%C3%89."), cut)
    assert upgrade.route == Route("gen", "Kevin \u00c9.")


# Paths and pages


@pytest.mark.parametrize(
    "target", ["/", "/nope", "/ws/a/b?username=a", "/ws/../x", "/wsx", "//ws/a", "/health/", "/WS/a"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_unknown_path_is_404(target: str, method: str, cut: int) -> None:
    response = refused(upgrade_request(target=target, method=method), cut, method=method)
    assert response.status == 404


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_page_answers_get_and_head(version: str, cut: int) -> None:
    bodies = {}
    for method in ("GET", "HEAD"):
        data = f"{method} /health?x=1 HTTP/{version}\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode()
        answer = receive(data, cut)
        assert isinstance(answer, Reply)
        response = Response(answer.data, method)
        assert (answer.status, answer.error, response.status) == (200, "", 200)
        assert response.headers["content-type"] == "application/json"
        assert response.headers["content-length"] == "15"
        bodies[method] = response.body
    assert bodies == {"GET": b'{"status":"ok"}', "HEAD": b""}


def test_page_is_made_for_each_request() -> None:
    pages = iter([Page(200, "text/plain", b"a"), Page(299, "text/plain", b"b")])
    rules = policy(pages={"/p": lambda: next(pages)})
    for status, body in ((200, b"a"), (299, b"b")):
        answer = receive(b"GET /p HTTP/1.1\r\nHost: a\r\n\r\n", 0, rules)
        assert isinstance(answer, Reply)
        response = Response(answer.data)
        assert (response.status, response.body) == (status, body)


def test_page_refuses_other_methods_and_bodies(cut: int) -> None:
    response = refused(b"POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}", cut)
    assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")
    for line in (b"Content-Length: 2", b"Transfer-Encoding: chunked"):
        data = b"GET /health HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n\r\n"
        assert refused(data, cut).status == 400


def test_a_route_may_be_anything() -> None:
    def echo(request: Request) -> Route | Refusal:
        return Route() if request.path == "/" else Refusal(404, "only / is here")

    assert upgraded(upgrade_request(target="/"), 0, policy(route=echo)).route == Route()
    assert refused(upgrade_request(), 0, policy(route=echo)).error == "only / is here"


# The order of faults

FAULTS: list[tuple[int, Callable[[dict[str, str], Lines], object]]] = [
    (414, lambda line, _: line.update(target=line["target"] + "&x=" + "a" * 8192)),
    (431, lambda _, headers: headers.update(Long="a" * 16_384)),
    (400, lambda _, headers: headers.update({"Host": "a b"})),
    (404, lambda line, _: line.update(target=line["target"].replace("/ws/", "/x/"))),
    (405, lambda line, _: line.update(method="PUT")),
    (400, lambda line, _: line.update(target=line["target"].replace("kevin", ""))),
    (400, lambda _, headers: headers.update({"Content-Length": "1"})),
    (426, lambda _, headers: headers.update({"Upgrade": None})),
    (400, lambda _, headers: headers.update({"Sec-WebSocket-Key": None})),
    (403, lambda _, headers: headers.update({"Origin": "http://evil.example"})),
]


@pytest.mark.parametrize("first", range(len(FAULTS)))
def test_the_first_fault_in_order_is_reported(first: int, cut: int) -> None:
    """With faults `first` and all that come later, the answer is that of `first` alone."""

    def answer(faults: Iterable[tuple[int, Callable[[dict[str, str], Lines], object]]]) -> Response:
        line, headers = {"target": CHAT, "method": "GET"}, Lines()
        for _, apply in faults:
            apply(line, headers)
        return refused(upgrade_request(headers, **line), cut)  # type: ignore[arg-type]

    alone, all_later = answer(FAULTS[first : first + 1]), answer(FAULTS[first:])
    assert alone.status == FAULTS[first][0]
    assert (all_later.status, all_later.error) == (alone.status, alone.error)


# Proxies

TRUSTED = policy(trusted_proxies=[ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1")])


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({}, "10.0.0.1"),
        ({"X-Forwarded-For": "198.51.100.7"}, "198.51.100.7"),
        ({"X-Forwarded-For": "1.1.1.1, 198.51.100.7"}, "198.51.100.7"),
        ({"X-Forwarded-For": "1.1.1.1, 198.51.100.7, 10.0.0.2"}, "198.51.100.7"),
        ({"X-Forwarded-For": ["1.1.1.1, 198.51.100.7", "10.0.0.2"]}, "198.51.100.7"),
        ({"X-Forwarded-For": "10.0.0.3, 10.0.0.2"}, "10.0.0.3"),
        ({"X-Forwarded-For": "198.51.100.7:4711"}, "198.51.100.7"),
        ({"X-Forwarded-For": "2001:db8::7"}, "2001:db8::7"),
        ({"X-Forwarded-For": "[2001:DB8::7]:80, fd00::1"}, "2001:db8::7"),
        ({"X-Forwarded-For": "::ffff:198.51.100.7, ::ffff:10.0.0.9"}, "198.51.100.7"),
        ({"X-Forwarded-For": "198.51.100.7, unknown"}, "10.0.0.1"),
        ({"X-Forwarded-For": "198.51.100.7, \xff\x01, 10.0.0.2"}, "10.0.0.2"),
        ({"X-Forwarded-For": ", ,"}, "10.0.0.1"),
        ({"Forwarded": "for=198.51.100.7"}, "198.51.100.7"),
        ({"Forwarded": 'For="[2001:db8::7]:4711";proto=http;by=10.0.0.1'}, "2001:db8::7"),
        ({"Forwarded": "for=1.1.1.1, for=198.51.100.7;by=x, for=10.0.0.2"}, "198.51.100.7"),
        ({"Forwarded": ["for=1.1.1.1", 'for="198.51.100.7:80"']}, "198.51.100.7"),
        ({"Forwarded": "for=198.51.100.7, for=_hidden"}, "10.0.0.1"),
        ({"Forwarded": "for=198.51.100.7, for=unknown, for=10.0.0.2"}, "10.0.0.2"),
        ({"Forwarded": "for=198.51.100.7, by=10.0.0.2"}, "10.0.0.1"),
        ({"Forwarded": "for=1.1.1.1, ???"}, "10.0.0.1"),
        ({"Forwarded": "for=1.1.1.1;"}, "10.0.0.1"),
        ({"Forwarded": ['for="', "for=198.51.100.7"]}, "198.51.100.7"),
        ({"Forwarded": 'for="1.1.1.1, for=198.51.100.7'}, "198.51.100.7"),
        # Of two accounts that differ, one is the client's own invention.
        ({"Forwarded": "for=1.1.1.1", "X-Forwarded-For": "198.51.100.7"}, "10.0.0.1"),
        ({"Forwarded": "for=198.51.100.7", "X-Forwarded-For": "198.51.100.7"}, "198.51.100.7"),
    ],
)
def test_address_is_what_trusted_proxies_say(headers: Lines, client: str) -> None:
    data = upgrade_request(headers)
    assert upgraded(data, 0, TRUSTED, peer="10.0.0.1").address == client
    assert upgraded(data, 0, TRUSTED, peer="::ffff:10.0.0.1").address == client
    assert upgraded(data, 0, TRUSTED, peer="192.0.2.1").address == "192.0.2.1"
    assert upgraded(data, 0, POLICY, peer="10.0.0.1").address == "10.0.0.1"
    assert upgraded(data, 0, TRUSTED, peer="/run/x.sock").address == "/run/x.sock"


@pytest.mark.parametrize(
    ("headers", "secure"),
    [
        ({"X-Forwarded-Proto": "https"}, True),
        ({"X-Forwarded-Proto": "HTTPS", "X-Forwarded-For": "1.1.1.1"}, True),
        ({"X-Forwarded-Proto": "wss", "X-Forwarded-For": "1.1.1.1, 10.0.0.2"}, True),
        ({"X-Forwarded-Proto": "http, https", "X-Forwarded-For": "1.1.1.1, 10.0.0.2"}, False),
        ({"X-Forwarded-Proto": "http, https", "X-Forwarded-For": "10.0.0.3, 1.1.1.1"}, True),
        ({"X-Forwarded-Proto": "gopher", "X-Forwarded-For": "1.1.1.1"}, False),
        ({"Forwarded": "for=1.1.1.1;proto=https"}, True),
        ({"Forwarded": "for=1.1.1.1;proto=https, for=10.0.0.2;proto=http"}, True),
        ({"Forwarded": "for=2.2.2.2;proto=https, for=1.1.1.1;proto=http"}, False),
    ],
)
def test_scheme_is_what_trusted_proxies_say(headers: Lines, secure: bool) -> None:
    data = upgrade_request(headers)
    assert upgraded(data, 0, TRUSTED, peer="10.0.0.1").secure is secure
    assert upgraded(data, 0, TRUSTED, peer="192.0.2.1").secure is False
    assert upgraded(data, 0, TRUSTED, peer="192.0.2.1", secure=True).secure is True


def test_a_forged_list_of_proxies_is_walked_a_short_way() -> None:
    data = upgrade_request({"X-Forwarded-For": "1.1.1.1" + ",10.0.0.2" * 1000})
    assert upgraded(data, 0, TRUSTED, peer="10.0.0.1").address == "10.0.0.2"


def test_scheme_from_a_proxy_counts_for_the_origin() -> None:
    headers: Lines = {"Host": "a.example", "X-Forwarded-Proto": "https"}
    for origin, fine in (("https://a.example", True), ("http://a.example", False)):
        data = upgrade_request({**headers, "Origin": origin})
        assert isinstance(receive(data, 0, TRUSTED, peer="10.0.0.1"), Upgrade) is fine


# permessage-deflate

COMPRESSING = policy(compression=True)
DEFLATE = "permessage-deflate"
ANSWER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=12"


@pytest.mark.parametrize(
    ("offer", "client_bits"),
    [
        (DEFLATE, 15),
        (f"{DEFLATE}; client_max_window_bits", 12),
        (f"{DEFLATE};client_max_window_bits=15", 12),
        (f"{DEFLATE}; client_max_window_bits=12", 12),
        (f"{DEFLATE}; client_max_window_bits=9", 9),
        (f'{DEFLATE}; client_max_window_bits="10"', 10),
        (f"{DEFLATE}; server_max_window_bits=12", 15),
        (f"{DEFLATE} ; server_max_window_bits = 15 ; server_no_context_takeover", 15),
        (f"{DEFLATE}; client_no_context_takeover; client_max_window_bits", 12),
        (f"x-webkit-deflate-frame, {DEFLATE}", 15),
        (f"{DEFLATE}; server_max_window_bits=10, {DEFLATE}", 15),
        (f"{DEFLATE}; client_max_window_bits=abc, {DEFLATE}; client_max_window_bits", 12),
        (f'foo; x="a, b\\"", {DEFLATE}', 15),
        (f"??, {DEFLATE}", 15),
        (f"; , {DEFLATE}", 15),
        (["foo", DEFLATE], 15),
        (f", {DEFLATE},", 15),
    ],
)
def test_deflate_is_agreed(offer: str | list[str], client_bits: int, cut: int) -> None:
    data = upgrade_request({"Sec-WebSocket-Extensions": offer})
    upgrade = upgraded(data, cut, COMPRESSING)
    assert upgrade.deflate == Deflate(12, client_bits)
    answer = ANSWER if client_bits == 15 else f"{ANSWER}; client_max_window_bits={client_bits}"
    assert f"\r\nSec-WebSocket-Extensions: {answer}\r\n" in upgrade.accept().decode()
    assert upgraded(data, cut).deflate is None


@pytest.mark.parametrize(
    "offer",
    [
        None,
        "",
        ",",
        "foo",
        "Permessage-Deflate2",
        "permessage-deflate=1",
        pytest.param(f"{DEFLATE}; client_max_window_bits=abc", id="row-13"),
        f"{DEFLATE}; client_max_window_bits=",
        f"{DEFLATE}; client_max_window_bits=7",
        f"{DEFLATE}; client_max_window_bits=16",
        f"{DEFLATE}; client_max_window_bits=012",
        f"{DEFLATE}; client_max_window_bits=+12",
        f"{DEFLATE}; client_max_window_bits=\xb2",
        f"{DEFLATE}; client_max_window_bits; client_max_window_bits",
        f"{DEFLATE}; client_max_window_bits=12; client_max_window_bits=13",
        f"{DEFLATE}; server_max_window_bits",
        f"{DEFLATE}; server_max_window_bits=11",
        f"{DEFLATE}; server_max_window_bits=8",
        f"{DEFLATE}; server_no_context_takeover=1",
        f"{DEFLATE}; client_no_context_takeover=true",
        f"{DEFLATE}; server_no_context_takeover; server_no_context_takeover",
        f"{DEFLATE}; unknown",
        f"{DEFLATE}; ",
        f"{DEFLATE};;client_max_window_bits",
        f"{DEFLATE} client_max_window_bits",
        f'{DEFLATE}; client_max_window_bits="12',
    ],
)
def test_row_13_deflate_is_declined(offer: str | None, cut: int) -> None:
    upgrade = upgraded(upgrade_request({"Sec-WebSocket-Extensions": offer}), cut, COMPRESSING)
    assert upgrade.deflate is None
    assert b"Extensions" not in upgrade.accept()


def test_a_client_that_is_not_ours_takes_the_answer() -> None:
    client = WSConnection(ConnectionType.CLIENT)
    deflate = PerMessageDeflate(client_max_window_bits=15)
    data = client.send(WSRequest(host=HOST, target=CHAT, subprotocols=["x", "y"], extensions=[deflate]))
    upgrade = upgraded(data, 1, policy(compression=True, subprotocols=["y"]))
    client.receive_data(upgrade.accept())
    [event] = list(client.events())
    assert isinstance(event, AcceptConnection)
    assert event.subprotocol == "y"
    assert [extension.enabled() for extension in event.extensions or []] == [True]
    assert deflate.server_max_window_bits == 12


# The end, and what is said without a request


def test_end_of_stream_within_a_head_is_400() -> None:
    handshake = Handshake(POLICY, "", secure=False)
    assert handshake.receive(b"GET /ws") is None
    answer = handshake.receive(b"")
    assert isinstance(answer, Reply)
    assert Response(answer.data).status == 400


def test_end_of_stream_before_a_request_has_nothing_to_answer() -> None:
    answer = Handshake(POLICY, "", secure=False).receive(b"")
    assert isinstance(answer, Reply)
    assert answer.data == b""


def test_asking_after_the_answer_is_misuse() -> None:
    handshake = Handshake(POLICY, "", secure=False)
    assert handshake.receive(upgrade_request()) is not None
    with pytest.raises(RuntimeError):
        handshake.receive(b"x")


def test_replies_before_a_request_is_read() -> None:
    timeout = Response(timeout_reply().data)
    assert (timeout.status, timeout_reply().status) == (408, 408)
    assert "time" in timeout.error
    reply = unavailable_reply("too many connections from your address", retry_after_s=30)
    unavailable = Response(reply.data)
    assert (unavailable.status, unavailable.headers["retry-after"]) == (503, "30")
    assert unavailable.error == reply.error == "too many connections from your address"


# Any bytes, any cuts

SOUND = upgrade_request(
    {
        "Origin": f"http://{HOST}",
        "Sec-WebSocket-Extensions": f"{DEFLATE}; client_max_window_bits",
        "Sec-WebSocket-Protocol": "a, roomhub.v1.json",
        "Forwarded": 'for="[2001:db8::7]:1";proto=https',
        "X-Forwarded-For": "10.0.0.2",
    },
    rest=b"\x81\x80abcd",
)
EVERYTHING = dataclasses.replace(TRUSTED, compression=True, subprotocols=["roomhub.v1.json"])

_lines = st.lists(st.sampled_from([*SOUND.split(b"\r\n"), b"Content-Length: 1", b"Host: \xff", b" x"]))
_noise = st.binary(max_size=40)
heads = st.one_of(
    st.binary(),
    _noise.map(lambda noise: b"GET /ws/a?username=" + noise + SOUND[SOUND.index(b" HTTP") :]),
    _lines.map(lambda lines: b"\r\n".join([b"GET " + CHAT.encode() + b" HTTP/1.1", *lines, b"", b""])),
    st.tuples(st.integers(0, len(SOUND)), st.integers(0, 20), _noise).map(
        lambda edit: SOUND[: edit[0]] + edit[2] + SOUND[edit[0] + edit[1] :]
    ),
    st.tuples(
        st.sampled_from([b"Forwarded", b"Sec-WebSocket-Extensions", b"X-Forwarded-For", b"Origin"]),
        st.text('abf=;:,."\\ \t[]019', max_size=60).map(str.encode),
    ).map(lambda line: SOUND.replace(b"Host:", b": ".join(line) + b"\r\nHost:")),
)


@settings(deadline=None)
@given(heads, st.lists(st.integers(0, 600)), st.booleans())
def test_any_bytes_in_any_pieces_get_the_same_answer(data: bytes, cuts: list[int], ends: bool) -> None:
    whole = receive(data, 0, EVERYTHING, peer="10.0.0.1") if data else None
    assert whole is None or isinstance(whole, Upgrade | Reply)
    if isinstance(whole, Reply) and whole.data:
        method = "HEAD" if data.startswith(b"HEAD ") else "GET"
        assert Response(whole.data, method).status == whole.status
    elif isinstance(whole, Upgrade):
        assert whole.accept().count(b"\r\n\r\n") == 1

    handshake = Handshake(EVERYTHING, "10.0.0.1", secure=False)
    places = sorted({0, *(place for place in cuts if place < len(data)), len(data)})
    pieced: Upgrade | Reply | None = None
    for start, end in itertools.pairwise(places):
        pieced = handshake.receive(data[start:end])
        if pieced is not None:
            if isinstance(pieced, Upgrade):
                pieced = dataclasses.replace(pieced, rest=pieced.rest + data[end:])
            break
    assert pieced == whole
    if pieced is None and ends:
        assert isinstance(handshake.receive(b""), Reply)


def test_a_sound_request_cut_anywhere_is_the_same() -> None:
    whole = upgraded(SOUND, 0, EVERYTHING, peer="10.0.0.1")
    for place in range(1, len(SOUND)):
        handshake = Handshake(EVERYTHING, "10.0.0.1", secure=False)
        answer = handshake.receive(SOUND[:place])
        if answer is None:
            answer = handshake.receive(SOUND[place:])
            assert answer == whole
        else:
            assert isinstance(answer, Upgrade)
            assert answer.rest + SOUND[place:] == whole.rest
