"""How the peers that are ASGI applications are served: uvicorn with uvloop, and nothing that would cost them time."""

import socket
from typing import Any

import uvicorn


def serve(app: Any) -> None:
    """Listen on a free port, say which, and serve until SIGTERM."""
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
