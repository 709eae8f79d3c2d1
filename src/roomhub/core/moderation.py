"""Who is put out, kept out and silenced, by the program or by a client that may."""

from collections.abc import Callable, Hashable
from typing import Generic

from typing_extensions import TypeVar

from roomhub.core import errors
from roomhub.core.effects import Impose, Lift, Moderated
from roomhub.core.errors import CloseReason
from roomhub.core.membership import Membership
from roomhub.core.protocol import BIGGEST_INTEGER
from roomhub.core.requests import Moderate
from roomhub.core.sanctions import EVERYWHERE, Sanction, SanctionKind
from roomhub.core.session import Session
from roomhub.core.state import HubState, Question

__all__ = ["Moderation"]

C = TypeVar("C", bound=Hashable)


class Moderation(Generic[C]):
    """The part of a hub that moderates.

    A room ``""`` stands for every room.

    Args:
        state: the hub's.
    """

    def __init__(self, state: HubState[C], membership: Membership[C]) -> None:
        self._state = state
        self._membership = membership
        self._lifting: dict[tuple[SanctionKind, str, str], Question] = {}  # the last lift of each, until it is stored

    # -- what may be done ---------------------------------------------------------------------------------------------

    def put_out(
        self, user: str, room: str, reason: CloseReason, now: float, *, message: str = "", until_ms: int | None = None
    ) -> bool:
        """Put a user out of a room, or of all; whether it was there, or might have come back."""
        membership = self._membership
        was_here = membership.end_graces(user, room or None, reason, now)
        for session in [each for each in self._state.users.get(user, ()) if each.is_live]:
            member = session.member_of(room)
            if not room or (member is not None and session.talk is None and len(session.members) == 1):
                was_here = True
                membership.evict(session, reason, now, message=message, until_ms=until_ms)
            elif member is not None:
                was_here = True
                membership.leave(session, member, now, keep_unread=True, reason=reason.name)
                if session.talk is not None:
                    membership.tell_put_out(session, room, reason, message=message, until_ms=until_ms)
                membership.judge_direct(session, now)
        return was_here

    def impose(
        self,
        kind: SanctionKind,
        user: str,
        room: str,
        now: float,
        *,
        for_ms: int | None = None,
        message: str = "",
        by: str = "",
        ref: Hashable = None,
    ) -> Sanction | None:
        """Ban or mute a user, in place of a ban or mute before; None if there are too many.

        With a store, ``ref`` comes back once it is kept.
        """
        state = self._state
        ts_ms = state.unix_ms(now)
        until_ms = None if for_ms is None else min(ts_ms + for_ms, BIGGEST_INTEGER)
        sanction = Sanction(kind, user, room, until_ms, message, by, ts_ms)
        if not state.sanctions.has_place(sanction, ts_ms):
            return None
        self._lifting.pop((kind, user, room), None)
        if state.store is not None:
            state.effects.append(Impose(sanction, ref))
        self._enforce(sanction, now)
        return sanction

    def _enforce(self, sanction: Sanction, now: float) -> None:
        self._state.sanctions.add(sanction)
        if sanction.kind == "ban":
            user, room, until_ms, message = sanction.user, sanction.room, sanction.until_ms, sanction.reason
            self.put_out(user, room, errors.BANNED, now, message=message, until_ms=until_ms)

    def lift(
        self,
        kind: SanctionKind,
        user: str,
        room: str,
        now: float,
        then: Callable[[bool, float], None] = lambda is_stored, now: None,
    ) -> bool:
        """End the ban or mute of a user from a room, or that from all; whether there was one.

        With a store, ``then`` is told whether that is kept. If it is not, the ban or mute holds again, as it would
        after a restart.
        """
        state = self._state
        found = state.sanctions.exactly(kind, user, room, state.unix_ms(now))
        if found is None:
            return False
        state.sanctions.remove(found)
        key = kind, user, room

        def stored(is_stored: bool | None, now: float) -> None:
            # Unless it was imposed or lifted once more since: then that counts.
            if self._lifting.get(key) is question:
                del self._lifting[key]
                if not is_stored and not found.is_over(state.unix_ms(now)):
                    self._enforce(found, now)
            then(bool(is_stored), now)

        if state.store is not None:
            question = self._lifting[key] = Question(None, stored)
            state.effects.append(Lift(found, question))
        return True

    # -- what a client wants ------------------------------------------------------------------------------------------

    def do(self, session: Session[C], request: Moderate, now: float) -> None:
        """A client that may moderate does, and is answered once it is stored, if that is waited for."""
        action, user, room, message = request.action, request.user, request.room or EVERYWHERE, request.reason
        if fault := self._own_fault(session, action, user, room, now):
            self._membership.fail(session, "forbidden", fault, request.id, room=room, now=now)
            return
        store = self._state.store
        waits = action != "kick" and store is not None and store.confirms

        def stored(is_stored: bool | None, now: float) -> None:
            if waits:
                self._answer(session, request, now, is_stored=is_stored)

        kind: SanctionKind = "mute" if action.endswith("mute") else "ban"
        until_ms: int | None = None
        if action == "kick":
            if not self.put_out(user, room, errors.KICKED, now, message=message):
                self._refuse(session, request, "this user is not here", now)
                return
        elif action == "ban" or action == "mute":
            ref = Question(None, stored) if waits else None
            sanction = self.impose(
                kind, user, room, now, for_ms=request.for_ms, message=message, by=session.user, ref=ref
            )
            if sanction is None:
                text = "there are as many bans and mutes as there may be"
                self._membership.fail(session, "over_capacity", text, request.id)
                return
            until_ms = sanction.until_ms
        elif not self.lift(kind, user, room, now, stored):
            where = "in this room; there may be one everywhere" if room else "everywhere; there may be one in a room"
            self._refuse(session, request, f"there is no {kind} of this user {where}", now)
            return
        self._state.effects.append(Moderated(session.user, action, user, room, until_ms, message))
        if not waits:
            self._answer(session, request, now, is_stored=True)

    def _own_fault(self, session: Session[C], action: str, user: str, room: str, now: float) -> str:
        """A moderator that others have moderated does not free itself, nor make it shorter; "" if that is not so."""
        ban = self._state.ban_of(session.user, room, now)
        if ban is not None:
            return ban.told()
        return f"nobody may {action} themselves: ask another moderator" if user == session.user else ""

    def _answer(self, session: Session[C], request: Moderate, now: float, *, is_stored: bool | None) -> None:
        if not session.is_live:
            return
        if is_stored:
            self._state.give(session, "ok", {"id": request.id})
        else:
            is_lift = request.action in ("unban", "unmute")
            text = "it could not be stored" + (", so nothing has ended" if is_lift else ", and holds only for now")
            self._membership.fail(session, "internal", text, request.id)
        self._membership.judge_direct(session, now)

    def _refuse(self, session: Session[C], request: Moderate, text: str, now: float) -> None:
        # Not counted as an error of the peer's making: others may have been quicker.
        fail = self._membership.fail
        fail(session, "bad_request", text, request.id, field="user", room=request.room or "")
