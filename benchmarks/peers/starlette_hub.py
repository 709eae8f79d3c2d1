"""A chat hub on Starlette, served by uvicorn with uvloop."""

import json
from collections import defaultdict

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn_server import serve

rooms: defaultdict[str, set[WebSocket]] = defaultdict(set)


async def handle(websocket: WebSocket) -> None:
    name = websocket.path_params["room"]
    username = websocket.query_params["username"]
    room = rooms[name]
    await websocket.accept()
    room.add(websocket)
    try:
        async for text in websocket.iter_text():
            data = json.dumps(
                {"type": "chat", "content": text, "room": name, "username": username}, separators=(",", ":")
            )
            # A copy: others may leave while one is awaited.
            for member in tuple(room):
                await member.send_text(data)
    finally:
        room.discard(websocket)


serve(Starlette(routes=[WebSocketRoute("/ws/{room}", handle)]))
