"""Who is put out, kept out and silenced: by the program, and by clients that may."""

import math
from typing import Any

import pytest

from roomhub.core import errors
from roomhub.core.commands import Ban, Command, Enter, Kick, Mute, Publish, Unban, Unmute
from roomhub.core.effects import Announce, Authorize, Close, Impose, Lift, Moderated
from roomhub.core.events import (
    Authenticated,
    Authorized,
    Blocked,
    ClockSet,
    Connected,
    Denied,
    Disconnected,
    Published,
    Received,
    Stored,
    StoreFailed,
)
from roomhub.core.identity import Identity
from roomhub.core.sanctions import Sanction, Sanctions, milliseconds
from roomhub.core.session import State
from roomhub.core.storage import Snapshot
from tests.core.playbook import TEXT, V1, After, Hears, Nothing, Playbook, Sees, says
from tests.core.test_authentication import guarded, hello, unknown
from tests.core.test_dialogue import chat, connected, enter, error, greeted, joined, left, ok

START_MS = 1_000_000


def moderated(*users: str, room: str = "r", **limits: float) -> Playbook:
    """Everybody has an identity and is in the room; a user's key is the name in lower case."""
    play = Playbook(presence_grace_s=0, **limits) >> ClockSet(START_MS)
    for user in users:
        arrive(play, user, room)
    return play.forget()


def arrive(play: Playbook, user: str, *rooms: str) -> None:
    client = user.lower()
    play >> Connected(client, V1, "", secret=f"secret of {client}", identity=Identity(user=client, username=user))
    play >> says(client, "hello", id="h")
    for room in rooms:
        play >> says(client, "join", id=f"join {room}", room=room)


def asks(play: Playbook, client: str, **fields: Any) -> Authorize[str]:
    play >> says(client, "mod", **{"id": "m", "room": "r", **fields})
    order = play.orders.popleft()
    assert isinstance(order, Authorize)
    return order


def does(play: Playbook, client: str, **fields: Any) -> Playbook:
    """A moderator that may."""
    order = asks(play, client, **fields)
    return play >> Authorized(order.client, order.room, order.ref)


# -- the program bans --------------------------------------------------------------------------------------------------


def test_who_is_banned_from_a_room_leaves_it_and_stays_connected() -> None:
    play = moderated("Ann", "Ben") >> says("ben", "chat", room="r", content="spam")
    play.forget() >> Ban("ben", "r", for_s=60, reason="no spam")
    play << Hears("ben", {"type": "kicked", "room": "r", "code": 4002, "reason": "no spam", "until_ms": 1_060_000})
    play << Hears("ann", left("ben", 4, reason="banned", content="Ben left the room"))
    play >> says("ben", "join", id=1, room="r")
    play << Hears("ben", error("forbidden", 1, room="r", message="you are banned from this room: no spam"))
    play >> says("ben", "join", id=2, room="s") << Hears("ben", ok(2), "user_joined")
    assert play.hub.members("r") == ("ann",)


def test_a_ban_ends() -> None:
    play = moderated("Ann", "Ben") >> Ban("ben", "r", for_s=60)
    play >> After(59.9)
    play.forget() >> says("ben", "join", id=1, room="r") << Hears("ben", error("forbidden", 1))
    play >> After(0.1)
    play.forget() >> says("ben", "join", id=2, room="r") << Hears("ben", ok(2), "user_joined")
    assert play.hub.sanctions(play.now) == []
    assert len(play.hub._state.sanctions) == 0


def test_a_ban_is_ended_by_the_program() -> None:
    play = moderated("Ann") >> Ban("ben", "r") >> Ban("ben")
    play >> Unban("ben", "r") >> Unban("ben", "s") >> Unban("eve")
    assert [(each.user, each.room) for each in play.hub.sanctions(play.now)] == [("ben", "")]
    assert play.hub.ban_of("ben", "r", play.now) is not None
    play >> Unban("ben")
    assert play.hub.ban_of("ben", "r", play.now) is None


def test_the_wall_clock_counts_for_a_ban() -> None:
    """A machine that slept, or whose clock was set, knows that it is over."""
    play = moderated("Ann", "Ben") >> Ban("ben", "r", for_s=60)
    play.forget() >> ClockSet(START_MS + 60_000) >> says("ben", "join", id=1, room="r")
    play << Hears("ben", ok(1), "user_joined")


