"""`serve`: serves a bundle over HTTP until SIGINT or SIGTERM; SIGHUP loads the bundle from disk again."""

import ipaddress
import json
import logging
import os
import socket
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, UsageError, install_line
from delrec_lite.runtime.manifest import REMEDY
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.pid_file import pid_file
from delrec_lite.server.signals import catch_hangups, on_hangup

if TYPE_CHECKING:
    from delrec_lite.server.availability import AvailabilityState
    from delrec_lite.server.worker import Worker

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
        seconds: A request that is not finished within this time is refused or stopped.
        log_histories: Log the bodies of requests.
        quant: Quantisation, in a bundle that holds several; None: its first.
        fused: Mix in the teacher's scores; None: as the model was trained.
        root_path: Prefix of all paths behind a proxy, such as ``/recs``.
        cors_origins: Sites whose pages may call the API, such as ``https://shop.example``; ``*``: all.
        pid_file: Written at the start, removed at the end.
        state: File that keeps changes of availability over a restart; None: they are kept in memory.
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
    root_path: str = ""
    cors_origins: tuple[str, ...] = ()
    pid_file: Path | None = None
    state: Path | None = None

    def __post_init__(self) -> None:
        root = self.root_path.strip("/")
        if any(character in root for character in "?#% \\"):
            raise UsageError(f"--root-path is {self.root_path!r}", "give a path such as /recs")
        object.__setattr__(self, "root_path", f"/{root}" if root else "")
        for origin in self.cors_origins:
            parts = urlsplit(origin)
            is_origin = parts.scheme in ("http", "https") and parts.netloc
            if origin != "*" and not (is_origin and origin == f"{parts.scheme}://{parts.netloc}"):
                raise UsageError(f"--cors-origin is {origin!r}", "give scheme and host, such as https://shop.example")


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
        from delrec_lite.server.availability import AvailabilityState
        from delrec_lite.server.worker import Worker
    except ImportError as error:
        raise MissingPackageError(
            f"serving needs {error.name}, which is not installed", install_line(error.name)
        ) from error
    catch_hangups()
    _log_to_stderr()
    # Before the model, so that a used port is reported at once.
    with _listen(settings.host, settings.port) as listening, pid_file(settings.pid_file):
        state, recommender = AvailabilityState(settings.state), load(bundle, settings)
        with state.carried_to(recommender.availability):
            worker = Worker(recommender, settings.waiting, settings.seconds)
        config = uvicorn.Config(
            make_api(worker, settings.key, settings.log_histories, settings.root_path, settings.cors_origins, state),
            log_level="warning",
            access_log=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=30,
        )
        _announce(listening, worker.recommender, settings)
        try:
            with on_hangup(lambda: _reload(bundle, settings, worker, state)):
                uvicorn.Server(config).run(sockets=[listening])
        finally:
            worker.close()


def load(bundle: Path, settings: Settings) -> Recommender:
    """The recommender that is served; it has answered once and reads nothing of the bundle any more.

    Raises:
        BundleError: The bundle does not verify, or its scores are not numbers.
    """
    recommender = Recommender.load(bundle, settings.threads, quant=settings.quant, fused=settings.fused)
    try:
        recommender.preload()
        if recommender.bundle.prompt.format.ranks_catalogue:
            scores = recommender.scores([[0]])
        else:
            scores = recommender.score_candidates([[0]], np.array([[0]]))
        if not np.isfinite(scores).all():
            raise BundleError(f"{bundle} gives scores that are not numbers", REMEDY)
    except BaseException:
        recommender.close()
        raise
    return recommender


def _announce(listening: socket.socket, recommender: Recommender, settings: Settings) -> None:
    """Log the address, and what a user of a public one should know."""
    host, port = listening.getsockname()[:2]
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = "none" if settings.key is None else "for all but the page, its documentation, /healthz and /readyz"
    line = {"serving": recommender.bundle.name, "address": address, "pid": os.getpid(), "fused": settings.fused}
    LOG.info(json.dumps({**line, "key": key}))
    if settings.key is None and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        warning = f"{address} can be reached from other machines, and no key is asked for"
        LOG.warning(
            json.dumps({"warning": warning, "hint": "set a key with --api-key-env, or let a proxy ask for one"})
        )


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


def _reload(bundle: Path, settings: Settings, worker: "Worker", state: "AvailabilityState | None" = None) -> None:
    """Load the bundle from disk again if it verifies; otherwise continue with the loaded one."""
    try:
        newer = load(bundle, settings)
    except Exception as error:  # a folder that changes while it is read gives errors of any kind
        message, hint = (
            str(error) or type(error).__name__,
            getattr(error, "hint", "repair the bundle, then SIGHUP again"),
        )
        LOG.error(json.dumps({"reload": "refused", "error": message, "hint": hint}))
        return
    try:
        with nullcontext() if state is None else state.carried_to(newer.availability):
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
