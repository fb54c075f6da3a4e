"""`PromptEncoder`: turns the history and candidates of a request into tokens."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import UsageError
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.prompts.verbalizer import Candidate

# An item of a history: its index in the catalogue. An item outside the catalogue is a vector, or its title's tokens
# where histories are titles.
Entry = int | Floats | tuple[int, ...]
# A token id of the extended vocabulary, or the vector of an item that has none.
Token = int | Floats
# Most candidates that a prompt without labels lists; more are refused, because the memory of the longest prompt is
# allocated at the start.
MAX_LISTED = 100


class PromptEncoder:
    """Turns entries into tokens and checks them, because the engines' C code does not.

    Args:
        prompts: As compiled in training.
        max_history: Items of a history that are read, the newest.
        hidden: The model's width.
    """

    def __init__(self, prompts: Prompts, max_history: int, hidden: int) -> None:
        self._max_history, self._hidden = max_history, hidden
        prompt_format, prefix = prompts.format, len(prompts.next_prefix)
        self._history, self._verbalizer = prompt_format.history_format, prompt_format.verbalizer_kind
        longest_title = range(prompt_format.title_tokens if self._history.titles else 0)
        item_tokens = len(self._history.tokens(0, longest_title, prompts.separator))
        longest = max_history * item_tokens
        if prompt_format.candidates:
            listed = len(prompts.labels) or MAX_LISTED
            longest += listed * (item_tokens + 1 + len(prompts.dot)) + len(prompts.listed) + len(prompts.answer)
        if self._verbalizer.continued:
            longest += prompt_format.title_tokens
        context = prefix + longest if prompt_format.context is None else min(prompt_format.context, prefix + longest)
        # No item is ever dropped where the longest history fits and no tokens follow it.
        self._bound = not prompt_format.ranks_catalogue or context < prefix + longest
        self._prompts = replace(prompts, format=replace(prompt_format, context=context))
        self.longest = context - prefix

    def history(self, request: Sequence[Entry]) -> list[Token]:
        """The newest entries of a history that fit into the prompt, as tokens.

        Raises:
            UsageError: The history is empty, an entry is not valid, or the bundle ranks candidates alone.
        """
        if not self._prompts.format.ranks_catalogue:
            raise UsageError(
                "this bundle ranks candidates and no other items", "name them: --candidates TITLE, once for each"
            )
        return [token for piece in self._pieces(request) for token in piece]

    def question(
        self, request: Sequence[Entry], candidates: Sequence[Entry]
    ) -> tuple[list[Token], list[Candidate], int]:
        """A question about candidates as tokens, the candidates, and how many of their tokens are evaluated behind it.

        Raises:
            UsageError: The history is empty, an entry or candidate is not valid, or the bundle ranks the catalogue.
            ConfigError: More candidates than the prompt has room for.
        """
        pieces, listed, choices = self._question(request, candidates)
        tokens = [*(token for piece in pieces for token in piece), *listed]
        return tokens, choices, sum(map(self._continuation, choices))

    def count_tokens(self, request: Sequence[Entry], candidates: Sequence[Entry] = ()) -> tuple[int, int]:
        """How many of a history's newest entries are read, and how many tokens the request has."""
        if not candidates:
            pieces = self._pieces(request)
            return len(pieces), sum(map(len, pieces))
        pieces, listed, choices = self._question(request, candidates)
        return len(pieces), sum(map(len, pieces)) + len(listed) + sum(map(self._continuation, choices))

    def _question(
        self, request: Sequence[Entry], candidates: Sequence[Entry]
    ) -> tuple[list[Sequence[Token]], list[Token], list[Candidate]]:
        prompt_format = self._prompts.format
        if prompt_format.ranks_catalogue or not candidates:
            raise UsageError("there are no candidates to rank", "give some, for a bundle that ranks candidates alone")
        if self._verbalizer.item_rows and not all(isinstance(c, int | np.integer) for c in candidates):
            raise UsageError(
                "this bundle ranks items of its catalogue alone", "leave the new ones out of the candidates"
            )
        listed = self._prompts.listing([self._piece(c) for c in candidates]) if prompt_format.candidates else []
        choices = [self._candidate(c) for c in candidates]
        room = max(len(c.title) for c in choices) if self._verbalizer.continued else 0
        return self._pieces(request, len(listed) + room), listed, choices

    def _candidate(self, entry: Entry) -> Candidate:
        row = None
        if self._is_catalogue_item(entry) and self._prompts.format.item_tokens:
            row = self._prompts.vocabulary.item_base + int(entry)  # type: ignore[arg-type]
        return Candidate(row, self._words(entry) if self._verbalizer.titles else ())

    def _continuation(self, candidate: Candidate) -> int:
        """Tokens that are evaluated behind a question for a candidate: all of its title's but the last."""
        return len(candidate.title) - 1 if self._verbalizer.continued else 0

    def _pieces(self, request: Sequence[Entry], reserved: int = 0) -> list[Sequence[Token]]:
        """Each entry's tokens; the oldest are dropped where ``reserved`` more tokens would not fit."""
        if len(request) == 0:
            raise UsageError("a history is empty", "give at least one item")
        pieces = [self._piece(entry) for entry in request[-self._max_history :]]
        if not self._bound:
            return pieces
        return pieces[self._prompts.dropped([*map(len, pieces)], len(self._prompts.next_prefix) + reserved) :]

    def _is_catalogue_item(self, entry: Entry) -> bool:
        """Whether an entry is an item of the catalogue."""
        if not isinstance(entry, int | np.integer):
            return False
        items = self._prompts.vocabulary.items
        if not 0 <= entry < items:
            raise UsageError(f"no item has the index {entry}", f"items are 0 to {items - 1}")
        return True

    def _piece(self, entry: Entry) -> Sequence[Token]:
        """The tokens of an item in a list."""
        if self._is_catalogue_item(entry):
            return self._prompts.item(int(entry))  # type: ignore[arg-type]
        if self._history.titles:
            return self._history.tokens(None, self._words(entry), self._prompts.separator)
        if np.shape(entry) != (self._hidden,):
            raise UsageError(f"a vector of shape {np.shape(entry)} is no item", f"the model's width is {self._hidden}")
        return self._history.tokens(np.ascontiguousarray(entry, np.float32), (), self._prompts.separator)

    def _words(self, entry: Entry) -> tuple[int, ...]:
        """The tokens of a title."""
        if self._is_catalogue_item(entry):
            return self._prompts.titles[int(entry)]  # type: ignore[arg-type]
        text = self._prompts.vocabulary.text
        if not isinstance(entry, tuple) or not entry or not all(0 <= token < text for token in entry):
            raise UsageError("this bundle reads titles, and a new item is no text tokens", "give its title's tokens")
        return entry[: self._prompts.format.title_tokens]