def test_a_clock_that_is_put_back_brings_no_ban_back() -> None:
    play = moderated("Ann") >> Ban("ben", "r", for_s=60) >> After(60)
    play.forget() >> ClockSet(START_MS)
    assert play.hub.sanctions(play.now) == []


def test_who_is_banned_everywhere_is_closed_and_cannot_come_back() -> None:
    play = moderated("Ann", "Ben")
    play >> Ban("ben", for_s=60, reason="away with you")
    play << Hears(
        "ben",
        {
            "type": "bye",
            "code": 4002,
            "name": "banned",
            "retry": "no",
            "reason": "away with you",
            "until_ms": 1_060_000,
        },
    )
    play << Hears("ann", left("ben", 4, reason="banned", content="Ben left the room"))
    assert play.closed == {"ben": "banned"}
    play.forget() >> Disconnected("ben")
    arrive(play, "Ben2")
    identity = Identity(user="ben")
    play.forget() >> Connected("new", V1, "", secret="s2", identity=identity)
    play << Hears("new", {"type": "bye", "name": "banned", "until_ms": 1_060_000, "reason": "away with you"})
    assert play.hub.statistics().refusals == {"banned": 1}
    play.forget() >> Connected("plain", TEXT, "", ["r"], identity=identity)
    assert play.closed["plain"] == "banned"


def test_a_ban_takes_the_session_with_it() -> None:
    """Who has vanished and is banned meanwhile does not count as there, and resumes nothing."""
    play = Playbook(presence_grace_s=10)
    enter(play, "Ann")
    enter(play, "Ben")
    play.forget() >> Disconnected("ben") << Nothing() >> Ban("Ben")
    play << Hears("ann", left("Ben", 4, reason="banned"))
    assert not play.hub._state.ended
    assert play.hub.members("r") == ("Ann",)


def test_a_ban_is_found_at_the_hello_too() -> None:
    """Where a token says who it is only then."""
    play = guarded() >> Ban("u1", reason="no") >> unknown()
    order = hello(play)
    play >> Authenticated(order.ref, Identity(user="u1"))
    [bye] = play.hear("ann")
    assert (bye["name"], bye["reason"], play.closed["ann"]) == ("banned", "no", "banned")


def test_a_ban_is_found_at_the_end_of_every_way_into_a_room() -> None:
    play = moderated("Ann")
    play.hub.authorizes = True
    play >> Ban("ann", "s") >> says("ann", "join", id=1, room="s") << Authorize
    play >> Authorized("ann", "s") << Hears("ann", error("forbidden", 1, room="s"))
    play >> Enter("ann", "s") << Authorize
    play >> Authorized("ann", "s") << Hears("ann", error("forbidden", room="s"))


def test_a_resume_does_not_lead_into_a_room_that_bans() -> None:
    play = moderated("Ann", "Ben") >> Disconnected("ben") >> Ban("ben", "r", reason="no")
    play.forget() >> Connected("ben2", V1, "", secret="s2", identity=Identity(user="ben"))
    resume = {"session": "secret of ben", "rooms": {"r": {"epoch": "e.1", "offset": 0}}}
    play >> says("ben2", "hello", id=1, resume=resume)
    welcome, refusal = play.hear("ben2")
    assert (welcome["resumed"], "r" in welcome["rooms"]) == (True, False)
    assert (refusal["name"], refusal["message"]) == ("forbidden", "you are banned from this room: no")


def test_a_plain_client_is_closed_with_its_only_room() -> None:
    play = Playbook() >> Connected("pat", TEXT, "Pat", ["r"]) >> Connected("two", TEXT, "Two", ["r", "s"])
    play.forget() >> Ban("Pat", "r") << Close("pat", errors.BANNED) >> Ban("Two", "r")
    assert play.closed == {"pat": "banned"}
    assert play.hub.members("s") == ("Two",)
    play.forget() >> Disconnected("pat") >> Connected("pat2", TEXT, "Pat", ["r"])
    assert play.closed["pat2"] == "banned"
    play.forget() >> Connected("pat3", TEXT, "Pat", ["s", "r"])
    assert play.hub.members("s") == ("Two", "Pat")
    assert play.hub.members("r") == ()
    assert play.hub.statistics().refusals == {"banned": 2}


