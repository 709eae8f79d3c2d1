"""``roomhub chat`` for a person: a line to type in, and above it what happens."""

import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from roomhub.client import (
    Changed,
    Chat,
    ChatError,
    Connected,
    DirectMessage,
    Disconnected,
    Draining,
    Event,
    Failed,
    Joined,
    Kicked,
    Left,
    Message,
    Missed,
    ModAction,
    NotAnswered,
    RequestRefused,
    Restarted,
    Room,
    Shout,
    StayAway,
    Typing,
)
from roomhub.core.errors import BANNED, KICKED, TOKEN_EXPIRED
from roomhub.core.protocol import MOD_ACTIONS
from roomhub.terminal.durations import seconds_of, spoken
from roomhub.terminal.editor import END, INTERRUPT, Editor
from roomhub.terminal.entrance import Entrance
from roomhub.terminal.files import read
from roomhub.terminal.screen import Screen, as_it_is, keys_at_once
from roomhub.terminal.text import clean, clock_of, colour_of, date_of

__all__ = ["Start", "run"]

SEND_TIMEOUT_S: Final = 300.0
QUIT_TIMEOUT_S: Final = 2.0
LINES_WAITING: Final = 1_000
NAMES_KEPT: Final = 10_000
HELP: Final = (
    "/join ROOM      enter a room, or speak in it from now on",
    "/leave          leave this room",
    "/dm USER TEXT   say something to one user: it goes into the mailbox of",
    "                that name, whether there is such a user or not, and",
    "                clients of the plain dialect do not see it",
    "/who            who is here",
    "/history [N]    the newest N messages (default 20)",
    "/kick USER [WHY]           put somebody out of this room, if you may",
    "/ban USER [TIME] [WHY]     the same, and keep out: 90s, 10m, 2h, 7d",
    "/mute USER [TIME] [WHY]    let somebody say nothing here",
    "/unban USER                end a ban",
    "/unmute USER               end a mute",
    "/quit           end; so does Ctrl-D",
    "//text          say /text",
)
MODERATION: Final[Mapping[str, ModAction]] = {f"/{action}": action for action in MOD_ACTIONS}
DIM: Final = 2
RED: Final = 31
BOLD: Final = 1


class Start(NamedTuple):
    """What the program begins with: rooms to join, the first to speak in, and how much history each shows."""

    rooms: Sequence[str]
    history: int


async def run(chat: Chat, start: Start, stdin: int, stdout: int) -> None:
    """Talk until the person has enough, or the input ends.

    Raises:
        StayAway: the server wants this client no more.
    """
    is_terminal = os.isatty(stdin) and os.isatty(stdout)
    has_colours = os.isatty(stdout) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    editor = Editor() if is_terminal else None
    screen = Screen(stdout, editor, has_colours=has_colours)
    with keys_at_once(stdin) if is_terminal else as_it_is():
        try:
            await Program(chat, screen, editor).run(start, stdin)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(1), suppress(BrokenPipeError):
                await screen.wipe()


