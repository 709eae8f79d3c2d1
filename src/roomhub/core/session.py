"""One connection as the hub sees it.

    ABSENT --Connected--> OPEN --(Close goes out)--> CLOSING --Disconnected--> ABSENT
      |                     | \\------------------Disconnected------------------/
      |                   hello
      '-----Connected--> GREETING, for clients that talk; it ends like OPEN

Whatever else is said of a client that is ABSENT or CLOSING is ignored, since transports race with the hub: a peer hangs
up while it is being evicted, a write fails after the kick. Only ``Connected`` for a client that is already there is the
caller's mistake, and raises. ``tests/core/test_session.py`` has the whole table, every state with every fact.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from enum import Enum
from typing import Final, Generic

from typing_extensions import TypeVar

from roomhub.core.codec import Frame, Lane
from roomhub.core.identity import Identity
from roomhub.core.message import Position
from roomhub.core.replay import Later
from roomhub.core.requests import Hello, Join, Request
from roomhub.core.room import Member

__all__ = ["OPEN", "Session", "State", "Talk"]

C = TypeVar("C", bound=Hashable)


class State(Enum):
    ABSENT = "absent"
    GREETING = "greeting"
    OPEN = "open"
    CLOSING = "closing"


# By its name an Enum's member costs more than most calls, on Python 3.11; every message asks for it.
OPEN: Final = State.OPEN


class Talk:
    """What only the session of a client has that talks (v1).

    Attributes:
        secret: what it can be resumed with.
        rooms: to join once it has said hello.
        asked: the joins that wait for ``Authorized`` or ``Denied``, by room.
        loads: how many of its joins wait for a room's log to be loaded.
        held: what it said meanwhile, each with its size, and the sum of those.
        allowed: the rooms that its hello may rejoin, and since where, while it waits for the others.
        mailbox_missing: how much the store lacks of what the user's mailbox had since then, if it was asked.
        welcome: what its hello asked for, while that waits for such answers.
        knows_all: all that its hello needs has been asked for.
        refused: the rooms that its hello may not rejoin, and the error's name and message for each.
        errors_due_s: when its next error is due at the allowed rate (``rates.Rate``).
        spares: it fell behind, and is spared what is passing until it has caught up.
    """

    __slots__ = (
        "allowed",
        "asked",
        "errors_due_s",
        "held",
        "held_bytes",
        "is_going_on",
        "knows_all",
        "loads",
        "mailbox_missing",
        "refused",
        "rooms",
        "secret",
        "spares",
        "welcome",
    )

    def __init__(self, secret: str, rooms: Sequence[str]) -> None:
        self.secret: str = secret
        self.rooms: Sequence[str] = rooms
        self.asked: dict[str, Join] = {}
        self.loads: int = 0
        self.held: deque[tuple[Request, int]] = deque()
        self.held_bytes: int = 0
        self.is_going_on: bool = False
        self.allowed: dict[str, tuple[Position | None, int | None]] = {}
        self.mailbox_missing: int | None = None
        self.refused: dict[str, tuple[str, str]] = {}
        self.welcome: Hello | None = None
        self.knows_all: bool = False
        self.errors_due_s: float = 0.0
        self.spares: bool = False


class Session(Generic[C]):
    """A connection's state. It owns no queue of room messages: what it has not read is a range of its rooms' logs.

    Attributes:
        members: its place in each of its rooms.
        direct: frames for it alone, some made only when they are pulled, before room frames; None when empty, as it
            nearly always is.
        talk: what it has beside this if its client talks.
        waiting: it was named by ``ready`` (or will be) and has not pulled all since.
        heard_at: when something of the peer last came in.
        probed_at: when it was first probed since, if that is later.
        blocked: its transport refused a write and has not taken all since.
        user: the identity key; "" until it is known.
        username: the name as the person spells it.
        identity: what an authenticator has said, None without one.
        questions: its joins that wait for ``Authorized`` or ``Denied``: by room, which question it is.
        held: what it said meanwhile, if it is a plain client.
        message_due_s: when its next message is due at the allowed rate (``rates.Rate``).
    """

    __slots__ = (
        "address",
        "blocked",
        "client",
        "direct",
        "direct_bytes",
        "heard_at",
        "held",
        "identity",
        "lane",
        "members",
        "message_due_s",
        "probed_at",
        "questions",
        "shares",
        "state",
        "talk",
        "user",
        "username",
        "waiting",
    )

    def __init__(
        self, client: C, lane: Lane, user: str, username: str, address: str, *, shares: bool, now: float
    ) -> None:
        self.client: C = client
        self.lane: Lane = lane
        self.user: str = user
        self.username: str = username
        self.identity: Identity | None = None
        self.questions: dict[str, int] = {}
        self.held: list[Request] | None = None
        self.address: str = address
        self.shares: bool = shares
        self.state: State = State.OPEN
        self.members: tuple[Member[C], ...] = ()
        self.direct: list[Frame | Later] | None = None
        self.talk: Talk | None = None
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
    def is_live(self) -> bool:
        """Connected, and not being closed."""
        return self.state is State.OPEN or self.state is State.GREETING

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
