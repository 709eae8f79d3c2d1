"""Golden transcripts: what v1 clients and a hub say to each other, word for word, as data.

The tests play each of them against a hub and compare every frame; the page of the protocol shows some. A line is one
of these, and goes on where the next one is indented:

    ann -> {...}        a client says this
    ann <- {...}        it hears this; what one client hears is in order
    ann <- close 4100 draining
    -- 5 s pass         something else happens

Who ``is connected`` has said hello, and who ``is in`` a room has joined it; what they heard of that is left out. The
secrets of sessions are s1, s2, …, in the order in which clients connect, and epochs e.1, e.2, …, as rooms are made.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

__all__ = ["TRANSCRIPTS", "Transcript"]

_AS_THEY_ARE: Final[Mapping[str, float]] = {}


class Transcript(NamedTuple):
    """One dialogue.

    Attributes:
        title: what it shows.
        text: the lines.
        limits: those of the hub that differ from the defaults.
        slow: as ``Hub`` has it.
    """

    title: str
    text: str
    limits: Mapping[str, float] = _AS_THEY_ARE
    slow: Literal["close", "skip"] = "close"

    @property
    def lines(self) -> Sequence[str]:
        """The text's lines, those whole that go on in the next."""
        whole: list[str] = []
        for line in self.text.strip().splitlines():
            if line.startswith(" "):
                whole[-1] += f" {line.strip()}"
            else:
                whole.append(line)
        return whole


