"""What can be wrong, as data: the errors that a v1 request gets, and the reasons why a connection ends.

The hundred of a code tells a v1 client what to do next; plain clients get the nearest code of RFC 6455 section 7.4.1
(and of the IANA registry: 1012, 1013). The close frame's reason text is the name.
"""

from typing import Final, Literal, NamedTuple, TypeAlias

__all__ = ["CLOSE_REASONS", "ERRORS", "CloseReason", "Error", "Retry", "application_close_reason"]

Retry: TypeAlias = Literal["no", "after", "now"]
"""What the peer should do: not try again, try again after a while, or at once."""


class CloseReason(NamedTuple):
    """Why the hub closes a connection.

    Attributes:
        name: the canonical name; also the text in the close frame.
        code: what a v1 client's close frame carries, 4000 to 4899.
        plain_code: what a plain client's close frame carries.
    """

    name: str
    code: int
    plain_code: int

    @property
    def retry(self) -> Retry:
        """What the hundred of the code tells a v1 client: to stay away, to back off and resume, to resume at once."""
        if 4100 <= self.code < 4200 or 4700 <= self.code < 4900:
            return "after"
        return "now" if 4200 <= self.code < 4300 else "no"


_TABLE: Final = (
    # 4000-4099: the client stays away
    ("protocol", 4000, 1008),
    ("unauthorized", 4001, 1008),
    ("banned", 4002, 1008),
    ("version", 4003, 1008),
    ("kicked", 4004, 1008),
    ("replaced", 4005, 1008),
    ("name_taken", 4006, 1008),
    ("connection_limit", 4007, 1008),
    ("idle", 4008, 1008),
    ("room_closed", 4009, 1008),
    ("forbidden", 4010, 1008),
    # 4100-4199: the client backs off with jitter and resumes
    ("draining", 4100, 1012),
    ("slow_consumer", 4101, 1008),
    ("internal", 4102, 1011),
    ("rate_limited", 4103, 1008),
    ("over_capacity", 4104, 1013),
    # 4200-4299: the client reconnects now and resumes
    ("no_pong", 4201, 1008),
    ("token_expired", 4202, 1008),
    ("hello_timeout", 4204, 1008),
    # 4500-4899 are the application's own: application_close_reason()
)

CLOSE_REASONS: Final = {name: CloseReason(name, code, plain) for name, code, plain in _TABLE}

PROTOCOL = CLOSE_REASONS["protocol"]
KICKED = CLOSE_REASONS["kicked"]
BANNED = CLOSE_REASONS["banned"]
UNAUTHORIZED = CLOSE_REASONS["unauthorized"]
INTERNAL = CLOSE_REASONS["internal"]
TOKEN_EXPIRED = CLOSE_REASONS["token_expired"]
DRAINING = CLOSE_REASONS["draining"]
SLOW_CONSUMER = CLOSE_REASONS["slow_consumer"]
RATE_LIMITED = CLOSE_REASONS["rate_limited"]
OVER_CAPACITY = CLOSE_REASONS["over_capacity"]
NO_PONG = CLOSE_REASONS["no_pong"]
ROOM_CLOSED = CLOSE_REASONS["room_closed"]
IDLE = CLOSE_REASONS["idle"]
FORBIDDEN = CLOSE_REASONS["forbidden"]
REPLACED = CLOSE_REASONS["replaced"]
HELLO_TIMEOUT = CLOSE_REASONS["hello_timeout"]


class Error(NamedTuple):
    """What a v1 request gets that is not done.

    Attributes:
        name: the canonical name.
        code: a number for it, close to HTTP's.
        retry: whether it helps to try again.
    """

    name: str
    code: int
    retry: Retry


_ERRORS: Final[tuple[tuple[str, int, Retry], ...]] = (
    ("bad_request", 400, "no"),
    ("unauthorized", 401, "no"),
    ("forbidden", 403, "no"),
    ("unknown_room", 404, "no"),
    ("unknown_type", 405, "no"),
    ("already_joined", 409, "no"),
    ("name_taken", 409, "no"),
    ("too_large", 413, "no"),
    ("token_expired", 419, "now"),
    ("muted", 423, "after"),
    ("rate_limited", 429, "after"),
    ("unrecoverable", 440, "no"),
    ("internal", 500, "after"),
    ("draining", 503, "after"),
    ("over_capacity", 503, "after"),
)

ERRORS: Final = {name: Error(name, code, retry) for name, code, retry in _ERRORS}


def application_close_reason(name: str, code: int) -> CloseReason:
    """A close reason of the embedding program's own.

    Args:
        name: the text of the close frame, at most 123 UTF-8 bytes (RFC 6455 section 5.5.1).
        code: 4500-4699 tells a v1 client to stay away, 4700-4899 to come back.

    Raises:
        ValueError: the code is in none of these ranges, or the name does not fit a close frame.
    """
    if not 4500 <= code <= 4899:
        raise ValueError(f"code must be 4500-4699 (stay away) or 4700-4899 (come back), not {code}")
    if not 0 < len(name.encode()) <= 123:
        raise ValueError("name must be 1 to 123 UTF-8 bytes: it travels in a close frame")
    return CloseReason(name, code, 1008)
