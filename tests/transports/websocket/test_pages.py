"""The HTTP pages beside the chat."""

import re

import pytest

from roomhub import Limits, Runtime
from roomhub.core.commands import Drain
from roomhub.core.hub import Statistics
from roomhub.transports.websocket import Page, Refusal, Request, Route, serve
from roomhub.transports.websocket.pages import health_page, metrics_page
from tests.transports.websocket.support import Driver, chat, frame, left, request, roster, serving, text

SAMPLE = re.compile(
    r'(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>[a-z]+="(?:[^"\\\n]|\\["\\n])*")\})? (?P<value>\S+)'
)


def parsed(text: str) -> dict[str, float]:
    """Samples of Prometheus' text format, version 0.0.4; each family must be announced and stand together."""
    samples: dict[str, float] = {}
    families: list[str] = []
    kind = ""
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            families.append(line.split(" ")[2])
            assert families.count(families[-1]) == 1
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == families[-1]
            assert kind in ("gauge", "counter")
        else:
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            assert match["name"] == families[-1]
            assert match["name"].endswith("_total") is (kind == "counter")
            key = match["name"] + (f"{{{match['labels']}}}" if match["labels"] else "")
            assert key not in samples
            samples[key] = float(match["value"])
    return samples


def test_metrics_escape_what_a_label_may_not_hold() -> None:
    statistics = Statistics(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, {'a"b\\c\nd': 3}, {"over_capacity": 2})
    page = metrics_page(statistics, {"http_400": 2, "over_capacity": 1}, {"close_1009": 4})
    samples = parsed(page.body.decode())
    assert samples['roomhub_evictions_total{reason="a\\"b\\\\c\\nd"}'] == 3
    assert samples['roomhub_refusals_total{reason="http_400"}'] == 2
    assert samples['roomhub_refusals_total{reason="over_capacity"}'] == 3, "by the hub and before it"
    assert samples['roomhub_evictions_total{reason="close_1009"}'] == 4


def test_health_tells_a_drain() -> None:
    assert health_page(draining=False).status == 200
    assert health_page(draining=True).status == 503


