"""A hub with a store: what it gives it to keep, what it waits for, and how it goes on after a restart."""

import json
from collections.abc import Hashable
from typing import Any

import pytest

from roomhub.core import errors
from roomhub.core.commands import CloseRoom, Drain, Publish
from roomhub.core.effects import Close, Load, Store
from roomhub.core.events import (
    Authorized,
    Blocked,
    ClockSet,
    Connected,
    Denied,
    Disconnected,
    Loaded,
    Stored,
    StoreFailed,
    Ticked,
    Writable,
)
from roomhub.core.limits import Limits
from roomhub.core.storage import Page, Snapshot, StoredGap, StoredKey, StoredMessage, StoredRoom
from tests.core.playbook import TEXT, After, Hears, Nothing, Playbook, Sees, frames, says
from tests.core.test_dialogue import chat, connected, dm, enter, error, gap, joined, ok

EMPTY = Snapshot((), ())


class Shelf:
    """What a store would have: it keeps what the hub gives out, and answers when it is told to."""

    def __init__(self, play: Playbook) -> None:
        self.play = play
        self.kept: dict[str, list[StoredMessage]] = {}
        self.refs: list[Hashable] = []
        self.loads: list[Load] = []
        self.gaps: list[StoredGap] = []

    def lose(self, first: int, last: int, reason: str = "lost", room: str = "r") -> None:
        self.kept[room] = [message for message in self.kept[room] if not first <= message.offset <= last]
        self.gaps.append(StoredGap(first, last, reason))

    def take(self) -> "Shelf":
        """Take all orders for the store out of what the hub has ordered."""
        play = self.play
        orders, rest = [*play.orders, *play.hub.handle(Ticked(), play.now)], []
        play.orders.clear()
        for order in orders:
            if isinstance(order, Store):
                for message, ref in zip(order.messages, order.refs, strict=True):
                    self.kept.setdefault(message.room, []).append(message)
                    if ref is not None:
                        self.refs.append(ref)
            elif isinstance(order, Load):
                self.loads.append(order)
            else:
                rest.append(order)
        assert not rest
        return self

    def commit(self, **reserved: int) -> Playbook:
        self.take()
        refs, self.refs = self.refs, []
        return self.play >> Stored(refs, {(room, "e.1"): upto for room, upto in reserved.items()})

    def load(self) -> Playbook:
        """Answer the loads, the oldest first."""
        self.take()
        loads, self.loads = self.loads, []
        for load in loads:
            self.play >> Loaded(load.ref, self.page(load))
            self.take()
        return self.play

    def page(self, load: Load) -> Page:
        kept = self.kept.get(load.room, [])
        after, before = load.after or 0, load.before or 1_000_000
        found = [message for message in kept if after < message.offset < before]
        if load.after is None:
            found = found[::-1]
        left, count = load.most_bytes, 0
        while count < min(load.limit, len(found)):
            left -= len(found[count].content) + 64
            if left < 0 and count:
                break
            count += 1
        more = len(found) > count
        found = found[:count]
        if load.after is None:
            return Page(found[::-1], (), more)
        end = found[-1].offset if more else before - 1
        missing = sum(gap.last - gap.first + 1 for gap in cut(self.gaps, after + 1, before - 1))
        return Page(found, cut(self.gaps, after + 1, end), more, missing)

    def snapshot(self) -> Snapshot:
        """As it would be after a restart that lost nothing."""
        rooms = [
            StoredRoom(room, kept[-1].epoch, kept[-1].offset, kept[-1].offset + 100, kept[-1].ts_ms)
            for room, kept in self.kept.items()
        ]
        keys = [
            StoredKey(message.room, message.user, message.key, message.epoch, message.offset, message.ts_ms)
            for kept in self.kept.values()
            for message in kept
            if message.key is not None
        ]
        return Snapshot(rooms, keys)


def cut(gaps: list[StoredGap], first: int, last: int) -> list[StoredGap]:
    """What of the gaps is between these offsets."""
    found = [StoredGap(max(gap.first, first), min(gap.last, last), gap.reason) for gap in gaps]
    return [gap for gap in found if gap.first <= gap.last]


def stored(snapshot: Snapshot = EMPTY, *, reserve: float = 100, confirms: float = True, **limits: float) -> Playbook:
    play = Playbook(ping_interval_s=9_000, pong_timeout_s=9_999, **limits)
    play.hub.restore(snapshot, reserve=int(reserve), confirms=bool(confirms), now=play.now)
    return play


def said(offset: int, room: str = "r", epoch: str = "old.7", **fields: Any) -> StoredMessage:
    return StoredMessage(room, epoch, offset, "Zoe", "Zoe", f"m{offset}", 1_000 + offset, **fields)


