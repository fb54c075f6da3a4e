"""Ray: the cluster that ``RAY_ADDRESS`` names, or one of this machine's processes for this program alone."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from delrec_lite.environment import text
from delrec_lite.errors import DelrecError, MissingPackageError, install_line

ADDRESS = "RAY_ADDRESS"
# Ray itself tries for minutes.
SECONDS_TO_ANSWER = 10
# Ray gives its processes half a minute to start, which a busy machine may take.
MOST_TRIALS = 3


@contextmanager
def ray_cluster(what: str, processors: int, verbose: bool = False) -> Iterator[Any]:
    """Join a cluster while the ``with`` lasts; one that the caller has joined already is used and stays.

    Args:
        what: Needs Ray, for the error.
        processors: Of the cluster that is started where ``RAY_ADDRESS`` names none.
        verbose: Show on stderr what Ray and its workers print; else it is not shown. Standard output is the results'.

    Yields:
        The module ``ray``.

    Raises:
        DelrecError: The cluster cannot be reached.
        MissingPackageError: Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingPackageError(f"{what} needs {error.name}, which is not installed", install_line("ray")) from error
    with ExitStack() as stack:
        # Ray's threads print messages to whatever standard output is.
        sink = sys.stderr if verbose else stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
        stack.enter_context(redirect_stdout(sink))
        if not ray.is_initialized():
            join_cluster(ray, processors, verbose)
            stack.callback(ray.shutdown)
        yield ray


def join_cluster(ray: Any, processors: int, verbose: bool = False) -> None:
    """Join the cluster that ``RAY_ADDRESS`` names, or start one here; the caller ends that by ``ray.shutdown``.

    Args:
        ray: The module.
        processors: As in ``ray_cluster``.
        verbose: Print what workers print.

    Raises:
        DelrecError: It cannot be reached, or does not start.
    """
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": verbose}
    address = text(ADDRESS)
    if address:
        options |= {"address": address}
    else:  # "local": never a cluster that somebody else has started on this machine
        options |= {"address": "local", "num_cpus": processors, "include_dashboard": False}
    for trials_left in reversed(range(1 if address else MOST_TRIALS)):
        try:
            if address:
                _check_answers(address)
            ray.init(**options)
            return
        except Exception as error:  # Ray has no kind of its own for it
            ray.shutdown()
            if trials_left:
                continue
            where = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot be started here"
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise DelrecError(
                f"{where}: {reason}", f"check {ADDRESS}, or unset it to use this machine alone"
            ) from error


def _check_answers(address: str) -> None:
    """Check that something listens at an address of the form ``HOST:PORT``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_ANSWER).close()
