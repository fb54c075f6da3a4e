"""The keys that callers may send: from the environment and from a file that is read again when it changes."""

import hashlib
import hmac
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path

from delrec_lite.errors import DelrecError, UsageError
from delrec_lite.files import identity_of

LOG = logging.getLogger("delrec_lite.server")
_HASHED = "sha256:"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[\x21-\x7e]{1,512}")
_FORMAT = "one `name: key` a line, or `name: sha256:` and the key's sha256; a name has letters, digits and ._-"
_MOST_BYTES = 1_000_000


class Keys:
    """Names the caller of a request by the key that it sends. Only hashes of the keys are kept.

    Args:
        given: Keys by name.
        path: A file with more keys, see ``read_keys``.

    Raises:
        UsageError: The file cannot be read, or a key in it is no key.
    """

    def __init__(self, given: Mapping[str, str] | None = None, path: Path | None = None) -> None:
        self._given = [(name, _digest(key)) for name, key in (given or {}).items()]
        self._path = path
        self._facts = None if path is None else identity_of(path)
        self._read = [] if path is None else read_keys(path)

    def __bool__(self) -> bool:
        """Whether callers need a key."""
        return bool(self._given) or self._path is not None

    def name_of(self, authorization: bytes) -> str | None:
        """The name of the key in a header ``Authorization: Bearer KEY``; None: it is none of them."""
        if self._path is not None and identity_of(self._path) != self._facts:
            self.reload()
        scheme, _, key = authorization.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        found = None
        for name, known in (*self._given, *self._read):  # all of them: the time tells nothing about the keys
            if hmac.compare_digest(digest, known):
                found = name
        return found if scheme.lower() == b"bearer" else None

    def reload(self) -> None:
        """Read the file again; if that fails, the keys that were read before stay, and the log says so."""
        if self._path is None:
            return
        self._facts = identity_of(self._path)
        try:
            self._read = read_keys(self._path)
        except DelrecError as error:
            LOG.error(json.dumps({"keys": "refused", "error": error.message, "hint": error.hint}))
            return
        LOG.info(json.dumps({"keys": "read", "names": sorted({name for name, _ in self._read})}))


def read_keys(path: Path) -> list[tuple[str, bytes]]:
    """The names in a file of keys and the sha256 of their keys.

    A line is ``name: key`` or ``name: sha256:HEX``; empty lines and those that begin with ``#`` are skipped. A name may
    come twice, while its key is being replaced.

    Raises:
        UsageError: It cannot be read, a line is no such line, a key comes twice, or there is none.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path} has over {_MOST_BYTES} bytes", f"a file of keys has {_FORMAT}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"the keys in {path} cannot be read: {reason}", "check --api-keys") from error
    keys: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, colon, key = (part.strip() for part in line.partition(":"))
        if not colon or not _NAME.fullmatch(name) or not _KEY.fullmatch(key):
            raise UsageError(f"{path}, line {number}, is no key", _FORMAT)  # never the line: it may hold a key
        digest = _digest(key)
        if key.startswith(_HASHED):
            if not re.fullmatch(r"[0-9a-fA-F]{64}", key.removeprefix(_HASHED)):
                raise UsageError(f"{path}, line {number}: the sha256 of {name} has not 64 hexadecimal digits", _FORMAT)
            digest = bytes.fromhex(key.removeprefix(_HASHED))
        if digest in keys:
            raise UsageError(
                f"{path}, line {number}: {name} has the key of {keys[digest]}", "give each name a key of its own"
            )
        keys[digest] = name
    if not keys:
        raise UsageError(f"{path} holds no keys", _FORMAT)
    return [(name, digest) for digest, name in keys.items()]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
