"""Several users' requests in one call of llama.cpp, also those that continue a session."""

from collections.abc import Callable, Hashable, Iterator, Sequence

from delrec_lite.runtime.engines.llama_batch import SEQUENCES, add_sequence, merge_histories
from delrec_lite.runtime.engines.llama_context import LlamaContext
from delrec_lite.runtime.engines.sessions import Sessions, keys_of
from delrec_lite.runtime.prompting.encoder import Token

# From 64 tokens on llama.cpp computes attention in tiles, which round otherwise (scores differ by up to 0.13, and of 32
# users' first ten 25 had another order); below that, several requests get the scores of each alone to the last bit.
# Larger batches save nothing: SmolLM2-135M in iq4_mix, 20 tokens a request, one core, milliseconds of processor time a
# request: alone 54, three in a call 52, sixteen 51.
GROUP_TOKENS = 63


class LlamaGroup:
    """Divides requests into groups that fit one evaluation. Not safe under threads: the engine's lock guards it.

    Args:
        llama: Open.
        sessions: Those that the engine keeps.
        start: Position behind the prefix.
        sequence: Gives the sequence of a session's slot.
    """

    def __init__(self, llama: LlamaContext, sessions: Sessions, start: int, sequence: Callable[[int], int]) -> None:
        self._llama, self._sessions, self._start, self._sequence = llama, sessions, start, sequence

    def evaluate(
        self, histories: Sequence[list[Token]], sessions: Sequence[str | None], states: bool
    ) -> Iterator[tuple[list[int], list[int]]]:
        """Evaluate all histories, in order, a group at a time.

        Yields a group's rows and how many tokens each of them cost; until the next group is asked for, the n-th of the
        context's ``outputs`` belongs to the n-th of them.
        """
        keys = [keys_of(tokens) for tokens in histories]
        row = 0
        while row < len(histories):
            rows = self._fitting(row, keys, sessions)
            row = rows[-1] + 1
            # Rows without a session first: their sequences are numbered from 1.
            rows.sort(key=lambda n: sessions[n] is not None)
            fresh = [n for n in rows if sessions[n] is None]
            names = {n: name for n in rows if (name := sessions[n]) is not None}
            try:
                counts = self._evaluate_group(histories, keys, fresh, names, states)
                yield rows, counts
            finally:
                for sequence in range(1, len(fresh) + 1):
                    self._llama.clear_sequence(sequence)

    def _fitting(self, first: int, keys: Sequence[list[Hashable]], sessions: Sequence[str | None]) -> list[int]:
        """The rows from ``first`` on that fit one evaluation, at least one, however long; no session comes twice."""
        rows: list[int] = []
        names: set[str] = set()
        new_tokens = session_tokens = 0
        for row in range(first, len(keys)):
            name, new = sessions[row], len(keys[row])
            if name is not None:
                new = self._sessions.count_new(name, keys[row])
                session_tokens += len(keys[row])
            new_tokens += new
            is_full = len(rows) == SEQUENCES or new_tokens > GROUP_TOKENS or not self._sessions.can_hold(session_tokens)
            if rows and (is_full or name in names):
                break
            rows.append(row)
            if name is not None:
                names.add(name)
        return rows

    def _evaluate_group(
        self,
        histories: Sequence[list[Token]],
        keys: Sequence[list[Hashable]],
        fresh: Sequence[int],
        names: dict[int, str],
        states: bool,
    ) -> list[int]:
        """Evaluate some rows, those of sessions last; how many tokens each of them cost."""
        for sequence in range(1, len(fresh) + 1):
            self._llama.copy_sequence(0, sequence)
        try:
            continued = []
            taken = self._sessions.take_together([(name, keys[row]) for row, name in names.items()])
            for row, (session, reused) in zip(names, taken, strict=True):
                sequence = self._sequence(session.slot)
                self._llama.clear_sequence(sequence, self._start + reused if reused else -1)
                if not reused:
                    self._llama.copy_sequence(0, sequence)
                continued.append((sequence, reused, histories[row][reused:]))
            if states:
                work = [(n, 0, histories[row]) for n, row in enumerate(fresh, 1)] + continued
                self._llama.decode_states([(sequence, self._start + at, tokens) for sequence, at, tokens in work])
            else:
                batch, outputs = merge_histories([histories[row] for row in fresh])
                outputs += [add_sequence(batch, sequence, at, tokens) for sequence, at, tokens in continued]
                self._llama.outputs = outputs
                self._llama.evaluate(self._start, batch)
        except BaseException:
            for name in names.values():
                self._sessions.drop(name)
            raise
        return [*(len(histories[row]) for row in fresh), *(len(tokens) for _, _, tokens in continued)]
