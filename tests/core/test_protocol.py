"""The protocol, as data: the hub speaks as the golden transcripts have it, and docs/protocol.md says what the data has.

    python -m tests.core.test_protocol

writes the page's tables and transcripts anew: whatever stands between ``<!-- NAME: ... -->`` and ``<!-- NAME until
here -->``.
"""

import ast
import json
import re
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import roomhub.core
import roomhub.core.errors as errors_module
from roomhub.core.commands import CloseRoom, Drain, Kick
from roomhub.core.effects import Authenticate, Authorize, Close, Moderated
from roomhub.core.errors import CLOSE_REASONS, ERRORS, CloseReason
from roomhub.core.events import (
    Authenticated,
    Authorized,
    Blocked,
    ClockSet,
    Connected,
    Denied,
    Disconnected,
    Received,
    Writable,
)
from roomhub.core.hub import Hub
from roomhub.core.identity import Identity, Refusal
from roomhub.core.limits import Limits
from roomhub.core.protocol import CLIENT_MESSAGES, GREETING_MESSAGES, KINDS, SERVER_MESSAGES, Field
from roomhub.core.session import State
from roomhub.core.transcripts import TRANSCRIPTS, Transcript
from tests.core.playbook import V1, After, Hears, Nothing, Playbook, check_shape, says

PAGE = Path(__file__).resolve().parents[2] / "docs" / "protocol.md"
MADE_BY = "python -m tests.core.test_protocol"

# -- playing a transcript ----------------------------------------------------------------------------------------------


