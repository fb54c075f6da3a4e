"""What llama.cpp evaluates in one call: the tokens of several histories, with shared beginnings listed once."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from delrec_lite.runtime.engines.sessions import token_key
from delrec_lite.runtime.prompting.encoder import Token

# Requests evaluated together, and their tokens; a single request may be longer than the latter.
SEQUENCES = 16
BATCH_TOKENS = 512


@dataclass
class BatchToken:
    """A token of a batch.

    Attributes:
        token: Its id, or a vector.
        position: In its sequences.
        sequences: Sequences that contain it.
        is_output: Whether logits are wanted at this token.
    """

    token: Token
    position: int
    sequences: list[int]
    is_output: bool = False


def merge_histories(histories: Sequence[Sequence[Token]]) -> tuple[list[BatchToken], list[int]]:
    """Histories as sequences 1, 2, ... of a batch, where a beginning that several share is listed once.

    An explanation evaluates a history without each of its items in turn: half of those tokens are shared beginnings.

    Returns:
        The tokens, each after its predecessors, and the index of the last token of every history.
    """
    batch: list[BatchToken] = []
    index_of: dict[tuple[int, Hashable], int] = {}
    ends = []
    for sequence, tokens in enumerate(histories, 1):
        index = -1
        for position, token in enumerate(tokens):
            key = (index, token_key(token))
            if key not in index_of:
                index_of[key] = len(batch)
                batch.append(BatchToken(token, position, []))
            index = index_of[key]
            batch[index].sequences.append(sequence)
        batch[index].is_output = True
        ends.append(index)
    return batch, ends


def add_sequence(batch: list[BatchToken], sequence: int, position: int, tokens: Sequence[Token]) -> int:
    """Append a sequence's tokens from a position on to a batch; the index of the last one, which is an output."""
    batch += (BatchToken(token, position + n, [sequence]) for n, token in enumerate(tokens))
    batch[-1].is_output = True
    return len(batch) - 1


def group_rows(lengths: Sequence[int], max_rows: int = SEQUENCES) -> Iterator[list[int]]:
    """Rows that are evaluated together, in order: at most ``max_rows``, and at most ``BATCH_TOKENS`` tokens.

    A row longer than that is a group of its own.
    """
    group: list[int] = []
    size = 0
    for row, length in enumerate(lengths):
        if group and (len(group) == max_rows or size + length > BATCH_TOKENS):
            yield group
            group, size = [], 0
        group.append(row)
        size += length
    if group:
        yield group
