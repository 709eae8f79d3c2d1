"""When to connect again, and whether at all. Pure: chance comes in as a number.

The hundred of a close code says what to do (see "How a connection ends" on the page of the protocol). The delays have
full jitter, so that clients which lost a server together do not come back together:
https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

__all__ = ["Backoff", "Ended", "Then", "advice_for", "then"]

_ADVICE: Final = {
    "protocol": "the server and this client do not understand each other: update the older one",
    "unauthorized": "the token is missing or not accepted: get another",
    "banned": "this user is banned: ask whoever runs the server",
    "version": "the server speaks another version of the protocol: update this client",
    "kicked": "the user was put out: ask whoever runs the server",
    "replaced": "another connection resumed this session: let only one of them have it",
    "name_taken": "somebody else has this name: choose another",
    "connection_limit": "this user has too many connections: close one",
    "idle": "nothing was said for too long: connect again when there is something to say",
    "room_closed": "the room was closed: join another",
    "forbidden": "this user may not be here: ask whoever runs the server",
}
_STATUS_ADVICE: Final = {
    101: "is this the right URL, and does the server speak this version?",
    400: "mend the URL or the username",
    401: "the token is missing or not accepted: get another",
    403: "this user may not be here: ask whoever runs the server",
    404: "nothing is there: is this the right URL?",
}
_RETRIED_STATUSES: Final = frozenset((408, 425, 429))
_LARGEST_EXPONENT: Final = 62  # 2.0**n of more is no use, and at 1,024 no float


class Ended(NamedTuple):
    """How a connection, or the try to have one, ended.

    Attributes:
        code: of the server's close frame, or of ours where the server broke the protocol; None where neither came.
        reason: the text that goes with it.
        status: of HTTP, where the handshake was declined; 101 for one that was taken in a way that cannot be.
        retry_after_s: what that answer asked to wait.
        message: a word of the server's program or a moderator about it.
        until_s: when a ban ends, Unix time in seconds.
    """

    code: int | None
    reason: str
    status: int | None = None
    retry_after_s: float | None = None
    message: str = ""
    until_s: float | None = None


class Then(Enum):
    """What the client does after a connection ended."""

    STAY_AWAY = "stay away"
    BACK_OFF = "back off"
    RECONNECT_NOW = "reconnect now"


def then(end: Ended) -> Then:
    """What to do by the close code or the status of the handshake; anything unknown is worth a try after a while."""
    if end.status is not None:
        is_passing = end.status >= 500 or end.status in _RETRIED_STATUSES
        return Then.BACK_OFF if is_passing else Then.STAY_AWAY
    code = end.code or 0
    if 4000 <= code < 4100 or 4500 <= code < 4700:
        return Then.STAY_AWAY
    return Then.RECONNECT_NOW if 4200 <= code < 4300 else Then.BACK_OFF


def advice_for(end: Ended) -> str:
    """What a person can do about an end after which the client stays away."""
    if end.status is not None:
        return _STATUS_ADVICE.get(end.status, "is this the right URL?")
    return _ADVICE.get(end.reason, "the server's program decided so: ask whoever runs it")


class Backoff(NamedTuple):
    """How long to wait before the next try: a random time from 0 to ``min(cap_s, base_s * 2**tries)``, in seconds.

    Attributes:
        base_s: the most of the first delay.
        cap_s: the most of any.
    """

    base_s: float = 0.5
    cap_s: float = 30.0

    def delay_s(self, tries: int, random: Callable[[], float]) -> float:
        """The delay after so many tries that failed in a row, 0 for the first; ``random`` gives [0, 1)."""
        most_s: float = min(self.cap_s, self.base_s * 2.0 ** min(tries, _LARGEST_EXPONENT))
        return random() * most_s