def after_restart(count: int, room: str = "r", **limits: float) -> tuple[Playbook, Shelf]:
    """The store has a room with so many messages."""
    snapshot = Snapshot([StoredRoom(room, "old.7", count, count + 100, 1_000 + count)], ())
    play = stored(snapshot, **limits)
    shelf = Shelf(play)
    shelf.kept[room] = [said(offset, room, to="Ann" if room.startswith("@") else "") for offset in range(1, count + 1)]
    return play, shelf


def hello(play: Playbook, user: str, client: str = "", **fields: Any) -> None:
    client = client or user.lower()
    play >> connected(client, user) >> says(client, "hello", id="h", **fields)


def test_a_hub_is_restored_before_anything_else() -> None:
    play = stored()
    with pytest.raises(RuntimeError, match="before anything else"):
        play.hub.restore(EMPTY, reserve=5, now=0)
    other = Playbook() >> Publish("r", "x") >> connected("ann", "Ann")
    with pytest.raises(RuntimeError, match="before anything else"):
        other.hub.restore(EMPTY, reserve=5, now=0)


def test_every_message_is_given_to_the_store_and_the_ok_follows_the_commit() -> None:
    play = stored()
    shelf = Shelf(play)
    enter(play, "Ann")
    play >> Connected("pat", TEXT, "Pat", ["r"])
    play.forget()
    play >> says("ann", "chat", id=1, room="r", content="hi", key="k")
    shelf.take()
    play << Sees("pat", "Ann: hi") << Hears("ann", chat("Ann", "hi", 1))
    shelf.refs.append("the program's own")
    shelf.commit() << Hears("ann", ok(1, room="r", offset=1, dup=None))
    play >> says("ann", "chat", room="r", content="no reply") >> After() << Store
    play << Hears("ann", "chat")
    play >> Publish("r", "news", "Bot", ref="ref")
    assert play.tell() == ["settle ref e.1/3"]
    play >> After()
    assert play.tell() == ["store r 3"]
    assert shelf.kept["r"] == [StoredMessage("r", "e.1", 1, "Ann", "Ann", "hi", 0, "", "k")]


def test_orders_for_a_store_say_what_they_are() -> None:
    assert repr(Store([said(1)], [None])).startswith("Store([StoredMessage(room='r'")
    load = Load("r", None, after=None, before=5, limit=9, most_bytes=9)
    assert repr(load) == "Load('r', after=None, before=5, limit=9)"


def test_an_ok_may_be_set_not_to_wait() -> None:
    play = stored(confirms=False)
    enter(play, "Ann")
    play.forget() >> says("ann", "chat", id=1, room="r", content="hi")
    play >> After()
    assert play.tell() == ["store r 1"]
    play << Hears("ann", ok(1, offset=1), chat("Ann", "hi", 1))


def test_a_repeat_waits_for_the_same_commit() -> None:
    """G4."""
    play = stored()
    shelf = Shelf(play)
    enter(play, "Ann")
    play.forget() >> says("ann", "chat", id=1, room="r", content="hi", key="k")
    shelf.take()
    play >> says("ann", "chat", id=2, room="r", content="hi", key="k") << Hears("ann", chat("Ann", "hi", 1))
    shelf.commit() << Hears("ann", ok(1, offset=1, dup=None), ok(2, offset=1, dup=True))
    play >> says("ann", "chat", id=3, room="r", content="hi", key="k") << Hears("ann", ok(3, offset=1, dup=True))


def test_what_cannot_be_stored_is_an_error_and_live_all_the_same() -> None:
    play = stored()
    shelf = Shelf(play)
    enter(play, "Ann")
    play.forget() >> says("ann", "chat", id=1, room="r", content="hi", key="k")
    shelf.take()
    play << Hears("ann", chat("Ann", "hi", 1))
    play >> StoreFailed(shelf.refs, "disk full") << Hears("ann", error("internal", 1))
    play >> says("ann", "chat", id=2, room="r", content="hi", key="k") << Hears("ann", error("internal", 2))
    play >> says("ann", "chat", room="r", content="hi", key="k") << Nothing()
    assert play.hub.statistics().store_failures == 1


def test_nobody_is_told_who_is_gone() -> None:
    play = stored()
    shelf = Shelf(play)
    enter(play, "Ann")
    play.forget() >> says("ann", "chat", id=1, room="r", content="hi")
    shelf.take()
    play >> Disconnected("ann")
    shelf.commit() << Nothing()


def test_a_room_goes_on_where_it_was() -> None:
    play, shelf = after_restart(3)
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r", since={"epoch": "old.7", "offset": 1}, history=1)
    play << Hears("ann", "welcome")
    shelf.load()
    [reply, *heard] = play.hear("ann")
    assert (reply["recovered"], reply["offset"], reply["messages"][0]["content"]) == ("full", 1, "m3")
    assert [message.get("offset") for message in heard] == [2, 3, None]
    assert heard[0]["ts"] == 1_002
    play >> says("ann", "chat", room="r", content="m4")
    shelf.take()
    play << Hears("ann", chat("Ann", "m4", 4, epoch="old.7"))


