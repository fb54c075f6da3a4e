"""`NewItems`: how items that were not trained are read and scored, by the words of their titles."""

from functools import cached_property
from typing import Any

import numpy as np

from delrec_lite.data.types import Floats, described
from delrec_lite.errors import BundleError
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines.base import Engine
from delrec_lite.runtime.manifest import MANIFEST, REMEDY
from delrec_lite.runtime.prompting.encoder import Entry

TOKENIZER = "tokenizer.json"


class NewItems:
    """Vectors and tokens of items outside the catalogue.

    Args:
        bundle: Opened.
        engine: Over the same bundle; gives the rows of tokens.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._bundle, self._engine = bundle, engine

    @cached_property
    def tokenizer(self) -> Any:
        """The bundle's own.

        Raises:
            BundleError: It is not among the bundle's files, or cannot be read.
        """
        path = self._bundle.folder / TOKENIZER
        if TOKENIZER not in self._bundle.manifest["files"]:  # then it was not checked either
            raise BundleError(f"{self._bundle.folder / MANIFEST} does not list {TOKENIZER}", REMEDY)
        try:
            return open_tokenizer(path)
        except Exception as error:  # the package raises bare Exception
            raise BundleError(f"{path} cannot be read: {error}", "export the run again") from error

    def _tokens(self, title: str) -> list[int]:
        words = self._bundle.prompt.title_prefix + title
        tokens: list[int] = self.tokenizer.encode(words, add_special_tokens=False).ids
        return tokens

    def entry(self, title: str, text: str = "") -> Entry:
        """The engine's entry for a new item: its vector, or its tokens where histories are titles."""
        prompt_format = self._bundle.prompt.format
        if prompt_format.history_format.titles:
            return tuple(self._tokens(title)[: prompt_format.title_tokens])
        return self.vectors(title, text)[0]

    def vectors(self, title: str, text: str = "") -> tuple[Floats, Floats]:
        """Input and output vector of a new item: float32 ``[hidden]`` each.

        Args:
            title: Of the item.
            text: Its side text, such as its category; read by a model with item text alone.
        """
        mean_row = self._engine.token_vector(self._tokens(title))
        prompt, linear_map = self._bundle.prompt, self._bundle.new_items
        if linear_map is None:
            output = mean_row * np.float32(prompt.scale)
        else:
            output = mean_row @ linear_map[:-1] + linear_map[-1]
        vectors = mean_row * np.float32(prompt.input_norm / np.linalg.norm(mean_row)), output
        if (maps := self._bundle.item_text) is None:
            return vectors
        text_row = self._engine.token_vector(self._tokens(described(title, text))) if text else mean_row
        first, second = (v + text_row @ m[:-1] + m[-1] for v, m in zip(vectors, maps, strict=True))
        return first, second
