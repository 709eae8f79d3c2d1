"""Who may come in, through real sockets: an authenticator that says who they are, refuses, hangs, raises."""

import json
import logging
from base64 import urlsafe_b64encode
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import pytest

from roomhub import Hub, Limits, Runtime
from roomhub.ports import ConnectionInfo, Identity, Refusal
from roomhub.testing import ManualClock
from roomhub.transports.websocket.chat import ChatApplication
from tests.transports.websocket.support import TEXT, Driver, World, frame, request, serving, until
from tests.transports.websocket.test_v1 import SUBPROTOCOL, Client

pytestmark = pytest.mark.anyio

TOKENS = {"good": "ann", "better": "ann", "other": "ben"}
ANN = f"Sec-WebSocket-Protocol: roomhub.v1.json, roomhub.bearer.{urlsafe_b64encode(b'good').decode().rstrip('=')}"


class Gatekeeper:
    """Knows three tokens, and the cookie of a site's login."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.seen: list[ConnectionInfo] = []
        self.fault: Callable[[], Any] | None = None

    async def authenticate(self, info: ConnectionInfo) -> Identity | Refusal:
        self.seen.append(info)
        if self.fault is not None:
            result: Identity | Refusal = await self.fault()
            return result
        token = info.token if info.token is not None else info.cookies.get("login")
        if token is None:
            return Refusal("show a token")
        if token == "banned":
            return Refusal("you are out", "forbidden")
        if token == "old":
            return Refusal("it is over", "token_expired")
        if token not in TOKENS:
            return Refusal("no such token")
        return Identity(user=TOKENS[token], username=TOKENS[token].title(), expires_ms=self.clock.unix_ms() + 30_000)

    async def authorize(self, identity: Identity, action: str, room: str) -> bool:
        if room == "slow":
            await anyio.sleep_forever()
        if room == "broken":
            raise LookupError(room)
        return action == "join" and room != "staff"


def guarded(driver: Driver, **limits: float) -> tuple[AbstractAsyncContextManager[World], Gatekeeper]:
    clock = ManualClock()
    keeper = Gatekeeper(clock)
    runtime = Runtime(limits=Limits(**limits), clock=clock, authenticator=keeper)
    return serving(driver, runtime=runtime, clock=clock), keeper


async def unknown(world: World, path: str = "/ws", *lines: str) -> Client:
    peer = world.connect()
    await peer.upgrade(request(path, lines=lines or [SUBPROTOCOL]))
    return Client(peer)


async def known(world: World) -> Client:
    client = await unknown(world, "/ws", ANN)
    client.welcome = await client.ask("hello", id="h")
    return client


async def status_of(world: World, path: str, *lines: str) -> tuple[int, dict[str, str], Any]:
    peer = world.connect()
    await peer.send(request(path, lines=lines))
    response = await peer.response()
    return response.status, response.headers, json.loads(response.body)


async def test_a_token_in_the_subprotocol(driver: Driver) -> None:
    serving_, keeper = guarded(driver)
    async with serving_ as world:
        peer = world.connect()
        response = await peer.upgrade(request("/ws/lobby?username=ignored", lines=[ANN]))
        assert response.headers["sec-websocket-protocol"] == "roomhub.v1.json", "the token is not echoed"
        ann = Client(peer)
        welcome = await ann.ask("hello", id=1)
        assert (welcome["user"], welcome["username"], welcome["expires_ms"]) == ("ann", "Ann", 30_000)
        [info] = keeper.seen
        assert (info.token, info.room, info.username, info.address) == ("good", "lobby", "ignored", "127.0.0.1")
        assert "good" not in repr(info)
        [*_, news] = await ann.hear_until("user_joined")
        assert (news["user"], news["username"]) == ("ann", "Ann")


async def test_a_plain_client_shows_a_header_or_a_cookie(driver: Driver) -> None:
    serving_, _ = guarded(driver)
    async with serving_ as world:
        for line, name in (("Authorization: Bearer good", "Ann"), ("Cookie: a=b; login=other", "Ben")):
            peer = world.connect()
            await peer.upgrade(request("/ws/lobby", lines=[line]))
            joined = [json.loads((await peer.frame()).payload) for _ in range(2)]
            assert joined[-1]["username"] == name
        assert world.runtime.members("lobby") == ("ann", "ben")


@pytest.mark.parametrize(
    ("lines", "status", "error"),
    [
        ((), 401, "show a token"),
        (("Authorization: Bearer bad",), 401, "no such token"),
        (("Authorization: Bearer old",), 401, "it is over"),
        (("Authorization: Bearer banned",), 403, "you are out"),
        ((SUBPROTOCOL, "Authorization: Bearer bad"), 401, "no such token"),
        ((f"{SUBPROTOCOL}, roomhub.bearer.!",), 401, "no such token"),
        ((f"{SUBPROTOCOL}, roomhub.bearer._",), 401, "no such token"),
        ((SUBPROTOCOL, "Cookie: login=banned"), 403, "you are out"),
    ],
)
async def test_refused_at_the_handshake(driver: Driver, lines: tuple[str, ...], status: int, error: str) -> None:
    serving_, _ = guarded(driver)
    async with serving_ as world:
        found, headers, body = await status_of(world, "/ws/lobby", *lines)
        assert (found, error in body["error"]) == (status, True), body
        assert (headers.get("www-authenticate") == "Bearer") is (found == 401)
        assert world.runtime.rooms() == ()
        assert knows_nobody(world)


async def test_a_token_by_hello(driver: Driver) -> None:
    serving_, _ = guarded(driver)
    async with serving_ as world:
        ann = await unknown(world, "/ws/lobby")
        await ann.say("hello", id=1, token="good")
        await ann.say("chat", id=2, room="lobby", content="at once")
        heard = await ann.hear_until("ok", id=2)
        assert (heard[0]["user"], heard[-1]["offset"]) == ("ann", 1)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"type": "hello", "id": 1}, 4001),
        ({"type": "hello", "id": 1, "token": "bad"}, 4001),
        ({"type": "hello", "id": 1, "token": "banned"}, 4001),
        ({"type": "hello", "id": 1, "token": "old"}, 4202),
        ({"type": "join", "id": 1, "room": "lobby"}, 4001),
    ],
)
async def test_refused_after_the_handshake(driver: Driver, said: dict[str, Any], code: int) -> None:
    """Row 22: nothing is touched before it is known who it is."""
    serving_, _ = guarded(driver)
    async with serving_ as world:
        ann = await unknown(world)
        await ann.peer.say(json.dumps(said))
        bye, close = await ann.bye()
        assert (bye["code"], close[0]) == (code, code)
        assert world.runtime.rooms() == ()


async def test_a_token_ends_and_is_renewed_in_place(driver: Driver) -> None:
    serving_, _ = guarded(driver)
    async with serving_ as world:
        ann, old = await known(world), await known(world)
        world.clock.advance(20)
        assert await ann.ask("auth", id=1, token="better") == {"type": "ok", "id": 1, "expires_ms": 30_000}
        refused = await ann.ask("auth", id=2, token="other")
        assert (refused["name"], refused["field"]) == ("forbidden", "token")
        world.clock.advance(11)
        bye, close = await old.bye()
        assert (bye["name"], bye["retry"], close[0]) == ("token_expired", "now", 4202)
        assert (await ann.ask("ping", id=3))["type"] == "pong"


async def test_who_may_join_is_asked(driver: Driver) -> None:
    serving_, _ = guarded(driver, auth_timeout_s=3)
    async with serving_ as world:
        ann = await known(world)
        for room in ("staff", "broken"):
            reply = await ann.ask("join", id=room, room=room)
            assert (reply["name"], reply["room"]) == ("forbidden", room)
        await ann.say("join", id="slow", room="slow")
        await until(lambda: bool(world.runtime.hub._deadlines.is_armed("authorize", _only(world))))
        world.clock.advance(3)
        [*_, reply] = await ann.hear_until("error", id="slow")
        assert reply["name"] == "forbidden"
        assert (await ann.ask("join", id="lobby", room="lobby"))["type"] == "ok"


def _only(world: World) -> Any:
    [session] = world.runtime.hub._sessions.values()
    return session, "slow"


async def hang() -> None:
    await anyio.sleep_forever()


async def fail() -> None:
    raise LookupError("the users' database")


async def nonsense() -> str:
    return "ann"


@pytest.mark.parametrize("fault", [hang, fail, nonsense])
async def test_an_authenticator_that_is_broken(
    driver: Driver, fault: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It lets nobody in, is logged, and tells clients to come back; others are served."""
    serving_, keeper = guarded(driver, auth_timeout_s=3)
    async with serving_ as world:
        ann = await known(world)
        keeper.fault = fault
        late = await unknown_by_then(world, keeper)
        world.clock.advance(3)
        response = await late.response()
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        await ann.say("auth", id=1, token="better")
        await until(lambda: len(keeper.seen) == 3)
        world.clock.advance(3)
        assert (await ann.hear())["name"] == "internal"
        keeper.fault = None
        ben = await unknown(world)
        keeper.fault = fault
        await ben.say("hello", id=1, token="other")
        await until(lambda: len(keeper.seen) == 5)
        world.clock.advance(3)
        bye, close = await ben.bye()
        assert (bye["name"], bye["retry"], close[0]) == ("internal", "after", 4102)
        assert (await ann.ask("ping", id=2))["type"] == "pong"
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


async def unknown_by_then(world: World, keeper: Gatekeeper) -> Any:
    """A request whose answer waits for the authenticator."""
    before = len(keeper.seen)
    peer = world.connect()
    await peer.send(request("/ws/lobby", lines=["Authorization: Bearer good"]))
    await until(lambda: len(keeper.seen) > before)
    return peer


def knows_nobody(world: World) -> bool:
    """Nothing is kept of a peer that did not come in, or has left."""
    questions, application = world.runtime._questions, world.server._service.application
    assert questions is not None
    assert isinstance(application, ChatApplication)
    kept = (questions._infos, application._asked, application._asked_at, application._identities)
    return not questions.count and not any(kept)


class Held:
    """An answer that waits, and how it ended."""

    def __init__(self) -> None:
        self.go = anyio.Event()
        self.called_off = 0

    async def __call__(self) -> Identity:
        try:
            await self.go.wait()
        except anyio.get_cancelled_exc_class():
            self.called_off += 1
            raise
        return Identity(user="ann")


async def test_whoever_has_gone_is_not_asked_about_any_more(driver: Driver) -> None:
    """At the handshake, by hello, and by auth: the question is called off, and nothing of the peer is kept."""
    serving_, keeper = guarded(driver)
    async with serving_ as world:
        ann, ben = await known(world), await unknown(world)
        keeper.fault = held = Held()
        waiting = await unknown_by_then(world, keeper)
        await ann.say("auth", id=1, token="better")
        await ben.say("hello", id=1, token="other")
        questions = world.runtime._questions
        assert questions is not None
        await until(lambda: questions.count == 3)
        for peer in (waiting, ann.peer, ben.peer):
            peer.reset()
        await until(lambda: not world.server.connections)
        await until(lambda: held.called_off == 3)
        assert knows_nobody(world)


async def test_what_comes_before_the_answer_waits(driver: Driver) -> None:
    serving_, keeper = guarded(driver)
    async with serving_ as world:
        keeper.fault = held = Held()
        peer = await unknown_by_then(world, keeper)
        early = frame(TEXT, b"early")
        await peer.send(early)
        [waiting] = world.server._service.connections
        await until(lambda: len(waiting._early) == len(early))
        flood = await unknown_by_then(world, keeper)
        await flood.send(b"x" * 20_000)
        assert (await flood.response()).status == 400
        assert world.runtime.rooms() == ()
        held.go.set()
        await peer.response()
        heard = [json.loads((await peer.frame()).payload) for _ in range(3)]
        assert heard[-1]["content"] == "early"


async def test_there_may_be_no_more_questions_than_clients(driver: Driver) -> None:
    serving_, keeper = guarded(driver, connections_per_address=2)
    async with serving_ as world:
        keeper.fault = held = Held()
        waiting = [await unknown_by_then(world, keeper) for _ in range(2)]
        status, headers, body = await status_of(world, "/ws/lobby", "Authorization: Bearer good")
        assert (status, headers["retry-after"], body["error"]) == (503, "5", "over_capacity: try again later")
        assert len(keeper.seen) == 2
        waiting.pop().reset()
        await until(lambda: held.called_off == 1)
        waiting.append(await unknown_by_then(world, keeper))
        held.go.set()
        for peer in waiting:
            assert (await peer.response()).status == 101
        assert world.server._service.refusals["over_capacity"] == 1


async def test_a_handshake_whose_time_is_up_while_it_waits(driver: Driver) -> None:
    """Its request did arrive in time: it is told to come back, and not that it was slow."""
    serving_, keeper = guarded(driver, handshake_timeout_s=2, auth_timeout_s=3)
    async with serving_ as world:
        keeper.fault = held = Held()
        peer = await unknown_by_then(world, keeper)
        world.clock.advance(2)
        response = await peer.response()
        assert (response.status, response.headers["retry-after"]) == (503, "5")
        await until(lambda: held.called_off == 1)
        assert world.server._service.refusals == {"http_503": 1}


@pytest.mark.parametrize(
    ("identity", "lines", "status"),
    [
        (Identity(user="u", username="Ann, Ben"), (), 403),
        (Identity(user="u", username="Ann, Ben"), (SUBPROTOCOL,), 101),
        (Identity(user="u\n"), (SUBPROTOCOL,), 403),
        (Identity(user="u\n", username="Ann"), (), 403),
        (Identity(user="u" * 65, username="Ann"), (SUBPROTOCOL,), 403),
        (Identity(user=""), (), 403),
    ],
)
async def test_an_identity_whose_name_nobody_may_have(
    driver: Driver, identity: Identity, lines: tuple[str, ...], status: int
) -> None:
    """The plain roster joins names with commas; v1 has no such trouble."""
    serving_, keeper = guarded(driver)

    async def answer() -> Identity:
        return identity

    async with serving_ as world:
        keeper.fault = answer
        peer = world.connect()
        await peer.send(request("/ws/lobby", lines=[*lines, "Authorization: Bearer good"]))
        response = await peer.response()
        assert response.status == status
        if status == 403:
            assert "username" in json.loads(response.body)["error"]
            assert knows_nobody(world)
            assert world.server._service.refusals == {"http_403": 1}


async def test_what_is_shown_twice(driver: Driver) -> None:
    """Which of two tokens counts must not depend on who reads them; of two cookies the longer path's comes first."""
    serving_, keeper = guarded(driver)
    async with serving_ as world:
        lines = ("Authorization: Bearer good", "Authorization: Bearer other")
        status, _, body = await status_of(world, "/ws/lobby", *lines)
        assert (status, body["error"]) == (400, "Authorization is given more than once: send it once")
        assert not keeper.seen
        await unknown(world, "/ws/lobby", "Cookie: login=good; login=other", "Cookie: login=other")
        await until(lambda: world.runtime.members("lobby") == ("ann",))


async def test_a_server_that_stops_while_it_waits(driver: Driver) -> None:
    serving_, keeper = guarded(driver)
    keeper.fault = hang
    async with serving_ as world:
        await unknown_by_then(world, keeper)


async def test_look_alike_names_are_one_user_without_an_authenticator(driver: Driver) -> None:
    """Row 50."""
    async with serving(driver) as world:
        for name in ("Ann", "ANN", "%EF%BC%A1nn"):
            peer = world.connect()
            await peer.upgrade(request(f"/ws/lobby?username={name}"))
            await peer.frame()
        await until(lambda: world.runtime.members("lobby") == ("ann",))
        assert len(world.runtime.hub.clients()) == 3
        world.runtime.kick("ann")
        await until(lambda: not world.runtime.members("lobby"))


