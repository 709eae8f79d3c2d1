"""What an authenticator is asked, and by when.

It may be slow, broken or late, and hurts nobody but whom it was asked about: that one is refused. Questions about
somebody who has gone are called off.
"""

import logging
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import replace
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from roomhub.core.identity import Identity, Refusal
from roomhub.ports import Authenticator, Clock, ConnectionInfo

__all__ = ["Questions"]

_log = logging.getLogger("roomhub")


class Questions:
    """The questions under way about the peers of one runtime.

    Every answer is given to a function, once: None if there is none that can be used, or not within ``timeout_s``.

    Args:
        authenticator: whom to ask.
        clock: the runtime's.
        timeout_s: how long an answer may take.
        tasks: where the questions run.
    """

    def __init__(self, authenticator: Authenticator, clock: Clock, timeout_s: float, tasks: TaskGroup) -> None:
        self._authenticator = authenticator
        self._clock = clock
        self._timeout_s = timeout_s
        self._tasks = tasks
        self._infos: dict[Hashable, ConnectionInfo] = {}
        self._under_way: dict[Hashable, set[anyio.CancelScope]] = {}

    @property
    def count(self) -> int:
        """How many are under way."""
        return sum(map(len, self._under_way.values()))

    def identify(self, peer: Hashable, info: ConnectionInfo, then: Callable[[Identity | Refusal | None], None]) -> None:
        """Who is this? What is known of it is kept: a token that comes later is shown together with it."""
        # The token itself has been shown then.
        self._infos[peer] = replace(info, token=None)
        self._ask(peer, "authenticate", self._authenticator.authenticate, (info,), _identified(then))

    def authenticate(self, peer: Hashable, token: str, then: Callable[[Identity | Refusal | None], None]) -> None:
        """Who shows this token?"""
        info = replace(self._infos.get(peer, ConnectionInfo()), token=token)
        self._ask(peer, "authenticate", self._authenticator.authenticate, (info,), _identified(then))

    def authorize(
        self, peer: Hashable, identity: Identity, action: str, room: str, then: Callable[[bool], None]
    ) -> None:
        """May it do this there?"""

        def answered(answer: object) -> None:
            if answer is not None and not isinstance(answer, bool):
                _log.error("authorize must return True or False, not %s", type(answer).__name__)
            then(answer is True)

        self._ask(peer, "authorize", self._authenticator.authorize, (identity, action, room), answered)

    def forget(self, peer: Hashable) -> None:
        """It has gone: nobody waits for the answers."""
        self._infos.pop(peer, None)
        for scope in self._under_way.pop(peer, ()):
            scope.cancel()

    def _ask(
        self,
        peer: Hashable,
        what: str,
        ask: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
        then: Callable[[object], None],
    ) -> None:
        scope = anyio.CancelScope()
        self._under_way.setdefault(peer, set()).add(scope)
        self._tasks.start_soon(self._wait, peer, scope, what, ask, arguments, then)

    async def _wait(
        self,
        peer: Hashable,
        scope: anyio.CancelScope,
        what: str,
        ask: Callable[..., Awaitable[object]],
        arguments: tuple[object, ...],
        then: Callable[[object], None],
    ) -> None:
        due = self._clock.now() + self._timeout_s

        def settle(answer: object) -> None:
            scopes = self._under_way.get(peer)
            if scopes is None or scope not in scopes:
                return  # it has gone, or the time was up
            scopes.discard(scope)
            if not scopes:
                del self._under_way[peer]
            then(answer)

        async def give_up() -> None:
            await self._clock.sleep_until(due)
            _log.error("%s took longer than %g s", what, self._timeout_s)
            settle(None)  # not behind what cannot be cancelled, a thread for instance
            scope.cancel()

        with scope:
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(give_up)
                answer = await _contained(what, ask, arguments)
                waiting.cancel_scope.cancel()
                settle(answer)


async def _contained(what: str, ask: Callable[..., Awaitable[object]], arguments: tuple[Any, ...]) -> object:
    """What it answers; None if it raises."""
    try:
        return await ask(*arguments)
    except anyio.get_cancelled_exc_class():
        await checkpoint_if_cancelled()  # raises if the cancellation is ours
        _log.error("%s was cancelled from within; who it was about is refused", what)
    except Exception as error:
        # Its text may hold what was shown.
        _log.error("%s raised %s; who it was about is refused", what, type(error).__name__)
        _log.debug("%s raised", what, exc_info=True)
    return None


def _identified(then: Callable[[Identity | Refusal | None], None]) -> Callable[[object], None]:
    def answered(answer: object) -> None:
        fault = "" if answer is None else _fault(answer)
        if fault:
            _log.error("authenticate must not return %s", fault)
        then(None if fault else answer)  # type: ignore[arg-type]  # _fault has looked at it

    return answered


def _fault(answer: object) -> str:
    """What is wrong with what an authenticator has returned."""
    if isinstance(answer, Refusal):
        good = isinstance(answer.message, str) and answer.name in ("unauthorized", "forbidden", "token_expired")
        return "" if good else "a Refusal whose message is no text, or whose name is none of its names"
    if not isinstance(answer, Identity):
        return f"what is neither an Identity nor a Refusal: {type(answer).__name__}"
    if not isinstance(answer.user, str) or not isinstance(answer.username, str):
        return "an Identity whose user or username is no text"
    if answer.expires_ms is not None and type(answer.expires_ms) is not int:
        return "an Identity whose expires_ms is no integer"
    return ""