class Player:
    """A hub that lives through a transcript; every connection's secret and every epoch is as short as can be.

    Attributes:
        heard: what every client has heard and no line has mentioned yet.
    """

    def __init__(self, transcript: Transcript) -> None:
        limits = Limits(**transcript.limits)
        self.play = Playbook()
        self.play.hub = Hub(epoch="e", limits=limits, slow=transcript.slow)
        self.play >> ClockSet(1_700_000_000_000)
        self.heard: dict[str, deque[Any]] = defaultdict(deque)
        self._connections = 0
        self._steps: Sequence[tuple[str, Callable[..., None]]] = (
            (r"(\w+) connects as (\w+)", self._connects),
            (r"(\w+) connects as (\w+), at /ws/(\w+)", self._connects),
            (r"(.+) (?:are|is) connected", self._are_connected),
            (r"(.+) (?:are|is) in (\w+)", self._are_in),
            (r"(\w+) vanishes", lambda client: self._does(Disconnected(client))),
            (r"(\w+) stops reading", lambda client: self._does(Blocked(client))),
            (r"(\w+) reads again", lambda client: self._does(Writable(client))),
            (r"([\d.]+) s pass", lambda seconds: self._does(After(float(seconds)))),
            (r"the program kicks (\w+) out of (\w+)", lambda user, room: self._does(Kick(user, room))),
            (r"the program kicks (\w+)", lambda user: self._does(Kick(user))),
            (r"the program closes (\w+)", lambda room: self._does(CloseRoom(room))),
            (r"the server is about to drain, in ([\d.]+) s", lambda seconds: self._does(Drain(float(seconds)))),
            (r"the server drains", lambda: self._does(Drain())),
            (r"the server asks for tokens", self._asks_for_tokens),
            (r"(\w+) may moderate", self._may_moderate),
            (r"(\w+) connects", self._connects_unknown),
        )
        self._moderators: set[str] = set()

    def step(self, line: str) -> None:
        """Something happens, or somebody says something."""
        if said := re.fullmatch(r"(\w+) -> (.*)", line):
            self._does(Received(said[1], said[2]))
            return
        found = [(re.fullmatch(f"-- {pattern}", line), act) for pattern, act in self._steps]
        matches = [(match, act) for match, act in found if match]
        assert len(matches) == 1, f"what is {line!r}?"
        [(match, act)] = matches
        act(*match.groups())

    def _does(self, item: object) -> None:
        """A tick, at the end of which everybody has what there is for it, and who was closed has gone."""
        play = self.play
        play >> item
        gone = self._closed()
        play >> After()
        gone += self._closed()
        play.serve()
        for client in list(play.raw):
            self.heard[client].extend(json.loads(frame) for frame in play.raw[client])
            del play.raw[client]
        for order in gone:
            self.heard[order.client].append(f"close {order.reason.code} {order.reason.name}")
        for order in gone:
            play >> Disconnected(order.client)

    def _asks_for_tokens(self) -> None:
        """A token is a name, and for how many seconds it is good: "ann 60"."""
        self.play.hub.authenticates = True

    def _may_moderate(self, user: str) -> None:
        """An authenticator vouches for everybody then, and lets this one moderate."""
        self._moderators.add(user)

    def _connects_unknown(self, client: str) -> None:
        self._connections += 1
        self._does(Connected(client, V1, "", secret=f"s{self._connections}"))

    def _answer(self, asked: Authenticate[str]) -> None:
        user, _, seconds = asked.token.partition(" ")
        good = Identity(user=user, expires_ms=1_700_000_000_000 + int((self.play.now + int(seconds or 0)) * 1000))
        self.play >> Authenticated(asked.ref, good if seconds else Refusal("this token is no good"))

    def _closed(self) -> list[Close[str]]:
        for order in [order for order in self.play.orders if isinstance(order, Authenticate)]:
            self.play.orders.remove(order)
            self._answer(order)
        for wish in [order for order in self.play.orders if isinstance(order, Authorize)]:
            self.play.orders.remove(wish)
            answer = Authorized if wish.username in self._moderators else Denied
            self.play >> answer(wish.client, wish.room, wish.ref)
        for moderated in [order for order in self.play.orders if isinstance(order, Moderated)]:
            self.play.orders.remove(moderated)
        orders = [order for order in self.play.orders if isinstance(order, Close)]
        assert len(orders) == len(self.play.orders), self.play.orders
        self.play.orders.clear()
        return orders

    def _connects(self, client: str, user: str, *rooms: str) -> None:
        self._connections += 1
        identity = Identity(user=user) if self._moderators else None
        self._does(Connected(client, V1, user, rooms, secret=f"s{self._connections}", identity=identity))

    def _are_connected(self, names: str, room: str | None = None) -> None:
        """Some connect and say hello, one after another; what they heard of it is not told."""
        for name in re.split(r", | and ", names):
            client, _, user = name.partition(" of ")
            self._connects(client, user or client)
            self._does(says(client, "hello", id="h"))
            if room is not None:
                self._does(says(client, "join", id="j", room=room))
        for name in re.split(r", | and ", names):
            self.heard.pop(name.partition(" of ")[0])

    def _are_in(self, names: str, room: str) -> None:
        self._are_connected(names, room)


def parsed(line: str) -> tuple[str, Any] | None:
    """Who hears what on this line; None if it is none of that."""
    found = re.fullmatch(r"(\w+) <- (.*)", line)
    if found is None:
        return None
    return found[1], found[2] if found[2].startswith("close ") else json.loads(found[2])


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.title)
def test_the_hub_speaks_as_the_transcript_has_it(transcript: Transcript) -> None:
    player = Player(transcript)
    for line in transcript.lines:
        expected = parsed(line)
        if expected is None:
            assert not any(player.heard.values()), f"before {line!r} nobody expected {dict(player.heard)}"
            player.step(line)
            continue
        client, frame = expected
        assert player.heard[client], f"{client} did not hear {frame}"
        heard = player.heard[client].popleft()
        assert heard == frame, f"{client} heard {json.dumps(heard)}"
        if isinstance(heard, dict):
            check_shape(heard)
    assert not any(player.heard.values()), f"at the end nobody expected {dict(player.heard)}"


def test_every_type_of_message_occurs_in_a_transcript() -> None:
    said: set[str] = set()
    heard: set[str] = set()
    for transcript in TRANSCRIPTS:
        for line in transcript.lines:
            if found := re.fullmatch(r'\w+ (->|<-) (\{"type": .*\})', line):
                (said if found[1] == "->" else heard).add(json.loads(found[2])["type"])
    assert said >= set(CLIENT_MESSAGES)
    assert heard == set(SERVER_MESSAGES)


