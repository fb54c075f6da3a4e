"""`serve`: serves a bundle over HTTP until SIGINT or SIGTERM; SIGHUP loads the bundle from disk again."""

import ipaddress
import json
import logging
import os
import socket
import ssl
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from delrec_lite import environment
from delrec_lite.errors import BundleError, DelrecError, MissingPackageError, install_line
from delrec_lite.machine import peak_rss_bytes
from delrec_lite.runtime.manifest import REMEDY
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.remote import located
from delrec_lite.server.feedback.limit import Limit
from delrec_lite.server.keys import Keys
from delrec_lite.server.listening import address_of, listen_on_file
from delrec_lite.server.listening import listen as _listen
from delrec_lite.server.pid_file import pid_file
from delrec_lite.server.rates import RateLimit
from delrec_lite.server.settings import Settings
from delrec_lite.server.signals import catch_hangups, on_hangup
from delrec_lite.server.tls import load_pair, reload_pair

if TYPE_CHECKING:
    from delrec_lite.server.arms import Arms
    from delrec_lite.server.availability import AvailabilityState
    from delrec_lite.server.worker import Worker
    from delrec_lite.server.workers import Workers

LOG = logging.getLogger("delrec_lite.server")


def serve(bundle: Path, settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; requests in progress are finished first.

    Raises:
        UsageError: The address is not available, or keys or certificate cannot be used.
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
        from delrec_lite.server.workers import Workers
    except ImportError as error:
        raise MissingPackageError(
            f"serving needs {error.name}, which is not installed", install_line(error.name)
        ) from error
    catch_hangups()
    _log_to_stderr()
    # All that can be wrong before the models, which take longest.
    keys = Keys({settings.key_name: settings.key} if settings.key else {}, settings.keys_file)
    limit = None if settings.rate is None else RateLimit(settings.rate, settings.burst)
    traces = traces_of(settings.traces, any(map(environment.text, ENDPOINTS)))
    if settings.tls_cert and settings.tls_key:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), settings.tls_cert, settings.tls_key)
    listens = listen_on_file(settings.uds) if settings.uds else _listen(settings.host, settings.port)
    with listens as listening, pid_file(settings.pid_file):
        log, state = None, AvailabilityState(settings.state)
        if settings.feedback_log is not None:
            log = FeedbackLog(settings.feedback_log, Limit.parse(settings.feedback_limit), settings.log_histories)
        paths = [bundle] if settings.compare is None else [bundle, settings.compare]
        served = []
        for path in paths:
            recommenders = load_all(path, settings)
            with state.carried_to(recommenders[0].availability):
                workers = [Worker(r, settings.waiting, settings.seconds, settings.micro_batch) for r in recommenders]
            served.append(Workers(workers))
        arms = Arms(served[0], served[1] if served[1:] else None, settings.share, paths[-1].name)
        config = uvicorn.Config(
            make_api(
                served[0],
                keys,
                settings.log_histories,
                settings.root_path,
                settings.cors_origins,
                state=state,
                limit=limit,
                log=log,
                arms=arms,
                traces=traces,
            ),
            log_level="warning",
            access_log=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=30,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
        config.load()
        _announce(listening, served[0].recommender, settings)
        _announce_comparison(arms, settings)

        def reload() -> None:
            keys.reload()
            if config.ssl and settings.tls_cert and settings.tls_key:
                reload_pair(config.ssl, settings.tls_cert, settings.tls_key)
            for path, workers in zip(paths, served, strict=True):
                _reload(path, settings, workers, state)

        try:
            with on_hangup(reload):
                uvicorn.Server(config).run(sockets=[listening])
        finally:
            arms.close()
            if log is not None:
                log.close()


def load_all(bundle: Path, settings: Settings) -> list[Recommender]:
    """A recommender for each worker; raises what ``load`` does, and then leaves none open."""
    bundle = located(bundle)  # one commit for all workers, if it is on the Hub
    recommenders: list[Recommender] = []
    try:
        for _ in range(settings.workers):
            recommenders.append(load(bundle, settings))
            recommenders[-1].share_availability(recommenders[0])
    except BaseException:
        for recommender in recommenders:
            recommender.close()
        raise
    return recommenders


def load(bundle: Path, settings: Settings) -> Recommender:
    """A recommender that is served; it has answered once and reads nothing of the bundle any more.

    Raises:
        BundleError: The bundle does not verify, or its scores are not numbers.
    """
    options: dict[str, Any] = {"quant": settings.quant, "fused": settings.fused, "exact": settings.exact}
    recommender = Recommender.load(bundle, settings.threads_of_each, **options)
    try:
        recommender.preload()
        if recommender.bundle.prompt.format.ranks_catalogue:
            item = f"id:{recommender.bundle.items.ids[0]}"
            scores = recommender.evaluate([recommender.prepare([item])])[0].scores
            if settings.micro_batch > 1:  # an engine may read its model again for the first group
                recommender.evaluate([recommender.prepare([item]) for _ in range(settings.micro_batch)])
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
    address = address_of(listening, tls=settings.tls_cert is not None)
    key = "for all but the page, its documentation, /healthz and /readyz" if settings.asks_for_key else "none"
    line = {"serving": recommender.bundle.name, "address": address, "pid": os.getpid(), "fused": settings.fused}
    line["source"] = recommender.bundle.source
    LOG.info(json.dumps({**line, "workers": settings.workers, "key": key}))
    if settings.uds or settings.asks_for_key:
        return
    if not ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback:
        warning = f"{address} can be reached from other machines, and no key is asked for"
        hint = "set keys with --api-key-env or --api-keys, or let a proxy ask for them"
        LOG.warning(json.dumps({"warning": warning, "hint": hint}))


def _announce_comparison(arms: "Arms", settings: Settings) -> None:
    """Log which bundles share the traffic, and the memory that both take together."""
    if settings.compare is None:
        return
    labels = {arm.name: arm.worker.recommender.bundle.label for arm in arms}
    LOG.info(json.dumps({"comparing": labels, "share": settings.share, "memory_mb": round(peak_rss_bytes() / 1e6)}))


def _reload(
    bundle: Path, settings: Settings, workers: "Worker | Workers", state: "AvailabilityState | None" = None
) -> None:
    """Load the bundle from disk again if it verifies; otherwise continue with the loaded one."""
    try:
        newer = load_all(bundle, settings)
    except Exception as error:  # a folder that changes while it is read gives errors of any kind
        message, hint = (
            str(error) or type(error).__name__,
            getattr(error, "hint", "repair the bundle, then SIGHUP again"),
        )
        LOG.error(json.dumps({"reload": "refused", "error": message, "hint": hint}))
        return
    try:
        with nullcontext() if state is None else state.carried_to(newer[0].availability):
            workers.replace(*newer)
    except DelrecError:  # they were closed in the meantime
        used = workers.recommenders
        for recommender in newer:
            if not any(recommender is other for other in used):
                recommender.close()
        return
    loaded = newer[0].bundle
    LOG.info(
        json.dumps(
            {"reload": "done", "bundle": loaded.name, "created": loaded.manifest["created"], "source": loaded.source}
        )
    )


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.handlers[:] = [handler]
    LOG.setLevel(logging.INFO)
    LOG.propagate = False
