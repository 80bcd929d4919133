"""What reaches the screen: names of others with their control characters shown, and errors of the stream as one line.

Names of images, classes and files are written by others. Raw, they could clear the screen, change the title of the
window, or look like other lines than they are. Files keep the true names; only what is shown is escaped.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from steadyclip.core.errors import SteadyClipError

# Controls but tab and line end; marks that turn the direction of writing; bytes of a file name that are no UTF-8.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    r"""``text`` with control characters and the like as ``\x1b`` or ``\u202e``; tabs and line ends stay."""
    return _HIDDEN.sub(_spelled, text)


def one_line(text: str) -> str:
    r"""As ``visible``, with line ends as ``\n`` too."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Screen:
    """A text stream that shows what it is given as ``visible``, in the characters that ``stream`` has.

    Attributes:
        plain: the same without escaping, for programs that write escape sequences of their own, such as progress bars.
    """

    def __init__(self, stream: TextIO, name: str = "", *, escaping: bool = True) -> None:
        """``name`` is what messages call the stream; without one, nobody is told when it cannot be written."""
        self._stream, self._name, self._escaping = stream, name, escaping
        self.plain: Screen = Screen(stream, name, escaping=False) if escaping else self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Raises SteadyClipError where the stream cannot be written, such as on a full disk."""
        shown = visible(text) if self._escaping else text
        encoding = self._stream.encoding or "utf-8"
        with self._told():
            self._stream.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Raises as ``write``."""
        with self._told():
            self._stream.flush()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with contextlib.suppress(OSError, ValueError):  # what is left would fail once more when Python ends
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if isinstance(error, BrokenPipeError) and self._name:  # the reader went away, as in `| head`
                raise
            if self._name:
                raise SteadyClipError(f"cannot write to {self._name}: {error.strerror or error}.") from None


@contextlib.contextmanager
def screens() -> Iterator[None]:
    """Standard output and error are ``Screen`` inside; one that is closed swallows what is written.

    Raises:
        SteadyClipError: standard output cannot take what is written.
        BrokenPipeError: nobody reads it any more.
    """
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        streams = [s if s is not None else stack.enter_context(open(os.devnull, "w")) for s in before]
        out, err = Screen(streams[0], "standard output"), Screen(streams[1])
        sys.stdout, sys.stderr = out, err  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
            out.flush()
        finally:
            sys.stdout, sys.stderr = before


def console(*, stderr: bool = False, **options: Any) -> Any:
    """A ``rich.console.Console`` that shows texts as ``visible``, and styles and moves as it does."""
    from rich.console import Console
    from rich.text import Text

    class _Visible(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(visible(text), **options)

    stream = sys.stderr if stderr else sys.stdout
    return _Visible(file=getattr(stream, "plain", stream), stderr=stderr, **options)
