"""How a bundle is served: one frozen record of all settings, each checked."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from delrec_lite.errors import UsageError
from delrec_lite.machine import MOST_THREADS, cores_allowed
from delrec_lite.runtime.engines.llama_batch import SEQUENCES
from delrec_lite.server.feedback.limit import Limit

# Most requests that are evaluated together: as many as llama.cpp's context has sequences for.
TOGETHER = SEQUENCES


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        host: Address to listen on; default: loopback.
        port: 0 for any free one.
        uds: Unix socket to listen on instead.
        key: One that callers may send.
        key_name: Its name in the log.
        keys_file: More keys, see ``read_keys``; without any key, none is required.
        rate: Requests that each key may send, see ``RateLimit``; without keys, each client's address.
        burst: Most of them at once.
        tls_cert: Certificate in PEM, with those that signed it; None: no TLS.
        tls_key: Its key.
        threads: Of each model; None: the cores allowed, divided among the workers.
        workers: Models that answer at the same time.
        micro_batch: Most requests that are evaluated together; 1: each alone.
        waiting: Most requests in the queue of each worker.
        seconds: A request that is not finished within this time is refused or stopped.
        log_histories: Log the bodies of requests.
        quant: Quantisation, in a bundle that holds several; None: its first.
        fused: Mix in the teacher's scores; None: as the model was trained.
        exact: Score every item, also where the bundle has an item index.
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
    uds: Path | None = None
    key: str | None = None
    key_name: str = "key"
    keys_file: Path | None = None
    rate: str | None = None
    burst: int | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    threads: int | None = None
    workers: int = 1
    micro_batch: int = TOGETHER
    waiting: int = 64
    seconds: float = 10.0
    log_histories: bool = False
    quant: str | None = None
    fused: bool | None = None
    exact: bool = False
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
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("--tls-cert", "--tls-key") if self.tls_cert else ("--tls-key", "--tls-cert")
            raise UsageError(f"{given} needs {missing}", "give both, or neither where a proxy has the certificate")
        if self.burst is not None and self.rate is None:
            raise UsageError("--burst needs --rate", "give a rate such as 20/s")
        if not 1 <= self.micro_batch <= TOGETHER:
            raise UsageError(f"--micro-batch is {self.micro_batch}", f"give 1 to {TOGETHER}; 1: each request alone")
        if not 1 <= self.workers <= MOST_THREADS:
            raise UsageError(f"--workers is {self.workers}", f"give 1 to {MOST_THREADS}")

    @property
    def asks_for_key(self) -> bool:
        """Whether callers need a key."""
        return self.key is not None or self.keys_file is not None

    @property
    def threads_of_each(self) -> int | None:
        """Threads of each model; None: the cores allowed."""
        return self.threads if self.threads or self.workers == 1 else max(1, cores_allowed() // self.workers)
