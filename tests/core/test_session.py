"""A connection's states as a table, swept: what the hub does with each fact in each state is what the table says."""

import pytest

from roomhub.core import events
from roomhub.core.commands import Enter, Kick
from roomhub.core.events import (
    Authenticated,
    Authorized,
    Blocked,
    ClockSet,
    Connected,
    Denied,
    Disconnected,
    Heard,
    Loaded,
    Published,
    Received,
    Refused,
    Stored,
    StoreFailed,
    Ticked,
    Writable,
)
from roomhub.core.hub import Hub
from roomhub.core.message import CHAT, Message
from roomhub.core.session import Session, State
from tests.core.playbook import TEXT, V1, Playbook

OF_A_CLIENT: dict[type, events.Event[str]] = {
    Connected: Connected("c", TEXT, "Cy", ["r"]),
    Received: Received("c", "hi"),
    Heard: Heard("c"),
    Blocked: Blocked("c"),
    Writable: Writable("c"),
    Authorized: Authorized("c", "s"),
    Denied: Denied("c", "s"),
    Disconnected: Disconnected("c"),
}
# The state each fact leads to. One in no row of its state is ignored; of Connected it is the caller's mistake.
TRANSITIONS: dict[tuple[State, type], State] = {
    (State.ABSENT, Connected): State.OPEN,
    (State.OPEN, Received): State.OPEN,
    (State.OPEN, Heard): State.OPEN,
    (State.OPEN, Blocked): State.OPEN,
    (State.OPEN, Writable): State.OPEN,
    (State.OPEN, Authorized): State.OPEN,
    (State.OPEN, Denied): State.OPEN,
    (State.OPEN, Disconnected): State.ABSENT,
    (State.CLOSING, Disconnected): State.ABSENT,
    (State.GREETING, Received): State.GREETING,  # nothing but hello leads on; test_dialogue.py has that
    (State.GREETING, Blocked): State.GREETING,
    (State.GREETING, Writable): State.GREETING,
    (State.GREETING, Disconnected): State.ABSENT,
}
OF_NOBODY = (
    Published(Message(CHAT, "r", "x", "x", "hi")),
    Refused(Message(CHAT, "r", "x", "x", "hi")),
    ClockSet(5),
    Stored([], {}),
    StoreFailed([], "full"),
    Loaded("nobody", None),
    Authenticated("nobody", None),
    Ticked(),
)


def hub_in(state: State) -> Hub[str]:
    play = Playbook()
    play >> Connected("other", TEXT, "Oz", ["r"])
    if state is State.GREETING:
        play >> Connected("c", V1, "Cy", ["r"], secret="s")
    elif state is not State.ABSENT:
        play >> OF_A_CLIENT[Connected]
    if state is State.CLOSING:
        play >> Kick("Cy")
    play.forget()
    assert play.hub.state_of("c") is state
    return play.hub


def snapshot(hub: Hub[str]) -> object:
    """Everything that a fact about the client could have changed."""
    session = hub._sessions.get("c")
    slots = {} if session is None else {name: getattr(session, name) for name in Session.__slots__}
    return (
        slots,
        hub.statistics(),
        hub.rooms(),
        hub.members("r"),
        hub.members("s"),
        list(hub._delivery.named),
        list(hub._delivery.dirty),
        hub.next_deadline(),
    )


def test_every_event_of_a_client_is_in_the_sweep() -> None:
    named = {getattr(events, name) for name in events.__all__ if name != "Event"}
    assert named == {*OF_A_CLIENT, *map(type, OF_NOBODY)}


@pytest.mark.parametrize("event", OF_A_CLIENT)
@pytest.mark.parametrize("state", State)
def test_the_hub_follows_the_table(state: State, event: type) -> None:
    hub = hub_in(state)
    before = snapshot(hub)
    if (state, event) in TRANSITIONS:
        hub.handle(OF_A_CLIENT[event], 0.0)
        assert hub.state_of("c") is TRANSITIONS[state, event]
    elif event is Connected:
        with pytest.raises(ValueError, match="connected already"):
            hub.handle(OF_A_CLIENT[event], 0.0)
        assert snapshot(hub) == before
    else:
        assert hub.handle(OF_A_CLIENT[event], 0.0) == ()
        assert snapshot(hub) == before


@pytest.mark.parametrize("event", OF_NOBODY)
@pytest.mark.parametrize("state", State)
def test_facts_about_no_client_leave_its_state_alone(state: State, event: events.Event[str]) -> None:
    hub = hub_in(state)
    hub.handle(event, 0.0)
    assert hub.state_of("c") is state


def test_a_handle_may_come_back_once_it_has_gone() -> None:
    hub = hub_in(State.CLOSING)
    hub.handle(Disconnected("c"), 0.0)
    hub.handle(OF_A_CLIENT[Connected], 0.0)
    assert hub.state_of("c") is State.OPEN


def test_a_session_finds_its_place_in_a_room() -> None:
    hub = hub_in(State.OPEN)
    session = hub._sessions["c"]
    member = session.member_of("r")
    assert member is not None
    assert member.session is session
    assert session.member_of("s") is None


def test_only_a_client_with_nothing_special_is_served_together_with_others() -> None:
    play = Playbook()
    play >> Connected("c", TEXT, "Cy", ["r"], shares=True)
    play >> Connected("pulls", TEXT, "Pu", ["r"])
    play.forget()
    in_step = play.hub._sessions["c"].members[0]
    assert not in_step.alone
    assert play.hub._sessions["pulls"].members[0].alone
    play >> Blocked("c")
    assert in_step.alone
    play >> Writable("c")
    assert not in_step.alone
    play >> Enter("c", "s")
    assert in_step.alone, "two rooms are pulled"