def test_several_wait_for_one_load_and_whoever_is_gone_does_not() -> None:
    play, shelf = after_restart(3)
    for user in ("Ann", "Ben", "Cy"):
        hello(play, user)
        play >> says(user.lower(), "join", id="j", room="r")
        shelf.take()
    assert len(shelf.loads) == 1
    play >> says("ann", "join", id="k", room="r") << Hears("ann", "welcome")
    play >> Disconnected("ben")
    shelf.load()
    assert [message["type"] for message in play.hear("ann")[:2]] == ["ok", "error"]
    assert play.hub.members("r") == ("Ann", "Cy")


def test_a_room_that_nobody_waits_for_any_more_goes() -> None:
    play, shelf = after_restart(3)
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r")
    play.serve()
    shelf.take()
    play >> Disconnected("ann")
    shelf.load() >> After(10)
    assert not play.hub._rooms
    assert play.hub._state.store is not None
    assert play.hub._state.store.rooms["r"].offset == 3


def test_a_store_that_cannot_load_leaves_what_is_in_memory() -> None:
    play, shelf = after_restart(3)
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r", since={"epoch": "old.7", "offset": 1})
    shelf.take()
    play >> Loaded(shelf.loads[0].ref, None, "broken")
    shelf.take()  # what it was since
    play >> Loaded(shelf.loads[1].ref, None, "broken")
    play << Hears("ann", "welcome", ok("j", recovered="partial"), gap(2, 3, "expired", epoch="old.7"), joined("Ann", 2))


def test_a_plain_client_waits_for_no_load() -> None:
    play, shelf = after_restart(3)
    play >> Connected("pat", TEXT, "Pat", ["r"]) << Sees("pat", "online Pat", "+Pat")
    play >> Publish("r", "m4")
    shelf.take()
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r", since={"epoch": "old.7", "offset": 0})
    shelf.load()
    assert [message["content"] for message in play.hear("ann") if message["type"] == "chat"] == ["m1", "m2", "m3", "m4"]


def test_a_room_is_put_away_and_taken_out_again() -> None:
    play = stored(room_linger_s=0)
    shelf = Shelf(play)
    for round_ in range(1, 4):
        play >> Publish("r", f"m{round_}")
        shelf.take()
        assert not play.hub._rooms
    assert [message.offset for message in shelf.kept["r"]] == [1, 2, 3]
    assert {message.epoch for message in shelf.kept["r"]} == {"e.1"}
    play >> Stored([], {("r", "e.1"): 500, ("r", "e.0"): 900, ("other", "e.1"): 7})
    assert play.hub._state.store is not None
    assert play.hub._state.store.rooms["r"].reserved == 500


def test_no_offset_is_given_beyond_what_is_reserved() -> None:
    play = stored(reserve=2)
    shelf = Shelf(play)
    enter(play, "Ann")
    play.forget()
    for content in ("one", "two"):
        play >> says("ann", "chat", room="r", content=content)
        shelf.take()
    shelf.commit(r=3)
    for content in ("three", "four"):
        play >> says("ann", "chat", room="r", content=content)
        shelf.take()
    play << Hears(
        "ann",
        chat("Ann", "one", 1),
        chat("Ann", "two", 2),
        chat("Ann", "three", 3),
        gap(0, 0, "epoch", epoch="e.2"),
        chat("Ann", "four", 1, epoch="e.2"),
    )
    assert [message.content for message in play.hub.history("r")] == ["four"]
    assert [message.content for message in shelf.kept["r"]] == ["one", "two", "three"], (
        "what might be twice is not kept"
    )


def drifted(**limits: float) -> tuple[Playbook, Shelf]:
    """Ann is in a room whose two offsets are used up, so that a third message is in another epoch."""
    play = stored(EMPTY, reserve=2, **limits)
    shelf = Shelf(play)
    enter(play, "Ann")
    for content in ("one", "two", "three"):
        play >> says("ann", "chat", room="r", content=content)
        shelf.take()
    return play.forget(), shelf


def test_a_store_that_was_too_far_behind_takes_up_where_it_was() -> None:
    """Its history stays as it is, and goes on as soon as it can; only what was said between is not in it."""
    play, shelf = drifted()
    shelf.commit(r=9) << Hears("ann", gap(1, 2, "epoch", epoch="e.1"))
    play >> says("ann", "chat", id=1, room="r", content="four")
    shelf.commit() << Hears("ann", ok(1, epoch="e.1", offset=3), chat("Ann", "four", 3))
    play >> says("ann", "history", id=2, room="r", since={"epoch": "e.1", "offset": 0})
    [page] = served(play, shelf)
    assert [message["content"] for message in page["messages"]] == ["one", "two", "four"]


