"""`serve`: serves a bundle over HTTP until SIGINT or SIGTERM; SIGHUP loads the bundle from disk again."""

import ipaddress
import json
import logging
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np

from delrec_lite import environment
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, UsageError, install_line
from delrec_lite.machine import peak_rss_bytes
from delrec_lite.runtime.manifest import REMEDY
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.server.feedback.limit import Limit
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
        feedback_log: SQLite file for served lists and feedback; None: none is kept.
        feedback_limit: Its largest size, such as ``1GB`` or ``200000rows``; the oldest lists go first.
        compare: Another bundle, which answers a share of the callers; None: none.
        share: Of the callers whom the other bundle answers, between 0 and 1.
        traces: Send OpenTelemetry traces, also where the environment names no collector.
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
    feedback_log: Path | None = None
    feedback_limit: str = "1GB"
    compare: Path | None = None
    share: float = 0.1
    traces: bool = False

    def __post_init__(self) -> None:
        Limit.parse(self.feedback_limit)
        if not 0 < self.share < 1:
            raise UsageError(f"--share is {self.share}", "give a part of the callers, such as 0.1")
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
        from delrec_lite.server.arms import Arms
        from delrec_lite.server.availability import AvailabilityState
        from delrec_lite.server.feedback.log import FeedbackLog
        from delrec_lite.server.tracing import ENDPOINTS, traces_of
        from delrec_lite.server.worker import Worker
    except ImportError as error:
        raise MissingPackageError(
            f"serving needs {error.name}, which is not installed", install_line(error.name)
        ) from error
    catch_hangups()
    _log_to_stderr()
    # Before the model, so that a used port is reported at once.
    with _listen(settings.host, settings.port) as listening, pid_file(settings.pid_file):
        log, state = None, AvailabilityState(settings.state)
        if settings.feedback_log is not None:
            log = FeedbackLog(settings.feedback_log, Limit.parse(settings.feedback_limit), settings.log_histories)
        traces = traces_of(settings.traces, any(map(environment.text, ENDPOINTS)))
        paths = [bundle] if settings.compare is None else [bundle, settings.compare]
        workers = []
        for path in paths:
            recommender = load(path, settings)
            with state.carried_to(recommender.availability):
                workers.append(Worker(recommender, settings.waiting, settings.seconds))
        worker = workers[0]
        arms = Arms(worker, workers[1] if workers[1:] else None, share=settings.share, salt=paths[-1].name)
        config = uvicorn.Config(
            make_api(
                worker,
                settings.key,
                settings.log_histories,
                settings.root_path,
                settings.cors_origins,
                state=state,
                log=log,
                arms=arms,
                traces=traces,
            ),
            log_level="warning",
            access_log=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=30,
        )
        _announce(listening, worker.recommender, settings)
        _announce_comparison(workers, settings)
        try:
            with on_hangup(lambda: _reload_all(paths, settings, workers, state)):
                uvicorn.Server(config).run(sockets=[listening])
        finally:
            arms.close()
            if log is not None:
                log.close()


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


def _announce_comparison(workers: "Sequence[Worker]", settings: Settings) -> None:
    """Log which bundles share the traffic, and the memory that both take together."""
    if settings.compare is None:
        return
    labels = {name: worker.recommender.bundle.label for name, worker in zip("AB", workers, strict=True)}
    LOG.info(json.dumps({"comparing": labels, "share": settings.share, "memory_mb": round(peak_rss_bytes() / 1e6)}))


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


def _reload_all(
    bundles: Sequence[Path], settings: Settings, workers: "Sequence[Worker]", state: "AvailabilityState"
) -> None:
    for bundle, worker in zip(bundles, workers, strict=True):
        _reload(bundle, settings, worker, state)


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
