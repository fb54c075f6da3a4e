"""letter in training (LlamaRec, arXiv 2311.02089): the logits of the candidates' letters."""

from collections.abc import Sequence
from typing import Any

from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.questions import answers
from delrec_lite.llm.verbalizer import Question, Tokens, Verbalizer
from delrec_lite.prompts.tasks import Prompts


class Letter(Verbalizer):
    """The base model's LM head at the letters; it has no trained parameters."""

    def scores(self, model: ItemLM, prompts: Prompts, prefix: Tokens, questions: Sequence[Question]) -> Any:
        """See ``Verbalizer.scores``."""
        m = len(questions[0].candidates)
        rows = model.text_head[list(prompts.labels[:m])].float()
        return answers(model, prefix, questions) @ rows.T

    def head_rows(self, model: ItemLM, prompts: Prompts) -> tuple[Tokens, Any]:
        """See ``Verbalizer.head_rows``."""
        return prompts.labels, model.text_head[list(prompts.labels)].float()