TRANSCRIPTS: Final = (
    Transcript(
        "Hello, join, chat, leave",
        """
-- ann connects as ann
ann -> {"type": "hello", "id": 1}
ann <- {"type": "welcome", "id": 1, "v": 1, "session": "s1", "user": "ann", "username": "ann", "ping_ms": 54000,
    "pong_ms": 60000, "limits": {"message_bytes": 65536, "meta_bytes": 2048, "label_bytes": 128,
    "message_rate_per_s": 50, "message_burst": 250, "rooms_per_client": 128, "history_page": 100},
    "resumed": false, "rooms": {"@ann": {"epoch": "", "offset": 0, "recovered": "none"}}}
ann -> {"type": "join", "id": 2, "room": "lobby", "presence": true}
ann <- {"type": "ok", "id": 2, "room": "lobby", "epoch": "e.1", "offset": 0, "recovered": "none", "rev": 1,
    "users": []}
ann <- {"type": "user_joined", "room": "lobby", "username": "ann", "content": "ann joined the room",
    "user": "ann", "rev": 2, "devices": 1}
ann -> {"type": "chat", "id": 3, "room": "lobby", "content": "hello"}
ann <- {"type": "ok", "id": 3, "room": "lobby", "epoch": "e.1", "offset": 1, "ts": 1700000000000}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "hello",
    "offset": 1, "ts": 1700000000000}
-- ben is in lobby
ann <- {"type": "user_joined", "room": "lobby", "username": "ben", "content": "ben joined the room",
    "user": "ben", "rev": 3, "devices": 1}
ann -> {"type": "chat", "room": "lobby", "content": "hello ben"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "hello ben",
    "offset": 2, "ts": 1700000000000}
ben <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "hello ben",
    "offset": 2, "ts": 1700000000000}
ann -> {"type": "leave", "id": 4, "room": "lobby"}
ann <- {"type": "ok", "id": 4}
ben <- {"type": "user_left", "room": "lobby", "username": "ann", "content": "ann left the room", "user": "ann",
    "rev": 4, "devices": 0}
""",
    ),
    Transcript(
        "A room in the address",
        """
-- ann connects as ann, at /ws/lobby
ann -> {"type": "hello", "id": 1}
ann <- {"type": "welcome", "id": 1, "v": 1, "session": "s1", "user": "ann", "username": "ann", "ping_ms": 54000,
    "pong_ms": 60000, "limits": {"message_bytes": 65536, "meta_bytes": 2048, "label_bytes": 128,
    "message_rate_per_s": 50, "message_burst": 250, "rooms_per_client": 128, "history_page": 100},
    "resumed": false, "rooms": {"@ann": {"epoch": "", "offset": 0, "recovered": "none"}}}
ann <- {"type": "ok", "id": null, "room": "lobby", "epoch": "e.1", "offset": 0, "recovered": "none", "rev": 1}
ann <- {"type": "user_joined", "room": "lobby", "username": "ann", "content": "ann joined the room",
    "user": "ann", "rev": 2, "devices": 1}
""",
    ),
    Transcript(
        "A connection broke, and all that was missed is there",
        """
-- ann and ben are in lobby
ben -> {"type": "chat", "room": "lobby", "content": "one"}
ben <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "one",
    "offset": 1, "ts": 1700000000000}
ann <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "one",
    "offset": 1, "ts": 1700000000000}
-- ann vanishes
ben -> {"type": "chat", "room": "lobby", "content": "two"}
ben <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "two",
    "offset": 2, "ts": 1700000000000}
ben -> {"type": "chat", "room": "lobby", "content": "three"}
ben <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "three",
    "offset": 3, "ts": 1700000000000}
-- ann connects as ann
ann -> {"type": "hello", "id": 1, "resume": {"session": "s1", "rooms": {"lobby": {"epoch": "e.1",
    "offset": 1}}}}
ann <- {"type": "welcome", "id": 1, "v": 1, "session": "s3", "user": "ann", "username": "ann", "ping_ms": 54000,
    "pong_ms": 60000, "limits": {"message_bytes": 65536, "meta_bytes": 2048, "label_bytes": 128,
    "message_rate_per_s": 50, "message_burst": 250, "rooms_per_client": 128, "history_page": 100},
    "resumed": true, "rooms": {"lobby": {"epoch": "e.1", "offset": 1, "recovered": "full",
    "rev": 3}, "@ann": {"epoch": "", "offset": 0, "recovered": "none"}}}
ann <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "two",
    "offset": 2, "ts": 1700000000000}
ann <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "three",
    "offset": 3, "ts": 1700000000000}
""",
    ),
    Transcript(
        "A connection broke, and more was said than is kept",
        """
-- ann and ben are in lobby
-- ann vanishes
ben -> {"type": "chat", "room": "lobby", "content": "one"}
ben <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "one",
    "offset": 1, "ts": 1700000000000}
ben -> {"type": "chat", "room": "lobby", "content": "two"}
ben <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "two",
    "offset": 2, "ts": 1700000000000}
ben -> {"type": "chat", "room": "lobby", "content": "three"}
ben <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "three",
    "offset": 3, "ts": 1700000000000}
-- ann connects as ann
ann -> {"type": "hello", "id": 1, "resume": {"session": "s1", "rooms": {"lobby": {"epoch": "e.1",
    "offset": 0}}}}
ann <- {"type": "welcome", "id": 1, "v": 1, "session": "s3", "user": "ann", "username": "ann", "ping_ms": 54000,
    "pong_ms": 60000, "limits": {"message_bytes": 65536, "meta_bytes": 2048, "label_bytes": 128,
    "message_rate_per_s": 50, "message_burst": 250, "rooms_per_client": 128, "history_page": 100},
    "resumed": true, "rooms": {"lobby": {"epoch": "e.1", "offset": 0, "recovered": "partial",
    "rev": 3}, "@ann": {"epoch": "", "offset": 0, "recovered": "none"}}}
ann <- {"type": "gap", "room": "lobby", "epoch": "e.1", "from": 1, "to": 1, "reason": "expired"}
ann <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "two",
    "offset": 2, "ts": 1700000000000}
ann <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "three",
    "offset": 3, "ts": 1700000000000}
""",
        limits={"log_messages": 2},
    ),
    Transcript(
        "A room of another epoch, and a session that nobody knows",
        """
-- ben is in lobby
ben -> {"type": "chat", "room": "lobby", "content": "one"}
ben <- {"type": "chat", "room": "lobby", "username": "ben", "user": "ben", "epoch": "e.1", "content": "one",
    "offset": 1, "ts": 1700000000000}
-- ann connects as ann
ann -> {"type": "hello", "id": 1, "resume": {"session": "of yesterday", "rooms": {"lobby": {"epoch": "d.7",
    "offset": 40}}}}
ben <- {"type": "user_joined", "room": "lobby", "username": "ann", "content": "ann joined the room",
    "user": "ann", "rev": 3, "devices": 1}
ann <- {"type": "welcome", "id": 1, "v": 1, "session": "s2", "user": "ann", "username": "ann", "ping_ms": 54000,
    "pong_ms": 60000, "limits": {"message_bytes": 65536, "meta_bytes": 2048, "label_bytes": 128,
    "message_rate_per_s": 50, "message_burst": 250, "rooms_per_client": 128, "history_page": 100},
    "resumed": false, "rooms": {"lobby": {"epoch": "e.1", "offset": 1, "recovered": "none",
    "rev": 2}, "@ann": {"epoch": "", "offset": 0, "recovered": "none"}}}
ann <- {"type": "gap", "room": "lobby", "epoch": "e.1", "from": 1, "to": 1, "reason": "epoch"}
ann <- {"type": "user_joined", "room": "lobby", "username": "ann", "content": "ann joined the room",
    "user": "ann", "rev": 3, "devices": 1}
""",
    ),
    Transcript(
        "A join that goes on, and one from the beginning",
        """
-- ann is in lobby
ann -> {"type": "chat", "room": "lobby", "content": "one"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "one",
    "offset": 1, "ts": 1700000000000}
ann -> {"type": "chat", "room": "lobby", "content": "two"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "two",
    "offset": 2, "ts": 1700000000000}
-- ben is connected
ben -> {"type": "join", "id": 1, "room": "lobby", "since": {"epoch": "e.1", "offset": 1}}
ann <- {"type": "user_joined", "room": "lobby", "username": "ben", "content": "ben joined the room",
    "user": "ben", "rev": 3, "devices": 1}
ben <- {"type": "ok", "id": 1, "room": "lobby", "epoch": "e.1", "offset": 1, "recovered": "full", "rev": 2}
ben <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "two",
    "offset": 2, "ts": 1700000000000}
ben <- {"type": "user_joined", "room": "lobby", "username": "ben", "content": "ben joined the room",
    "user": "ben", "rev": 3, "devices": 1}
-- cy is connected
cy -> {"type": "join", "id": 1, "room": "lobby", "since": {"epoch": "", "offset": 0}}
ann <- {"type": "user_joined", "room": "lobby", "username": "cy", "content": "cy joined the room", "user": "cy",
    "rev": 4, "devices": 1}
ben <- {"type": "user_joined", "room": "lobby", "username": "cy", "content": "cy joined the room", "user": "cy",
    "rev": 4, "devices": 1}
cy <- {"type": "ok", "id": 1, "room": "lobby", "epoch": "e.1", "offset": 0, "recovered": "full", "rev": 3}
cy <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "one",
    "offset": 1, "ts": 1700000000000}
cy <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "two",
    "offset": 2, "ts": 1700000000000}
cy <- {"type": "user_joined", "room": "lobby", "username": "cy", "content": "cy joined the room", "user": "cy",
    "rev": 4, "devices": 1}
""",
    ),
    Transcript(
        "A second connection takes the session over",
        """
-- ann and ben are in lobby
-- phone connects as ann
phone -> {"type": "hello", "id": 1, "resume": {"session": "s1", "rooms": {"lobby": {"epoch": "e.1",
    "offset": 0}}}}
ann <- {"type": "bye", "code": 4005, "name": "replaced", "retry": "no"}
ann <- close 4005 replaced
phone <- {"type": "welcome", "id": 1, "v": 1, "session": "s3", "user": "ann", "username": "ann",
    "ping_ms": 54000, "pong_ms": 60000, "limits": {"message_bytes": 65536, "meta_bytes": 2048,
    "label_bytes": 128, "message_rate_per_s": 50, "message_burst": 250, "rooms_per_client": 128,
    "history_page": 100}, "resumed": true, "rooms": {"lobby": {"epoch": "e.1", "offset": 0,
    "recovered": "full", "rev": 3}, "@ann": {"epoch": "", "offset": 0, "recovered": "none"}}}
""",
    ),
    Transcript(
        "A token, and the next one",
        """
-- the server asks for tokens
-- ann connects
ann -> {"type": "hello", "id": 1, "token": "ann 30"}
ann <- {"type": "welcome", "id": 1, "v": 1, "session": "s1", "user": "ann", "username": "ann", "ping_ms": 54000,
    "pong_ms": 60000, "expires_ms": 30000, "limits": {"message_bytes": 65536, "meta_bytes": 2048,
    "label_bytes": 128, "message_rate_per_s": 50, "message_burst": 250, "rooms_per_client": 128,
    "history_page": 100}, "resumed": false, "rooms": {"@ann": {"epoch": "", "offset": 0, "recovered": "none"}}}
-- 20 s pass
ann -> {"type": "auth", "id": 2, "token": "ann 30"}
ann <- {"type": "ok", "id": 2, "expires_ms": 30000}
-- ben connects
ben -> {"type": "hello", "id": 1, "token": "stolen"}
ben <- {"type": "bye", "code": 4001, "name": "unauthorized", "retry": "no", "reason": "this token is no good"}
ben <- close 4001 unauthorized
-- 31 s pass
ann <- {"type": "bye", "code": 4202, "name": "token_expired", "retry": "now"}
ann <- close 4202 token_expired
""",
    ),
    Transcript(
        "A key, said twice",
        """
-- ann is in lobby
ann -> {"type": "chat", "id": 1, "room": "lobby", "content": "hello", "key": "k1"}
ann <- {"type": "ok", "id": 1, "room": "lobby", "epoch": "e.1", "offset": 1, "ts": 1700000000000}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "hello",
    "offset": 1, "ts": 1700000000000}
ann -> {"type": "chat", "id": 2, "room": "lobby", "content": "hello", "key": "k1"}
ann <- {"type": "ok", "id": 2, "room": "lobby", "epoch": "e.1", "offset": 1, "ts": 1700000000000, "dup": true}
ann -> {"type": "chat", "room": "lobby", "content": "hello", "key": "k1"}
""",
    ),
    Transcript(
        "Direct messages",
        """
-- ann, ben, phone of ann and laptop of ben are connected
ann -> {"type": "dm", "id": 1, "to": "ben", "content": "psst"}
ben <- {"type": "dm", "room": "@ben", "username": "ann", "user": "ann", "to": "ben", "epoch": "e.1",
    "content": "psst", "offset": 1, "ts": 1700000000000}
laptop <- {"type": "dm", "room": "@ben", "username": "ann", "user": "ann", "to": "ben", "epoch": "e.1",
    "content": "psst", "offset": 1, "ts": 1700000000000}
ann <- {"type": "dm", "room": "@ann", "username": "ann", "user": "ann", "to": "ben", "epoch": "e.2",
    "content": "psst", "offset": 1, "ts": 1700000000000}
phone <- {"type": "dm", "room": "@ann", "username": "ann", "user": "ann", "to": "ben", "epoch": "e.2",
    "content": "psst", "offset": 1, "ts": 1700000000000}
ann <- {"type": "ok", "id": 1, "room": "@ben", "epoch": "e.1", "offset": 1, "ts": 1700000000000}
ben -> {"type": "history", "id": 2, "room": "@ben", "before": 2}
ben <- {"type": "ok", "id": 2, "room": "@ben", "epoch": "e.1", "messages": [{"room": "@ben", "username": "ann",
    "content": "psst", "user": "ann", "to": "ben", "epoch": "e.1", "offset": 1, "ts": 1700000000000}],
    "more": false}
""",
    ),
    Transcript(
        "History, from either end",
        """
-- ann is in lobby
ann -> {"type": "chat", "room": "lobby", "content": "one"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "one",
    "offset": 1, "ts": 1700000000000}
ann -> {"type": "chat", "room": "lobby", "content": "two"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "two",
    "offset": 2, "ts": 1700000000000}
ann -> {"type": "chat", "room": "lobby", "content": "three"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "three",
    "offset": 3, "ts": 1700000000000}
ann -> {"type": "history", "id": 1, "room": "lobby", "before": 4, "limit": 2}
ann <- {"type": "ok", "id": 1, "room": "lobby", "epoch": "e.1", "messages": [{"room": "lobby",
    "username": "ann", "content": "three", "user": "ann", "epoch": "e.1", "offset": 3, "ts": 1700000000000},
    {"room": "lobby", "username": "ann", "content": "two", "user": "ann", "epoch": "e.1", "offset": 2,
    "ts": 1700000000000}], "more": true}
ann -> {"type": "history", "id": 2, "room": "lobby", "since": {"epoch": "e.1", "offset": 2}}
ann <- {"type": "ok", "id": 2, "room": "lobby", "epoch": "e.1", "messages": [{"room": "lobby",
    "username": "ann", "content": "three", "user": "ann", "epoch": "e.1", "offset": 3, "ts": 1700000000000}],
    "more": false}
-- ben is connected
ben -> {"type": "join", "id": 3, "room": "lobby", "history": 1}
ann <- {"type": "user_joined", "room": "lobby", "username": "ben", "content": "ben joined the room",
    "user": "ben", "rev": 3, "devices": 1}
ben <- {"type": "ok", "id": 3, "room": "lobby", "epoch": "e.1", "offset": 3, "recovered": "none", "rev": 2,
    "messages": [{"room": "lobby", "username": "ann", "content": "three", "user": "ann", "epoch": "e.1",
    "offset": 3, "ts": 1700000000000}]}
ben <- {"type": "user_joined", "room": "lobby", "username": "ben", "content": "ben joined the room",
    "user": "ben", "rev": 3, "devices": 1}
""",
    ),
    Transcript(
        "Devices, metadata and the grace",
        """
-- ann and ben are in lobby
-- tablet of ben is connected
tablet -> {"type": "join", "id": 1, "room": "lobby"}
tablet <- {"type": "ok", "id": 1, "room": "lobby", "epoch": "e.1", "offset": 0, "recovered": "none", "rev": 3}
tablet <- {"type": "presence", "room": "lobby", "rev": 4, "updated": [{"user": "ben", "username": "ben",
    "devices": 2}]}
ann <- {"type": "presence", "room": "lobby", "rev": 4, "updated": [{"user": "ben", "username": "ben",
    "devices": 2}]}
ben <- {"type": "presence", "room": "lobby", "rev": 4, "updated": [{"user": "ben", "username": "ben",
    "devices": 2}]}
tablet -> {"type": "leave", "id": 2, "room": "lobby"}
tablet <- {"type": "ok", "id": 2}
ann <- {"type": "presence", "room": "lobby", "rev": 5, "updated": [{"user": "ben", "username": "ben",
    "devices": 1}]}
ben <- {"type": "presence", "room": "lobby", "rev": 5, "updated": [{"user": "ben", "username": "ben",
    "devices": 1}]}
-- 1 s pass
ben -> {"type": "presence", "id": 3, "room": "lobby", "meta": {"mood": "fine"}}
ann <- {"type": "presence", "room": "lobby", "rev": 6, "updated": [{"user": "ben", "username": "ben",
    "devices": 1, "meta": {"mood": "fine"}}]}
ben <- {"type": "ok", "id": 3}
ben <- {"type": "presence", "room": "lobby", "rev": 6, "updated": [{"user": "ben", "username": "ben",
    "devices": 1, "meta": {"mood": "fine"}}]}
-- ben vanishes
-- 9 s pass
ann -> {"type": "members", "id": 4, "room": "lobby"}
ann <- {"type": "ok", "id": 4, "room": "lobby", "rev": 6, "users": [{"user": "ann", "username": "ann",
    "devices": 1}, {"user": "ben", "username": "ben", "devices": 1, "meta": {"mood": "fine"}}]}
-- 1 s pass
ann <- {"type": "user_left", "room": "lobby", "username": "ben", "content": "ben left the room", "user": "ben",
    "rev": 7, "devices": 0}
""",
    ),
    Transcript(
        "Many join at once",
        """
-- ann is in lobby
-- ben, cy, di, ed and flo are in lobby
ann <- {"type": "user_joined", "room": "lobby", "username": "ben", "content": "ben joined the room",
    "user": "ben", "rev": 3, "devices": 1}
ann <- {"type": "user_joined", "room": "lobby", "username": "cy", "content": "cy joined the room", "user": "cy",
    "rev": 4, "devices": 1}
ann <- {"type": "user_joined", "room": "lobby", "username": "di", "content": "di joined the room", "user": "di",
    "rev": 5, "devices": 1}
-- 0.5 s pass
ann <- {"type": "presence", "room": "lobby", "rev": 6, "joined": [{"user": "ed", "username": "ed",
    "devices": 1}, {"user": "flo", "username": "flo", "devices": 1}]}
ben <- {"type": "presence", "room": "lobby", "rev": 6, "joined": [{"user": "ed", "username": "ed",
    "devices": 1}, {"user": "flo", "username": "flo", "devices": 1}]}
cy <- {"type": "presence", "room": "lobby", "rev": 6, "joined": [{"user": "ed", "username": "ed", "devices": 1},
    {"user": "flo", "username": "flo", "devices": 1}]}
di <- {"type": "presence", "room": "lobby", "rev": 6, "joined": [{"user": "ed", "username": "ed", "devices": 1},
    {"user": "flo", "username": "flo", "devices": 1}]}
ed <- {"type": "presence", "room": "lobby", "rev": 6, "joined": [{"user": "ed", "username": "ed", "devices": 1},
    {"user": "flo", "username": "flo", "devices": 1}]}
flo <- {"type": "presence", "room": "lobby", "rev": 6, "joined": [{"user": "ed", "username": "ed",
    "devices": 1}, {"user": "flo", "username": "flo", "devices": 1}]}
""",
    ),
    Transcript(
        "Typing and events",
        """
-- ann and ben are in lobby
ann -> {"type": "typing", "room": "lobby", "state": "start"}
ann <- {"type": "typing", "room": "lobby", "username": "ann", "user": "ann", "state": "start"}
ben <- {"type": "typing", "room": "lobby", "username": "ann", "user": "ann", "state": "start"}
-- 2 s pass
ann -> {"type": "typing", "room": "lobby", "state": "start"}
-- 6 s pass
ann <- {"type": "typing", "room": "lobby", "username": "ann", "user": "ann", "state": "stop"}
ben <- {"type": "typing", "room": "lobby", "username": "ann", "user": "ann", "state": "stop"}
ann -> {"type": "event", "id": 1, "room": "lobby", "name": "wave", "content": "to all"}
ann <- {"type": "ok", "id": 1}
ann <- {"type": "event", "room": "lobby", "username": "ann", "user": "ann", "name": "wave", "content": "to all"}
ben <- {"type": "event", "room": "lobby", "username": "ann", "user": "ann", "name": "wave", "content": "to all"}
""",
    ),
    Transcript(
        "Errors",
        """
-- ann is in lobby
ann -> hello?
ann <- {"type": "error", "code": 400, "name": "bad_request", "message": "this is not JSON,
    or holds what is not taken here", "retry": "no"}
ann -> {"type": "sing", "id": 1}
ann <- {"type": "error", "id": 1, "code": 405, "name": "unknown_type",
    "message": "no message has the type 'sing'", "retry": "no", "field": "type"}
ann -> {"type": "chat", "id": 2, "room": "lobby"}
ann <- {"type": "error", "id": 2, "code": 400, "name": "bad_request", "message": "content is missing: a string",
    "retry": "no", "field": "content"}
ann -> {"type": "chat", "id": 3, "room": "kitchen", "content": "hello"}
ann <- {"type": "error", "id": 3, "code": 404, "name": "unknown_room", "message": "you are not in this room",
    "retry": "no", "field": "room", "room": "kitchen"}
ann -> {"type": "join", "id": 4, "room": "lobby"}
ann <- {"type": "error", "id": 4, "code": 409, "name": "already_joined", "message": "you are in this room",
    "retry": "no", "field": "room", "room": "lobby"}
ann -> {"type": "join", "id": 5, "room": "a b"}
ann <- {"type": "error", "id": 5, "code": 400, "name": "bad_request",
    "message": "room may only contain letters A-Z a-z, digits and . _ ~ -", "retry": "no", "field": "room"}
ann -> {"type": "hello", "id": 6}
ann <- {"type": "error", "id": 6, "code": 400, "name": "bad_request", "message": "hello was said already",
    "retry": "no", "field": "type"}
ann -> {"type": "history", "id": 7, "room": "lobby", "since": {"epoch": "d.7", "offset": 40}}
ann <- {"type": "error", "id": 7, "code": 440, "name": "unrecoverable",
    "message": "lobby has another epoch: its offsets do not compare", "retry": "no", "field": "since",
    "room": "lobby"}
""",
    ),
    Transcript(
        "No hello",
        """
-- ann connects as ann
ann -> {"type": "ping", "id": 1}
ann <- {"type": "error", "id": 1, "code": 400, "name": "bad_request", "message": "say hello first",
    "retry": "no", "field": "type"}
-- 10 s pass
ann <- {"type": "bye", "code": 4204, "name": "hello_timeout", "retry": "now"}
ann <- close 4204 hello_timeout
""",
    ),
    Transcript(
        "Too many messages, and too many errors",
        """
-- ann is in lobby
ann -> {"type": "ping", "id": 1}
ann <- {"type": "pong", "id": 1}
ann -> {"type": "ping", "id": 2}
ann <- {"type": "error", "id": 2, "code": 429, "name": "rate_limited", "message": "too many messages",
    "retry": "after", "retry_after_ms": 500}
ann -> {"type": "ping", "id": 3}
ann <- {"type": "error", "id": 3, "code": 429, "name": "rate_limited", "message": "too many messages",
    "retry": "after", "retry_after_ms": 500}
ann <- {"type": "bye", "code": 4103, "name": "rate_limited", "retry": "after", "reconnect_ms": [500, 5001]}
ann <- close 4103 rate_limited
""",
        limits={"message_rate_per_s": 2, "message_burst": 3, "error_burst": 1},
    ),
    Transcript(
        "A drain",
        """
-- ann is in lobby
-- the server is about to drain, in 3 s
ann <- {"type": "draining", "in_ms": 3000, "reconnect_ms": [500, 5001]}
ann -> {"type": "chat", "id": 1, "room": "lobby", "content": "last words"}
ann <- {"type": "ok", "id": 1, "room": "lobby", "epoch": "e.1", "offset": 1, "ts": 1700000000000}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1",
    "content": "last words", "offset": 1, "ts": 1700000000000}
-- 3 s pass
-- the server drains
ann <- {"type": "bye", "code": 4100, "name": "draining", "retry": "after", "reconnect_ms": [500, 5001]}
ann <- close 4100 draining
""",
    ),
    Transcript(
        "Put out",
        """
-- ann and ben are in lobby
-- the program kicks ben out of lobby
ben <- {"type": "kicked", "room": "lobby", "code": 4004, "reason": "kicked"}
ann <- {"type": "user_left", "room": "lobby", "username": "ben", "content": "ben left the room", "user": "ben",
    "rev": 4, "devices": 0, "reason": "kicked"}
-- the program closes lobby
ann <- {"type": "kicked", "room": "lobby", "code": 4009, "reason": "room_closed"}
ann -> {"type": "ping", "id": 1}
ann <- {"type": "pong", "id": 1}
-- the program kicks ann
ann <- {"type": "bye", "code": 4004, "name": "kicked", "retry": "no"}
ann <- close 4004 kicked
""",
    ),
    Transcript(
        "Muted, banned, let in again",
        """
-- ann may moderate
-- ann and ben are in lobby
ann -> {"type": "mod", "id": 1, "room": "lobby", "action": "mute", "user": "ben", "for_ms": 60000,
    "reason": "calm down"}
ann <- {"type": "ok", "id": 1}
ben -> {"type": "chat", "id": 1, "room": "lobby", "content": "why?"}
ben <- {"type": "error", "id": 1, "code": 423, "name": "muted", "message": "you are muted: calm down",
    "retry": "after", "retry_after_ms": 60000, "room": "lobby"}
ann -> {"type": "mod", "id": 2, "room": "lobby", "action": "ban", "user": "ben", "for_ms": 600000}
ann <- {"type": "ok", "id": 2}
ben <- {"type": "kicked", "room": "lobby", "code": 4002, "reason": "banned", "until_ms": 1700000600000}
ann <- {"type": "user_left", "room": "lobby", "username": "ben", "content": "ben left the room", "user": "ben",
    "rev": 4, "devices": 0, "reason": "banned"}
ben -> {"type": "join", "id": 2, "room": "lobby"}
ben <- {"type": "error", "id": 2, "code": 403, "name": "forbidden", "message": "you are banned from this room",
    "retry": "no", "room": "lobby"}
ben -> {"type": "mod", "id": 3, "room": "lobby", "action": "unban", "user": "ben"}
ben <- {"type": "error", "id": 3, "code": 403, "name": "forbidden", "message": "you may not unban anybody here",
    "retry": "no", "room": "lobby"}
ann -> {"type": "mod", "id": 3, "room": "lobby", "action": "unban", "user": "ben"}
ann <- {"type": "ok", "id": 3}
ann -> {"type": "mod", "id": 4, "action": "ban", "user": "ben", "reason": "nowhere"}
ann <- {"type": "ok", "id": 4}
ben <- {"type": "bye", "code": 4002, "name": "banned", "retry": "no", "reason": "nowhere"}
ben <- close 4002 banned
""",
    ),
    Transcript(
        "Too slow, and closed",
        """
-- ann and ben are in lobby
-- ben stops reading
ann -> {"type": "chat", "room": "lobby", "content": "one"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "one",
    "offset": 1, "ts": 1700000000000}
ann -> {"type": "chat", "room": "lobby", "content": "two"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "two",
    "offset": 2, "ts": 1700000000000}
ann -> {"type": "chat", "room": "lobby", "content": "three"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "three",
    "offset": 3, "ts": 1700000000000}
ben <- {"type": "bye", "code": 4101, "name": "slow_consumer", "retry": "after", "reconnect_ms": [500, 5002]}
ben <- close 4101 slow_consumer
""",
        limits={"v1_lag_messages": 2},
    ),
    Transcript(
        "Too slow, where the hub skips",
        """
-- ann and ben are in lobby
-- ben stops reading
ann -> {"type": "chat", "room": "lobby", "content": "one"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "one",
    "offset": 1, "ts": 1700000000000}
ann -> {"type": "chat", "room": "lobby", "content": "two"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "two",
    "offset": 2, "ts": 1700000000000}
ann -> {"type": "chat", "room": "lobby", "content": "three"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "three",
    "offset": 3, "ts": 1700000000000}
ann -> {"type": "chat", "room": "lobby", "content": "four"}
ann <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "four",
    "offset": 4, "ts": 1700000000000}
-- ben reads again
ben <- {"type": "gap", "room": "lobby", "epoch": "e.1", "from": 1, "to": 3, "reason": "slow"}
ben <- {"type": "presence", "room": "lobby", "rev": 3, "users": [{"user": "ann", "username": "ann",
    "devices": 1}, {"user": "ben", "username": "ben", "devices": 1}]}
ben <- {"type": "chat", "room": "lobby", "username": "ann", "user": "ann", "epoch": "e.1", "content": "four",
    "offset": 4, "ts": 1700000000000}
""",
        limits={"v1_lag_messages": 2},
        slow="skip",
    ),
)
