"""Messages that name options of the command line, in the words of a caller from Python."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from delrec_lite.console import Console
from delrec_lite.errors import DelrecError

_OPTIONS = (
    (re.compile(r"--on-bad-row drop"), 'on_bad_row="drop"'),
    (re.compile(r"--keep-na"), "keep_na=True"),
    (re.compile(r"--no-repeats"), "repeats=False"),
    (re.compile(r"--repeats"), "repeats=True"),
    (re.compile(r"--runs folder"), "runs"),
    (re.compile(r"--columns ([\w]+)=([\w]+)"), r'columns={"\1": "\2"}'),
    (re.compile(r"--(\w+)-(\w+)-(\w+)"), r"\1_\2_\3"),
    (re.compile(r"--(\w+)-(\w+)"), r"\1_\2"),
    (re.compile(r"--(\w+)"), r"\1"),
    (re.compile(r"that it is the right file"), "that it is the right frame"),
    (re.compile(r"the item list\b"), "items"),
    (re.compile(r"that both files use"), "that both frames use"),
    (re.compile(r"the order of the file\b"), "the order of the frame"),
    (re.compile(r"that of the file\b"), "that of the frame"),
)


def in_python(text: str) -> str:
    """A message with arguments in place of options: ``--on-bad-row drop`` is ``on_bad_row="drop"``."""
    for option, argument in _OPTIONS:
        text = option.sub(argument, text)
    return text


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