def test_the_sayings_of_a_transcript_are_short_enough_to_be_read() -> None:
    for transcript in TRANSCRIPTS:
        assert max(map(len, transcript.text.splitlines())) <= 116
    assert len({transcript.title for transcript in TRANSCRIPTS}) == len(TRANSCRIPTS)


# -- every message in every state --------------------------------------------------------------------------------------


class Asked(dict[str, Any]):
    """The fields of a message of each type that is answered with ``reply`` once hello was said."""

    def __init__(self, reply: str, does: str, **fields: Any) -> None:
        super().__init__(fields)
        self.reply = reply
        self.does = does


ASKED: Mapping[str, Asked] = {
    "hello": Asked("welcome", "Begin, or go on with an earlier session."),
    "join": Asked("ok", "Enter a room.", room="other"),
    "leave": Asked("ok", "Leave it.", room="r"),
    "chat": Asked("ok", "Say something in a room.", room="r", content="x"),
    "event": Asked("ok", "Tell whoever is there now; it is kept nowhere.", room="r", name="n", content="x"),
    "typing": Asked("ok", "Show that somebody types.", room="r", state="start"),
    "presence": Asked("ok", "Replace one's metadata in a room.", room="r", meta={}),
    "dm": Asked("ok", "Say something to one user.", to="Ben", content="x"),
    "history": Asked("ok", "Read a page of a room's history, or of the own mailbox.", room="r", before=1),
    "members": Asked("ok", "Ask who is in a room.", room="r"),
    "mod": Asked("ok", "Moderate: in a room, or without one everywhere.", room="r", action="mute", user="Ben"),
    "auth": Asked("ok", "Show a new token, before the one before is over.", token="t"),
    "ping": Asked("pong", "Ask for a sign of life."),
}


@pytest.mark.parametrize("kind", CLIENT_MESSAGES)
def test_before_welcome_there_is_only_hello(kind: str) -> None:
    play = Playbook() >> Connected("ann", V1, "Ann", secret="s1")
    assert play.hub.state_of("ann") is State.GREETING
    play >> says("ann", kind, id=1, **ASKED[kind])
    if kind in GREETING_MESSAGES:
        play << Hears("ann", {"type": ASKED[kind].reply, "id": 1})
        assert play.hub.state_of("ann") is State.OPEN
    else:
        play << Hears("ann", {"type": "error", "id": 1, "name": "bad_request", "field": "type"})
        assert play.hub.state_of("ann") is State.GREETING


@pytest.mark.parametrize("kind", CLIENT_MESSAGES)
def test_after_welcome_each_is_answered_once_but_hello(kind: str) -> None:
    play = Playbook() >> Connected("ann", V1, "Ann", secret="s1", identity=Identity(user="Ann"))
    play >> says("ann", "hello", id="h") >> says("ann", "join", id="j", room="r")
    play.hub.authenticates = kind == "auth"
    play.forget() >> says("ann", kind, id=1, **ASKED[kind])
    if kind == "auth":
        asked = play.orders.popleft()
        assert isinstance(asked, Authenticate)
        play >> Authenticated(asked.ref, Identity(user="Ann"))
    if kind == "mod":
        order = play.orders.popleft()
        assert isinstance(order, Authorize)
        play >> Authorized("ann", "r", order.ref) << Moderated
    replies = [message for message in play.hear("ann") if "id" in message]
    reply = "error" if kind in GREETING_MESSAGES else ASKED[kind].reply
    assert [(message["type"], message["id"]) for message in replies] == [(reply, 1)]


@pytest.mark.parametrize("kind", CLIENT_MESSAGES)
def test_who_is_gone_says_nothing_any_more(kind: str) -> None:
    play = Playbook() >> Connected("ann", V1, "Ann", secret="s1") >> says("ann", "hello", id="h")
    play >> Kick("Ann")
    play.forget() >> says("ann", kind, id=1, **ASKED[kind]) << Nothing()
    play >> Disconnected("ann") >> says("ann", kind, id=1, **ASKED[kind]) << Nothing()


