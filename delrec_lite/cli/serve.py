"""`delrec-lite serve`: serves a bundle over HTTP, with a web page."""

from pathlib import Path
from typing import Annotated

import typer

from delrec_lite.cli.common import BundleArgument, ExactFlag, FusedFlag, QuantOption
from delrec_lite.cli.settings import read_settings, shown_settings

EXAMPLE = "Example: `delrec-lite serve my.delrec --port 8080`, then open http://127.0.0.1:8080"
PREFIX = "DELREC_SERVE_"


def _read_settings(context: typer.Context, config: Path | None) -> Path | None:
    if not context.resilient_parsing:
        read_settings(context, config, PREFIX)
    return config


def serve(
    context: typer.Context,
    bundle: BundleArgument,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default accepts local connections only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free port.")] = 8080,
    uds: Annotated[
        Path | None, typer.Option(help="Unix socket to listen on, instead of host and port; its group may connect.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option(help="Name of the environment variable with the key that clients must send.")
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(help="File of keys, one `name: key` or `name: sha256:HEX` a line; read again when it changes."),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(help="Requests for each key, or for each address without keys: 20/s, 600/m, 5000/h; then 429."),
    ] = None,
    burst: Annotated[int | None, typer.Option(min=1, help="Most of them at once; default: the rate's number.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate, PEM; read again on SIGHUP.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The certificate's key, PEM without a password.")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each model; default: the cores allowed, divided among the workers.")
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, max=256, help="Models that answer at once, each with memory of its own.")
    ] = 1,
    micro_batch: Annotated[
        int, typer.Option(min=1, max=16, help="Most waiting requests that are evaluated together; 1: each alone.")
    ] = 16,
    quant: QuantOption = None,
    fused: FusedFlag = None,
    exact: ExactFlag = False,
    queue: Annotated[
        int, typer.Option(min=1, help="Maximum waiting requests, of each worker; more get status 503.")
    ] = 64,
    deadline: Annotated[
        float, typer.Option(min=0.1, help="Maximum seconds for an answer; then the work for it stops.")
    ] = 10.0,
    root_path: Annotated[str, typer.Option(help="Prefix of all paths behind a proxy, such as /recs.")] = "",
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(help="A site whose pages may call this server, such as https://shop.example; can be repeated."),
    ] = None,
    pid_file: Annotated[
        Path | None, typer.Option(help="File for the process id: written at the start, removed at the end.")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="File that keeps changes of availability over a restart; default: a reload alone keeps them."
        ),
    ] = None,
    feedback_log: Annotated[
        Path | None,
        typer.Option(help="SQLite file for served lists and what people did with them; see `delrec-lite feedback`."),
    ] = None,
    feedback_limit: Annotated[
        str, typer.Option(help="Largest feedback log, such as 1GB or 200000rows; the oldest lists go first.")
    ] = "1GB",
    compare: Annotated[
        Path | None, typer.Option(help="Another bundle, which answers a part of the callers; both are in memory.")
    ] = None,
    share: Annotated[float, typer.Option(help="The part of the callers whom --compare answers.")] = 0.1,
    traces: Annotated[
        bool,
        typer.Option("--traces", help="Send OpenTelemetry traces; on where OTEL_EXPORTER_OTLP_ENDPOINT is set."),
    ] = False,
    log_histories: Annotated[
        bool,
        typer.Option(
            "--log-histories",
            help="Log the requests with their histories, in the feedback log too; default: no histories.",
        ),
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            callback=_read_settings,
            is_eager=True,
            help="YAML file of these settings, such as `port: 8080`; `_` for `-`.",
        ),
    ] = None,
    show_settings: Annotated[
        bool, typer.Option("--show-settings", help="Print every setting and where it comes from, and exit.")
    ] = False,
) -> None:
    """Serve recommendations over HTTP until interrupted; on SIGHUP, load a bundle that was replaced on disk.

    Every setting is also an environment variable, such as DELREC_SERVE_PORT, and a key of the file given with --config.
    The command line counts first, then the environment, then the file.
    """
    from delrec_lite import environment
    from delrec_lite.errors import UsageError
    from delrec_lite.server.serve import serve as run
    from delrec_lite.server.settings import Settings

    if show_settings:
        typer.echo(shown_settings(context))
        return
    key = None
    if api_key_env is not None:
        key = environment.text(api_key_env)
        if not key:
            raise UsageError(f"the environment variable {api_key_env} is not set", "set it to the key")
    settings = Settings(
        host=host,
        port=port,
        uds=uds,
        key=key,
        key_name=api_key_env or "key",
        keys_file=api_keys,
        rate=rate,
        burst=burst,
        tls_cert=tls_cert,
        tls_key=tls_key,
        threads=threads,
        workers=workers,
        micro_batch=micro_batch,
        waiting=queue,
        seconds=deadline,
        log_histories=log_histories,
        quant=quant,
        fused=fused,
        exact=exact,
        root_path=root_path,
        cors_origins=tuple(cors_origin or ()),
        pid_file=pid_file,
        state=state,
        feedback_log=feedback_log,
        feedback_limit=feedback_limit,
        compare=compare,
        share=share,
        traces=traces,
    )
    run(bundle, settings)
