"""Messages, and how facts and orders show themselves."""

import gc

import pytest

from roomhub.core.commands import CloseRoom, Dismiss, Drain, Enter, Exit, Kick, Publish
from roomhub.core.effects import Announce, Authorize, Close, Probe, Report, Settle
from roomhub.core.errors import KICKED
from roomhub.core.events import (
    Authorized,
    Blocked,
    ClockSet,
    Connected,
    Denied,
    Disconnected,
    Heard,
    Published,
    Received,
    Refused,
    Ticked,
    Writable,
)
from roomhub.core.hub import Hub
from roomhub.core.message import CHAT, USER_JOINED, Message, Position
from tests.core.playbook import TEXT

MESSAGE = Message(CHAT, "r", "ann", "Ann", "hi", 3, 9)


def test_messages_are_equal_field_by_field() -> None:
    assert Message(CHAT, "r", "ann", "Ann", "hi", 3, 9) == MESSAGE
    assert Message(CHAT, "r", "ann", "Ann", "hi", 4, 9) != MESSAGE
    assert Message(USER_JOINED, "r", "ann", "Ann", "hi", 3, 9) != MESSAGE
    assert MESSAGE != "hi"


def test_a_message_is_no_key() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(MESSAGE)


def test_a_position_compares_within_its_epoch() -> None:
    assert Position("e.1", 2) == ("e.1", 2)
    assert Position("e.1", 2) != Position("e.2", 2)


def test_a_logged_message_is_nothing_the_garbage_collector_looks_at() -> None:
    hub: Hub[str] = Hub(epoch="e")
    hub.handle(Connected("c", TEXT, "Cy", ["r"]), 0.0)
    hub.handle(Received("c", "hi"), 0.0)
    gc.collect()
    assert [gc.is_tracked(record) for record in hub._rooms["r"].log] == [False]


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        (MESSAGE, "Message('chat', room='r', user='ann', username='Ann', content='hi', offset=3, ts_ms=9)"),
        (Connected("c", TEXT, "Cy", ["r"]), "Connected('c', 'Cy', rooms=('r',))"),
        (Received("c", "hi"), "Received('c', 'hi')"),
        (Heard("c"), "Heard('c')"),
        (Blocked("c"), "Blocked('c')"),
        (Writable("c"), "Writable('c')"),
        (Disconnected("c"), "Disconnected('c')"),
        (Authorized("c", "r"), "Authorized('c', 'r')"),
        (Denied("c", "r"), "Denied('c', 'r')"),
        (Published(MESSAGE), f"Published({MESSAGE!r})"),
        (Refused(MESSAGE), f"Refused({MESSAGE!r})"),
        (ClockSet(5), "ClockSet(5)"),
        (Ticked(), "Ticked()"),
        (Publish("r", "hi", "Ann"), "Publish('r', 'hi', 'Ann')"),
        (Enter("c", "r"), "Enter('c', 'r')"),
        (Exit("c", "r"), "Exit('c', 'r')"),
        (Kick("Ann", "r"), "Kick('Ann', 'r')"),
        (CloseRoom("r"), "CloseRoom('r')"),
        (Dismiss(["c"], KICKED), f"Dismiss(['c'], {KICKED!r})"),
        (Drain(), "Drain()"),
        (Close("c", KICKED), "Close('c', kicked)"),
        (Probe("c"), "Probe('c')"),
        (Authorize("c", "r", "Cy"), "Authorize('c', 'r', 'Cy')"),
        (Announce(MESSAGE, None), f"Announce({MESSAGE!r})"),
        (Report(MESSAGE), f"Report({MESSAGE!r})"),
        (Settle(7, Position("e.1", 2)), "Settle(7, Position(epoch='e.1', offset=2))"),
        (TEXT, "<Lane plain>"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_says_what_it_is(item: object, shown: str) -> None:
    assert repr(item) == shown
