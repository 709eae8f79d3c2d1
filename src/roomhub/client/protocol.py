"""The client's side of the v1 dialect, without I/O, clock or dice: the whole of what a client knows and decides.

    AWAY --connected--> GREETING --welcome--> OPEN
      ^                     |                   |
      +---------lost--------+-------lost--------+        STAY AWAY --> OVER

A driver owns a socket and the time. It says what happened (``connected``, ``received``, ``heard``, ``lost``, ``tick``)
and gets events for the program. After each of these, and when ``next_due`` comes, it asks ``pull`` what to do: texts to
send, a ``Probe``, or a ``HangUp``. After ``lost`` it waits until ``reconnect_at``, unless ``final`` says why not.

The laws, and where they come from (the page of the protocol):

- A client resumes from the last place it had in room frames and in the replies to joins (``rooms.py``).
- A message has a key, so that it can be sent again after a reconnect and is said once (``outbox.py``).
- A roster that is not as it was after a resume is asked for anew, and what changed meanwhile comes as events.
- A secret is good once: each welcome has the next.
"""

import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

from roomhub.client.backoff import Backoff, Ended, Then, advice_for, then
from roomhub.client.errors import ChatClosed, NotAnswered, RequestRefused, StayAway
from roomhub.client.events import (
    Connected,
    DirectMessage,
    Disconnected,
    Draining,
    Event,
    Failed,
    Kicked,
    Message,
    Shout,
    Typing,
)
from roomhub.client.incoming import Broken, read_frame
from roomhub.client.outbox import Outbox, Request
from roomhub.client.rooms import RoomState
from roomhub.core.json_codec import JsonCodec
from roomhub.core.limits import Limits
from roomhub.core.message import Position
from roomhub.core.protocol import BIGGEST_INTEGER, ModAction

__all__ = ["ClientProtocol", "HangUp", "Order", "Phase", "Probe", "direct_message", "message"]

WELCOME_TIMEOUT_S: Final = 10.0
"""How long the server may take for its welcome, as long as it gives us for our hello."""
BYE_TIMEOUT_S: Final = 5.0
"""How long the server may take for its close after a bye, as long as it gives us to answer that."""
STABLE_S: Final = 3.0
"""A connection that was open for so long counts as a success: the next delays are short again."""
REFRESH_AT: Final = 0.8
"""After this part of its life a token is replaced."""
REJOIN_AFTER_S: Final = 2.0
"""A room that was not resumed is asked for after so long, unless the server says before why it was not."""
TYPING_EVERY_S: Final = 3.0
"""A server passes no more signs of typing on than one in so many seconds."""
RETRIED_ERRORS: Final = frozenset({"rate_limited", "draining", "over_capacity", "token_expired"})
"""Worth another try by itself. Not ``internal``, after which the message was said, nor ``muted``."""


class Phase(Enum):
    AWAY = "away"
    GREETING = "greeting"
    OPEN = "open"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class Probe:
    """Send a WebSocket ping: nothing was heard for a while."""


@dataclass(frozen=True, slots=True)
class HangUp:
    """Close the connection, with this code, or without a word where it is None, and say ``lost``."""

    code: int | None
    reason: str


Order: TypeAlias = str | Probe | HangUp

_encode: Final = JsonCodec(Limits()).notice