# -- what the page has of the data -------------------------------------------------------------------------------------

TOLD: Mapping[str, str] = {
    "welcome": "the reply to `hello`",
    "ok": "it is done",
    "error": "it is not done, and why",
    "chat": "somebody said something in a room",
    "dm": "somebody said something to this user, or this user did on another connection",
    "user_joined": "a user came in",
    "user_left": "a user went",
    "presence": "several came and went, or are here in another way; or the whole roster anew",
    "typing": "somebody began to type, or no longer does",
    "event": "what a client told with `event`",
    "gap": "messages that this client will not get",
    "kicked": "it is in this room no more, and stays connected",
    "draining": "the server will soon stop",
    "bye": "the last frame before a close with a code from 4000 on",
    "pong": "the reply to `ping`",
}

FIELDS: Mapping[str, str] = {
    "v": "the version of the dialect",
    "session": "the secret with which to resume; whoever has it can take the session over",
    "user": "who, as an identity: compare this",
    "username": "the same for people to read",
    "ping_ms": "how often the server pings; not there where it never does",
    "pong_ms": "after so much silence it closes with `no_pong`",
    "resumed": "whether the server knew the session",
    "recovered": "how much of what was missed follows",
    "rev": "the roster's revision",
    "devices": "how many connections of the user are in the room",
    "more": "whether the log goes on behind this page",
    "dup": "the key had been said before: this is where that message stands",
    "ts": "when it was said, Unix time; it never falls within a room",
    "token": "who this is, where the server asks for one",
    "expires_ms": "for how long the token is good still; not there where it is for ever",
    "client": "what program this is; nothing looks at it yet",
    "key": "whoever says it twice has said it once",
    "since": "what is at this position is left out",
    "before": "what has this offset is left out",
    "history": "so many of the newest messages come with the reply",
    "presence": "whether the roster comes with the reply",
    "code": "of an error or a close code, as in the tables below",
    "messages": "those of a mailbox have `to` as well",
    "users": "the roster",
    "left": "as they were",
    "resume": "what the connection before this one had",
    "limit": "at most so many messages, and at most `history_page`; 0 asks whether there are any",
    "to:text": "a username",
    "to:offset": "the last offset that is missing",
    "from": "the first offset that is missing",
    "field": "which field is at fault",
    "message": "for a person who debugs; do not compare it",
    "in_ms": "from now on",
    "reconnect_ms": "wait for a random time between the two before connecting again",
    "for_ms": "how long a ban or a mute lasts; without it until it is ended",
    "reason:label": "a word to the user about it",
    "until_ms": "when the ban ends, Unix time; not there where it has no end, or there is none",
    "retry_after_ms": "wait for so long before the next try",
    "epoch": "one life of a room's log: offsets of two epochs do not compare",
}

WHEN_ERROR: Mapping[str, str] = {
    "bad_request": "no JSON, a field missing or wrong, not the time for it",
    "unauthorized": "the token is no good",
    "forbidden": "this client may not come in, or may not moderate; or the program refused the message",
    "unknown_room": "this client is not in the room",
    "unknown_type": "there is no such message",
    "already_joined": "this client is in the room, or about to be",
    "name_taken": "reserved",
    "too_large": "reserved: a message over `v1_message_bytes` closes with 1009",
    "token_expired": "the token is good no more: get a new one",
    "muted": "this user may say nothing here, until the mute ends (`retry_after_ms`) or is ended",
    "rate_limited": "too many messages, joins or rooms",
    "unrecoverable": "`since` is of another epoch, in `history`",
    "internal": "it was said, but the store could not keep it; or what was asked for could not be found out",
    "draining": "reserved: a server that drains still answers, and lets nobody new in",
    "over_capacity": "there are as many rooms and mailboxes, or bans and mutes, as there may be",
}

