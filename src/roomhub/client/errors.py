"""What can go wrong for a program that uses the client. All of it is a ``ChatError``."""

__all__ = [
    "ChatClosed",
    "ChatError",
    "ConnectFailed",
    "NotAnswered",
    "NotConnected",
    "OutboxFull",
    "RequestRefused",
    "StayAway",
]


class ChatError(Exception):
    """Any of the errors below."""


class RequestRefused(ChatError):
    """The server answered a request with an error.

    Attributes:
        name: the canonical name, such as ``forbidden``; compare this.
        code: its number, such as 403.
        message: the server's words, for a person who debugs.
        field: which field of the request is at fault, None where none is.
        retry: "no", "after" or "now": whether it helps to try again.
        retry_after_s: seconds to wait before that, None where the server named none.
        room: the room it is about, None where it is about none.
    """

    def __init__(
        self,
        name: str,
        code: int,
        message: str,
        *,
        field: str | None = None,
        retry: str = "no",
        retry_after_s: float | None = None,
        room: str | None = None,
    ) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.code = code
        self.message = message
        self.field = field
        self.retry = retry
        self.retry_after_s = retry_after_s
        self.room = room


class NotAnswered(ChatError, TimeoutError):
    """A request got no answer in its time.

    Attributes:
        was_sent: the server may have done it. If not, it certainly has not.
        key: the idempotency key of a message: ``send(content, key=error.key)`` within five minutes says it once,
            whether or not the first try came through. None for other requests.
    """

    def __init__(self, message: str, *, was_sent: bool, key: str | None = None) -> None:
        super().__init__(message)
        self.was_sent = was_sent
        self.key = key


class NotConnected(ChatError):
    """There is no connection, and what is for this moment alone does not wait for one."""


class OutboxFull(ChatError):
    """As many requests wait for an answer as may; this one was not taken."""


class ChatClosed(ChatError):
    """The program has left its ``async with``, or the room of this request."""


class ConnectFailed(ChatError):
    """There was no connection in the time given; the message has the last attempt's fault."""


class StayAway(ChatError):
    """The server does not want this client back as it is: nothing was retried, and a person should look at it.

    Attributes:
        code: the close code, 4000 to 4899, or the HTTP status of a handshake that was refused.
        name: what the server called it.
        advice: what can be done about it.
        message: a word of a moderator or the server's program about it, "" where there is none.
        until_s: when a ban ends, Unix time in seconds; None where it does not, or there is none.
    """

    def __init__(self, code: int, name: str, advice: str, *, message: str = "", until_s: float | None = None) -> None:
        said = f" ({message})" if message else ""
        super().__init__(f"{code} {name}{said}: {advice}")
        self.code = code
        self.name = name
        self.advice = advice
        self.message = message
        self.until_s = until_s