class ClientProtocol:
    """One client, over all of its connections.

    Args:
        key: makes an idempotency key: unique, at most 64 characters.
        random: gives numbers from 0 to less than 1.
        backoff: the delays before connecting again.
        outbox: how many requests of the program may wait for an answer.
        client: what ``hello`` says of this program.

    Attributes:
        phase: where it is in its life.
        rooms: the rooms that it is in, or wants to be in again; its mailbox too.
        outbox: what was asked.
        user: who the server takes it for, "" before the first welcome.
        username: the same for people to read.
        limits: what the server told of its limits; None stands for no limit.
        reconnect_at: when to connect, while it is away.
        final: why it is over, None where it is not.
        refresh_at: when the token is to be replaced, ``inf`` for never.
    """

    def __init__(
        self,
        *,
        key: Callable[[], str],
        random: Callable[[], float],
        backoff: Backoff = Backoff(),  # noqa: B008  # immutable
        outbox: int = 1_000,
        client: str = "",
    ) -> None:
        self.phase: Phase = Phase.AWAY
        self.rooms: dict[str, RoomState] = {}
        self.outbox: Outbox = Outbox(outbox)
        self.user: str = ""
        self.username: str = ""
        self.limits: Mapping[str, Any] = {}
        self.reconnect_at: float = -math.inf
        self.final: Exception | None = None
        self.refresh_at: float = math.inf
        self._key = key
        self._random = random
        self._backoff = backoff
        self._client = client
        self._orders: list[Order] = []
        self._session: str | None = None
        self._tries = 0
        self._token_life_s = math.inf
        self._typed_at: dict[str, float] = {}
        # Of the connection at hand:
        self._hello: int | None = None
        self._hello_error: RequestRefused | None = None
        self._next_step_due = math.inf  # of the welcome, or of the close after a bye
        self._advice_ms: list[int] | None = None
        self._bye: Ended | None = None
        self._ping_s = self._pong_s = math.inf
        self._heard_at = -math.inf
        self._has_probed = False
        self._welcomed_at: float | None = None

    # -- what a driver says -------------------------------------------------------------------------------------------

    def connected(self, now: float, token: str | None = None) -> None:
        """There is a WebSocket: say hello."""
        if self.phase is Phase.OVER:
            return
        self.phase = Phase.GREETING
        self._hello_error = self._bye = self._advice_ms = self._welcomed_at = None
        self._ping_s = self._pong_s = math.inf
        self.heard(now)
        self._next_step_due = now + WELCOME_TIMEOUT_S
        self._hello = self.outbox.new_id()
        fields: dict[str, Any] = {"id": self._hello}
        if self._client:
            fields["client"] = self._client
        if token is not None:
            fields["token"] = token
        if self._session is not None:
            places = {name: _place(room.position) for name, room in self.rooms.items()}
            fields["resume"] = {"session": self._session, "rooms": places}
        self._orders = [_encode("hello", fields)]

    def heard(self, now: float) -> None:
        """Bytes came in, whatever they are. Also to be said when nothing was read for a while on purpose."""
        self._heard_at = now
        self._has_probed = False

    def received(self, text: str, now: float) -> list[Event]:
        """A text message came in."""
        if self.phase not in (Phase.GREETING, Phase.OPEN):
            return []
        try:
            frame = read_frame(text)
        except Broken as broken:
            self._hang_up(4000, str(broken))
            return []
        handler = None if frame is None else _HANDLERS.get(frame["type"])
        if frame is None or handler is None:
            return []
        if self.phase is Phase.GREETING and frame["type"] not in ("welcome", "error", "bye"):
            self._hang_up(4000, f"{frame['type']} before welcome")
            return []
        return handler(self, frame, now)

    def lost(self, end: Ended, now: float) -> list[Event]:
        """The connection, or the try to have one, came to an end. Sets ``reconnect_at`` or ``final``."""
        if self.phase is Phase.OVER:
            return []
        bye, advice_ms = self._bye, self._advice_ms
        if bye is not None and (end.code is None or end.code < 4000 or end.code == bye.code):
            end = bye
        was_stable = self._welcomed_at is not None and now - self._welcomed_at >= STABLE_S
        self._leave_connection(now)
        refused = self._hello_error
        if refused is not None and refused.retry == "no" and then(end) is not Then.STAY_AWAY:
            self.over(StayAway(refused.code, refused.name, refused.message))
            return []
        if then(end) is Then.STAY_AWAY:
            code = end.code if end.status is None else end.status
            assert code is not None
            self.over(StayAway(code, end.reason or "closed", advice_for(end), message=end.message, until_s=end.until_s))
            return []
        if was_stable:
            self._tries = 0
        if refused is not None:
            end = Ended(None, refused.name, retry_after_s=refused.retry_after_s)
        delay_s = self._delay_s(end, advice_ms)
        self._tries += 1
        self.reconnect_at = now + delay_s
        return [Disconnected(end.code if end.status is None else end.status, end.reason, delay_s)]

    def tick(self, now: float) -> None:
        """Time has passed."""
        self.outbox.expire(now)
        if self.phase not in (Phase.GREETING, Phase.OPEN):
            return
        if now >= self._next_step_due:
            self._hang_up(1002, "no welcome" if self._bye is None else "no close after bye")
        elif self.phase is Phase.OPEN:
            if now >= self._heard_at + self._pong_s:
                self._hang_up(None, "nothing was heard of the server")
            elif now >= self._heard_at + self._ping_s and not self._has_probed:
                self._has_probed = True
                self._orders.append(Probe())

    @property
    def next_due(self) -> float:
        """When ``tick`` and ``pull`` want to be called at the latest."""
        due = self.outbox.next_due
        if self.phase is Phase.GREETING:
            return min(due, self._next_step_due)
        if self.phase is Phase.OPEN:
            quiet_s = self._pong_s if self._has_probed else min(self._ping_s, self._pong_s)
            return min(due, self._next_step_due, self._heard_at + quiet_s)
        return due

    def pull(self, now: float) -> list[Order]:
        """What is to be done now, in order."""
        orders, self._orders = self._orders, []
        if self.phase is Phase.OPEN:
            most_bytes = _number(self.limits.get("message_bytes"))
            for request in self.outbox.take(now, self._is_ready):
                text = _encode(request.kind, {"id": request.id, **request.fields})
                if len(text) * 4 > most_bytes and len(text.encode()) > most_bytes:
                    # The server would close with 1009, and again each time that it is sent.
                    self.outbox.forget(request.id)
                    error = f"the message is over {most_bytes:.0f} bytes: send less"
                    request.finish(error=RequestRefused("too_large", 413, error, room=request.room))
                else:
                    orders.append(text)
        return orders

    @property
    def is_hanging_up(self) -> bool:
        """``pull`` has a ``HangUp``."""
        return bool(self._orders) and isinstance(self._orders[-1], HangUp)

    def close(self, error: Exception) -> None:
        """The program has enough: leave the rooms, hang up, and fail with this error what waits.

        Without the leaving its user would be shown as there until the grace of a broken connection is over. Nothing
        happens where it is over.
        """
        if self.phase is not Phase.OVER:
            leaves = self._leaves()
            self.over(error)
            self._orders = [*leaves, HangUp(1000, "")]

    def _leaves(self) -> list[Order]:
        """What leaves every room where the server has us, or may have us by a join that it has not answered."""
        if self.phase is not Phase.OPEN:
            return []
        rooms = [name for name, state in self.rooms.items() if state.is_joined and not name.startswith("@")]
        asked = [request.fields["room"] for request in self.outbox.sent("join")]
        return [
            _encode("leave", {"id": self.outbox.new_id(), "room": name}) for name in dict.fromkeys([*rooms, *asked])
        ]

    def over(self, error: Exception) -> None:
        """Nothing goes on: every request fails with this error."""
        self.phase = Phase.OVER
        self.final = error
        self._orders = []
        self.refresh_at = math.inf
        self.outbox.fail(error)

    # -- what a program wants -----------------------------------------------------------------------------------------

    def join(
        self,
        room: str,
        deadline: float,
        *,
        history: int = 0,
        since: Position | None = None,
        presence: bool = True,
        meta: Mapping[str, Any] | None = None,
    ) -> Request:
        """Ask to be let into a room."""
        if (waiting := self.outbox.find("join", room)) is not None:
            return waiting
        fields: dict[str, Any] = {"room": room}
        if since is not None:
            fields["since"] = _place(since)
        if history:
            fields["history"] = history
        if presence:
            fields["presence"] = True
        if meta is not None:
            fields["meta"] = meta
        return self.outbox.ask("join", fields, deadline=deadline)

    def leave(self, room: str, deadline: float) -> Request:
        """Leave a room: from now on nothing of it is told any more."""
        state = self.rooms.pop(room, None)
        self._typed_at.pop(room, None)
        self.outbox.fail(ChatClosed(f"this client has left {room}"), room)
        request = self.outbox.ask("leave", {"room": room}, deadline=deadline, is_lasting=False)
        if state is None or not state.is_joined:
            self.outbox.forget(request.id)
            request.finish(reply={})
        return request

    def say(self, room: str, content: str, deadline: float, key: str | None = None) -> Request:
        """Say something in a room."""
        fields = {"room": room, "content": content, "key": key or self._key()}
        return self._ask("chat", fields, deadline)

    def write_to(self, user: str, content: str, deadline: float, key: str | None = None) -> Request:
        """Say something to one user."""
        fields = {"to": user, "content": content, "key": key or self._key()}
        return self.outbox.ask("dm", fields, room=f"@{user}", deadline=deadline)

    def shout(self, room: str, name: str, content: str, deadline: float) -> Request | None:
        """Tell something to whoever is there now. None where there is no connection."""
        if not self._is_ready(room):
            return None
        return self._ask("event", {"room": room, "name": name, "content": content}, deadline, is_lasting=False)

    def typing(self, room: str, is_typing: bool, now: float) -> None:
        """Show, or show no more, that the user types; as often as the server passes it on, and never late."""
        if not self._is_ready(room) or self.phase is not Phase.OPEN:
            return
        typed_at = self._typed_at.get(room, -math.inf)
        if is_typing and now - typed_at < TYPING_EVERY_S:
            return
        if is_typing:
            self._typed_at[room] = now
        elif self._typed_at.pop(room, None) is None:
            return
        self._orders.append(_encode("typing", {"room": room, "state": "start" if is_typing else "stop"}))

    def set_meta(self, room: str, meta: Mapping[str, Any], deadline: float) -> Request:
        """Replace what this user tells of itself in a room."""
        return self._ask("presence", {"room": room, "meta": meta}, deadline)

    def history(
        self, room: str, deadline: float, *, before: int | None = None, since: Position | None = None, limit: int
    ) -> Request:
        """Ask for a page of a room's history."""
        fields: dict[str, Any] = {"room": room, "limit": limit}
        if since is not None:
            fields["since"] = _place(since)
        else:
            fields["before"] = BIGGEST_INTEGER if before is None else before
        return self._ask("history", fields, deadline)

    def moderate(
        self,
        action: ModAction,
        user: str,
        room: str | None,
        deadline: float,
        *,
        for_ms: int | None = None,
        reason: str = "",
    ) -> Request:
        """Kick, ban, unban, mute or unmute a user, in a room or (None) everywhere."""
        fields: dict[str, Any] = {"action": action, "user": user}
        if room is not None:
            fields["room"] = room
        if for_ms is not None:
            fields["for_ms"] = min(for_ms, BIGGEST_INTEGER)
        if reason:
            fields["reason"] = reason
        # The others, done again, would be told that there is nothing to do.
        return self.outbox.ask("mod", fields, deadline=deadline, is_lasting=action in ("ban", "mute"))

    def refresh(self, token: str) -> None:
        """Give the server a new token in place of the one of ``hello``."""
        self.refresh_at = math.inf
        if self.phase is Phase.OPEN:
            self.outbox.ask("auth", {"token": token}, is_own=True)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _ask(self, kind: str, fields: dict[str, Any], deadline: float, *, is_lasting: bool = True) -> Request:
        room: str = fields["room"]
        if room not in self.rooms and not room.startswith("@"):
            raise ChatClosed(f"this client is not in {room}")
        return self.outbox.ask(kind, fields, room=room, deadline=deadline, is_lasting=is_lasting)

    def _is_ready(self, room: str) -> bool:
        state = self.rooms.get(room)
        return room.startswith("@") if state is None else state.is_joined

    def _hang_up(self, code: int | None, reason: str) -> None:
        self.phase = Phase.AWAY
        self._orders = [HangUp(code, reason)]

    def _leave_connection(self, now: float) -> None:
        self.phase = Phase.AWAY
        self._orders = []
        self.refresh_at = math.inf
        self.outbox.disconnected(now)
        for room in self.rooms.values():
            room.is_joined = False
        self._welcomed_at = self._bye = self._advice_ms = None

    def _delay_s(self, end: Ended, advice_ms: list[int] | None) -> float:
        if advice_ms is not None:
            least, most = advice_ms
            return (least + self._random() * (most - least)) / 1000
        if then(end) is Then.RECONNECT_NOW:
            return 0.0 if self._tries == 0 else self._backoff.delay_s(self._tries - 1, self._random)
        return (end.retry_after_s or 0.0) + self._backoff.delay_s(self._tries, self._random)

    def _welcome(self, frame: Mapping[str, Any], now: float) -> list[Event]:
        if self.phase is not Phase.GREETING or frame.get("id") != self._hello:
            return []
        self.phase = Phase.OPEN
        self._next_step_due = math.inf
        self._session = frame["session"]
        self.user, self.username, self.limits = frame["user"], frame["username"], frame["limits"]
        self._welcomed_at = now
        self._ping_s, self._pong_s = (frame.get(name, math.inf) / 1000 for name in ("ping_ms", "pong_ms"))
        rate, burst = (_number(self.limits.get(name)) for name in ("message_rate_per_s", "message_burst"))
        self.outbox.pace(rate, burst)
        self._note_expiry(frame, now)
        events: list[Event] = [Connected(self.user, self.username, frame["resumed"])]
        told: Mapping[str, Any] = frame["rooms"]
        for name, place in told.items():
            state = self.rooms.get(name)
            if state is None and name.startswith("@"):
                state = self.rooms[name] = RoomState(name, is_listed=False)
            if state is None:
                self.outbox.ask("leave", {"room": name}, is_own=True)  # left since hello
                continue
            rev = place.get("rev") if frame["resumed"] else None
            events += state.resumed(place["epoch"], place["offset"], place["recovered"], rev)
            if state.is_stale:
                self.outbox.ask("members", {"room": name}, is_own=True)
            if state.meta is not None and not frame["resumed"]:
                self.outbox.ask("presence", {"room": name, "meta": state.meta}, is_own=True)
        for name, state in self.rooms.items():
            if name not in told and not name.startswith("@"):
                self._rejoin(state, now + REJOIN_AFTER_S)
        return events

    def _rejoin(self, state: RoomState, not_before: float) -> None:
        state.is_stale = state.is_listed
        fields: dict[str, Any] = {"room": state.name, "since": _place(state.position)}
        if state.is_listed:
            fields["presence"] = True
        if state.meta is not None:
            fields["meta"] = state.meta
        self.outbox.ask("join", fields, is_own=True, not_before=not_before)

    def _note_expiry(self, frame: Mapping[str, Any], now: float) -> None:
        expires_ms = frame.get("expires_ms")
        if type(expires_ms) is int and 0 < expires_ms <= BIGGEST_INTEGER:
            self._token_life_s = expires_ms / 1000
        elif frame["type"] == "welcome":
            self._token_life_s = math.inf
        self.refresh_at = now + self._token_life_s * REFRESH_AT

    def _ok(self, frame: dict[str, Any], now: float) -> list[Event]:
        request = self.outbox.forget(frame.get("id"))
        if request is None:
            return self._joined_unasked(frame)
        missing = _NEEDED.get(request.kind, frozenset()) - frame.keys()
        if missing:
            request.finish(error=NotAnswered(f"{request.kind}: the reply has no {min(missing)}", was_sent=True))
            self._hang_up(4000, f"{min(missing)} of the reply to {request.kind} is missing")
            return []
        events: list[Event] = []
        match request.kind:
            case "join":
                events = self._joined(request, frame)
            case "members":
                state = self.rooms.get(request.fields["room"])
                events = [] if state is None else state.listed(frame["rev"], frame["users"])
            case "presence":
                if (state := self.rooms.get(request.fields["room"])) is not None:
                    state.meta = request.fields["meta"]
            case "auth":
                self._note_expiry(frame, now)
        request.finish(reply=frame)
        return events

    def _joined(self, request: Request, frame: Mapping[str, Any]) -> list[Event]:
        name = request.fields["room"]
        state = self.rooms.get(name)
        if state is None and request.is_own:  # left meanwhile
            self.outbox.ask("leave", {"room": name}, is_own=True)
            return []
        if state is None:
            presence = "presence" in request.fields
            state = self.rooms[name] = RoomState(name, is_listed=presence, meta=request.fields.get("meta"))
            if (since := request.fields.get("since")) is not None:
                state.position = Position(since["epoch"], since["offset"])
        events = state.entered(frame["epoch"], frame["offset"], frame["recovered"])
        if state.is_listed and "users" in frame:
            told = state.listed(frame.get("rev", 0), frame["users"])
            # Whom a newcomer finds there has not come just now.
            events += told if request.is_own else []
        return events

    def _joined_unasked(self, frame: Mapping[str, Any]) -> list[Event]:
        """The room of the URL; or one whose join nobody waited for to the end."""
        if not _NEEDED["join"] | {"room"} <= frame.keys():
            return []
        name = frame["room"]
        if "id" in frame:
            if name not in self.rooms and self.outbox.find("join", name) is None:
                self.outbox.ask("leave", {"room": name}, is_own=True)
            return []
        state = self.rooms.setdefault(name, RoomState(name))
        self.outbox.ask("members", {"room": name}, is_own=True)
        return state.entered(frame["epoch"], frame["offset"], frame["recovered"])

    def _error(self, frame: Mapping[str, Any], now: float) -> list[Event]:
        wait_ms = frame.get("retry_after_ms")
        error = RequestRefused(
            frame["name"],
            frame["code"],
            frame["message"],
            field=frame.get("field"),
            retry=frame["retry"],
            retry_after_s=None if wait_ms is None else wait_ms / 1000,
            room=frame.get("room"),
        )
        if self.phase is Phase.GREETING:  # it is about our hello, whatever its id
            self._hello_error = error
            self._hang_up(1000, error.name)
            return []
        if "id" not in frame:
            waiting = self.outbox.find("join", error.room) if error.room is not None else None
            if waiting is None or not waiting.is_own or waiting.sent_at is not None:
                return [Failed(error)]
            # Why a room was not resumed.
            frame = {**frame, "id": waiting.id}
        request = self.outbox.forget(frame["id"])
        if request is None:
            return []
        if error.name == "token_expired":
            self.refresh_at = now
        is_rejoin = request.is_own and request.kind == "join"
        if error.retry != "no" and (is_rejoin or (error.name in RETRIED_ERRORS and request.kind != "auth")):
            delay_s = self._backoff.delay_s(1, self._random) if error.retry_after_s is None else error.retry_after_s
            if now + delay_s < request.deadline:
                # Joins have a rate of their own.
                pauses = error.name == "rate_limited" and request.kind != "join"
                self.outbox.retry(request, now + delay_s, pauses=pauses)
                return []
        request.finish(error=error)
        return self._own_failed(request, error) if request.is_own else []

    def _own_failed(self, request: Request, error: RequestRefused) -> list[Event]:
        """What the client asked by itself was refused."""
        if request.kind != "join":
            # The rest is about a room that was left meanwhile, but for a token that was not taken.
            return [Failed(error)] if request.kind == "auth" else []
        if error.name == "already_joined" or request.fields["room"] not in self.rooms:
            return []
        name = request.fields["room"]
        self._out_of(name, error)
        return [Kicked(name, error.code, error.name)]

    def _out_of(self, name: str, error: Exception) -> None:
        self.rooms.pop(name, None)
        self._typed_at.pop(name, None)
        self.outbox.fail(error, name)

    def _said(self, frame: Mapping[str, Any], now: float) -> list[Event]:
        state = self.rooms.get(frame["room"])
        if state is None:
            return []
        events = state.heard(frame["epoch"], frame["offset"])
        if events is None:
            return []
        events.append(direct_message(frame) if frame["type"] == "dm" else message(frame))
        return events

    def _gap(self, frame: Mapping[str, Any], now: float) -> list[Event]:
        state = self.rooms.get(frame["room"])
        return [] if state is None else state.skipped(frame["epoch"], frame["from"], frame["to"], frame["reason"])

    def _presence(self, frame: Mapping[str, Any], now: float) -> list[Event]:
        state = self.rooms.get(frame["room"])
        if state is None:
            return []
        was_stale = state.is_stale
        events = state.told(frame)
        if state.is_stale and not was_stale:
            self.outbox.ask("members", {"room": state.name}, is_own=True)
        return events

    def _passing(self, frame: Mapping[str, Any], now: float) -> list[Event]:
        room, user, username = frame["room"], frame["user"], frame["username"]
        if room not in self.rooms:
            return []
        if frame["type"] == "typing":
            return [Typing(room, user, username, frame["state"] == "start")]
        return [Shout(room, user, username, frame["name"], frame["content"])]

    def _kicked(self, frame: Mapping[str, Any], now: float) -> list[Event]:
        name, until_ms = frame["room"], frame.get("until_ms")
        if name not in self.rooms:
            return []
        self._out_of(name, ChatClosed(f"this client was put out of {name}: {frame['reason']}"))
        return [Kicked(name, frame["code"], frame["reason"], None if until_ms is None else until_ms / 1000)]

    def _draining(self, frame: Mapping[str, Any], now: float) -> list[Event]:
        self._advice_ms = frame["reconnect_ms"]
        return [Draining(frame["in_ms"] / 1000)]

    def _said_bye(self, frame: Mapping[str, Any], now: float) -> list[Event]:
        until_ms = frame.get("until_ms")
        until_s = None if until_ms is None else until_ms / 1000
        self._bye = Ended(frame["code"], frame["name"], message=frame.get("reason", ""), until_s=until_s)
        self._next_step_due = now + BYE_TIMEOUT_S
        self._advice_ms = frame.get("reconnect_ms", self._advice_ms)
        return []


