"""One connection as the hub sees it.

    ABSENT --Connected--> OPEN --(Close goes out)--> CLOSING --Disconnected--> ABSENT
                            \\------------------Disconnected------------------/

Whatever else is said of a client that is ABSENT or CLOSING is ignored, since transports race with the hub: a peer hangs
up while it is being evicted, a write fails after the kick. Only ``Connected`` for a client that is already there is the
caller's mistake, and raises. ``tests/core/test_session.py`` has the whole table, every state with every fact.
"""

from collections.abc import Hashable
from enum import Enum
from typing import Final, Generic

from typing_extensions import TypeVar

from roomhub.core.codec import Frame, Lane
from roomhub.core.room import Member

__all__ = ["Session", "State"]

C = TypeVar("C", bound=Hashable)


class State(Enum):
    ABSENT = "absent"
    OPEN = "open"
    CLOSING = "closing"


# By its name an Enum's member costs more than most calls, on Python 3.11; every message asks for it.
OPEN: Final = State.OPEN


class Session(Generic[C]):
    """A connection's state. It owns no queue of room messages: what it has not read is a range of its rooms' logs.

    Attributes:
        members: its place in each of its rooms.
        direct: frames for it alone, pulled before room frames; None when empty, as it nearly always is.
        waiting: it was named by ``ready`` (or will be) and has not pulled all since.
        heard_at: when something of the peer last came in.
        probed_at: when it was first probed since, if that is later.
        blocked: its transport refused a write and has not taken all since.
        message_due_s: when its next message is due at the allowed rate (``rates.Rate``).
    """

    __slots__ = (
        "address",
        "blocked",
        "client",
        "direct",
        "direct_bytes",
        "heard_at",
        "lane",
        "members",
        "message_due_s",
        "probed_at",
        "shares",
        "state",
        "username",
        "waiting",
    )

    def __init__(self, client: C, lane: Lane, username: str, address: str, *, shares: bool, now: float) -> None:
        self.client: C = client
        self.lane: Lane = lane
        self.username: str = username
        self.address: str = address
        self.shares: bool = shares
        self.state: State = State.OPEN
        self.members: tuple[Member[C], ...] = ()
        self.direct: list[Frame] | None = None
        self.direct_bytes: int = 0
        self.waiting: bool = False
        self.blocked: bool = False
        self.heard_at: float = now
        self.probed_at: float = now
        self.message_due_s: float = now

    def member_of(self, room: str) -> Member[C] | None:
        for member in self.members:
            if member.room.name == room:
                return member
        return None

    @property
    def has_more(self) -> bool:
        """Whether a pull would give something."""
        return bool(self.direct) or any(member.cursor < member.room.head for member in self.members)

    def steer(self) -> None:
        """Let its room serve it together with the others, if it is nothing special; otherwise it pulls alone."""
        alone = (
            not self.shares
            or self.waiting
            or self.blocked
            or self.direct is not None
            or self.state is not State.OPEN
            or len(self.members) != 1
        )
        for member in self.members:
            member.alone = alone
