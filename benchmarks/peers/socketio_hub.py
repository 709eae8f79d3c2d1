"""A chat hub on python-socketio, served by uvicorn with uvloop. Its clients speak Engine.IO 4 over WebSocket alone."""

from typing import Any
from urllib.parse import parse_qs

import socketio
from uvicorn_server import serve

# async_handlers: an event's handler runs at once, not as a task of its own, which also keeps a client's order.
hub = socketio.AsyncServer(async_mode="asgi", transports=["websocket"], async_handlers=False, http_compression=False)
members: dict[str, tuple[str, str]] = {}
"""By session: its room and username."""


@hub.event  # type: ignore[untyped-decorator]
async def connect(session: str, environ: dict[str, Any]) -> None:
    query = parse_qs(environ["QUERY_STRING"])
    room = query["room"][0]
    members[session] = room, query["username"][0]
    await hub.enter_room(session, room)


@hub.event  # type: ignore[untyped-decorator]
async def disconnect(session: str) -> None:
    members.pop(session, None)


@hub.event  # type: ignore[untyped-decorator]
async def chat(session: str, text: str) -> None:
    room, username = members[session]
    message = {"type": "chat", "content": text, "room": room, "username": username}
    await hub.emit("chat", message, to=room)


serve(socketio.ASGIApp(hub))