def test_what_is_not_stored_is_an_error_for_who_wants_to_know_and_nobody_else() -> None:
    play, _ = drifted()
    (
        play
        >> says("ann", "chat", id=1, room="r", content="four", key="k")
        << Hears("ann", error("internal", 1), chat("Ann", "four", 2, epoch="e.2"))
    )
    play >> says("ann", "chat", id=2, room="r", content="four", key="k") << Hears("ann", error("internal", 2))
    assert play.hub.statistics().store_failures == 2
    play >> Stored([], {("r", "e.1"): 2}) << Nothing()  # that is no more than it had


def test_a_room_that_is_put_away_far_from_home_comes_back_there() -> None:
    play, shelf = drifted(room_linger_s=0)
    play >> says("ann", "leave", id=1, room="r")
    assert play.hub._state.store is not None
    assert play.hub._state.store.rooms["r"] == StoredRoom("r", "e.1", 2, 2, 0)
    shelf.commit(r=9)
    assert play.hub._state.store.rooms["r"].reserved == 9


def test_a_replay_ends_where_its_epoch_does() -> None:
    """11: it must not go on with the other epoch's messages, which come by themselves."""
    play, shelf = after_restart(4, chunk_bytes=1)
    play.hub._state.store.rooms["r"] = StoredRoom("r", "old.7", 4, 4, 0)  # type: ignore[union-attr]
    hello(play, "Ann", resume={"session": "?", "rooms": {"r": {"epoch": "old.7", "offset": 1}}})
    shelf.load()
    assert play.hub.ready() == ["ann"]
    first, second = (json.loads(*frames(play.hub.pull("ann"))) for _ in range(2))
    assert (first["type"], second["offset"]) == ("welcome", 2)
    play >> Publish("r", "new")
    play.orders.clear()
    play.pull("ann")
    play << Hears(
        "ann",
        gap(3, 4, "epoch", epoch="old.7"),
        joined("Ann", 2),
        gap(0, 0, "epoch", epoch="e.1"),
        chat("", "new", 1, epoch="e.1"),
    )


def test_a_mailbox_is_told_of_its_other_epoch() -> None:
    play = stored(reserve=1)
    shelf = Shelf(play)
    hello(play, "Ann")
    hello(play, "Ben")
    play.forget()
    for number in (1, 2):
        play >> says("ann", "dm", id=number, to="Ben", content=f"m{number}")
        shelf.take()
    play << Hears(
        "ben",
        dm("@Ben", "m1", 1, user="Ann", username="Ann", to="Ben"),
        gap(0, 0, "epoch", room="@Ben", epoch="e.3"),
        dm("@Ben", "m2", 1, user="Ann", username="Ann", to="Ben", epoch="e.3"),
    )


def test_keys_outlive_a_restart() -> None:
    """G4."""
    play = stored(Snapshot([StoredRoom("r", "old.7", 3, 100, 5)], [
        StoredKey("r", "Ann", "k", "old.7", 2, 4),
        StoredKey("r", "Ann", "older", "old.6", 9, 4),
        StoredKey("@Ben", "Ann", "k", "old.8", 1, 4),
    ]))  # fmt: skip
    shelf = Shelf(play)
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r")
    shelf.load()
    play.forget() >> says("ann", "chat", id=1, room="r", content="again", key="k")
    play << Hears("ann", ok(1, epoch="old.7", offset=2, ts=4, dup=True))
    play >> says("ann", "chat", id=2, room="r", content="of another epoch, but said", key="older")
    play << Hears("ann", ok(2, epoch="old.6", offset=9, dup=True))
    play >> After(299) >> says("ann", "dm", id=3, to="Ben", content="again", key="k")
    play << Hears("ann", ok(3, room="@Ben", epoch="old.8", offset=1, dup=True))
    play >> After(1)
    assert not play.hub._state.keys


def test_pages_that_are_not_in_memory_come_from_the_store() -> None:
    play, shelf = after_restart(9, log_messages=3)
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r")
    shelf.load()
    play.forget()
    pages = []
    for fields in (
        {"before": 10, "limit": 3},
        {"before": 9, "limit": 3},
        {"before": 2},
        {"since": {"epoch": "old.7", "offset": 7}},
        {"since": {"epoch": "old.7", "offset": 2}, "limit": 2},
    ):
        play >> says("ann", "history", id=1, room="r", **fields)
        [reply] = served(play, shelf)
        pages.append(([message["offset"] for message in reply["messages"]], reply["more"]))
    assert pages == [([9, 8, 7], True), ([8, 7, 6], True), ([1], False), ([8, 9], False), ([3, 4], True)]
    play >> says("ann", "history", id=2, room="r", before=5) << Hears("ann") >> After()
    shelf.take()
    play >> Loaded(shelf.loads.pop().ref, None, "broken") << Hears("ann", error("internal", 2, room="r"))
    play >> says("ann", "history", id=3, room="r", before=5) << Hears("ann") >> After()
    shelf.take()
    play >> Disconnected("ann")
    play >> Loaded(shelf.loads.pop().ref, None, "broken") << Nothing()


