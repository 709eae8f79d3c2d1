"""Who is here, as the plain dialect tells it.

The seed's wire: on a join ``online_users`` then ``user_joined``; on a leave ``user_left`` then ``online_users``. A
roster costs names times members, so joins and leaves that come close together are told together: every ``user_left``,
one ``online_users`` as of the end, every ``user_joined``. One join alone, or one leave, is then exactly the seed's.

A member that folds those frames always has the room's true membership.
"""

from typing import Any, Final

from roomhub.core.message import ONLINE_USERS, USER_JOINED, USER_LEFT, Message
from roomhub.core.room import Room

__all__ = ["has_news", "joined", "left", "news", "note_arrival", "note_departure", "roster", "told_roster"]

FULLWIDTH_COMMA: Final = "\uff0c"


def roster(room: Room[Any]) -> Message:
    """The names here in order of joining, each once. A comma in a name would split it: shown as a full-width one."""
    return Message(ONLINE_USERS, room.name, "", "", ",".join(map(_shown, map(room.name_of, room.users))))


def told_roster(room: Room[Any]) -> Message:
    """The roster as the members know it: what has not been told yet follows it for whoever gets this one."""
    known = [*room.departures.values(), *(room.name_of(user) for user in room.users if user not in room.arrivals)]
    return Message(ONLINE_USERS, room.name, "", "", ",".join(map(_shown, known)))


def _shown(name: str) -> str:
    return name.replace(",", FULLWIDTH_COMMA) if "," in name else name


def joined(room: Room[Any], user: str, name: str) -> Message:
    return Message(USER_JOINED, room.name, user, name, f"{name} joined the room")


def left(room: Room[Any], user: str, name: str) -> Message:
    return Message(USER_LEFT, room.name, user, name, f"{name} left the room")


def note_arrival(room: Room[Any], user: str) -> None:
    """The user's first session came in."""
    room.arrivals[user] = room.name_of(user)


def note_departure(room: Room[Any], user: str, name: str) -> None:
    """The user's last session went. Whose arrival nobody has heard of yet departs unheard."""
    if user in room.arrivals:
        del room.arrivals[user]
    else:
        room.departures[user] = name


def has_news(room: Room[Any]) -> bool:
    return bool(room.arrivals or room.departures)


def news(room: Room[Any]) -> list[Message]:
    """What has not been told yet, taken out, as the entries that tell it."""
    told = [left(room, user, name) for user, name in room.departures.items()]
    told.append(roster(room))
    told += [joined(room, user, name) for user, name in room.arrivals.items()]
    room.arrivals.clear()
    room.departures.clear()
    return told
