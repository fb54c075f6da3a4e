"""What the model reads of a request: the one place where the entries of a history become tokens."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from delrec_lite.data.types import Floats
from delrec_lite.errors import UsageError
from delrec_lite.prompts.tasks import Prompts
from delrec_lite.prompts.verbalizer import Candidate

# An item of a history: its index in the catalogue; or for an item that the catalogue does not have a vector, and the
# tokens of its title where histories are titles.
Entry = int | Floats | tuple[int, ...]
# A token id of the extended vocabulary, or the vector of an item that has none.
Token = int | Floats
# Candidates that a prompt without labels lists; more are refused, for the memory of the longest prompt is taken at
# the start.
MOST_LISTED = 100


class PromptEncoder:
    """Turns entries into tokens, checked: C would take anything.

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
        each = len(self._history.tokens(0, longest_title, prompts.separator))
        most = max_history * each
        if prompt_format.candidates:
            listed = len(prompts.labels) or MOST_LISTED
            most += listed * (each + 1 + len(prompts.dot)) + len(prompts.listed) + len(prompts.answer)
        if self._verbalizer.continued:
            most += prompt_format.title_tokens
        context = prefix + most if prompt_format.context is None else min(prompt_format.context, prefix + most)
        # Nothing is ever dropped where the longest histories fit and nothing stands behind them.
        self._bound = not prompt_format.ranks_catalogue or context < prefix + most
        self._prompts = replace(prompts, format=replace(prompt_format, context=context))
        self.longest = context - prefix

    def history(self, request: Sequence[Entry]) -> list[Token]:
        """The newest of a history that the prompt holds, as tokens.

        Raises:
            UsageError: It is empty, an entry is none, or the prompt asks about candidates.
        """
        if not self._prompts.format.ranks_catalogue:
            raise UsageError(
                "this bundle ranks candidates and no other items", "say which: --candidates TITLE, once for each"
            )
        return [token for piece in self._pieces(request) for token in piece]

    def question(
        self, request: Sequence[Entry], candidates: Sequence[Entry]
    ) -> tuple[list[Token], list[Candidate], int]:
        """A question about candidates, as tokens; its candidates; and how many of their tokens are read behind it.

        Raises:
            UsageError: The history is empty, an entry or candidate is none, or the prompt asks about no candidates.
            ConfigError: More candidates than there is room for.
        """
        pieces, listed, choices = self._question(request, candidates)
        tokens = [*(token for piece in pieces for token in piece), *listed]
        return tokens, choices, sum(map(self._behind, choices))

    def count_tokens(self, request: Sequence[Entry], candidates: Sequence[Entry] = ()) -> tuple[int, int]:
        """How many entries of a history are read, the newest, and how many tokens the request is."""
        if not candidates:
            pieces = self._pieces(request)
            return len(pieces), sum(map(len, pieces))
        pieces, listed, choices = self._question(request, candidates)
        return len(pieces), sum(map(len, pieces)) + len(listed) + sum(map(self._behind, choices))

    def _question(
        self, request: Sequence[Entry], candidates: Sequence[Entry]
    ) -> tuple[list[Sequence[Token]], list[Token], list[Candidate]]:
        prompt_format = self._prompts.format
        if prompt_format.ranks_catalogue or not candidates:
            raise UsageError("there are no candidates to ask about", "this is for bundles that rank candidates alone")
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
        if self._known(entry) and self._prompts.format.item_tokens:
            row = self._prompts.vocabulary.item_base + int(entry)  # type: ignore[arg-type]
        return Candidate(row, self._words(entry) if self._verbalizer.titles else ())

    def _behind(self, candidate: Candidate) -> int:
        """Tokens that are read behind a question for a candidate: its title's, but nobody reads behind the last."""
        return len(candidate.title) - 1 if self._verbalizer.continued else 0

    def _pieces(self, request: Sequence[Entry], behind: int = 0) -> list[Sequence[Token]]:
        """Each entry's tokens; the oldest go where ``behind`` more would not fit."""
        if len(request) == 0:
            raise UsageError("a history is empty", "give at least one item")
        pieces = [self._piece(entry) for entry in request[-self._max_history :]]
        if not self._bound:
            return pieces
        return pieces[self._prompts.dropped([*map(len, pieces)], len(self._prompts.next_prefix) + behind) :]

    def _known(self, entry: Entry) -> bool:
        """Whether an entry is an item of the catalogue."""
        if not isinstance(entry, int | np.integer):
            return False
        items = self._prompts.vocabulary.items
        if not 0 <= entry < items:
            raise UsageError(f"no item has the index {entry}", f"items are 0 to {items - 1}")
        return True

    def _piece(self, entry: Entry) -> Sequence[Token]:
        """An item as it stands in a list."""
        if self._known(entry):
            return self._prompts.item(int(entry))  # type: ignore[arg-type]
        if self._history.titles:
            return self._history.tokens(None, self._words(entry), self._prompts.separator)
        if np.shape(entry) != (self._hidden,):
            raise UsageError(f"a vector of shape {np.shape(entry)} is no item", f"its width is {self._hidden}")
        return self._history.tokens(np.ascontiguousarray(entry, np.float32), (), self._prompts.separator)

    def _words(self, entry: Entry) -> tuple[int, ...]:
        """The tokens of a title."""
        if self._known(entry):
            return self._prompts.titles[int(entry)]  # type: ignore[arg-type]
        text = self._prompts.vocabulary.text
        if not isinstance(entry, tuple) or not entry or not all(0 <= token < text for token in entry):
            raise UsageError("this bundle reads titles, and a new item is no text tokens", "give its title's tokens")
        return entry[: self._prompts.format.title_tokens]