@pytest.mark.parametrize(
    "answer",
    [
        17,
        Identity(user=17),  # type: ignore[arg-type]
        Identity(user="u", username=5),  # type: ignore[arg-type]
        Identity(user="u", expires_ms=float("inf")),  # type: ignore[arg-type]
        Refusal("no", "banned"),  # type: ignore[arg-type]
        Refusal(5),  # type: ignore[arg-type]
    ],
)
async def test_an_answer_of_the_wrong_kind_costs_one_peer(
    driver: Driver, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    serving_, keeper = guarded(driver)

    async def wrong() -> Any:
        return answer

    async with serving_ as world:
        ann, ben = await known(world), await unknown(world)
        keeper.fault = wrong
        assert (await status_of(world, "/ws/lobby", "Authorization: Bearer good"))[0] == 503
        assert (await ann.ask("auth", id=1, token="better"))["name"] == "internal"
        await ben.say("hello", id=1, token="other")
        assert (await ben.bye())[0]["name"] == "internal"
        assert (await ann.ask("ping", id=2))["type"] == "pong"
    assert "must not" in caplog.text


async def test_a_rule_that_raises_behind_a_token_costs_that_connection(driver: Driver) -> None:
    clock = ManualClock()
    keeper = Gatekeeper(clock)

    def rule(room: str) -> str | None:
        if room == "zz":
            raise LookupError(room)
        return None

    hub: Any = Hub(epoch="e", room_rule=rule)
    runtime = Runtime(hub, clock=clock, authenticator=keeper)
    async with serving(driver, runtime=runtime, clock=clock) as world:
        ann, ben = await known(world), await unknown(world)
        rooms = {"zz": {"epoch": "", "offset": 0}}
        await ben.say("hello", id=1, token="other", resume={"session": "?", "rooms": rooms})
        await until(lambda: len(world.runtime.hub.clients()) == 1)
        assert (await ann.ask("ping", id=2))["type"] == "pong"
        ben.peer.disconnect()


async def test_an_authenticator_that_is_cancelled_from_within(driver: Driver) -> None:
    serving_, keeper = guarded(driver)

    async def cancelled() -> Any:
        raise anyio.get_cancelled_exc_class()

    async with serving_ as world:
        if anyio.get_cancelled_exc_class().__module__.startswith("trio"):
            pytest.skip("trio has no cancellation that nobody asked for")
        ann = await known(world)
        keeper.fault = cancelled
        assert (await status_of(world, "/ws/lobby", "Authorization: Bearer good"))[0] == 503
        assert (await ann.ask("ping", id=2))["type"] == "pong"


async def test_what_cannot_be_called_off_is_not_waited_for(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    """A thread, for instance. Its peer is answered when the time is up, and what it brings then is not taken."""
    serving_, keeper = guarded(driver, auth_timeout_s=3)
    go = anyio.Event()

    async def shielded() -> Identity:
        with anyio.CancelScope(shield=True):
            await go.wait()
        return Identity(user="ann")

    async with serving_ as world:
        keeper.fault = shielded
        late = await unknown_by_then(world, keeper)
        world.clock.advance(3)
        assert (await late.response()).status == 503
        assert "took longer than 3 s" in caplog.text
        go.set()
        assert (await (await unknown_by_then(world, keeper)).response()).status == 101
        await until(lambda: world.runtime.members("lobby") == ("ann",))
        assert len(world.runtime.hub.clients()) == 1


async def test_an_expired_cookie_does_not_keep_a_page_from_saying_hello(driver: Driver) -> None:
    serving_, _ = guarded(driver)
    async with serving_ as world:
        ann = await unknown(world, "/ws", SUBPROTOCOL, "Cookie: login=old")
        assert (await ann.ask("hello", id=1, token="good"))["user"] == "ann"


async def test_whom_there_is_no_room_for_is_not_asked_about(driver: Driver) -> None:
    serving_, keeper = guarded(driver, connections=1)
    async with serving_ as world:
        await known(world)
        assert (await status_of(world, "/ws/lobby", "Authorization: Bearer good"))[0] == 503
        assert len(keeper.seen) == 1