def test_a_later_ban_takes_the_place_of_the_one_before() -> None:
    play = Playbook() >> ClockSet(START_MS) >> Ban("Ann", "r") >> Ban("Ann", "r", for_s=0.0001, reason="short")
    assert play.hub.sanctions(0) == [Sanction("ban", "Ann", "r", START_MS + 1, "short", "", START_MS)]
    play >> Ban("Ann", "r", for_s=1e300)
    assert play.hub.sanctions(0)[0].until_ms == 2**53 - 1


# -- the program mutes -------------------------------------------------------------------------------------------------


def test_who_is_muted_says_nothing() -> None:
    play = moderated("Ann", "Ben") >> Mute("ben", "r", for_s=60, reason="calm down") << Nothing()
    play >> says("ben", "chat", id=1, room="r", content="hi") >> says("ben", "chat", room="r", content="hi")
    muted = error("muted", 1, room="r", retry_after_ms=60_000, message="you are muted: calm down")
    play << Hears("ben", muted, {**muted, "id": None}) << Nothing()
    play >> says("ben", "event", id=2, room="r", name="wave", content="") << Hears("ben", error("muted", 2))
    play >> says("ben", "typing", id=3, room="r", state="start") << Hears("ben", error("muted", 3))
    play >> says("ben", "typing", room="r", state="start") << Nothing()
    assert play.hub.statistics().messages_dropped == 5
    play >> After(60)
    play.forget() >> says("ben", "chat", room="r", content="sorry") << Hears("ann", chat("ben", "sorry", 1))


def test_who_is_muted_tells_nothing_of_itself() -> None:
    """Metadata would be a way to speak."""
    play = moderated("Ann", "Ben") >> Mute("ben", "r") >> says("ben", "presence", id=1, room="r", meta={"say": "hi"})
    play << Hears("ben", error("muted", 1)) << Nothing() >> says("ben", "leave", id=2, room="r")
    play.forget() >> says("ben", "join", id=3, room="r", meta={"say": "hi"})
    play << Hears("ann", {**joined("ben", 5, content="Ben joined the room"), "meta": None})


def test_a_mute_in_a_room_leaves_the_others_and_direct_messages() -> None:
    play = moderated("Ann", "Ben") >> says("ben", "join", id=1, room="s")
    (
        play.forget()
        >> Mute("ben", "r")
        >> says("ben", "chat", id=1, room="s", content="hi")
        << Hears("ben", ok(1), "chat")
    )
    play >> says("ben", "dm", id=2, to="ann", content="psst") << Hears("ann", "dm") << Hears("ben", "dm", ok(2))


def test_a_mute_everywhere_is_one_for_direct_messages_too() -> None:
    play = moderated("Ann", "Ben") >> Mute("ben")
    play >> says("ben", "dm", id=1, to="ann", content="psst") << Hears("ben", error("muted", 1, room=None))
    play >> says("ben", "chat", id=2, room="r", content="hi") << Hears("ben", error("muted", 2, retry_after_ms=None))
    play << Nothing() >> Unmute("ben", "r") >> says("ben", "chat", id=3, room="r", content="hi")
    play << Hears("ben", error("muted", 3)) >> Unmute("ben") >> says("ben", "chat", id=4, room="r", content="hi")
    play << Hears("ben", ok(4), "chat")


def test_a_muted_plain_client_is_not_heard() -> None:
    play = Playbook() >> Connected("pat", TEXT, "Pat", ["r"]) >> Connected("ann", TEXT, "Ann", ["r"])
    play.forget() >> Mute("Pat", "r") >> Received("pat", "hi") << Nothing()
    assert play.hub.statistics().messages_dropped == 1
    play >> Unmute("Pat", "r") >> Received("pat", "hi") << Sees("ann", "Pat: hi") << Sees("pat", "Pat: hi")


def test_a_mute_does_not_make_a_repeat_fail() -> None:
    """What was said before has its place."""
    play = moderated("Ben") >> says("ben", "chat", id=1, room="r", content="hi", key="k") << Hears("ben", ok(1), "chat")
    play >> Mute("ben") >> says("ben", "chat", id=2, room="r", content="hi", key="k") << Hears("ben", ok(2, dup=True))


def test_being_muted_is_no_error_of_a_client() -> None:
    play = moderated("Ben", error_burst=3) >> Mute("ben")
    for number in range(9):
        play >> says("ben", "chat", id=number, room="r", content="hi")
    assert play.hub.state_of("ben") is State.OPEN
    assert len(play.hear("ben")) == 9


