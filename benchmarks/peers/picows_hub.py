"""A chat hub on picows, with uvloop."""

import json
from collections import defaultdict
from urllib.parse import parse_qs, urlsplit

import uvloop
from picows import (
    WSFrame,
    WSListener,
    WSMsgType,
    WSTransport,
    WSUpgradeRequest,
    ws_create_server,
)

rooms: defaultdict[str, set[WSTransport]] = defaultdict(set)


class Member(WSListener):  # type: ignore[misc]
    def __init__(self, request: WSUpgradeRequest) -> None:
        target = urlsplit(request.path.decode())
        self.name = target.path.rpartition("/")[2]
        self.room = rooms[self.name]
        self.username = parse_qs(target.query)["username"][0]

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.room.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.room.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            text = frame.get_payload_as_utf8_text()
            message = {"type": "chat", "content": text, "room": self.name, "username": self.username}
            data = json.dumps(message, separators=(",", ":")).encode()
            for member in self.room:
                member.send(WSMsgType.TEXT, data)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


async def main() -> None:
    server = await ws_create_server(Member, "127.0.0.1", 0, backlog=1024)
    print(f"listening on ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


uvloop.run(main())