@pytest.mark.anyio
async def test_health_is_the_seeds(driver: Driver) -> None:
    async with serving(driver) as world:
        response = await world.get("/health")
        assert response.status == 200
        assert response.body == b'{"status":"ok"}'
        assert response.headers["content-type"] == "application/json"
        head = world.connect()
        await head.send(b"HEAD /health HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await head.end()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"content-length: 15" in answer.lower()
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.anyio
async def test_other_paths_and_methods_are_refused(driver: Driver) -> None:
    async with serving(driver) as world:
        assert (await world.get("/")).status == 404
        assert (await world.get("/healthz")).status == 404
        refused = await world.get("/health", method="POST")
        assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
        refused = await world.get("/ws/lobby?username=ann", method="DELETE")
        assert (refused.status, refused.headers["allow"]) == (405, "GET")
        assert (await world.get("/ws/lobby?username=ann")).status == 426


@pytest.mark.anyio
async def test_metrics_tell_what_happened(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, bob = await world.room_of("ann", "bob")
        await ann.say("héllo")
        for peer in (ann, bob):
            assert await peer.receive() == chat("ann", "héllo")
        await world.refused(request(lines=["Origin: https://evil.example"]))
        big = await world.join("big", room="elsewhere")
        await big.say("x" * 513)
        await big.closed()
        world.runtime.kick("bob")
        await bob.closed()
        assert await ann.receive_until(roster("ann")) == [left("bob"), roster("ann")]
        response = await world.get("/metrics")
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        samples = parsed(response.body.decode())
        assert samples["roomhub_connections"] == 1
        assert samples["roomhub_rooms"] == 1
        assert samples["roomhub_members"] == 1
        assert samples["roomhub_messages_in_total"] == 1
        assert samples["roomhub_messages_published_total"] == 1
        assert samples["roomhub_messages_dropped_total"] == 0
        # ann: two of her own arrival, two of bob's, the chat, two of his departure; bob: two and the chat; big: two.
        assert samples["roomhub_deliveries_total"] == 7 + 3 + 2
        assert samples["roomhub_received_bytes_total"] == len("héllo".encode())
        assert samples["roomhub_sent_bytes_total"] > 10 * 60
        assert samples["roomhub_lag_messages"] == 0
        assert samples['roomhub_evictions_total{reason="kicked"}'] == 1
        assert samples['roomhub_evictions_total{reason="close_1009"}'] == 1
        assert samples['roomhub_refusals_total{reason="http_403"}'] == 1


@pytest.mark.anyio
async def test_a_connection_for_which_there_is_no_place_counts_by_the_reason(driver: Driver) -> None:
    async with serving(driver, limits=Limits(connections=1)) as world:
        ann = await world.join("ann")
        assert (await world.refused(request("/ws/lobby?username=bob"))).status == 503
        samples = parsed((await world.get("/metrics")).body.decode())
        assert samples['roomhub_refusals_total{reason="over_capacity"}'] == 1
        world.runtime.submit(Drain())
        assert (await ann.closed())[0] == 1012
        assert (await world.refused(request("/ws/lobby?username=bob"))).status == 503
        assert (await world.get("/health")).status == 503
        samples = parsed((await world.get("/metrics")).body.decode())
        assert samples['roomhub_refusals_total{reason="draining"}'] == 1
        assert not any("http_503" in name for name in samples), "what a page says is no refusal"


@pytest.mark.anyio
async def test_metrics_may_have_their_own_port(driver: Driver) -> None:
    from socket import socket

    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with serving(driver, metrics_port=port) as world:
        await world.join("ann")
        assert (await world.get("/metrics")).status == 404
        response = await world.get("/metrics", port=port)
        assert parsed(response.body.decode())["roomhub_members"] == 1
        assert (await world.get("/health", port=port)).status == 200
        assert (await world.get("/ws/lobby?username=ann", port=port)).status == 404
        samples = parsed((await world.get("/metrics", port=port)).body.decode())
        assert samples['roomhub_refusals_total{reason="http_404"}'] == 2, "at either port"
    async with serving(driver, metrics=False) as world:
        assert (await world.get("/metrics")).status == 404


@pytest.mark.anyio
async def test_pages_and_a_route_of_the_programs_own(driver: Driver) -> None:
    def route(request: Request) -> Route | Refusal:
        match request.segments:
            case ("chat", room, user):
                return Route(room, user)
        return Refusal(404, "nothing here")

    pages = {"/": lambda: Page(200, "text/html", b"<p>hello")}
    async with serving(driver, route=route, pages=pages) as world:
        assert (await world.get("/")).body == b"<p>hello"
        peer = world.connect()
        await peer.upgrade(request("/chat/den/eve"))
        assert await peer.receive() == roster("eve", room="den")
        assert (await world.refused(request())).status == 404


@pytest.mark.anyio
async def test_a_page_or_route_that_raises_is_a_500_and_the_server_goes_on(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 66."""

    def route(request: Request) -> Route | Refusal:
        if request.path == "/boom":
            raise RuntimeError("boom")
        if request.path == "/bug":
            return "lobby"  # type: ignore[return-value]
        return Route("lobby", "ann")

    def page() -> Page:
        raise RuntimeError("bang")

    async with serving(driver, route=route, pages={"/page": page}) as world:
        ann = world.connect()
        await ann.upgrade(request("/"))
        await ann.receive_until(
            {"type": "user_joined", "content": "ann joined the room", "room": "lobby", "username": "ann"}
        )
        assert (await world.get("/page")).status == 500
        assert (await world.refused(request("/boom"))).status == 500
        await ann.send(text("on") + frame(9))
        assert (await ann.frame()).opcode in (1, 10)
        assert (await world.refused(request("/bug"))).status == 500
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 3
    assert "route must return a Route or a Refusal, not 'lobby'" in caplog.text


@pytest.mark.anyio
async def test_a_route_or_page_that_nobody_would_await_is_refused_at_the_start(driver: Driver) -> None:
    async def route(request: Request) -> Route:
        return Route("lobby", "ann")

    async def page() -> Page:
        return Page(200, "text/plain", b"")

    for options, name in (
        ({"route": route}, r"route\(request\) must be a plain function, not async"),
        ({"pages": {"/x": page}}, "the page /x must be a plain function, not async"),
        ({"pages": {"/x": b"hello"}}, "the page /x must be a function, not b'hello'"),
    ):
        async with Runtime() as runtime:
            with pytest.raises(TypeError, match=name):
                await serve(runtime, port=0, driver=driver, **options).__aenter__()
