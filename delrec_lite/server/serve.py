"""`serve`: serves a bundle over HTTP until SIGINT or SIGTERM; SIGHUP loads the bundle from disk again."""

import json
import logging
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from delrec_lite.errors import DelrecError, MissingPackageError, UsageError, install_line
from delrec_lite.runtime.recommender import Recommender

LOG = logging.getLogger("delrec_lite.server")


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        host: Address to listen on; default: loopback.
        port: 0 for any free one.
        key: Required from every caller; None: no key is required.
        threads: Of the engine; None: the cores allowed.
        waiting: Most requests in the queue.
        seconds: Longest time that a request waits for its turn.
        log_histories: Log the bodies of requests.
        quant: Quantisation, in a bundle that holds several; None: its first.
        fused: Mix in the teacher's scores; None: as the model was trained.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    key: str | None = None
    threads: int | None = None
    waiting: int = 64
    seconds: float = 10.0
    log_histories: bool = False
    quant: str | None = None
    fused: bool | None = None


def serve(bundle: Path, settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are finished first.

    Raises:
        UsageError: The address is not available.
        BundleError: The bundle does not verify.
        MissingPackageError: The extra ``serve`` is not installed.
    """
    try:
        import uvicorn

        from delrec_lite.server.api import make_api
        from delrec_lite.server.worker import Worker
    except ImportError as error:
        raise MissingPackageError(
            f"serving needs {error.name}, which is not installed", install_line(error.name)
        ) from error
    listening = _listen(settings.host, settings.port)  # before the model, so that a used port is reported at once
    with listening:
        worker = Worker(load(bundle, settings), settings.waiting, settings.seconds)
        _log_to_stderr()
        if hasattr(signal, "SIGHUP"):
            signal.signal(
                signal.SIGHUP, lambda *_: threading.Thread(target=_reload, args=(bundle, settings, worker)).start()
            )
        config = uvicorn.Config(
            make_api(worker, settings.key, settings.log_histories),
            log_level="warning",
            access_log=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=30,
        )
        host, port = listening.getsockname()[:2]
        line = {"serving": worker.recommender.bundle.name, "address": f"http://{host}:{port}", "fused": settings.fused}
        LOG.info(json.dumps(line))
        try:
            uvicorn.Server(config).run(sockets=[listening])
        finally:
            worker.close()


def load(bundle: Path, settings: Settings) -> Recommender:
    """The recommender that is served."""
    return Recommender.load(bundle, settings.threads, quant=settings.quant, fused=settings.fused)


def _listen(host: str, port: int) -> socket.socket:
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


def _reload(bundle: Path, settings: Settings, worker: "Worker") -> None:  # type: ignore[name-defined] # noqa: F821
    """Load the bundle from disk again if it verifies; otherwise continue with the loaded one."""
    try:
        newer = load(bundle, settings)
    except DelrecError as error:
        LOG.error(json.dumps({"reload": "refused", "error": error.message, "hint": error.hint}))
        return
    try:
        worker.replace(newer)
    except DelrecError:  # the worker was closed in the meantime
        newer.close()
        return
    LOG.info(json.dumps({"reload": "done", "bundle": newer.bundle.name, "created": newer.bundle.manifest["created"]}))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.handlers[:] = [handler]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