def test_what_the_program_says_in_the_name_of_a_muted_user_is_said() -> None:
    play = moderated("Ann") >> Mute("ben") >> Publish("r", "hi", "ben")
    play << Hears("ann", {"type": "chat", "username": "ben"})


def test_what_was_handed_to_the_program_before_a_mute_is_said() -> None:
    play = moderated("Ann", "Ben")
    play.hub.announces = True
    play >> says("ben", "chat", room="r", content="hi")
    order = play.orders.popleft()
    assert isinstance(order, Announce)
    play >> Mute("ben") >> Published(order.message, order.ref)
    play << Hears("ann", "chat")


# -- kicks -------------------------------------------------------------------------------------------------------------


def test_a_kick_has_a_word_for_its_user() -> None:
    play = moderated("Ann", "Ben") >> Kick("ben", "r", reason="cool off")
    play << Hears("ben", {"type": "kicked", "room": "r", "code": 4004, "reason": "cool off", "until_ms": None})
    play.forget() >> Kick("ben", reason="go")
    play << Hears("ben", {"type": "bye", "name": "kicked", "reason": "go"})


def test_a_kick_from_a_room_without_a_name_is_none() -> None:
    play = moderated("Ann") >> Kick("ann", "") << Nothing()
    assert play.hub.state_of("ann") is State.OPEN


# -- what a program gets wrong -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (Ban(""), "user must not be empty"),
        (Mute("", "r"), "user must not be empty"),
        (Unban(""), "user must not be empty"),
        (Ban("ann", "no room"), "room"),
        (Ban("ann", ""), "room"),
        (Unmute("ann", "@ann"), "room must not begin with @"),
        (Ban("ann", for_s=0), "for_s must be seconds"),
        (Ban("ann", for_s=float("nan")), "for_s must be seconds"),
        (Mute("ann", for_s=True), "for_s must be seconds"),
        (Ban("ann", for_s="60"), "for_s must be seconds"),  # type: ignore[arg-type]
        (Ban("ann", reason="\ud800"), "reason must not hold a lone surrogate"),
        (Kick("ann", reason="\ud800"), "reason must not hold a lone surrogate"),
        (Ban("\ud800"), "user must not hold a lone surrogate"),
    ],
)
def test_an_order_that_cannot_be_changes_nothing(command: Command[str], fault: str) -> None:
    play = moderated("Ann")
    with pytest.raises(ValueError, match=fault):
        play.hub.handle(command, 0)
    play << Nothing()
    assert play.hub.sanctions(0) == []


def test_there_may_be_only_so_many() -> None:
    play = Playbook(sanctions=2) >> Ban("a") >> Mute("b", "r", for_s=10)
    with pytest.raises(RuntimeError, match="there are 2 bans and mutes"):
        play.hub.handle(Ban("c"), 0)
    play >> Ban("a", for_s=10)  # in place of the one before
    play >> After(10) >> Ban("c", "r") >> Ban("d")
    assert [each.user for each in play.hub.sanctions(10)] == ["c", "d"]


def test_a_full_table_is_looked_through_only_when_something_may_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    sanctions = Sanctions(3)
    for user, until_ms in (("a", None), ("b", 50), ("c", 70)):
        sanctions.add(Sanction("ban", user, until_ms=until_ms))
    looks: list[float] = []
    forget = Sanctions.forget

    def look(self: Sanctions, unix_ms: float) -> None:
        looks.append(unix_ms)
        forget(self, unix_ms)

    monkeypatch.setattr(Sanctions, "forget", look)
    assert not sanctions.has_place(Sanction("ban", "d"), 49)
    assert sanctions.has_place(Sanction("ban", "d"), 50)
    sanctions.add(Sanction("ban", "d"))
    assert not sanctions.has_place(Sanction("ban", "e"), 69)
    assert sanctions.has_place(Sanction("ban", "e"), 70)
    assert looks == [50, 70]


