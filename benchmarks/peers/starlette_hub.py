"""A chat hub on Starlette, served by uvicorn with uvloop."""

import json
import socket
from collections import defaultdict

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

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


def main() -> None:
    app = Starlette(routes=[WebSocketRoute("/ws/{room}", handle)])
    config = uvicorn.Config(
        app,
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        lifespan="off",
        log_level="error",
        access_log=False,
    )
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(f"listening on ws://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        uvicorn.Server(config).run(sockets=[listener])


main()
