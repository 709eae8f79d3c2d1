"""WebSocket clients over anyio."""

from roomhub.transports.websocket.handshake import Page as Page
from roomhub.transports.websocket.handshake import Refusal as Refusal
from roomhub.transports.websocket.handshake import Request as Request
from roomhub.transports.websocket.handshake import Route as Route
from roomhub.transports.websocket.server import Server as Server
from roomhub.transports.websocket.server import serve as serve