WHEN_CLOSED: Mapping[str, str] = {
    "protocol": "the name of the user is bad (a transport of one's own; WebSockets answer 400)",
    "unauthorized": "its hello has no token, or none that is good",
    "banned": "the user is banned; WebSockets answer 403 to who comes again",
    "version": "reserved",
    "kicked": "the program or a moderator put the user out",
    "replaced": "another connection resumed the session",
    "name_taken": "reserved",
    "connection_limit": "reserved",
    "idle": "no message of the user's own for `idle_timeout_s`",
    "room_closed": "the program closed the room; v1 has it in `kicked` alone",
    "forbidden": "the program does not let the client in; v1 has the error instead",
    "draining": "the server stops",
    "slow_consumer": "it does not read, or not fast enough",
    "internal": "nobody could tell whose token its hello has, or not in time",
    "rate_limited": "too many errors",
    "over_capacity": "there are as many connections as there may be",
    "no_pong": "nothing was heard of it for `pong_timeout_s`",
    "token_expired": "its token is good no more: come back with a new one",
    "hello_timeout": "no `hello` within `hello_timeout_s`",
}

HUNDREDS = ((4000, 4099), (4100, 4199), (4200, 4299), (4500, 4699), (4700, 4899))

DO: Mapping[str, str] = {
    "no": "stays away until a person wants otherwise",
    "after": "waits for `reconnect_ms`, or for a while that grows and has chance in it, and resumes",
    "now": "connects again at once and resumes",
}


def table(*rows: Sequence[object]) -> str:
    """A table; the first row is its head."""
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n" for row in lines)


def code(*names: str) -> str:
    return ", ".join(f"`{name}`" for name in names)


def fields_of(fields: Sequence[Field]) -> str:
    return code(*(field.name if field.required else f"{field.name}?" for field in fields))


def client_messages() -> str:
    rows = [(code(kind), fields_of(fields), code(ASKED[kind].reply)) for kind, fields in CLIENT_MESSAGES.items()]
    return table(
        ("`type`", "fields", "reply", "what it is for"),
        *((*row, ASKED[kind].does) for kind, row in zip(CLIENT_MESSAGES, rows, strict=True)),
    )


def server_messages() -> str:
    rows = ((code(kind), fields_of(fields), TOLD[kind]) for kind, fields in SERVER_MESSAGES.items())
    return table(("`type`", "fields", "what it tells"), *rows)


def fields() -> str:
    """Every field of every message: those of one name and kind once."""
    found: dict[tuple[str, str], list[str]] = {}
    for messages in (CLIENT_MESSAGES, SERVER_MESSAGES):
        for kind, its in messages.items():
            for field in its:
                names = found.setdefault((field.name, field.kind), [])
                if kind not in names:
                    names.append(kind)
    rows: list[Sequence[object]] = []
    for (name, kind), names in sorted(found.items()):
        # What the client should know of the limits is bounded by nobody.
        what = "an object of numbers, null for no limit" if name == "limits" else KINDS[kind]
        what = re.sub(r"([{[].*[]}]|\"\w+\"|\w+_\w+)", lambda match: f"`{match[1]}`", what)
        rows.append(
            (
                code(name),
                code(*names),
                "; ".join(filter(None, (what, FIELDS.get(name) or FIELDS.get(f"{name}:{kind}")))),
            )
        )
    return table(("field", "in", "what it is"), *rows)


def errors() -> str:
    rows = ((error.code, code(name), code(error.retry), WHEN_ERROR[name]) for name, error in ERRORS.items())
    return table(("`code`", "`name`", "`retry`", "when"), *rows)


def hundreds() -> str:
    rows: list[Sequence[object]] = []
    for first, last in HUNDREDS:
        retries = {reason.retry for reason in (CLOSE_REASONS["kicked"]._replace(code=at) for at in (first, last))}
        [retry] = retries
        rows.append((f"{first} to {last}", code(retry), DO[retry], "the program's own" if first >= 4500 else "below"))
    return table(("codes", "`retry`", "the client", "which"), *rows)


def close_codes() -> str:
    rows = (
        (reason.code, code(name), code(reason.retry), reason.plain_code, WHEN_CLOSED[name])
        for name, reason in CLOSE_REASONS.items()
    )
    return table(("code", "name", "`retry`", "plain", "when"), *rows)


