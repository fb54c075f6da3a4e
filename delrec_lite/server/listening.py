"""The socket that a server listens on: an address and port, or a file."""

import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from delrec_lite.errors import UsageError
from delrec_lite.server.signals import on_terminate

# The file's owner and group may connect: put the proxy into the group.
_MODE = 0o660


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Raises:
        UsageError: It is not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(128)
    except (OSError, OverflowError, TypeError) as error:  # TypeError: a name that no host can have
        listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot listen on {host}:{port}: {reason}", "choose another --port or --host") from error
    return listening


@contextmanager
def listen_on_file(path: Path) -> Iterator[socket.socket]:
    """Listen on a Unix socket; its file is removed at the end. That of a server which was killed is replaced.

    Raises:
        UsageError: Another server listens there, the path holds something else, or no file can be made there.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise UsageError("this system has no Unix sockets", "leave --uds out, and give --host and --port")
    path = path.absolute()
    _remove_unused(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        try:
            listening.bind(str(path))
            path.chmod(_MODE)
            listening.listen(128)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"cannot listen on {path}: {reason}", "choose another --uds") from error
        file = path.stat().st_ino

        def remove() -> None:
            with suppress(OSError):
                if path.stat().st_ino == file:  # not that of a later server
                    path.unlink()

        with on_terminate(remove):
            try:
                yield listening
            finally:
                remove()


def _remove_unused(path: Path) -> None:
    """Remove the file of a server that has ended."""
    try:
        kind = path.lstat().st_mode
    except OSError:
        return  # there is none; anything else is reported by the attempt to listen
    if not stat.S_ISSOCK(kind):
        raise UsageError(f"{path} exists and is no socket", "choose another --uds")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(1.0)
        try:
            asking.connect(str(path))
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError:
            pass
    raise UsageError(f"another server listens on {path}", "choose another --uds, or stop the other server")


def address_of(listening: socket.socket, tls: bool) -> str:
    """What a client calls."""
    if hasattr(socket, "AF_UNIX") and listening.family == socket.AF_UNIX:
        return f"unix:{listening.getsockname()}"
    host, port = listening.getsockname()[:2]
    return f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
