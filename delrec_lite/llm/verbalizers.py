"""Verbalizers: three ways to turn the LLM's output into scores of candidates, behind one contract."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from delrec_lite.data.types import Floats, Ints
from delrec_lite.llm.forward import read_packed, read_states
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.packing import Packed, Segment, pack
from delrec_lite.prompts.tasks import Prompts

Tokens = Sequence[int]
# Rows of the LM head's logits at a time: 49,152 floats each, and all of a question's would not stay in the cache.
LOGITS_ROWS = 64


@dataclass(frozen=True)
class Question:
    """One question about candidates.

    Attributes:
        ids: Extended token ids behind the prefix; the answer is read at the last.
        candidates: Item indices, ``[m]``.
    """

    ids: list[int]
    candidates: Ints


class Verbalizer(Protocol):
    """Scores candidates; whatever learns is reached by gradients through the scores."""

    def scores(self, model: ItemLM, prompts: Prompts, prefix: Tokens, questions: Sequence[Question]) -> Any:
        """Scores of each question's candidates.

        Args:
            model: The recommender.
            prompts: The compiled tasks.
            prefix: Token ids before every question.
            questions: At least one, all with the same number m of candidates.

        Returns:
            float32 ``[questions, m]``; the softmax over m is the distribution that is trained.
        """


class TitleMean:
    """The answer's hidden state times the candidate's row of ``ItemLM.head``: the mean of its title's LM-head rows."""

    def scores(self, model: ItemLM, prompts: Prompts, prefix: Tokens, questions: Sequence[Question]) -> Any:
        """See ``Verbalizer.scores``."""
        rows = model.head()[torch.from_numpy(np.stack([q.candidates for q in questions])).to(model.soft.device)]
        return torch.einsum("qh,qmh->qm", answers(model, prefix, questions), rows)


class Letter:
    """The logits of the candidates' letters (LlamaRec, arXiv 2311.02089)."""

    def scores(self, model: ItemLM, prompts: Prompts, prefix: Tokens, questions: Sequence[Question]) -> Any:
        """See ``Verbalizer.scores``."""
        m = len(questions[0].candidates)
        rows = model.text_head[list(prompts.letters[:m])].float()
        return answers(model, prefix, questions) @ rows.T


class Likelihood:
    """The log-probability of the candidate's title after the prompt; candidates share the prompt, one forward each."""

    def scores(self, model: ItemLM, prompts: Prompts, prefix: Tokens, questions: Sequence[Question]) -> Any:
        """See ``Verbalizer.scores``."""

        def forward(packed: Packed) -> Any:
            return read_packed(model, packed)

        out = []
        for question in questions:
            titles = [prompts.titles[i] for i in question.candidates]
            states = title_states(forward, [*prefix, *question.ids], titles)
            out.append(log_likelihoods(states, titles, model.text_head))
        return torch.stack(out)


VERBALIZERS: dict[str, Verbalizer] = {"title-mean": TitleMean(), "letter": Letter(), "likelihood": Likelihood()}


def answers(model: ItemLM, prefix: Tokens, questions: Sequence[Question]) -> Any:
    """Hidden states where the answers are read: float32 ``[questions, hidden]``."""
    return read_states(model, prefix, [Segment(q.ids, [len(q.ids) - 1]) for q in questions])


def title_states(forward: Callable[[Packed], Any], prefix: Tokens, titles: Sequence[Tokens]) -> list[Any]:
    """Hidden states before each token of each title: the prompt's last, then the title's own but the last.

    Args:
        forward: Computes what a packed row reads: ``[reads, hidden]``.
        prefix: Token ids of the whole prompt.
        titles: Token ids of each title.
    """
    # Nobody reads behind a title's last token, so it is not computed; a title of one token needs the prompt alone.
    segments = [Segment(ids[:-1], range(len(ids) - 1)) for ids in titles if len(ids) > 1]
    packed = pack(prefix, segments or [Segment(titles[0], [])], sum(map(len, titles)))
    read = np.concatenate([[len(prefix) - 1], packed.read])
    last, own = forward(Packed(packed.ids, packed.positions, packed.mask, read)).split([1, len(packed.read)])
    return [torch.cat([last, one]) for one in own.split([len(ids) - 1 for ids in titles])]


def log_likelihoods(states: Sequence[Any], titles: Sequence[Tokens], head: Any) -> Any:
    """Sums of the log-probabilities of each title's tokens: float32 ``[titles]``; ``states`` by ``title_states``."""
    tokens = torch.tensor([token for ids in titles for token in ids], device=head.device)
    read = torch.cat(list(states)).to(head.dtype)
    parts = []
    for some, asked in zip(read.split(LOGITS_ROWS), tokens.split(LOGITS_ROWS), strict=True):
        logits = (some @ head.T).float()
        parts.append(logits.gather(1, asked.unsqueeze(1)).squeeze(1) - logits.logsumexp(1))
    per_token = torch.cat(parts)
    return torch.stack([part.sum() for part in per_token.split([len(ids) for ids in titles])])


def next_question(prompts: Prompts, history: Ints, candidates: Ints, max_history: int) -> Question:
    """What comes after a history, of these candidates? The history loses its oldest items if there is no room."""
    behind = len(prompts.question([], candidates.tolist())) + _longest_answer(prompts, candidates)
    ids, _ = prompts.history(prompts.newest(history, max_history, behind).tolist())
    return Question(prompts.question(ids, candidates.tolist()), candidates)


def temporal_question(prompts: Prompts, sequence: Ints, candidates: Ints) -> Question:
    """Which of these candidates was hidden in a sequence, its second-last item? See ``Prompts.temporal``."""
    behind = len(prompts.question([], candidates.tolist())) + _longest_answer(prompts, candidates)
    ids, _, _ = prompts.temporal(sequence.tolist(), behind)
    return Question(prompts.question(ids, candidates.tolist()), candidates)


def _longest_answer(prompts: Prompts, candidates: Ints) -> int:
    """Tokens that are read behind the question."""
    return max(len(prompts.titles[i]) for i in candidates) if prompts.format.verbalizer == "likelihood" else 0


def next_scores(model: ItemLM, prompts: Prompts, questions: Sequence[Question]) -> Any:
    """Scores of the candidates of what comes next, with gradients: float32 ``[questions, m]``."""
    return VERBALIZERS[prompts.format.verbalizer].scores(model, prompts, prompts.next_prefix, questions)


def temporal_scores(model: ItemLM, prompts: Prompts, questions: Sequence[Question]) -> Any:
    """Scores of the candidates of temporal analysis, with gradients: float32 ``[questions, m]``."""
    return VERBALIZERS[prompts.format.verbalizer].scores(model, prompts, prompts.temporal_prefix, questions)


@torch.no_grad()
def score_candidates(
    model: ItemLM, prompts: Prompts, histories: Sequence[Ints], candidates: Ints, max_history: int, batch: int = 16
) -> Floats:
    """Scores of each history's candidates.

    Args:
        model: With or without adapter.
        prompts: The compiled tasks, in any form.
        histories: Item indices, oldest first, none empty.
        candidates: int64 ``[histories, m]``.
        max_history: Items that the prompt holds, the newest.
        batch: Questions packed together.

    Returns:
        float32 ``[histories, m]``.
    """
    asked = [next_question(prompts, h, c, max_history) for h, c in zip(histories, candidates, strict=True)]
    parts = [next_scores(model, prompts, asked[at : at + batch]) for at in range(0, len(asked), batch)]
    scores: Floats = torch.cat(parts).cpu().numpy().astype(np.float32)
    return scores
