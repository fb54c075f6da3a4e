"""What all peers have in common: the contract of their process, and the paper's prompt in words."""

from collections.abc import Sequence
from typing import Protocol

ANSWER_TOKENS = 16


class Peer(Protocol):
    """One way to answer; lives in its own process."""

    def set_threads(self, threads: int) -> None:
        """Compute with so many."""

    def rank(self, history: list[str], candidates: list[str] | None) -> tuple[list[str], int]:
        """Titles in order, best first, and how many tokens were read."""


def prompt(history: Sequence[str], candidates: Sequence[str] | None, domain: str = "movies") -> str:
    """The paper's prompt in words, without a soft prompt: history, candidates, question."""
    text = f"The user has watched these {domain} in order: {', '.join(history)}."
    if candidates is not None:
        text += f" Candidates for the next one: {', '.join(candidates)}."
    return f"{text} The next one is:"
