"""The line that is being typed, without a terminal: keys in, finished lines and a picture of the rest out."""

import re
from codecs import getincrementaldecoder
from enum import Enum
from typing import Final, TypeAlias

from roomhub.terminal.text import clean, width_of

__all__ = ["END", "INTERRUPT", "Editor", "Input"]

HISTORY_LINES: Final = 100
LINE_CHARACTERS: Final = 20_000


class _Sign(Enum):
    END = "end"  # Ctrl-D on an empty line
    INTERRUPT = "interrupt"  # Ctrl-C


END: Final = _Sign.END
INTERRUPT: Final = _Sign.INTERRUPT
Input: TypeAlias = str | _Sign

# One key: an escape sequence (ECMA-48 section 5.4), or the start of one that is not complete, or a character.
_KEY: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.|\[[0-?]*[ -/]*$|O?$|.)|.", re.DOTALL)
_NAMES: Final = {
    "\x1b[D": "left", "\x1bOD": "left", "\x02": "left",
    "\x1b[C": "right", "\x1bOC": "right", "\x06": "right",
    "\x1b[A": "up", "\x1bOA": "up", "\x10": "up",
    "\x1b[B": "down", "\x1bOB": "down", "\x0e": "down",
    "\x1b[H": "home", "\x1bOH": "home", "\x1b[1~": "home", "\x01": "home",
    "\x1b[F": "end", "\x1bOF": "end", "\x1b[4~": "end", "\x05": "end",
    "\x7f": "backspace", "\x08": "backspace", "\x1b[3~": "delete",
    "\x15": "clear", "\x0b": "cut", "\x17": "word", "\r": "enter", "\n": "enter", "\x03": "interrupt", "\x04": "eof",
}  # fmt: skip


class Editor:
    """One line with a cursor, and the lines before it.

    Attributes:
        text: the line.
        cursor: where the next character goes, an index into it.
    """

    def __init__(self) -> None:
        self.text: str = ""
        self.cursor: int = 0
        self._decoder = getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""  # of an escape sequence
        self._lines: list[str] = []
        self._at = 0  # in the lines; behind them is the one at hand
        self._draft = ""

    def feed(self, data: bytes) -> list[Input]:
        """Take what the terminal sent; gives the lines that it finished, and signs."""
        keys = self._rest + self._decoder.decode(data)
        self._rest = ""
        found: list[Input] = []
        for match in _KEY.finditer(keys):
            key = match[0]
            if key.startswith("\x1b") and match.end() == len(keys) and (len(key) < 3 or not "@" <= key[-1] <= "~"):
                self._rest = key if len(key) < 32 else ""
            elif (name := _NAMES.get(key)) is not None:
                found += self._press(name)
            elif key.isprintable() and len(self.text) < LINE_CHARACTERS:
                self.text = self.text[: self.cursor] + key + self.text[self.cursor :]
                self.cursor += 1
        return found

    def _press(self, name: str) -> list[Input]:
        text, cursor = self.text, self.cursor
        match name:
            case "enter":
                return [self._enter()]
            case "interrupt":
                return [INTERRUPT]
            case "eof" if not text:
                return [END]
            case "left":
                self.cursor = max(cursor - 1, 0)
            case "right":
                self.cursor = min(cursor + 1, len(text))
            case "home":
                self.cursor = 0
            case "end":
                self.cursor = len(text)
            case "backspace" if cursor:
                self._set(text[: cursor - 1] + text[cursor:], cursor - 1)
            case "delete" | "eof":
                self._set(text[:cursor] + text[cursor + 1 :], cursor)
            case "clear":
                self._set(text[cursor:], 0)
            case "cut":
                self._set(text[:cursor], cursor)
            case "word":
                start = len(text[:cursor].rstrip().rpartition(" ")[0])
                start += start > 0
                self._set(text[:start] + text[cursor:], start)
            case "up" if self._at > 0:
                self._show(self._at - 1)
            case "down" if self._at < len(self._lines):
                self._show(self._at + 1)
        return []

    def _enter(self) -> str:
        line = self.text
        if line.strip() and self._lines[-1:] != [line]:
            self._lines = [*self._lines, line][-HISTORY_LINES:]
        self._at = len(self._lines)
        self._set("", 0)
        return line

    def _show(self, at: int) -> None:
        if self._at == len(self._lines):
            self._draft = self.text
        self._at = at
        line = self._draft if at == len(self._lines) else self._lines[at]
        self._set(line, len(line))

    def _set(self, text: str, cursor: int) -> None:
        self.text, self.cursor = text, cursor

    def picture(self, prompt: str, columns: int) -> tuple[str, int]:
        """The row to show, at most ``columns - 1`` wide, and the cursor's column; a long line is seen in part."""
        prompt = prompt if len(prompt) < columns // 2 else prompt[: columns // 2 - 1] + " "
        room = max(columns - 1 - sum(map(width_of, prompt)), 1)
        start, width = self.cursor, 0
        while start > 0 and width + width_of(self.text[start - 1]) < room:
            start -= 1
            width += width_of(self.text[start])
        column = columns - 1 - room + width
        end = self.cursor
        while end < len(self.text) and width + width_of(self.text[end]) <= room:
            width += width_of(self.text[end])
            end += 1
        return prompt + clean(self.text[start:end]), column
