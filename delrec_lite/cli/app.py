"""The command ``delrec-lite``: registers the verbs and turns errors into one line and an exit code."""

import errno
import importlib
import os
import re
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from delrec_lite.cache_folder import ensure_home
from delrec_lite.cli.usage import is_usage_error, usage_error
from delrec_lite.environment import drop_unusable_sizes, flag
from delrec_lite.errors import DelrecError, MissingPackageError, StorageError, UsageError, install_line
from delrec_lite.server.signals import restore_interrupt
from delrec_lite.spinning import set_for_process
from delrec_lite.version import __version__

VERBS = (
    "quickstart",
    "pull",
    "plan",
    "prepare",
    "init",
    "train",
    "tune",
    "export",
    "update",
    "eval",
    "report",
    "ablate",
    "recommend",
    "score",
    "explain",
    "serve",
    "feedback",
    "verify",
    "push",
    "catalog",
    "bench",
    "reproduce",
    "doctor",
)

INTERRUPTED = 130

app = typer.Typer(
    name="delrec-lite",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Distil a sequential recommender into an LLM, train it on a small machine, serve it on a CPU.",
    epilog="Start here: `delrec-lite quickstart`. Tracebacks: DELREC_DEBUG=1.",
)


def _version(requested: bool) -> None:
    if requested:
        typer.echo(f"delrec-lite {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


for _verb in VERBS:
    _module = importlib.import_module(f"delrec_lite.cli.{_verb}")
    _command = getattr(_module, _verb)
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_verb, epilog=_module.EXAMPLE)
    else:
        app.command(_verb, epilog=_module.EXAMPLE)(_command)


def main() -> None:
    """Run the command line."""
    run_command(app)


def run_command(command: typer.Typer) -> None:
    """Run a command; every error becomes one clear line, with a traceback only under DELREC_DEBUG=1."""
    restore_interrupt()  # a server's signals were caught before, see delrec_lite.cli
    set_for_process()  # before torch loads its OpenMP runtime
    drop_unusable_sizes()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a title that the terminal's encoding lacks
    try:
        ensure_home()
        code = command(standalone_mode=False) or 0
    except (Exception, KeyboardInterrupt) as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # the help is printed
            sys.exit(UsageError.exit_code)
        if is_usage_error(error):
            sys.exit(_report(usage_error(error)))
        if isinstance(error, typer.Abort):
            error = KeyboardInterrupt()
        if flag("DELREC_DEBUG"):
            raise
        sys.exit(_report(error))
    if code == INTERRUPTED:  # typer has handled Ctrl-C
        _report(KeyboardInterrupt())
    sys.exit(code)


def _report(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        print("interrupted; the same command resumes after the last finished stage", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    error = _as_delrec_error(error)
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  try: {error.hint}", file=sys.stderr)
    return error.exit_code


def _as_delrec_error(error: BaseException) -> DelrecError:
    """Convert any error to one with a hint."""
    if isinstance(error, DelrecError):
        return error
    if isinstance(error, OSError):
        return _storage(error)
    if isinstance(error, ImportError):
        return MissingPackageError(f"{error.name} is not installed", install_line(error.name))
    text = " ".join(str(error).split()) or type(error).__name__
    if system := re.search(r"\(os error (\d+)\)(?: at path \"(.+?)\")?", text):  # of safetensors, which is Rust
        return _storage(OSError(int(system[1]), os.strerror(int(system[1])), system[2]))
    if "No space left" in text:  # safetensors' errors contain the message of the operating system
        return StorageError(text, "free some space and run it again")
    return DelrecError(f"{type(error).__name__}: {text}", "this is a bug; DELREC_DEBUG=1 shows the traceback")


def _storage(error: OSError) -> StorageError:
    where = error.filename or "a file"
    if error.errno == errno.ENOSPC:
        return StorageError(f"no space left on the disk while writing {where}", "free some space and run it again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(
            f"not allowed to write or read {where}", "choose a folder you own, or change its permissions"
        )
    return StorageError(f"{error.strerror or error}: {where}", "check the path")