def test_commands_and_effects_show_what_they_are() -> None:
    sanction = Sanction("ban", "ann", "r")
    assert repr(Ban("ann", "r")) == "Ban('ann', 'r', for_s=inf)"
    assert repr(Mute("ann", for_s=3)) == "Mute('ann', None, for_s=3)"
    assert repr(Unmute("ann", "r")) == "Unmute('ann', 'r')"
    assert repr(Impose(sanction, None)) == f"Impose({sanction!r})"
    assert repr(Lift(sanction, None)) == f"Lift({sanction!r})"
    assert repr(Moderated("ann", "ban", "ben", "r", None, "m")) == "Moderated('ann', 'ban', 'ben', 'r')"
    assert repr(Authorize("c", "r", "ann", action="ban")) == "Authorize('c', 'r', 'ann', action='ban')"


def test_what_is_told_of_a_sanction() -> None:
    told = [Sanction("ban", "a").told(), Sanction("ban", "a", "r").told(), Sanction("mute", "a", "r", None, "m").told()]
    assert told == ["you are banned", "you are banned from this room", "you are muted: m"]


@pytest.mark.parametrize(
    ("for_s", "ms"), [(2.007, 2_007), (0.0001, 1), (1e-320, 1), (0.0015, 2), (60, 60_000), (math.inf, None)]
)
def test_seconds_in_milliseconds(for_s: float, ms: int | None) -> None:
    assert milliseconds(for_s) == ms


def test_one_of_a_kind_for_a_user_in_a_room() -> None:
    sanctions = Sanctions(9)
    for kind in ("ban", "mute"):
        for room in ("", "r"):
            sanctions.add(Sanction(kind, "a", room))
    assert len(sanctions) == 4
    found = sanctions.find("ban", "a", "s", 0)
    assert found is not None
    assert found.room == ""


# -- clients -----------------------------------------------------------------------------------------------------------


def test_a_moderator_bans() -> None:
    play = moderated("Ann", "Ben")
    order = asks(play, "ann", action="ban", user="ben", for_ms=5_000, reason="spam")
    identity = Identity(user="ann", username="Ann")
    assert (order.client, order.room, order.username, order.identity) == ("ann", "r", "ann", identity)
    assert order.action == "ban"
    play << Nothing() >> Authorized("ann", "r", order.ref)
    assert play.tell() == ["ban ben 'r' by ann until 1005000: spam"]
    play << Hears("ben", {"type": "kicked", "reason": "spam", "until_ms": 1_005_000})
    assert [message["type"] for message in play.hear("ann")] == ["ok", "user_left"]
    assert play.hub.sanctions(0) == [Sanction("ban", "ben", "r", 1_005_000, "spam", "ann", START_MS)]
    does(play, "ann", action="unban", user="ben")
    assert play.tell() == ["unban ben 'r' by ann until None: "]
    play << Hears("ann", ok("m"))
    assert play.hub.sanctions(0) == []


def test_a_moderator_mutes_kicks_and_need_not_be_in_the_room() -> None:
    play = moderated("Ben")
    arrive(play, "Ann")
    does(play.forget(), "ann", action="mute", user="ben").tell()
    play << Hears("ann", ok("m")) >> says("ben", "chat", id=1, room="r", content="x") << Hears("ben", error("muted", 1))
    does(play, "ann", action="unmute", user="ben").tell()
    play << Hears("ann", ok("m")) >> says("ben", "chat", id=1, room="r", content="x") << Hears("ben", ok(1), "chat")
    does(play, "ann", action="kick", user="ben", reason="bye").tell()
    play << Hears("ann", ok("m")) << Hears("ben", {"type": "kicked", "code": 4004, "reason": "bye"})
    does(play, "ann", action="kick", user="ben").tell()
    play << Hears("ann", error("bad_request", "m", field="user", message="this user is not here"))


def test_a_moderator_bans_everywhere() -> None:
    play = moderated("Ann", "Ben")
    play >> says("ann", "mod", id=1, action="ban", user="ben")
    order = play.orders.popleft()
    assert isinstance(order, Authorize)
    assert order.room == ""
    play >> Authorized("ann", "", order.ref)
    assert play.tell() == ["close ben banned", "ban ben '' by ann until None: "]
    play << Hears("ben", {"type": "bye", "name": "banned"})


def test_a_moderator_may_be_wrong_about_what_there_is() -> None:
    play = moderated("Ann")
    for number in range(30):  # not counted: another moderator may have been quicker
        does(play, "ann", id=number, action="unmute", user="ben")
        text = "there is no mute of this user in this room; there may be one everywhere"
        play << Hears("ann", error("bad_request", number, field="user", room="r", message=text))
    play >> says("ann", "mod", id="m", action="unban", user="ben")
    order = play.orders.popleft()
    assert isinstance(order, Authorize)
    play >> Authorized("ann", "", order.ref)
    text = "there is no ban of this user everywhere; there may be one in a room"
    play << Hears("ann", error("bad_request", "m", field="user", message=text))


