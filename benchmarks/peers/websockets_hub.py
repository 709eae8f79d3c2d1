"""A chat hub on `websockets`' own `broadcast`, with uvloop."""

import json
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

rooms: defaultdict[str, set[ServerConnection]] = defaultdict(set)


async def handle(connection: ServerConnection) -> None:
    assert connection.request is not None
    target = urlsplit(connection.request.path)
    name = target.path.rpartition("/")[2]
    username = parse_qs(target.query)["username"][0]
    room = rooms[name]
    room.add(connection)
    try:
        async for text in connection:
            broadcast(
                room,
                json.dumps(
                    {"type": "chat", "content": text, "room": name, "username": username}, separators=(",", ":")
                ),
            )
    finally:
        room.discard(connection)


async def main() -> None:
    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None, backlog=1024) as server:
        print(f"listening on ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}", flush=True)
        await server.serve_forever()


uvloop.run(main())
