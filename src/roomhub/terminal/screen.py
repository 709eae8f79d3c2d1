"""A terminal: lines that scroll up above the one that is being typed, and keys that come as they are pressed."""

import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio

from roomhub.terminal.editor import Editor
from roomhub.terminal.files import write

__all__ = ["Screen", "as_it_is", "keys_at_once"]


class Screen:
    """What is shown: lines that scroll up, and the one that is being typed below them.

    Args:
        output: a descriptor.
        editor: of the line; None where nothing is typed, as with a pipe.
        has_colours: whether escape sequences for colours are understood, and wanted.
    """

    def __init__(self, output: int, editor: Editor | None, *, has_colours: bool) -> None:
        self.prompt: str = ""
        self._output = output
        self._editor = editor
        self._has_colours = has_colours
        self._lock = anyio.Lock()

    def paint(self, text: str, *codes: int) -> str:
        """The text in a colour, where there are any; ``codes`` are those of ECMA-48 section 8.3.117."""
        if not self._has_colours:
            return text
        return f"\x1b[{';'.join(map(str, codes))}m{text}\x1b[0m"

    async def show(self, *lines: str) -> None:
        """Put lines above the one that is being typed, which stays as it is."""
        async with self._lock:
            text = "".join(f"{line}\n" for line in lines)
            if self._editor is not None:
                text = f"\r\x1b[K{text}{self._typed()}"
            await write(self._output, text.encode(errors="replace"))

    async def redraw(self) -> None:
        """Show the line that is being typed as it is now."""
        if self._editor is not None:
            async with self._lock:
                await write(self._output, f"\r\x1b[K{self._typed()}".encode(errors="replace"))

    async def wipe(self) -> None:
        """Take that line away."""
        if self._editor is not None:
            async with self._lock:
                await write(self._output, b"\r\x1b[K")

    def _typed(self) -> str:
        assert self._editor is not None
        try:
            columns = os.get_terminal_size(self._output).columns or 80
        except OSError:
            columns = 80
        row, column = self._editor.picture(self.prompt, max(columns, 20))
        return f"{row}\r" + (f"\x1b[{column}C" if column else "")


@contextmanager
def keys_at_once(descriptor: int) -> Iterator[None]:
    """Each key comes as it is pressed, Ctrl-C too, and is not shown by the terminal."""
    before = termios.tcgetattr(descriptor)
    mode = termios.tcgetattr(descriptor)
    mode[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
    mode[6][termios.VMIN] = 1
    mode[6][termios.VTIME] = 0
    termios.tcsetattr(descriptor, termios.TCSADRAIN, mode)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


@contextmanager
def as_it_is() -> Iterator[None]:
    """A descriptor that is no terminal."""
    yield
