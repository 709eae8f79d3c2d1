"""``roomhub chat --json``: events as JSON on standard output, client messages of the protocol on standard input.

Each line is one object. What a line asks for is answered by an ``ok``, or by an ``error``, with the line's number and
the ``id`` that it had, if any; a line is taken when the one before it was answered. The names are the protocol's.
"""

import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from math import inf
from typing import Any, Final, assert_never

import anyio

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
    Member,
    Message,
    Missed,
    RequestRefused,
    Restarted,
    Room,
    Sent,
    Shout,
    Typing,
)
from roomhub.core import requests
from roomhub.core.errors import ERRORS
from roomhub.core.json_codec import JsonCodec
from roomhub.core.limits import Limits
from roomhub.terminal.entrance import Entrance
from roomhub.terminal.files import read, write

__all__ = ["event_object", "run"]

LINE_BYTES: Final = 1024 * 1024


async def run(chat: Chat, rooms: Sequence[str], history: int, stdin: int, stdout: int) -> None:
    """Join these rooms, then pass events out and requests in.

    Until the input ends and all of it is answered, or nobody reads the output.

    Raises:
        StayAway: the server wants this client no more.
        RequestRefused: one of the rooms cannot be joined.
    """
    async with anyio.create_task_group() as tasks:
        lock = anyio.Lock()
        is_terminal = os.isatty(stdout)  # which would obey what is not escaped

        async def put(item: Mapping[str, Any]) -> None:
            text = json.dumps(item, ensure_ascii=is_terminal, separators=(",", ":"))
            async with lock:
                await write(stdout, text.encode() + b"\n")

        async def tell(event: Event) -> None:
            await put(event_object(event))

        entrance = Entrance(tell)

        async def listen() -> None:
            async for event in chat:
                await entrance.pass_on(event)

        async def obey() -> None:
            for room in rooms:
                async with entrance.entering(room):
                    ok = await _do(chat, requests.Join(room, history=history))
                    entrance.shows(chat.rooms[room])
                    await put({"type": "ok", **ok})
            await _obey(chat, stdin, put, entrance)
            tasks.cancel_scope.cancel()

        tasks.start_soon(listen)
        tasks.start_soon(obey)


async def _obey(
    chat: Chat, stdin: int, put: Callable[[Mapping[str, Any]], Awaitable[None]], entrance: Entrance
) -> None:
    codec = JsonCodec(Limits())
    buffer, number, is_over = b"", 0, False
    while not is_over:
        data = await read(stdin)
        is_over = not data
        buffer += data or b"\n" * bool(buffer)
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            number += 1
            if line.strip():
                request, head = _decode(codec, line.decode(errors="replace"), number)
                if isinstance(request, requests.Join):
                    async with entrance.entering(request.room):
                        answer = await _answer(chat, request, head)
                        if (room := chat.rooms.get(request.room)) is not None:
                            entrance.shows(room)
                        await put({**answer, "line": number})
                else:
                    await put({**await _answer(chat, request, head), "line": number})
        if len(buffer) > LINE_BYTES:
            await put({**_error("bad_request", f"a line is over {LINE_BYTES} bytes"), "line": number + 1})
            return


def _decode(codec: JsonCodec, text: str, number: int) -> tuple[requests.Request, dict[str, Any]]:
    """What a line asks for, and how its answer begins: with the line's id, if it has one."""
    request = codec.decode(text)
    if isinstance(request, requests.Fault) and request.field == "id" and request.id is None:
        data = json.loads(text)
        if "id" not in data:
            # On the wire it would need one; here the line's number tells what is answered.
            return codec.decode(json.dumps({**data, "id": number})), {}
    return request, {} if request.id is None else {"id": request.id}


async def _answer(chat: Chat, request: requests.Request, head: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"type": "ok", **head, **await _do(chat, request)}
    except RequestRefused as error:
        return {**_refusal(error), **head}
    except ChatError as error:
        return {**_error(type(error).__name__, str(error)), **head}


