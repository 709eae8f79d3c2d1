"""Events wait for the room they are of, and nobody leaves who was not seen."""

from typing import Any, cast

import anyio
import pytest

from roomhub.client import Event, Joined, Kicked, Left, Member, Message, Room
from roomhub.terminal import entrance as module
from roomhub.terminal.entrance import Entrance
from roomhub.terminal.json_lines import event_object

pytestmark = pytest.mark.anyio
ANN, EVE = Member("ann", "ann"), Member("eve", "eve")


class Told:
    """What was told, and a room as the client knows it."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.entrance = Entrance(self.tell)

    async def tell(self, event: Event) -> None:
        self.events.append(event)

    def shows(self, *members: Member) -> None:
        class Like:
            name = "lobby"

        Like.members = {member.user: member for member in members}  # type: ignore[attr-defined]
        self.entrance.shows(cast("Room", Like()))


def said(room: str = "lobby") -> Message:
    return Message(room, "ann", "ann", "hi", "e", 1, 1)


async def test_what_happens_while_a_room_is_entered_comes_behind_that() -> None:
    told = Told()
    async with told.entrance.entering("lobby"):
        await told.entrance.pass_on(Joined("lobby", ANN))
        await told.entrance.pass_on(said("attic"))
        await told.entrance.pass_on(said())
        told.events.append("you are in lobby")
    assert told.events == [said("attic"), "you are in lobby", Joined("lobby", ANN), said()]
    await told.entrance.pass_on(said())
    assert told.events[-1] == said()


async def test_nobody_leaves_who_was_not_shown() -> None:
    told = Told()
    async with told.entrance.entering("lobby"):
        await told.entrance.pass_on(Left("lobby", EVE))
        told.shows(ANN)
    assert told.events == []
    for event in (Left("lobby", ANN), Joined("lobby", EVE), Left("lobby", EVE)):
        await told.entrance.pass_on(event)
    assert told.events == [Left("lobby", ANN), Joined("lobby", EVE), Left("lobby", EVE)]
    await told.entrance.pass_on(Left("lobby", EVE))
    assert len(told.events) == 3
    await told.entrance.pass_on(Kicked("lobby", 4004, "kicked"))
    assert told.events[-1] == Kicked("lobby", 4004, "kicked")


async def test_a_join_that_fails_holds_nothing_up() -> None:
    told = Told()
    with pytest.raises(ZeroDivisionError):
        async with told.entrance.entering("lobby"):
            _ = 1 / 0
    await told.entrance.pass_on(said())
    assert told.events == [said()]


async def test_no_more_than_so_many_events_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_HELD", 2)
    told = Told()

    async def listen() -> None:
        for _ in range(5):
            await told.entrance.pass_on(said())
        told.events.append("all")

    async with anyio.create_task_group() as tasks, told.entrance.entering("lobby"):
        tasks.start_soon(listen)
        await anyio.wait_all_tasks_blocked()
        assert told.events == []
    assert told.events == [*[said()] * 5, "all"]


def test_nobody_knows_why_somebody_left() -> None:
    assert "reason" not in event_object(Left("lobby", EVE))
    assert event_object(Left("lobby", EVE, "banned"))["reason"] == "banned"