def test_a_mailbox_outlives_a_restart() -> None:
    play, shelf = after_restart(2, "@Ann")
    hello(play, "Ann", resume={"session": "?", "rooms": {"@Ann": {"epoch": "old.7", "offset": 1}}})
    play << Hears("ann")
    shelf.load()
    play << Hears("ann", "welcome", dm("@Ann", "m2", 2, to="Ann"))
    play >> says("ann", "dm", to="Ben", content="hi") >> After() << Store
    assert play.hub._state.mailboxes["Ann"].offset == 3


def test_a_mailbox_is_written_to_before_its_user_is_back() -> None:
    play, shelf = after_restart(2, "@Ann")
    hello(play, "Ben")
    play >> says("ben", "dm", id=1, to="Ann", content="m3")
    shelf.commit()
    play.forget()
    hello(play, "Ann", resume={"session": "?", "rooms": {"@Ann": {"epoch": "old.7", "offset": 0}}})
    shelf.load()
    assert [message["content"] for message in play.hear("ann")[1:]] == ["m1", "m2", "m3"]


def test_who_vanishes_while_a_mailbox_is_loaded() -> None:
    play, shelf = after_restart(2, "@Ann")
    hello(play, "Ann")
    shelf.take()
    play >> Disconnected("ann")
    shelf.load()
    play >> After(300)
    assert not play.hub._state.mailboxes
    assert play.hub._state.store is not None
    assert "@Ann" in play.hub._state.store.rooms


def test_a_resume_waits_for_all_its_rooms() -> None:
    play, shelf = after_restart(2)
    shelf.kept["s"] = [said(1, "s")]
    assert play.hub._state.store is not None
    play.hub._state.store.rooms["s"] = StoredRoom("s", "old.7", 1, 100, 5)
    rooms = {name: {"epoch": "old.7", "offset": 0} for name in ("r", "s", "new")}
    hello(play, "Ann", resume={"session": "?", "rooms": rooms})
    shelf.take()
    assert [load.room for load in shelf.loads] == ["r", "s"]
    play << Hears("ann")
    shelf.load()
    heard = play.hear("ann")
    assert {name: room["recovered"] for name, room in heard[0]["rooms"].items() if name in rooms} == {
        "r": "full",
        "s": "full",
        "new": "none",
    }
    assert [message["content"] for message in heard if message["type"] == "chat"] == ["m1", "m2", "m1"]


def test_a_resume_is_asked_about_and_then_loaded() -> None:
    play, shelf = after_restart(2)
    play.hub.authorizes = True
    hello(play, "Ann", resume={"session": "?", "rooms": {"r": {"epoch": "old.7", "offset": 1}}})
    play.orders.clear()
    play >> Authorized("ann", "r")
    shelf.load()
    assert [message["type"] for message in play.hear("ann")] == ["welcome", "chat", "user_joined"]
    play >> says("ann", "join", id=1, room="s")
    play.orders.clear()
    play >> Denied("ann", "s") << Hears("ann", error("forbidden", 1))


def test_a_room_that_is_closed_while_it_loads_is_joined_all_the_same() -> None:
    play, shelf = after_restart(2)
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r")
    shelf.take()
    play >> CloseRoom("r")
    shelf.load()
    assert play.hub.members("r") == ("Ann",)
    play >> Drain()
    assert play.tell() == ["close ann draining"]
    assert errors.DRAINING.name in str(play.hub.statistics().evictions)


def test_a_full_log_loads_nothing() -> None:
    play, shelf = after_restart(5, log_messages=2)
    play >> Connected("pat", TEXT, "Pat", ["r"])
    play.forget()
    for content in ("m6", "m7"):
        play >> Publish("r", content)
        shelf.take()
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r", since={"epoch": "old.7", "offset": 5})
    assert not shelf.take().loads
    assert [message.get("recovered") for message in play.hear("ann")][1] == "full"


def test_there_may_be_no_place_for_a_stored_room() -> None:
    play, _ = after_restart(2, rooms=1)
    play >> Connected("pat", TEXT, "Pat", ["other"])
    hello(play, "Ann")
    play.forget() >> says("ann", "join", id="j", room="r") << Hears("ann", error("over_capacity", "j"))
    assert Limits().rooms > 1


