"""The program's own functions: what it wants to be told, and what it is asked.

They are the program's code inside the hub's turn, so none of them may be anybody else's problem: what one raises is
logged with the callback's name, and counts as no answer.
"""

import logging
from collections.abc import Callable
from inspect import iscoroutine, iscoroutinefunction
from typing import TypeAlias

from roomhub.core.message import CHAT, USER_JOINED, Message

__all__ = ["Callbacks", "JoinHook", "MessageHook", "MessageListener", "RoomListener", "check_plain_function"]

_log = logging.getLogger("roomhub")

RoomListener: TypeAlias = Callable[[str, str], object]
MessageListener: TypeAlias = Callable[[Message], object]
JoinHook: TypeAlias = Callable[[str, str], bool]
MessageHook: TypeAlias = Callable[[Message], str | None]


class Callbacks:
    """What each of them gets and gives is told at ``Runtime``, whose arguments these are.

    Attributes:
        tells, decides_joins, decides_messages: whether there is a callback for it, so that the hub asks for no other.

    Raises:
        TypeError: one is no function, or a coroutine function.
    """

    __slots__ = (
        "_allow_join",
        "_on_join",
        "_on_leave",
        "_on_message",
        "_rewrite_message",
        "decides_joins",
        "decides_messages",
        "tells",
    )

    def __init__(
        self,
        *,
        on_join: RoomListener | None,
        on_leave: RoomListener | None,
        on_message: MessageListener | None,
        allow_join: JoinHook | None,
        rewrite_message: MessageHook | None,
    ) -> None:
        for name, parameters, callback in (
            ("on_join", "room, user", on_join),
            ("on_leave", "room, user", on_leave),
            ("on_message", "message", on_message),
            ("allow_join", "room, username", allow_join),
            ("rewrite_message", "message", rewrite_message),
        ):
            if callback is not None:
                check_plain_function(f"{name}({parameters})", callback)
        self._on_join = on_join
        self._on_leave = on_leave
        self._on_message = on_message
        self._allow_join = allow_join
        self._rewrite_message = rewrite_message
        self.tells: bool = any(callback is not None for callback in (on_join, on_leave, on_message))
        self.decides_joins: bool = allow_join is not None
        self.decides_messages: bool = rewrite_message is not None

    def tell(self, message: Message) -> None:
        """A chat took its place, or a user came or went."""
        if message.kind == CHAT:
            _call("on_message", self._on_message, message)
        elif message.kind == USER_JOINED:
            _call("on_join", self._on_join, message.room, message.user)
        else:
            _call("on_leave", self._on_leave, message.room, message.user)

    def allows(self, room: str, username: str) -> bool:
        """Nothing but True lets somebody in."""
        return _call("allow_join", self._allow_join, room, username) is True

    def rewritten(self, message: Message) -> str | None:
        """The content to publish; None for a message that shall not be."""
        content = _call("rewrite_message", self._rewrite_message, message)
        if content is None or isinstance(content, str):
            return content
        _log.error("rewrite_message must return text, or None to drop the message: it returned %r", content)
        return None


def check_plain_function(name: str, callback: object) -> None:
    """Raises TypeError for what cannot be called and for a coroutine function, with the name and what it gets."""
    if not callable(callback):
        raise TypeError(f"{name} must be a function, not {callback!r}")
    if iscoroutinefunction(callback) or iscoroutinefunction(getattr(callback, "__call__", None)):  # noqa: B004
        raise TypeError(f"{name} must be a plain function, not async: nobody waits for it")


def _call(name: str, callback: Callable[..., object] | None, *arguments: object) -> object:
    if callback is None:
        return None
    try:
        answer = callback(*arguments)
        if iscoroutine(answer):
            answer.close()
            raise TypeError(f"{name} gave a coroutine, which nobody awaits: it must be a plain function")
    except Exception:
        _log.exception("%s raised; the hub goes on", name)
        return None
    return answer