PARTS: Mapping[str, Callable[[], str]] = {
    "client messages": client_messages,
    "server messages": server_messages,
    "fields": fields,
    "errors": errors,
    "hundreds": hundreds,
    "close codes": close_codes,
}


def part(name: str) -> str:
    """What stands between the markers of this name: a table, or the transcript of this title."""
    if name in PARTS:
        return PARTS[name]()
    [transcript] = [transcript for transcript in TRANSCRIPTS if transcript.title == name]
    return f"```text\n{transcript.text.strip()}\n```\n"


MARKED = re.compile(r"(?ms)^<!-- (?P<name>[^:\n]+): made by .*?-->\n(?P<text>.*?)^<!-- (?P=name) until here -->$")


def renewed(page: str) -> str:
    """The page with its made parts made anew."""

    def mark(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name}: made by `{MADE_BY}` -->\n{part(name)}<!-- {name} until here -->"

    return MARKED.sub(mark, page)


def read() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_the_page_has_the_tables_and_transcripts_of_the_data() -> None:
    page = read()
    assert renewed(page) == page, f"{PAGE.name} is out of date: {MADE_BY}"
    names = [match["name"] for match in MARKED.finditer(page)]
    assert len(names) == page.count(" until here -->"), "a marker without its other"
    assert {*PARTS} <= {*names}
    assert len(names) == len({*names}) > len(PARTS)


def first_cells(name: str) -> list[str]:
    """The first column of a table on the page, as it is, without its head."""
    [text] = [match["text"] for match in MARKED.finditer(read()) if match["name"] == name]
    return [line.split(" | ")[0].removeprefix("| ").strip("`") for line in text.splitlines()[2:]]


def test_the_page_lists_every_message_error_and_code() -> None:
    assert first_cells("client messages") == list(CLIENT_MESSAGES)
    assert first_cells("server messages") == list(SERVER_MESSAGES)
    assert first_cells("errors") == [str(error.code) for error in ERRORS.values()]
    assert first_cells("close codes") == [str(reason.code) for reason in CLOSE_REASONS.values()]
    assert set(ASKED) == set(CLIENT_MESSAGES)
    assert set(TOLD) == set(SERVER_MESSAGES)
    assert set(WHEN_ERROR) == set(ERRORS)
    assert set(WHEN_CLOSED) == set(CLOSE_REASONS)
    assert {name.partition(":")[0] for name in FIELDS} <= {
        field.name for messages in (CLIENT_MESSAGES, SERVER_MESSAGES) for its in messages.values() for field in its
    }


# -- what the page calls reserved is used nowhere ----------------------------------------------------------------------

PACKAGE = Path(roomhub.core.__path__[0]).parent


def sources() -> Iterator[ast.AST]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "errors.py":
            yield from ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def reserved(notes: Mapping[str, str]) -> set[str]:
    return {name for name, note in notes.items() if note.startswith("reserved")}


def test_an_error_is_reserved_or_used() -> None:
    used: set[object] = set(get_args(get_type_hints(Refusal)["name"]))
    for node in sources():
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", None) or getattr(node.func, "attr", None)
            if name in ("fail", "_refuse", "Fault", "error_fields"):
                used |= {argument.value for argument in node.args if isinstance(argument, ast.Constant)}
        elif isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "_JOIN_ERRORS":
            assert node.value is not None
            used |= {constant.value for constant in ast.walk(node.value) if isinstance(constant, ast.Constant)}
    assert set(ERRORS) - used == reserved(WHEN_ERROR)


def test_a_close_reason_is_reserved_or_used() -> None:
    mentioned = {getattr(node, "id", None) or getattr(node, "attr", "") for node in sources()}
    constants = {name: value for name, value in vars(errors_module).items() if isinstance(value, CloseReason)}
    used = {reason.name for name, reason in constants.items() if name in mentioned}
    assert set(CLOSE_REASONS) - used == reserved(WHEN_CLOSED)


if __name__ == "__main__":
    PAGE.write_text(renewed(read()), encoding="utf-8")