def test_what_was_lost_in_the_middle_is_a_gap() -> None:
    play, shelf = after_restart(2)
    shelf.kept["r"] = [said(1), said(2), said(6)]
    assert play.hub._state.store is not None
    play.hub._state.store.rooms["r"] = StoredRoom("r", "old.7", 8, 100, 5)
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r", since={"epoch": "old.7", "offset": 1})
    shelf.load()
    [_, reply, *heard, _] = play.hear("ann")
    assert reply["recovered"] == "partial"
    assert [(message.get("offset"), message.get("reason"), message.get("to")) for message in heard] == [
        (2, None, None),
        (None, "lost", 5),
        (6, None, None),
        (None, "lost", 8),
    ]


# -- what is older than the log ----------------------------------------------------------------------------------------


def back_since(offset: int, count: int, **limits: float) -> tuple[Playbook, Shelf]:
    """Ann comes back to a room of so many messages, of which two are in memory; all her loads but the last answered."""
    play, shelf = after_restart(count, "r", **{"log_messages": 2, "history_page": 3, **limits})
    hello(play, "Ann", resume={"session": "?", "rooms": {"r": {"epoch": "old.7", "offset": offset}}})
    shelf.load()
    return play, shelf


def served(play: Playbook, shelf: Shelf, client: str = "ann") -> list[dict[str, Any]]:
    """All that a client hears, with the store answering whenever it is asked."""
    heard = play.hear(client)
    while not play.hub.is_settled:
        play >> After()
        shelf.load()
        heard += play.hear(client)
    return heard


def offsets(heard: list[dict[str, Any]]) -> list[Any]:
    """Of messages the offset, of gaps what is missing and why."""
    return [
        message["offset"] if message["type"] == "chat" else (message["from"], message["to"], message["reason"])
        for message in heard
        if message["type"] in ("chat", "gap")
    ]


def test_what_the_log_has_let_go_of_comes_from_the_store() -> None:
    """G3: it is still kept, so the resume is full."""
    play, shelf = back_since(1, 12)
    shelf.load()
    heard = served(play, shelf)
    assert heard[0]["rooms"]["r"]["recovered"] == "full"
    assert offsets(heard) == list(range(2, 13))


def test_a_page_is_brought_when_the_client_has_taken_the_one_before() -> None:
    play, shelf = back_since(0, 12, chunk_bytes=1)
    shelf.load()
    assert not shelf.loads
    play >> After()
    assert [load.after for load in shelf.take().loads] == []
    assert offsets(play.hear("ann")) == []  # the welcome, and then it has to be asked for
    play >> After()
    assert [(load.after, load.before, load.limit) for load in shelf.take().loads] == [(0, 11, 3)]
    shelf.load()
    assert offsets(play.hear("ann")) == [1], "one byte holds one message"
    assert not play.hub.is_settled


def test_what_the_store_lacks_too_is_told_with_its_reason() -> None:
    play, shelf = after_restart(14, log_messages=2, history_page=2)
    shelf.lose(1, 4, "expired")
    shelf.lose(5, 6)
    shelf.lose(9, 9)
    shelf.lose(11, 12)
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r", since={"epoch": "", "offset": 0})
    shelf.load()
    shelf.load()
    heard = served(play, shelf)
    assert heard[1]["recovered"] == "partial"
    assert offsets(heard) == [(1, 4, "expired"), (5, 6, "lost"), 7, 8, (9, 9, "lost"), 10, (11, 12, "lost"), 13, 14]


def test_nothing_is_left_of_what_it_missed() -> None:
    play, shelf = after_restart(6, log_messages=2)
    shelf.lose(1, 4, "expired")
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r", since={"epoch": "old.7", "offset": 1})
    shelf.load()
    shelf.load()
    heard = served(play, shelf)
    assert (heard[1]["recovered"], offsets(heard)) == ("partial", [(2, 4, "expired"), 5, 6])


def test_the_store_has_another_epoch() -> None:
    """The room began anew, since the store was behind, and what is in memory is not stored yet."""
    play = stored(Snapshot([StoredRoom("r", "old.7", 3, 3, 5)], ()), log_messages=1)
    shelf = Shelf(play)
    shelf.kept["r"] = [said(offset) for offset in (1, 2, 3)]
    hello(play, "Ann")
    play >> Connected("pat", TEXT, "Pat", ["r"])
    for content in ("one", "two"):
        play >> Publish("r", content)
        play.orders.clear()
    play >> says("ann", "join", id="j", room="r", since={"epoch": "e.1", "offset": 0})
    shelf.load()
    shelf.load()
    assert offsets(served(play, shelf)) == [(1, 1, "expired"), 2]


