"""Standard input and output of a program on an event loop: nothing blocks it, whatever they are.

The descriptors are left in blocking mode, for they may be shared with the shell: each call waits until it can be done.
"""

import errno
import os
import select
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

__all__ = ["read", "write"]

READ_BYTES: Final = 4096
PIPE_BYTES: Final = getattr(select, "PIPE_BUF", 512)
"""So much a pipe that is writable takes at once."""


async def read(descriptor: int) -> bytes:
    """What there is; b"" at the end, and where the input is closed."""
    try:
        await anyio.wait_readable(descriptor)
    except PermissionError:  # a file: epoll does not wait for those, and they do not block
        await checkpoint()
    except OSError:
        return b""
    try:
        return os.read(descriptor, READ_BYTES)
    except OSError:  # EIO: the terminal was closed
        return b""


async def write(descriptor: int, data: bytes) -> None:
    """Write all of it. Raises BrokenPipeError where nobody reads any more, a terminal that is gone included."""
    view = memoryview(data)
    while view:
        try:
            await anyio.wait_writable(descriptor)
        except PermissionError:
            await checkpoint()
        try:
            written = os.write(descriptor, view[:PIPE_BYTES])
        except OSError as error:
            if error.errno == errno.EIO:
                raise BrokenPipeError(error.errno, error.strerror) from None
            raise
        view = view[written:]
