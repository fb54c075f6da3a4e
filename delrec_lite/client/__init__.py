"""A client of the HTTP server, sync and async; importing it imports neither numpy nor an engine."""

from delrec_lite.client.asynchronous import AsyncClient
from delrec_lite.client.failures import BusyError, LateError, RefusedError, RequestError, UnreachableError
from delrec_lite.client.retries import Retries
from delrec_lite.client.synchronous import Client

__all__ = [
    "AsyncClient",
    "BusyError",
    "Client",
    "LateError",
    "RefusedError",
    "RequestError",
    "Retries",
    "UnreachableError",
]
