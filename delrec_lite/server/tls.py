"""The server's certificate: checked before the model is loaded, and read again on SIGHUP."""

import json
import logging
import ssl
from pathlib import Path

from delrec_lite.errors import UsageError

LOG = logging.getLogger("delrec_lite.server")


def load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Load a certificate, with those that signed it behind it, and its key; for new connections.

    Raises:
        UsageError: One of the files cannot be read, is not PEM, needs a password, or they do not belong together.
    """
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            with path.open("rb") as file:
                file.read(1)
        except OSError as error:
            raise UsageError(f"{option} {path} cannot be read: {error.strerror}", "give a PEM file") from error
    encrypted = False

    def password() -> str:
        nonlocal encrypted
        encrypted = True
        return ""

    try:
        context.load_cert_chain(certificate, key, password)
    except (ssl.SSLError, ValueError, OSError) as error:
        if encrypted:
            hint = f"store it without one: openssl pkey -in {key} -out server.key, readable by the server alone"
            raise UsageError(f"the key in {key} has a password", hint) from error
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise UsageError(
                f"the key in {key} is not that of the certificate in {certificate}", "give a pair"
            ) from error
        wrong = key if _reads(certificate) else certificate
        hint = "a PEM file begins with -----BEGIN CERTIFICATE----- or -----BEGIN PRIVATE KEY-----"
        raise UsageError(f"{wrong} holds no {'key' if wrong is key else 'certificate'} in PEM", hint) from error


def reload_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Load both files again; if that fails, the old pair stays, and the log says so."""
    try:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)
        load_pair(context, certificate, key)
    except UsageError as error:
        LOG.error(json.dumps({"certificate": "refused", "error": error.message, "hint": error.hint}))
        return
    LOG.info(json.dumps({"certificate": "read"}))


def _reads(certificate: Path) -> bool:
    """Whether a file holds certificates."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(certificate)
    except (ssl.SSLError, ValueError, OSError):
        return False
    return True