class Program:
    """The person's side of a chat."""

    def __init__(self, chat: Chat, screen: Screen, editor: Editor | None) -> None:
        self._chat = chat
        self._screen = screen
        self._editor = editor
        self._room: str | None = None  # the one to speak in
        self._typing: dict[tuple[str, str], str] = {}
        self._names: dict[str, str] = {}  # by identity, of all that were seen
        self._entrance = Entrance(self._tell)

    async def run(self, start: Start, stdin: int) -> None:
        to_worker, lines = anyio.create_memory_object_stream[str](LINES_WAITING)
        async with to_worker, lines, anyio.create_task_group() as tasks:

            async def work() -> None:
                for room in start.rooms:
                    await self._do(f"/join {room}", start.history)
                if start.rooms and self._room is not None:
                    self._speak_in(start.rooms[0] if start.rooms[0] in self._chat.rooms else self._room)
                if not start.rooms:
                    await self._note("/join a room to begin, /help for more")
                await self._obey(lines, start.history)
                tasks.cancel_scope.cancel()

            async def listen() -> None:
                async for event in self._chat:
                    await self._entrance.pass_on(event)

            async def watch() -> None:
                with anyio.open_signal_receiver(*_SIGNALS) as signals:
                    async for number in signals:
                        if number is signal.SIGWINCH:
                            await self._screen.redraw()
                        else:
                            tasks.cancel_scope.cancel()

            tasks.start_soon(work)
            tasks.start_soon(listen)
            if self._editor is not None:
                tasks.start_soon(watch)
            patience_s = await self._read(stdin, to_worker)
            to_worker.close()  # what was said before the end is still done
            with anyio.move_on_after(patience_s):
                await anyio.sleep_forever()
            tasks.cancel_scope.cancel()

    async def _read(self, stdin: int, to_worker: MemoryObjectSendStream[str]) -> float:
        """Pass on lines to the input's end; gives how many seconds what is under way may still take."""
        buffer = b""
        while data := await read(stdin):
            if self._editor is None:
                *lines, buffer = (buffer + data).split(b"\n")
                for line in lines:
                    await to_worker.send(line.decode(errors="replace"))
                continue
            for typed in self._editor.feed(data):
                if typed is INTERRUPT:
                    return 0
                if typed is END or typed.strip() == "/quit":
                    return QUIT_TIMEOUT_S if self._chat.is_connected else 0
                try:
                    to_worker.send_nowait(typed)
                except anyio.WouldBlock:
                    await self._note(f"{LINES_WAITING} lines wait already; not taken: {clean(typed)}", RED)
            await self._screen.redraw()
            await self._show_typing()
        if buffer:
            await to_worker.send(buffer.decode(errors="replace"))
        return math.inf if self._editor is None else 0

    async def _show_typing(self) -> None:
        room = self._chat.rooms.get(self._room or "")
        if room is not None and self._editor is not None:
            text = self._editor.text
            try:
                await room.typing(bool(text) and not text.startswith("/"))
            except ChatError:
                return  # the listener raises it

    # -- what the person wants ----------------------------------------------------------------------------------------

    async def _obey(self, lines: MemoryObjectReceiveStream[str], history: int) -> None:
        async for line in lines:
            if line.strip() == "/quit":
                return
            if line.strip():
                await self._do(line.rstrip("\r"), history)

    async def _do(self, line: str, history: int) -> None:
        try:
            await self._try(line, history)
        except StayAway:
            await anyio.sleep_forever()  # the listener raises it, behind all that came before
        except RequestRefused as error:
            name = "" if error.name in error.message else f" ({clean(error.name)})"
            left = "" if error.retry_after_s is None else f"; {spoken(error.retry_after_s)} to go"
            await self._note(f"not done: {clean(error.message)}{name}{left}", RED)
        except NotAnswered as error:
            fate = "it may have been said" if error.was_sent else "it was not said"
            await self._note(f"no answer; {fate}: {clean(line)}", RED)
        except ChatError as error:
            await self._note(clean(str(error)), RED)

    async def _try(self, line: str, history: int) -> None:
        if not line.startswith("/") or line.startswith("//"):
            text = line.removeprefix("/") if line.startswith("//") else line
            await self._here().send(text, timeout_s=SEND_TIMEOUT_S)
            return
        command, *words = line.split()
        match command, words:
            case "/join", [name]:
                await self._join(name, history)
            case "/leave", []:
                room = self._here()
                await room.leave()
                self._speak_in(next(iter(self._chat.rooms), None))
                await self._note(f"you left {room.name}")
            case "/dm", [user, _, *_]:
                text = line.split(maxsplit=2)[2]
                await self._chat.dm(user, text, timeout_s=SEND_TIMEOUT_S)
            case "/who", []:
                await self._who(self._here())
            case "/history", [] | [_]:
                await self._history(self._here(), words)
            case _, [_, *_] if command in MODERATION:
                await self._moderate(MODERATION[command], words)
            case "/help", _:
                await self._screen.show(*HELP)
            case _:
                usage = [text.split("  ")[0] for text in HELP if text.startswith(f"{command} ")]
                await self._note(f"usage: {usage[0]}" if usage else f"{clean(command)}: see /help", RED)

    async def _moderate(self, action: ModAction, words: Sequence[str]) -> None:
        room = self._here()
        user, rest = self._whom(words)
        for_s, until = math.inf, ""
        if action in ("ban", "mute"):
            until = f", until /un{action}"
            if rest and rest[0][0].isdigit():
                seconds = seconds_of(rest[0])
                if seconds is None:
                    # It would last for ever, and the time be the reason.
                    raise ChatError(f"{rest[0]} is no time: write 90s, 10m, 2h or 7d")
                for_s, until, rest = seconds, f", for {spoken(seconds)}", rest[1:]
        await self._chat.moderate(action, user, room.name, for_s=for_s, reason=" ".join(rest))
        known = self._names.get(user)
        who = f"the identity {user}, which was not seen here" if known is None else known + _identity_of(user, known)
        await self._note(f"{action} of {clean(who)} in {clean(room.name)}: done{until}")

    def _whom(self, words: Sequence[str]) -> tuple[str, Sequence[str]]:
        """The identity of who is meant, and the words behind.

        A name that is shown may be anybody's choice, also another's identity; and names may have spaces. So what fits
        two is not guessed. ``=`` before it says that it is an identity.
        """
        if words[0].startswith("="):
            return words[0][1:], words[1:]
        fitting: dict[str, int] = {}  # by identity, how many words its name has
        for user, username in self._names.items():
            for name in (user.split(), username.split()):
                if name and [word.casefold() for word in words[: len(name)]] == [word.casefold() for word in name]:
                    fitting[user] = len(name)
        if len(fitting) > 1:
            which = " or ".join(f"={user} ({self._names[user]})" for user in sorted(fitting))
            raise ChatError(f"that may be {which}: say which")
        for user, count in fitting.items():
            return user, words[count:]
        return words[0], words[1:]

    def _here(self) -> Room:
        room = self._chat.rooms.get(self._room or "")
        if room is None:
            raise ChatError("you are in no room: /join one")
        return room

    def _speak_in(self, room: str | None) -> None:
        self._room = room
        self._draw_prompt()

    async def _join(self, name: str, history: int) -> None:
        if name in self._chat.rooms:
            self._speak_in(name)
            await self._screen.redraw()
            return
        async with self._entrance.entering(name):
            room = await self._chat.join(name, history=history)
            self._speak_in(name)
            for message in room.backlog:
                await self._tell(message)
            for member in room.members.values():
                self._saw(member.user, member.username)
            others = len(self._entrance.shows(room) - {self._chat.user})
            await self._note(f"you are in {name}" + (f", with {others} more: /who" if others else ""))

    async def _who(self, room: Room) -> None:
        # What is shown may be anybody's choice; the identity is what others are told apart by.
        names = [
            self._name(member.user, member.username) + _identity_of(member.user, member.username)
            for member in room.members.values()
        ]
        await self._note(f"in {room.name}: " + ", ".join(names))

    async def _history(self, room: Room, words: Sequence[str]) -> None:
        limit = int(words[0][:9]) if words and words[0].isascii() and words[0].isdigit() else 20
        page = await room.history(limit=max(limit, 1))
        for message in page.messages:
            await self._tell(message)
        if not page.messages:
            await self._note("nothing was said yet")

    # -- what happens -------------------------------------------------------------------------------------------------

    async def _tell(self, event: Event) -> None:
        name = self._name
        match event:
            case Message():
                self._typing.pop((event.room, event.user), None)
                self._draw_prompt()
                where = "" if event.room == self._room and len(self._chat.rooms) < 2 else f"#{clean(event.room)}"
                await self._show_message(where, event.user, event.username, event.content, event.ts_ms / 1000)
            case DirectMessage():
                await self._show_direct(event)
            case Joined():
                if event.member.user != self._chat.user:
                    await self._note(f"{name(event.member.user, event.member.username)} came into {clean(event.room)}")
            case Left():
                self._typing.pop((event.room, event.member.user), None)
                self._draw_prompt()
                why = f" ({clean(event.reason)})" if event.reason else ""
                await self._note(f"{name(event.member.user, event.member.username)} left {clean(event.room)}{why}")
            case Typing():
                await self._note_typing(event)
            case Shout():
                where = f"{clean(event.name)} in {clean(event.room)}"
                await self._show_message(where, event.user, event.username, event.content, time.time())
            case Missed():
                await self._note(_missed(event), RED)
            case Restarted():
                room = clean(event.room)
                await self._note(f"{room} began anew: the server has forgotten what was said there before", RED)
            case Kicked():
                await self._note(_put_out(event), RED)
                if event.room == self._room:
                    self._speak_in(next(iter(self._chat.rooms), None))
                    await self._screen.redraw()
            case Connected():
                again = " again" if event.resumed else ""
                await self._note(f"connected{again} as {name(event.user, event.username)}")
            case Disconnected():
                self._typing.clear()
                self._draw_prompt()
                why = f"{event.code} {event.reason}" if event.code else event.reason
                if event.code == TOKEN_EXPIRED.code:
                    why = "the token has expired: a new one is needed"
                await self._note(f"disconnected: {clean(why)}; next try in {event.retry_in_s:.1f} s", RED)
            case Draining():
                await self._note(f"the server stops in {event.in_s:.0f} s; this comes back by itself")
            case Failed():
                await self._note(f"the server says: {clean(str(event.error))}", RED)
            case Changed():
                pass

    async def _note_typing(self, event: Typing) -> None:
        if event.user == self._chat.user:
            return
        if event.is_typing:
            self._typing[event.room, event.user] = clean(event.username)
        else:
            self._typing.pop((event.room, event.user), None)
        self._draw_prompt()
        await self._screen.redraw()

    def _draw_prompt(self) -> None:
        here = [username for (room, _), username in self._typing.items() if room == self._room]
        who = "" if not here else f" ({here[0]} types)" if len(here) == 1 else f" ({len(here)} type)"
        self._screen.prompt = f"{clean(self._room or '')}{who}> "

    def _saw(self, user: str, username: str) -> None:
        self._names.pop(user, None)
        self._names[user] = username
        if len(self._names) > NAMES_KEPT:
            del self._names[next(iter(self._names))]

    def _name(self, user: str, username: str) -> str:
        self._saw(user, username)
        own = (BOLD,) if user == self._chat.user else ()
        return self._screen.paint(clean(username), *own, colour_of(user))

    async def _show_message(self, where: str, user: str, username: str, content: str, when_s: float) -> None:
        clock = self._screen.paint(clock_of(when_s), DIM)
        place = f" {self._screen.paint(where, DIM)}" if where else ""
        await self._screen.show(f"{clock}{place} {self._name(user, username)}: {clean(content)}")

    async def _show_direct(self, event: DirectMessage) -> None:
        clock = self._screen.paint(clock_of(event.ts_ms / 1000), DIM)
        if event.user != self._chat.user:
            who = f"{self._name(event.user, event.username)} to you"
        else:
            who = f"you to {'yourself' if event.to == self._chat.user else clean(event.to)}"
        await self._screen.show(f"{clock} {who}: {clean(event.content)}")

    async def _note(self, text: str, colour: int = DIM) -> None:
        await self._screen.show(self._screen.paint("*", colour) + " " + text)


def _identity_of(user: str, username: str) -> str:
    return "" if user == username.casefold() or user == username else f" ({clean(user)})"


def _put_out(event: Kicked) -> str:
    is_ban = event.code == BANNED.code
    what = "you are banned from" if is_ban else "you were put out of"
    until = "" if event.until_s is None else f" until {date_of(event.until_s)}"
    why = "" if event.reason in (BANNED.name, KICKED.name) else f": {clean(event.reason)}"
    return f"{what} {clean(event.room)}{until}{why}"


def _missed(event: Missed) -> str:
    count = event.last - event.first + 1
    where = "your direct messages" if event.room.startswith("@") else clean(event.room)
    if event.reason == "lost":
        # Offsets that were set aside; whether all of them had been used is not known.
        return f"up to {count} messages of {where} may have been lost"
    return f"{count} messages of {where} are missing ({clean(event.reason)})"


_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)
