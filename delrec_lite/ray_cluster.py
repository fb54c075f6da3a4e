"""Ray: the cluster that ``RAY_ADDRESS`` names, or one of this machine's processes for this program alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from delrec_lite.environment import text
from delrec_lite.errors import DelrecError, MissingPackageError, install_line

ADDRESS = "RAY_ADDRESS"


@contextmanager
def ray_cluster(what: str, processors: int, log_to_driver: bool = False) -> Iterator[Any]:
    """Join a cluster while the ``with`` lasts; one that the caller has joined already is used and stays.

    Args:
        what: Needs Ray, for the error.
        processors: Of the cluster that is started where ``RAY_ADDRESS`` names none.
        log_to_driver: Print here what workers print.

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
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": log_to_driver}
    address = text(ADDRESS)
    try:
        if address:
            ray.init(address=address, **options)
        else:  # "local": never a cluster that somebody else has started on this machine
            ray.init(address="local", num_cpus=processors, include_dashboard=False, **options)
    except Exception as error:  # Ray has no kind of its own for it
        where = f"the Ray cluster at {address} cannot be joined" if address else "Ray cannot be started here"
        raise DelrecError(
            f"{where}: {(str(error).splitlines() or [''])[0]}",
            f"check {ADDRESS}, or unset it to use this machine alone",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
