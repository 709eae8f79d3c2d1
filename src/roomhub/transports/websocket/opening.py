"""The client's side of opening one connection: a request to send, then bytes in, until it is open or refused.

    opening = Opening(address, mask_key)
    send(opening.request)
    match opening.feed(data):     # None: go on
        case Opened(rest): ...    # frames follow, the first of them may be in `rest`
        case Declined(): ...      # no WebSocket; close

Nothing that a server sends raises, and no more of it is kept than a head and the start of a body.
"""

import json
import re
from base64 import b64encode
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import quote, quote_plus, urlsplit

import h11

from roomhub.transports.websocket.negotiate import accept_token

__all__ = ["Address", "Declined", "Opened", "Opening", "parse_url"]

HEAD_BYTES: Final = 16 * 1024
BODY_BYTES: Final = 4 * 1024
RETRY_AFTER_MOST_S: Final = 3_600.0
"""No server puts a client off for longer."""
_TARGET_SAFE: Final = "/?&=%:@!$'()*+,;~-._"
_HOST: Final = re.compile(r"[A-Za-z0-9._-]{1,255}|[0-9A-Fa-f:.]{2,45}")


class Address(NamedTuple):
    """Where a chat is.

    Attributes:
        host: a name or an address, as a socket takes it.
        port: a TCP port.
        is_secure: whether TLS is spoken there.
        target: the path and query of the request.
    """

    host: str
    port: int
    is_secure: bool
    target: str

    @property
    def authority(self) -> str:
        """The request's Host: with the port where it is not the scheme's own (RFC 6455 section 4.1)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"


def parse_url(url: str, username: str | None = None) -> Address:
    """Read the URL of a chat; an empty path is ``/ws``, and ``username`` is added to the query.

    Raises:
        ValueError: it is no ``ws://`` or ``wss://`` URL with a host, or names two users; the message says which.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss"):
        raise ValueError(f"a chat's URL begins with ws:// or wss://, not {parts.scheme or 'nothing'}:")
    if parts.username is not None or parts.fragment:
        raise ValueError("a chat's URL has no user:password@ and no #fragment: give a token instead")
    host = parts.hostname or ""
    if not _HOST.fullmatch(host):
        raise ValueError("a chat's URL names a host, in ASCII: ws://chat.example/ws")
    is_secure = parts.scheme == "wss"
    port = parts.port or (443 if is_secure else 80)  # .port raises a ValueError of its own
    path = parts.path if parts.path not in ("", "/") else "/ws"
    query = parts.query
    if username is not None:
        if re.search(r"(?:^|&)username=", query):
            raise ValueError("the username is in the URL already: name it once")
        query = f"{query}&" * bool(query) + f"username={quote_plus(username)}"
    target = quote(path + f"?{query}" * bool(query), safe=_TARGET_SAFE)
    return Address(host, port, is_secure, target)


@dataclass(slots=True)
class Opened:
    """The connection is a WebSocket.

    `subprotocol`: what the server chose, None for none. `rest`: bytes of frames that came with its answer.
    """

    subprotocol: str | None
    rest: bytes


@dataclass(slots=True)
class Declined:
    """It is none, and will not become one.

    `status`: HTTP's, 0 where no HTTP was spoken. `error`: why, in the server's words where it gave some.
    `retry_after_s`: what the server asked to wait, None where it did not.
    """

    status: int
    error: str
    retry_after_s: float | None = None


class Opening:
    """One handshake (RFC 6455 section 4.1); `key` is 16 random bytes, `subprotocol` the only one that is offered."""

    def __init__(self, address: Address, subprotocol: str, key: bytes) -> None:
        self._key = b64encode(key).decode()
        self._subprotocol = subprotocol
        self._body = bytearray()
        self._declined: Declined | None = None
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)
        headers = [
            ("Host", address.authority),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", self._key),
            ("Sec-WebSocket-Protocol", subprotocol),
        ]
        request = self._connection.send(h11.Request(method="GET", target=address.target, headers=headers))
        assert request is not None
        self.request: bytes = request + (self._connection.send(h11.EndOfMessage()) or b"")

    def feed(self, data: bytes) -> Opened | Declined | None:
        """Take bytes, b"" for the end of the stream."""
        try:
            self._connection.receive_data(data)
            return self._read()
        except h11.RemoteProtocolError:
            return self._declined or Declined(0, "what answers is not HTTP/1.1")

    def _read(self) -> Opened | Declined | None:
        while True:
            event = self._connection.next_event()
            if isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    return self._opened(event)
            elif isinstance(event, h11.Response):
                self._declined = _declined(event)
            elif isinstance(event, h11.Data) and self._declined is not None:
                self._body += event.data
                if len(self._body) > BODY_BYTES:
                    return self._declined
            elif event is h11.NEED_DATA:
                return None
            else:  # the end of the response, or of the connection
                return self._finished()

    def _finished(self) -> Declined:
        if self._declined is None:
            return Declined(0, "the connection ended before the handshake did")
        try:
            error = json.loads(self._body)["error"]
        except (ValueError, TypeError, KeyError, RecursionError):
            error = None
        if isinstance(error, str) and error.isprintable():
            self._declined.error = error
        return self._declined

    def _opened(self, response: h11.InformationalResponse) -> Opened | Declined:
        headers = {name: value.decode("latin-1").strip() for name, value in response.headers}
        connection = [token.strip().lower() for token in headers.get(b"connection", "").split(",")]
        chosen = headers.get(b"sec-websocket-protocol")
        if headers.get(b"upgrade", "").lower() != "websocket" or "upgrade" not in connection:
            return Declined(101, "the server switched to another protocol than WebSocket")
        if headers.get(b"sec-websocket-accept") != accept_token(self._key):
            return Declined(101, "the server answered another handshake than this one")
        if b"sec-websocket-extensions" in headers or chosen not in (None, self._subprotocol):
            return Declined(101, "the server chose what was not offered")
        return Opened(chosen, self._connection.trailing_data[0])


def _declined(response: h11.Response) -> Declined:
    retry_after_s = None
    for name, value in response.headers:
        if name == b"retry-after" and value.isdigit():  # a date is for caches
            retry_after_s = min(float(value), RETRY_AFTER_MOST_S)
    return Declined(response.status_code, f"HTTP {response.status_code}", retry_after_s)