def test_who_may_not_moderate_is_told_so() -> None:
    play = moderated("Ann", "Ben")
    order = asks(play, "ann", action="ban", user="ben")
    play >> Denied("ann", "r", order.ref)
    play << Hears("ann", error("forbidden", "m", room="r", message="you may not ban anybody here")) << Nothing()
    order = asks(play, "ann", action="kick", user="ben")
    play >> After(5) << Hears("ann", error("forbidden", "m"))
    play >> Authorized("ann", "r", order.ref) << Nothing()


def test_nobody_may_moderate_where_a_name_is_anybodys_word() -> None:
    play = greeted("Ann", "Ben")
    play >> says("ann", "mod", id=1, room="r", action="ban", user="Ben") << Hears("ann", error("forbidden", 1))
    assert play.hub.sanctions(0) == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"action": "sing"}, "action"),
        ({"action": None}, "action"),
        ({"user": ""}, "user"),
        ({"user": None}, "user"),
        ({"user": "x" * 65}, "user"),
        ({"user": "a\u202eb"}, "user"),
        ({"room": "no room"}, "room"),
        ({"room": "@ann"}, "room"),
        ({"room": None}, "room"),
        ({"for_ms": None}, "for_ms"),
        ({"room": ""}, "room"),
        ({"for_ms": 0}, "for_ms"),
        ({"for_ms": 1.5}, "for_ms"),
        ({"for_ms": True}, "for_ms"),
        ({"action": "kick", "for_ms": 1}, "for_ms"),
        ({"reason": "x" * 129}, "reason"),
        ({"reason": 7}, "reason"),
        ({"id": None}, "id"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_field(fields: dict[str, Any], field: str) -> None:
    play = moderated("Ann", "Ben")
    play >> says("ann", "mod", **{"id": 1, "room": "r", "action": "ban", "user": "ben", **fields})
    [refusal] = play.hear("ann")
    assert (refusal["name"], refusal["field"]) == ("bad_request", field)
    play << Nothing()


def test_a_time_in_ms_is_kept_to_the_ms() -> None:
    """2.007 s are 2007.0000000000002 ms."""
    play = does(moderated("Ann"), "ann", action="mute", user="ben", for_ms=2_007)
    assert play.hub.sanctions(0)[0].until_ms == START_MS + 2_007


def test_what_a_moderator_says_next_waits() -> None:
    play = moderated("Ann", "Ben")
    order = asks(play, "ann", action="mute", user="ben")
    play >> says("ann", "chat", id=2, room="r", content="hi") << Nothing() >> Authorized("ann", "r", order.ref)
    play.tell()
    play << Hears("ann", ok("m"), ok(2), "chat")


def test_a_moderator_that_has_gone_is_not_waited_for() -> None:
    play = moderated("Ann", "Ben")
    order = asks(play, "ann", action="ban", user="ben")
    play >> Disconnected("ann")
    play.forget() >> Authorized("ann", "r", order.ref) << Nothing()
    assert play.hub.sanctions(0) == []


@pytest.mark.parametrize("action", ["kick", "ban", "unban", "mute", "unmute"])
def test_a_moderator_does_not_moderate_itself(action: str) -> None:
    """It would free itself, or make its mute a shorter one. It counts as an error of its own."""
    play = moderated("Ann", "Ben", error_burst=2) >> Mute("ann", "r")
    for _ in range(2):
        does(play, "ann", action=action, user="ann")
        text = f"nobody may {action} themselves: ask another moderator"
        play << Hears("ann", error("forbidden", "m", room="r", message=text))
    does(play, "ann", action=action, user="ann")
    assert play.closed == {"ann": "rate_limited"}


def test_who_is_banned_from_a_room_does_not_moderate_in_it() -> None:
    play = (moderated("Ann", "Ben") >> Ban("ann", "r", reason="out")).forget()
    for action, user in (("unban", "ann"), ("kick", "ben")):
        does(play, "ann", action=action, user=user)
        play << Hears("ann", error("forbidden", "m", message="you are banned from this room: out"))
    does(play, "ann", action="kick", user="ben", room="s")
    play << Hears("ann", error("bad_request", "m", message="this user is not here"))


def test_who_is_waited_for_can_be_kicked() -> None:
    play = Playbook(presence_grace_s=10)
    for user in ("Ann", "Ben"):
        arrive(play, user, "r")
    play.forget() >> Disconnected("ben")
    does(play, "ann", action="kick", user="ben")
    assert play.tell() == ["kick ben 'r' by ann until None: "]
    play << Hears("ann", ok("m"), left("ben", 4, reason="kicked", content="Ben left the room"))


def test_a_moderator_is_told_that_there_are_too_many() -> None:
    play = moderated("Ann", sanctions=1, error_burst=1) >> Ban("eve")
    for _ in range(3):  # which is no error of its own
        does(play, "ann", action="ban", user="ben") << Hears("ann", error("over_capacity", "m"))


def test_a_moderator_that_does_not_read_is_put_out_with_what_it_asked_for() -> None:
    """Answers that come later than the request, from the store, are bounded too."""
    play = stored("Ann", "Ben", direct_bytes=300)
    does(play, "ann", action="mute", user="ben")
    impose = play.orders.popleft()
    assert isinstance(impose, Impose)
    play.tell()
    play >> Blocked("ann")
    play.hub._state.give(next(iter(play.hub._users["ann"])), "pong", {"id": "x" * 300})
    play >> Stored([impose.ref], {})
    assert play.closed == {"ann": "slow_consumer"}


def test_who_does_not_read_is_put_out_with_what_a_ban_tells_it() -> None:
    play = moderated("Ann", "Ben", direct_bytes=300) >> Blocked("ben")
    play.hub._state.give(next(iter(play.hub._users["ben"])), "pong", {"id": "x" * 300})
    play >> Ban("ben", "r")
    assert play.closed == {"ben": "slow_consumer"}


# -- with a store ------------------------------------------------------------------------------------------------------


def stored(*users: str, confirms: bool = True, sanctions: tuple[Sanction, ...] = (), **limits: float) -> Playbook:
    play = Playbook(presence_grace_s=0, **limits) >> ClockSet(START_MS)
    play.hub.restore(Snapshot((), (), sanctions), reserve=100, confirms=confirms, now=0)
    for user in users:
        arrive(play, user, "r")
    return play.forget()


def test_the_ok_follows_the_commit() -> None:
    play = does(stored("Ann", "Ben"), "ann", action="ban", user="ben")
    impose = play.orders.popleft()
    assert isinstance(impose, Impose)
    assert impose.sanction == Sanction("ban", "ben", "r", None, "", "ann", START_MS)
    assert play.tell() == ["ban ben 'r' by ann until None: "]
    play << Hears("ben", "kicked") << Hears("ann", "user_left") >> Stored([impose.ref], {}) << Hears("ann", ok("m"))
    does(play, "ann", action="unban", user="ben")
    lift = play.orders.popleft()
    assert isinstance(lift, Lift)
    play.tell()
    play << Nothing() >> StoreFailed([lift.ref], "the disk is full")
    play << Hears("ann", error("internal", "m", message="it could not be stored, so nothing has ended"))
    assert play.hub.statistics().store_failures == 1
    assert [each.user for each in play.hub.sanctions(0)] == ["ben"]
    does(play, "ann", action="ban", user="ben", for_ms=5)
    impose = play.orders.popleft()
    assert isinstance(impose, Impose)
    play.tell()
    play << Nothing() >> StoreFailed([impose.ref], "the disk is full")
    play << Hears("ann", error("internal", "m", message="it could not be stored, and holds only for now"))


def test_a_ban_whose_end_cannot_be_stored_holds_again() -> None:
    """As it would after a restart; whoever came meanwhile goes again, and it can be ended once more."""
    play = stored("Ann", "Ben") >> Ban("ben", "r") << Impose
    play.forget() >> Unban("ben", "r")
    lift = play.orders.popleft()
    assert isinstance(lift, Lift)
    play.forget() >> says("ben", "join", id=1, room="r")
    assert play.hub.members("r") == ("ann", "ben")
    play.forget() >> StoreFailed([lift.ref], "the disk is full") << Hears("ben", {"type": "kicked", "code": 4002})
    assert play.hub.members("r") == ("ann",)
    play.forget() >> Unban("ben", "r")
    again = play.orders.popleft()
    assert isinstance(again, Lift)
    play >> Stored([again.ref], {})
    assert play.hub.sanctions(0) == []


def test_what_was_done_since_counts_more_than_an_end_that_failed() -> None:
    """Otherwise the hub and the file would differ."""
    play = stored("Ann", "Ben") >> Ban("ben", "r") << Impose
    play.forget() >> Unban("ben", "r")
    first = play.orders.popleft()
    play.forget() >> Ban("ben", "r") << Impose
    play.forget() >> Unban("ben", "r")
    second = play.orders.popleft()
    assert isinstance(first, Lift)
    assert isinstance(second, Lift)
    play.forget() >> StoreFailed([first.ref], "the disk is full") << Nothing() >> Stored([second.ref], {})
    assert play.hub.sanctions(0) == []
    assert not play.hub._moderation._lifting


def test_a_ban_that_was_over_when_its_end_failed_does_not_hold_again() -> None:
    play = stored("Ann", "Ben") >> Ban("ben", "r", for_s=1) << Impose
    play.forget() >> Unban("ben", "r")
    lift = play.orders.popleft()
    assert isinstance(lift, Lift)
    play >> After(1)
    play.forget() >> StoreFailed([lift.ref], "the disk is full") << Nothing()
    assert play.hub.sanctions(1) == []
    assert len(play.hub._state.sanctions) == 0


def test_a_ban_whose_end_cannot_be_stored_does_not_hold_again_where_another_does() -> None:
    play = stored("Ann", "Ben") >> Ban("ben", "r", reason="first") << Impose
    play.forget() >> Unban("ben", "r")
    lift = play.orders.popleft()
    assert isinstance(lift, Lift)
    play.forget() >> Ban("ben", "r", reason="second") << Impose
    play.forget() >> StoreFailed([lift.ref], "the disk is full")
    assert [each.reason for each in play.hub.sanctions(0)] == ["second"]


def test_nobody_waits_for_a_commit_that_is_not_waited_for() -> None:
    play = does(stored("Ann", "Ben", confirms=False), "ann", action="mute", user="ben")
    assert play.tell() == ["impose mute ben 'r' None ''", "mute ben 'r' by ann until None: "]
    play << Hears("ann", ok("m"))
    does(play, "ann", action="unmute", user="ben")
    lift = play.orders.popleft()
    assert isinstance(lift, Lift)
    play.tell()
    play << Hears("ann", ok("m")) >> Stored([lift.ref], {}) << Nothing()


def test_a_moderator_that_has_gone_is_not_told() -> None:
    play = does(stored("Ann", "Ben"), "ann", action="mute", user="ben")
    impose = play.orders.popleft()
    assert isinstance(impose, Impose)
    play.forget() >> Disconnected("ann")
    play.forget() >> Stored([impose.ref], {}) << Nothing()


def test_what_the_program_orders_is_kept() -> None:
    play = stored("Ann") >> Ban("ben", for_s=1, reason="m")
    assert play.tell() == ["impose ban ben '' 1001000 'm'"]
    play >> Unban("ben", "r") >> Unban("ben")
    assert play.tell() == ["lift ban ben '' 1001000 'm'"]


def test_bans_outlive_the_process() -> None:
    sanctions = (Sanction("ban", "ben", "", START_MS + 1_000), Sanction("mute", "ann", "r"))
    play = stored("Ann", sanctions=sanctions)
    play >> says("ann", "chat", id=1, room="r", content="x") << Hears("ann", error("muted", 1))
    play >> Connected("ben", V1, "", secret="s", identity=Identity(user="ben"))
    assert play.closed == {"ben": "banned"}


def test_more_than_there_may_be_are_restored() -> None:
    """A limit that was lowered sets nobody free."""
    play = Playbook(sanctions=1)
    play.hub.restore(Snapshot((), (), [Sanction("ban", "a"), Sanction("ban", "b")]), reserve=9, now=0)
    assert len(play.hub.sanctions(0)) == 2


def test_a_ban_of_who_is_only_greeting() -> None:
    play = moderated("Ann") >> connected("ben", "Ben") >> Ban("Ben") << Close("ben", errors.BANNED)
    play << Hears("ben", {"type": "bye", "name": "banned"})
    arrive(play, "Cy", "r")
    play << Hears("ann", joined("cy", 3, content="Cy joined the room"))