_NEEDED: Final[Mapping[str, Set[str]]] = {
    "join": {"epoch", "offset", "recovered"},
    "members": {"rev", "users"},
    "chat": {"room", "epoch", "offset", "ts"},
    "dm": {"room", "epoch", "offset", "ts"},
    "history": {"messages"},
}
"""What the replies to requests have, of all that an ``ok`` may have."""

_HANDLERS: Final[Mapping[str, Callable[[ClientProtocol, dict[str, Any], float], list[Event]]]] = {
    "welcome": ClientProtocol._welcome,
    "ok": ClientProtocol._ok,
    "error": ClientProtocol._error,
    "chat": ClientProtocol._said,
    "dm": ClientProtocol._said,
    "gap": ClientProtocol._gap,
    "user_joined": ClientProtocol._presence,
    "user_left": ClientProtocol._presence,
    "presence": ClientProtocol._presence,
    "typing": ClientProtocol._passing,
    "event": ClientProtocol._passing,
    "kicked": ClientProtocol._kicked,
    "draining": ClientProtocol._draining,
    "bye": ClientProtocol._said_bye,
}


def message(item: Mapping[str, Any]) -> Message:
    """A room's message from a frame or an item of a page."""
    return Message(
        item["room"], item["user"], item["username"], item["content"], item["epoch"], item["offset"], item["ts"]
    )


def direct_message(item: Mapping[str, Any]) -> DirectMessage:
    """A mailbox's message from a frame or an item of a page."""
    return DirectMessage(
        item.get("to", ""), item["user"], item["username"], item["content"], item["epoch"], item["offset"], item["ts"]
    )


def _place(position: Position) -> dict[str, Any]:
    return {"epoch": position.epoch, "offset": position.offset}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.inf
