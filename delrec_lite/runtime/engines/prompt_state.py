"""The evaluated prompt of a GGUF bundle, kept in the cache, so that a start does not evaluate it again.

SmolLM2-135M, 40 tokens, one core: 87 ms to evaluate them, 1.3 ms to read, check and take the 0.9 MB that they leave.
Nothing depends on it. What is missing, foreign, cut or changed is made anew, and a cache that cannot be written stays
as it is.
"""

import ctypes
import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any

from delrec_lite.files import cache_folder, write_whole
from delrec_lite.runtime.bundle import DEEP, Bundle

# A smaller state takes no time to make. SmolLM2-135M's takes 23 kB a token.
LEAST_BYTES = 1 << 18
# Files that stay, the newest.
KEPT = 16
DIGEST_BYTES = hashlib.sha256().digest_size


class PromptState:
    """What sequence 0 holds once the prefix is evaluated.

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
            held = self._path.read_bytes()
        except OSError:
            return False
        digest, state = held[:DIGEST_BYTES], held[DIGEST_BYTES:]
        if digest != self._digest(state):
            return False
        took = self._c.llama_state_seq_set_data(context, _bytes(len(state)).from_buffer_copy(state), len(state), 0)
        memory = self._c.llama_get_memory(context)
        last = len(self._bundle.prompt.prefix) - 1
        if took == len(state) and self._c.llama_memory_seq_pos_max(memory, 0) == last:
            return True
        self._c.llama_memory_seq_rm(memory, 0, -1, -1)
        return False

    def store(self, context: Any) -> None:
        """Keep sequence 0 for the next start, if that can be done and pays."""
        size = self._c.llama_state_seq_get_size(context, 0)
        if size < LEAST_BYTES:
            return
        state = _bytes(size)()
        if self._c.llama_state_seq_get_data(context, state, size, 0) != size:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self._path, self._digest(state) + bytes(state))
            held = sorted(self._path.parent.glob("*.state"), key=lambda path: path.stat().st_mtime_ns)
            for path in held[:-KEPT]:
                path.unlink()
        except OSError:  # a full disk, a folder that is not ours, another process at the same work
            return

    @cached_property
    def _path(self) -> Path:
        return cache_folder() / "prompts" / f"{self._key}.state"

    @cached_property
    def _key(self) -> str:
        """All that the state depends on: model, prompt, and the build that computes it."""
        model, built = self._bundle.model_path, Path(self._c.__file__).parent / "lib"
        key = [
            self._bundle.manifest["files"][model.name].get("sha256"),
            _seen(model),  # a file may have been changed under a manifest that nobody checked
            self._bundle.prompt.prefix,
            self._bundle.manifest["files"].get(DEEP),
            self._c.__version__,
            self._c.llama_print_system_info().decode(errors="replace"),
            [_seen(path) for path in sorted(built.glob("*"))],
        ]
        return hashlib.sha256(json.dumps(key).encode()).hexdigest()

    def _digest(self, state: Any) -> bytes:
        found = hashlib.sha256(self._key.encode())
        found.update(state)
        return found.digest()


def _bytes(size: int) -> Any:
    return ctypes.c_uint8 * size


def _seen(path: Path) -> list[Any]:
    stat = path.stat()
    return [path.name, stat.st_size, stat.st_mtime_ns]
