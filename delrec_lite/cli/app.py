"""The command ``delrec-lite``: wires the verbs and turns errors into one line and an exit code."""

import errno
import importlib
import os
import sys
from typing import Annotated

import typer

from delrec_lite.environment import flag
from delrec_lite.errors import DelrecError, MissingPackageError, StorageError, install_line
from delrec_lite.version import __version__

VERBS = (
    "quickstart",
    "pull",
    "plan",
    "prepare",
    "init",
    "train",
    "export",
    "eval",
    "ablate",
    "recommend",
    "explain",
    "serve",
    "verify",
    "catalog",
    "bench",
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


def _version(asked: bool) -> None:
    if asked:
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
    """Run the command line; every error becomes one clear line, with a traceback only under DELREC_DEBUG=1."""
    try:
        app()
    except (Exception, KeyboardInterrupt) as error:
        if flag("DELREC_DEBUG"):
            raise
        sys.exit(_report(error))
    except SystemExit as stop:
        if stop.code == INTERRUPTED:  # the command line library has met Ctrl-C first
            _report(KeyboardInterrupt())
        raise


def _report(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        print("interrupted; the same command goes on from the last finished stage", file=sys.stderr)
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    error = _told(error)
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  try: {error.hint}", file=sys.stderr)
    return error.exit_code


def _told(error: BaseException) -> DelrecError:
    """Any error as one that says what to do."""
    if isinstance(error, DelrecError):
        return error
    if isinstance(error, OSError):
        return _storage(error)
    if isinstance(error, ImportError):
        return MissingPackageError(f"{error.name} is not installed", install_line(error.name))
    text = " ".join(str(error).split()) or type(error).__name__
    if "No space left" in text:  # safetensors' own errors carry the system's words
        return StorageError(text, "free some space and run it again")
    return DelrecError(f"{type(error).__name__}: {text}", "this should not happen; DELREC_DEBUG=1 shows where it did")


def _storage(error: OSError) -> StorageError:
    where = error.filename or "a file"
    if error.errno == errno.ENOSPC:
        return StorageError(f"no space left on the disk while writing {where}", "free some space and run it again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageError(f"not allowed to write or read {where}", "choose a folder you own, or mend its permissions")
    return StorageError(f"{error.strerror or error}: {where}", "check the path")
