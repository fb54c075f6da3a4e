"""Messages that name options of the command line, in the words of a caller from Python."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from delrec_lite.console import Console
from delrec_lite.errors import DelrecError


def _option(pattern: str) -> re.Pattern[str]:
    """An option of the command line that begins a word: no part of a path."""
    return re.compile(rf"(?<![\w/.-])--{pattern}")


_OPTIONS = (
    (_option(r"on-bad-row drop"), 'on_bad_row="drop"'),
    (_option(r"keep-na"), "keep_na=True"),
    (_option(r"no-repeats"), "repeats=False"),
    (_option(r"repeats"), "repeats=True"),
    (_option(r"runs folder"), "runs"),
    (_option(r"columns ([\w]+)=([\w]+)"), r'columns={"\1": "\2"}'),
    (_option(r"(\w+)-(\w+)-(\w+)"), r"\1_\2_\3"),
    (_option(r"(\w+)-(\w+)"), r"\1_\2"),
    (_option(r"(\w+)"), r"\1"),
    (re.compile(r"on_bad_row=drop"), 'on_bad_row="drop"'),
    (re.compile(r"that it is the right file"), "that it is the right frame"),
    (re.compile(r"the item list\b"), "items"),
    (re.compile(r"that both files use"), "that both frames use"),
    (re.compile(r"the order of the file\b"), "the order of the frame"),
    (re.compile(r"that of the file\b"), "that of the frame"),
)
# A command stays as it is typed.
_COMMAND = re.compile(r"(`delrec-lite [^`]*`)")


def in_python(text: str) -> str:
    """A message with arguments in place of options: ``--on-bad-row drop`` is ``on_bad_row="drop"``."""
    parts = _COMMAND.split(text)
    for n in range(0, len(parts), 2):  # between them are commands
        for option, argument in _OPTIONS:
            parts[n] = option.sub(argument, parts[n])
    return "".join(parts)


@contextmanager
def python_words() -> Iterator[None]:
    """Errors inside it speak of arguments."""
    try:
        yield
    except DelrecError as error:
        error.message, error.hint = in_python(error.message), in_python(error.hint)
        error.args = (error.message,)
        raise


class PythonConsole(Console):
    """The console of a call from Python: progress and messages on stderr, or in a notebook's output.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        super().__init__("quiet" if quiet else "human")

    def say(self, text: str) -> None:
        """Show a message in the words of Python."""
        super().say(in_python(text))