def test_a_mailbox_has_more_in_the_store_than_in_memory() -> None:
    play, shelf = after_restart(9, "@Ann", log_messages=2, history_page=3)
    hello(play, "Ann", resume={"session": "?", "rooms": {"@Ann": {"epoch": "old.7", "offset": 1}}})
    shelf.load()
    shelf.load()
    [welcome, *heard] = served(play, shelf)
    assert welcome["rooms"]["@Ann"]["recovered"] == "full"
    assert [message["offset"] for message in heard] == list(range(2, 10))


def test_what_is_new_comes_behind_what_is_old() -> None:
    play, shelf = back_since(1, 6)
    shelf.load()
    play >> Publish("r", "m7")
    shelf.take()
    assert offsets(served(play, shelf)) == [2, 3, 4, 5, 6, 7]


def test_a_store_that_cannot_bring_a_page_costs_that_page_alone() -> None:
    play, shelf = back_since(0, 12)
    shelf.load()
    heard = play.hear("ann")
    play >> After()
    shelf.take()
    play >> Loaded(shelf.loads.pop().ref, None, "broken")
    assert offsets(heard + served(play, shelf)) == [(1, 10, "lost"), 11, 12]


def test_a_store_that_does_not_answer_holds_nobody_up_for_long() -> None:
    """Row: slow, full or broken, it never stops live chat."""
    play, shelf = back_since(0, 12, history_timeout_s=4)
    shelf.load()
    heard = play.hear("ann")
    play >> After()
    shelf.take()
    play >> After(3)
    assert play.hear("ann") == []
    play >> After(1)
    heard += play.hear("ann")
    assert offsets(heard) == [(1, 10, "lost"), 11, 12]
    shelf.load() << Nothing()  # it answers after all


def test_a_store_that_does_not_answer_joins_and_asks_for_pages() -> None:
    play, shelf = after_restart(9, log_messages=3, history_timeout_s=4)
    hello(play, "Ann")
    play.forget()
    play >> says("ann", "join", id="j", room="r", since={"epoch": "old.7", "offset": 1})
    shelf.take()
    play >> After(4)
    shelf.take()
    play >> After(4) << Hears("ann", ok("j", recovered="partial"), gap(2, 9, "expired", epoch="old.7"), "user_joined")
    play >> says("ann", "history", id=1, room="r", before=5) << Hears("ann") >> After()
    shelf.take()
    play >> After(4) << Hears("ann", error("internal", 1))
    shelf.load() << Nothing()
    assert not play.hub._rooms["r"].log, "too late, and it would not fit"


def test_what_is_new_is_not_lost_for_the_sake_of_what_is_old() -> None:
    """The store is slow while the room goes on: the bound on how far one may be behind holds, without an eviction."""
    play, shelf = back_since(0, 12, v1_lag_messages=3)
    shelf.load()
    heard = play.hear("ann")
    play >> After()
    shelf.take()
    for number in range(13, 17):
        play >> Publish("r", f"m{number}")
        shelf.take()
        play >> After()
    heard += served(play, shelf)
    assert offsets(heard) == [(1, 12, "slow"), 13, 14, 15, 16]
    assert play.hub.state_of("ann").name == "OPEN"


def test_who_is_closed_while_the_store_is_asked_resumes_from_there() -> None:
    """Neither what is old nor what is new is passed over: it ends before both."""
    play, shelf = back_since(0, 12)
    shelf.load()
    [welcome] = play.hear("ann")
    play >> After()
    shelf.take()
    play >> Publish("r", "m13")
    shelf.take()
    play >> Drain() << Close
    heard = play.hear("ann")
    assert [message["type"] for message in heard] == ["bye"]
    assert welcome["type"] == "welcome"


def test_who_vanishes_while_the_store_is_asked_is_forgotten() -> None:
    play, shelf = back_since(0, 12)
    shelf.load()
    play.hear("ann")
    play >> After()
    shelf.take()
    play >> Disconnected("ann")
    shelf.load() << Nothing()
    for _ in range(3):
        play >> After(1_000)
    assert not play.hub._rooms
    assert not len(play.hub._deadlines)


def test_a_client_that_blocks_while_the_store_is_asked() -> None:
    play, shelf = back_since(0, 8)
    shelf.load()
    heard = play.hear("ann")
    play >> After()
    shelf.take()
    play >> Blocked("ann")
    shelf.load()
    assert play.hear("ann") == []
    play >> Writable("ann")
    assert offsets(heard + served(play, shelf)) == list(range(1, 9))


def test_a_replay_goes_on_from_the_store_where_the_log_has_moved_on() -> None:
    """A client that reads slowly loses nothing that is stored."""
    play, shelf = back_since(4, 6, chunk_bytes=1)
    heard = play.hear("ann")
    play >> Blocked("ann")
    for number in range(7, 12):
        play >> Publish("r", f"m{number}")
        shelf.take()
    play >> Writable("ann")
    assert offsets(heard + served(play, shelf)) == list(range(5, 12))


