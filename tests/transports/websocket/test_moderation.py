"""Kicks, bans and mutes through real sockets: by the program and by clients that may, in both dialects."""

import json
import logging
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from roomhub import Limits, Runtime
from roomhub.core.errors import application_close_reason
from roomhub.core.sanctions import Sanction
from roomhub.ports import ConnectionInfo, Identity, Refusal
from roomhub.stores.sqlite import SqliteHistory
from roomhub.testing import ManualClock
from tests.transports.websocket.support import Driver, Peer, World, chat, left, request, serving, turn, until
from tests.transports.websocket.test_v1 import SUBPROTOCOL, Client

pytestmark = pytest.mark.anyio

ALONE = application_close_reason("alone", 4500)


class Keeper:
    """A token is a user's name. Ann moderates everywhere but in the staff's room, Mod in the lobby."""

    async def authenticate(self, info: ConnectionInfo) -> Identity | Refusal:
        return Identity(user=info.token.lower(), username=info.token) if info.token else Refusal("show a token")

    async def authorize(self, identity: Identity, action: str, room: str) -> bool:
        if action == "join":
            return True
        if room == "slow":
            await anyio.sleep_forever()
        if room == "broken":
            raise LookupError(room)
        return (identity.user == "ann" and room != "staff") or (identity.user == "mod" and room == "lobby")


def moderated(driver: Driver, **options: Any) -> AbstractAsyncContextManager[World]:
    clock = ManualClock()
    limits = Limits(presence_grace_s=1)
    runtime = Runtime(limits=limits, clock=clock, authenticator=Keeper(), **options)
    return serving(driver, runtime=runtime, clock=clock)


async def arrive(world: World, user: str, *rooms: str) -> Client:
    peer = world.connect()
    await peer.upgrade(request("/ws", lines=[SUBPROTOCOL, f"Authorization: Bearer {user}"]))
    client = Client(peer)
    client.welcome = await client.ask("hello", id="h")
    for room in rooms:
        assert (await client.ask("join", id=room, room=room))["type"] == "ok"
    return client


async def come(world: World, user: str, room: str) -> Peer:
    """In the plain dialect."""
    peer = world.connect()
    await peer.upgrade(request(f"/ws/{room}", lines=[f"Authorization: Bearer {user}"]))
    await peer.receive_until(
        {"type": "user_joined", "content": f"{user} joined the room", "room": room, "username": user}
    )
    return peer


async def refusal_of(world: World, path: str, *lines: str) -> tuple[int, str]:
    response = await world.refused(request(path, lines=lines))
    return response.status, json.loads(response.body)["error"]


async def test_a_moderator_bans_from_a_room(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "roomhub")
    async with moderated(driver) as world:
        ann, ben = await arrive(world, "Ann"), await arrive(world, "Ben", "lobby", "den")
        pat = await come(world, "Pat", "lobby")
        for user in ("ben", "pat"):
            fields = {"room": "lobby", "action": "ban", "user": user, "for_ms": 20_000, "reason": "sp\x1bam"}
            assert await ann.ask("mod", id=user, **fields) == {"type": "ok", "id": user}
        [*_, kicked] = await ben.hear_until("kicked")
        until_ms = world.clock.unix_ms() + 20_000
        told = {"type": "kicked", "room": "lobby", "code": 4002, "reason": "sp\x1bam", "until_ms": until_ms}
        assert kicked == told
        assert await pat.closed() == (1008, "banned")
        assert world.runtime.members("lobby") == ()
        assert world.runtime.members("den") == ("ben",)
        again = await ben.ask("join", id=3, room="lobby")
        assert (again["name"], again["message"]) == ("forbidden", "you are banned from this room: sp\x1bam")
        banned = (403, "you are banned from this room: sp\x1bam")
        assert await refusal_of(world, "/ws/lobby", "Authorization: Bearer Pat") == banned
        assert await refusal_of(world, "/ws/lobby", SUBPROTOCOL, "Authorization: Bearer Ben") == banned
        assert "ban of 'ben' in 'lobby' until 2023-11-14T22:13:40+00:00 by 'ann': 'sp\\x1bam'" in caplog.messages
        world.clock.advance(20)
        await come(world, "Pat", "lobby")
        assert (await ben.ask("join", id=4, room="lobby"))["type"] == "ok"


