"""The base model's tokenizer, opened the same way for training and serving."""

from pathlib import Path
from typing import Any


def open_tokenizer(path: Path) -> Any:
    """A `tokenizers.Tokenizer` that reads special tokens' names in a text as plain text.

    Args:
        path: ``tokenizer.json``. The package raises a bare Exception for a file that it cannot read.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.encode_special_tokens = True
    return tokenizer