def test_a_page_of_history_holds_what_a_chunk_does() -> None:
    play = stored(chunk_bytes=200)
    enter(play, "Ann")
    for number in range(1, 6):
        play >> Publish("r", f"{number}" * 30)
        play.orders.clear()
    play.forget()
    since = {"epoch": "e.1", "offset": 0}
    play >> says("ann", "history", id=1, room="r", before=9) >> says("ann", "history", id=2, room="r", since=since)
    newest, oldest = play.hear("ann")
    assert [message["offset"] for message in newest["messages"]] == [5, 4]
    assert [message["offset"] for message in oldest["messages"]] == [1, 2]
    assert newest["more"]
    assert oldest["more"]
    play >> says("ann", "join", id=3, room="s") >> Publish("r", "x" * 900)
    play.orders.clear()
    enter(play, "Ben", "r", "ben")
    play.hear("ben")
    play >> says("ben", "leave", id=4, room="r") >> says("ben", "join", id=5, room="r", history=9)
    [_, reply, *_] = play.hear("ben")
    assert [message["offset"] for message in reply["messages"]] == [6], "one in any case"


def test_a_load_that_failed_is_tried_again_by_the_next() -> None:
    play, shelf = after_restart(3)
    for user in ("Ann", "Ben"):
        hello(play, user)
    play.forget() >> says("ann", "join", id="j", room="r", history=5)
    shelf.take()
    play >> Loaded(shelf.loads.pop().ref, None, "broken")
    assert play.hear("ann")[0]["messages"] == []
    play >> says("ben", "join", id="j", room="r", history=5)
    shelf.load()
    assert [message["offset"] for message in play.hear("ben")[0]["messages"]] == [1, 2, 3]


def test_a_room_stays_while_its_log_is_loaded() -> None:
    play, shelf = after_restart(3)
    hello(play, "Ann")
    play.forget() >> says("ann", "join", id="j", room="r", history=5)
    shelf.take()
    play >> Connected("pat", TEXT, "Pat", ["r"]) >> Disconnected("pat")
    shelf.load()
    assert [message["offset"] for message in play.hear("ann")[0]["messages"]] == [1, 2, 3]


def test_what_is_loaded_keeps_the_bounds_of_a_log() -> None:
    play, shelf = after_restart(6, log_bytes=3 * 66, log_age_s=60)
    play >> ClockSet(60_003)  # so messages up to the third are too old
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r")
    shelf.load()
    assert [record[3] for record in play.hub._rooms["r"].log] == [4, 5, 6]
    play >> After(60)
    assert not play.hub._rooms["r"].log


def test_repeats_that_wait_for_a_commit_have_a_bound() -> None:
    play = stored(EMPTY)
    shelf = Shelf(play)
    enter(play, "Ann")
    play.forget()
    for number in range(20):
        play >> says("ann", "chat", id=number, room="r", content="x", key="k")
        shelf.take()
    refused = [message["id"] for message in play.hear("ann") if message["type"] == "error"]
    assert refused == [16, 17, 18, 19]
    shelf.commit()
    assert [message["id"] for message in play.hear("ann")] == [*range(16)]


def test_there_is_an_end_to_rooms_in_the_store() -> None:
    play = stored(Snapshot([StoredRoom(f"r{number}", "old.1", 1, 9, 0) for number in range(3)], ()), stored_rooms=4)
    shelf = Shelf(play)
    hello(play, "Ann")
    play.forget() >> says("ann", "join", id=1, room="r0")
    shelf.load()
    play.forget() >> says("ann", "join", id=2, room="new")
    (
        play
        >> says("ann", "join", id=3, room="newer")
        << Hears("ann", ok(2), error("over_capacity", 3), joined("Ann", 2, room="new"))
    )
    play >> says("ann", "dm", id=4, to="Ben", content="x") << Hears("ann", error("over_capacity", 4))


def test_a_page_is_not_waited_for_where_the_room_goes_on() -> None:
    play, shelf = after_restart(9, log_messages=3, v1_lag_messages=3)
    hello(play, "Ann")
    play >> says("ann", "join", id="j", room="r")
    shelf.load()
    play.forget() >> says("ann", "history", id=1, room="r", before=5) << Hears("ann") >> After()
    shelf.take()
    for number in range(10, 14):
        assert play.hear("ann") == []
        play >> Publish("r", f"m{number}")
        shelf.take()
    play >> After()
    heard = served(play, shelf)
    assert heard[0] == error("internal", 1, room="r") | {"message": heard[0]["message"]}
    assert offsets(heard) == [10, 11, 12, 13]