async def test_a_moderator_bans_everywhere(driver: Driver) -> None:
    async with moderated(driver) as world:
        ann, ben = await arrive(world, "Ann", "lobby"), await arrive(world, "Ben", "lobby")
        pat = await come(world, "Pat", "lobby")
        for user in ("ben", "pat"):
            await ann.ask("mod", id=user, action="ban", user=user, reason="no more")
        bye, end = await ben.bye()
        assert bye == {"type": "bye", "code": 4002, "name": "banned", "retry": "no", "reason": "no more"}
        assert end == (4002, "banned")
        assert await pat.closed() == (1008, "banned")
        for line in (f"{SUBPROTOCOL}", "X: y"):
            for path in ("/ws", "/ws/lobby") if line == SUBPROTOCOL else ("/ws/lobby",):
                found = await refusal_of(world, path, line, "Authorization: Bearer Ben")
                assert found == (403, "you are banned: no more")
        # Whose token comes only with its hello.
        peer = world.connect()
        await peer.upgrade(request("/ws", lines=[SUBPROTOCOL]))
        late = Client(peer)
        await late.say("hello", id=1, token="Ben")
        bye, end = await late.bye()
        assert (bye["name"], end) == ("banned", (4002, "banned"))
        await ann.ask("mod", id=2, action="unban", user="ben")
        await arrive(world, "Ben", "lobby")


async def test_a_moderator_mutes(driver: Driver) -> None:
    async with moderated(driver) as world:
        mod, ben = await arrive(world, "Mod"), await arrive(world, "Ben", "lobby", "den")
        pat = await come(world, "Pat", "lobby")
        for user in ("ben", "pat"):
            await mod.ask("mod", id=user, room="lobby", action="mute", user=user, for_ms=5_000, reason="calm down")
        await pat.say("x" * 9)
        muted = await ben.ask("chat", id=1, room="lobby", content="hello?")
        assert (muted["name"], muted["message"], muted["retry"]) == ("muted", "you are muted: calm down", "after")
        assert muted["retry_after_ms"] == 5_000
        assert (await ben.ask("event", id=2, room="lobby", name="n", content="c"))["name"] == "muted"
        assert (await ben.ask("chat", id=3, room="den", content="here I may"))["type"] == "ok"
        await until(lambda: world.runtime.statistics().messages_dropped == 3)
        assert not world.runtime.history("lobby")
        await mod.ask("mod", id=3, room="lobby", action="unmute", user="pat")
        await pat.say("now")
        assert await pat.receive() == chat("Pat", "now", "lobby")
        world.clock.advance(5)
        assert (await ben.ask("chat", id=4, room="lobby", content="sorry"))["type"] == "ok"


async def test_a_moderator_kicks(driver: Driver) -> None:
    async with moderated(driver) as world:
        ann, ben = await arrive(world, "Ann", "lobby"), await arrive(world, "Ben", "lobby")
        assert (await ann.ask("mod", id=1, room="lobby", action="kick", user="ben", reason="bye"))["type"] == "ok"
        assert (await ben.hear_until("kicked"))[-1]["reason"] == "bye"
        assert (await ann.hear_until("user_left", user="ben"))[-1]["reason"] == "kicked"
        gone = await ann.ask("mod", id=2, room="lobby", action="kick", user="ben")
        assert (gone["name"], gone["field"], gone["message"]) == ("bad_request", "user", "this user is not here")
        assert (await ben.ask("join", id=3, room="lobby"))["type"] == "ok"


async def test_who_may_not_moderate(driver: Driver) -> None:
    """Without the right, or in time, or where asking for it raises: nothing happens to anybody."""
    async with moderated(driver) as world:
        mod, ben = await arrive(world, "Mod"), await arrive(world, "Ben", "lobby")
        for client, room in ((ben, "lobby"), (mod, "den"), (mod, "broken"), (mod, None)):
            where = {} if room is None else {"room": room}
            answer = await client.ask("mod", id=1, action="ban", user="ben", **where)
            assert (answer["name"], answer["message"]) == ("forbidden", "you may not ban anybody here")
        await mod.say("mod", id=2, room="slow", action="ban", user="ben")
        await mod.say("ping", id=3)
        await turn()
        world.clock.advance(5)
        heard = await mod.hear_until("pong", id=3)
        assert [message.get("name") for message in heard] == ["forbidden", None]
        assert world.runtime.sanctions() == []
        assert (await ben.ask("chat", id=9, room="lobby", content="here still"))["type"] == "ok"


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"action": "flog"}, "action"), ({"user": "\n"}, "user"), ({"room": "../x"}, "room"), ({"for_ms": -1}, "for_ms")],
)
async def test_what_makes_no_sense_names_the_field(driver: Driver, fields: dict[str, Any], field: str) -> None:
    async with moderated(driver) as world:
        ann = await arrive(world, "Ann")
        answer = await ann.ask("mod", **{"id": 1, "room": "lobby", "action": "mute", "user": "ben", **fields})
        assert (answer["name"], answer["field"]) == ("bad_request", field)
        assert world.runtime.sanctions() == []


async def test_the_program_moderates_where_names_are_anybodys_word(driver: Driver) -> None:
    async with serving(driver) as world:
        ann, ben = await world.room_of("ann", "Kevin")
        world.runtime.ban("kevin", reason="spam", for_s=60)  # the key is that of every spelling
        assert await ben.closed() == (1008, "banned")
        assert await ann.receive() == left("Kevin", "lobby")
        for spelling in ("Kevin", "KEVIN", "\uff2bevin"):
            found = await refusal_of(world, f"/ws/lobby?username={quote(spelling)}")
            assert found == (403, "you are banned: spam")
        assert await refusal_of(world, "/ws?username=kevin", SUBPROTOCOL) == (403, "you are banned: spam")
        [sanction] = world.runtime.sanctions()
        assert (sanction.kind, sanction.user, sanction.by) == ("ban", "kevin", "")
        world.runtime.ban("KEVIN", "den")
        world.runtime.unban("kevin")
        in_den = (403, "you are banned from this room")
        assert await refusal_of(world, "/ws/den?username=Kevin") == in_den
        assert await refusal_of(world, "/ws/den?username=Kevin", SUBPROTOCOL) == in_den
        await (await world.join("Kevin")).say("the lobby is open")
        world.runtime.kick("kevin")
        world.runtime.mute("ann", "lobby")
        await ann.say("hello?")
        await until(lambda: world.runtime.statistics().messages_dropped)
        world.runtime.unmute("ann", "lobby")
        world.runtime.unban("kevin")
        await ann.say("now")
        await ann.receive_until(chat("ann", "now", "lobby"))
        await world.join("Kevin")
        world.runtime.kick("kevin", "lobby", close_reason=ALONE)


async def test_bans_and_mutes_outlive_the_server(driver: Driver, tmp_path: Path) -> None:
    def store() -> SqliteHistory:
        return SqliteHistory(tmp_path / "history.db", now_ms=ManualClock().unix_ms)

    async with moderated(driver, history=store()) as world:
        ann = await arrive(world, "Ann")
        for user, action, fields in (
            ("ben", "ban", {"for_ms": 3_600_000, "reason": "spam"}),
            ("eve", "ban", {}),
            ("cy", "mute", {"room": "lobby"}),
            ("eve", "unban", {}),
        ):
            assert (await ann.ask("mod", id=1, action=action, user=user, **fields))["type"] == "ok"
        sanctions = world.runtime.sanctions()
        assert [(each.kind, each.user, each.room, each.reason, each.by) for each in sanctions] == [
            ("ban", "ben", "", "spam", "ann"),
            ("mute", "cy", "lobby", "", "ann"),
        ]
    async with moderated(driver, history=store()) as world:
        assert sorted(world.runtime.sanctions()) == sorted(sanctions)
        assert await refusal_of(world, "/ws/lobby", "Authorization: Bearer Ben") == (403, "you are banned: spam")
        cy = await arrive(world, "Cy", "lobby")
        assert (await cy.ask("chat", id=1, room="lobby", content="x"))["name"] == "muted"
        assert isinstance(sanctions[0], Sanction)


async def test_a_ban_that_cannot_be_stored_is_told(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = SqliteHistory(tmp_path / "history.db")
    async with moderated(driver, history=store) as world:
        ann = await arrive(world, "Ann")
        with monkeypatch.context() as patch:
            patch.setattr(store, "_call", lambda *_, **__: False)
            answer = await ann.ask("mod", id=1, action="ban", user="ben")
            assert (answer["name"], answer["message"]) == ("internal", "it could not be stored, and holds only for now")
            world.runtime.mute("ben")  # nobody waits for this one
        assert [each.kind for each in world.runtime.sanctions()] == ["ban", "mute"]
        assert [record.message for record in caplog.records if "takes no more" in record.message] == [
            f"the store takes no more: not kept: Impose({sanction!r})" for sanction in world.runtime.sanctions()
        ]
        assert world.runtime.statistics().store_failures == 2