async def _do(chat: Chat, request: requests.Request) -> dict[str, Any]:
    """Do what a line asks for; gives the fields of its ``ok``."""
    match request:
        case requests.Fault():
            error = ERRORS[request.error]
            field = request.field or None
            raise RequestRefused(error.name, error.code, request.message, field=field, retry=error.retry)
        case requests.Hello():
            raise RequestRefused("bad_request", 400, "hello is said by roomhub chat itself", field="type")
        case requests.Join():
            room = await chat.join(request.room, history=request.history, since=request.since, meta=request.meta)
            messages = [_said(message) for message in room.backlog]
            place = {"room": room.name, **room.position._asdict()}
            return {**place, "users": _users(room), "messages": messages}
        case requests.Chat():
            return _sent(await _room(chat, request.room or "").send(request.content, key=request.key))
        case requests.DirectMessage():
            return _sent(await chat.dm(request.to, request.content, key=request.key))
        case requests.Leave():
            await _room(chat, request.room).leave()
        case requests.Shout():
            await _room(chat, request.room).shout(request.name, request.content)
        case requests.Typing():
            await _room(chat, request.room).typing(request.state == "start")
        case requests.Presence():
            await _room(chat, request.room).set_meta(request.meta)
        case requests.Members():
            return {"room": request.room, "users": _users(_room(chat, request.room))}
        case requests.History():
            limit = request.limit or 50
            if request.room == f"@{chat.user}":
                direct = await chat.mailbox(before=request.before, limit=limit)
                return {
                    "room": request.room,
                    "messages": [_said(item) for item in direct.messages],
                    "more": direct.more,
                }
            page = await _room(chat, request.room).history(before=request.before, since=request.since, limit=limit)
            return {"room": request.room, "messages": [_said(item) for item in page.messages], "more": page.more}
        case requests.Moderate():
            for_s = inf if request.for_ms is None else request.for_ms / 1000
            await chat.moderate(request.action, request.user, request.room, for_s=for_s, reason=request.reason)
        case requests.Ping():
            pass
        case _:
            raise RequestRefused("unknown_type", 405, "roomhub chat does not pass this on", field="type")
    return {}


def _room(chat: Chat, name: str) -> Room:
    room = chat.rooms.get(name)
    if room is None:
        raise RequestRefused("unknown_room", 404, "you are not in this room", field="room", room=name)
    return room


def event_object(event: Event) -> dict[str, Any]:
    """An event in the protocol's words, as far as it has some."""
    match event:
        case Message():
            return {"type": "chat", **_said(event)}
        case DirectMessage():
            return {"type": "dm", **_said(event)}
        case Joined():
            return {"type": "user_joined", "room": event.room, **_user(event.member)}
        case Left():
            why = {"reason": event.reason} if event.reason else {}
            return {"type": "user_left", "room": event.room, **_user(event.member), **why}
        case Changed():
            return {"type": "presence", "room": event.room, "updated": [_user(event.member)]}
        case Typing():
            state = "start" if event.is_typing else "stop"
            return {
                "type": "typing",
                "room": event.room,
                "user": event.user,
                "username": event.username,
                "state": state,
            }
        case Shout():
            return {"type": "event", **asdict(event)}
        case Missed():
            where = {"room": event.room, "epoch": event.epoch, "from": event.first, "to": event.last}
            return {"type": "gap", **where, "reason": event.reason}
        case Restarted():
            return {"type": "restarted", **asdict(event)}
        case Kicked():
            until = {} if event.until_s is None else {"until_ms": round(event.until_s * 1000)}
            return {"type": "kicked", "room": event.room, "code": event.code, "reason": event.reason, **until}
        case Connected():
            return {"type": "connected", **asdict(event)}
        case Disconnected():
            retry_in_ms = round(event.retry_in_s * 1000)
            return {"type": "disconnected", "code": event.code, "reason": event.reason, "retry_in_ms": retry_in_ms}
        case Draining():
            return {"type": "draining", "in_ms": round(event.in_s * 1000)}
        case Failed():
            return _refusal(event.error)
    assert_never(event)


def _said(message: Message | DirectMessage) -> dict[str, Any]:
    fields = asdict(message)
    when = fields.pop("ts_ms")
    return {**fields, "ts": when}


def _sent(sent: Sent) -> dict[str, Any]:
    place = {"room": sent.room, "epoch": sent.epoch, "offset": sent.offset, "ts": sent.ts_ms}
    return {**place, "dup": True} if sent.is_repeat else place


def _users(room: Room) -> list[dict[str, Any]]:
    return [_user(member) for member in room.members.values()]


def _user(member: Member) -> dict[str, Any]:
    fields = {"user": member.user, "username": member.username, "devices": member.devices}
    return {**fields, "meta": member.meta} if member.meta else fields


def _refusal(error: RequestRefused) -> dict[str, Any]:
    fields: dict[str, Any] = {"type": "error", "code": error.code, "name": error.name, "message": error.message}
    fields["retry"] = error.retry
    if error.field is not None:
        fields["field"] = error.field
    if error.retry_after_s is not None:
        fields["retry_after_ms"] = round(error.retry_after_s * 1000)
    return fields if error.room is None else {**fields, "room": error.room}


def _error(name: str, message: str) -> dict[str, Any]:
    return {"type": "error", "name": name, "message": message}
