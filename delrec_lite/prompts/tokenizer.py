"""The base model's tokenizer, as training and serving both read text."""

from pathlib import Path
from typing import Any


def open_tokenizer(path: Path) -> Any:
    """A `tokenizers.Tokenizer` that takes special tokens' names in a text for words, whatever they look like.

    Args:
        path: ``tokenizer.json``. The package raises a bare Exception for a file that does not read.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer
