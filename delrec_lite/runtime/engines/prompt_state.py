"""Stores the evaluated prompt of a GGUF bundle in the cache folder, so that later starts do not evaluate it again.

SmolLM2-135M, 40 tokens, one core: 87 ms to evaluate them, 1.3 ms to read, check and load their state of 0.9 MB.
Nothing depends on the cache. A file that is missing, foreign, cut or changed is written again; a cache that cannot be
written is ignored.
"""

import ctypes
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from delrec_lite.cache_folder import cache_folder, writable_cache
from delrec_lite.files import write_atomic
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.manifest import DEEP

# A smaller state is evaluated fast enough. SmolLM2-135M's takes 23 kB a token.
MIN_BYTES = 1 << 18
# How many files stay; the oldest are deleted.
MAX_FILES = 16
DIGEST_BYTES = hashlib.sha256().digest_size


class PromptState:
    """The state of sequence 0 once the prefix is evaluated.

    Args:
        bundle: With a GGUF file.
        c: ``llama_cpp``.
    """

    def __init__(self, bundle: Bundle, c: Any) -> None:
        self._bundle = bundle
        self._c = c

    def restore(self, context: Any) -> bool:
        """Fill sequence 0 of an empty context; False leaves it empty."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return False
        digest, state = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if digest != self._digest(state):
            return False
        size = self._c.llama_state_seq_set_data(context, _bytes(len(state)).from_buffer_copy(state), len(state), 0)
        memory = self._c.llama_get_memory(context)
        last = len(self._bundle.prompt.prefix) - 1
        if size == len(state) and self._c.llama_memory_seq_pos_max(memory, 0) == last:
            return True
        self._c.llama_memory_seq_rm(memory, 0, -1, -1)
        return False

    def store(self, context: Any) -> None:
        """Store sequence 0 for the next start, if it is large enough and the cache can be written."""
        size = self._c.llama_state_seq_get_size(context, 0)
        if size < MIN_BYTES:
            return
        state = _bytes(size)()
        if self._c.llama_state_seq_get_data(context, state, size, 0) != size:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, self._digest(state) + bytes(state))
            files = sorted(self._path.parent.glob(f"{'[0-9a-f]' * 64}.state"), key=lambda path: path.stat().st_mtime_ns)
            for path in files[:-MAX_FILES]:
                path.unlink()
        except OSError:  # a full disk, missing rights, another process that does the same
            return

    @cached_property
    def _path(self) -> Path:
        return writable_cache(cache_folder()) / "prompts" / f"{self._key}.state"

    @cached_property
    def _key(self) -> str:
        """Hash of all that the state depends on: model, prompt, and the build of llama.cpp."""
        model, libraries = self._bundle.model_path, Path(self._c.__file__).parent / "lib"
        key = [
            self._bundle.manifest["files"][model.name].get("sha256"),
            _file_facts(model),  # the manifest may be unverified and the file changed
            self._bundle.prompt.prefix,
            self._bundle.manifest["files"].get(DEEP),
            self._c.__version__,
            self._c.llama_print_system_info().decode(errors="replace"),
            [_file_facts(path) for path in sorted(libraries.glob("*"))],
        ]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def _digest(self, state: Any) -> bytes:
        digest = hashlib.sha256(self._key.encode())
        digest.update(state)
        return digest.digest()


def _bytes(size: int) -> Any:
    return ctypes.c_uint8 * size


def _file_facts(path: Path) -> list[Any]:
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]
