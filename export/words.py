"""Words beside a history: the bundle's table of words, and the weights of words that validation users choose.

A word's vector is the mean of its token rows in the base's input embedding, centred and half-whitened as the items'
text features are, so the table needs neither a model with item text nor training. It holds every word of the catalogue,
and the words that the base's tokenizer has as one token, the most common ones first.
"""

import random
from collections.abc import Sequence

import numpy as np
import torch

from delrec_lite.data.types import Floats, Ints, Split, described
from delrec_lite.evaluation.fusion import logsumexp
from delrec_lite.export.request import ExportRequest
from delrec_lite.llm.item_text import half_whitening
from delrec_lite.llm.items import title_vectors
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.runtime.words.reading import WEIGHT, WEIGHT_ALONE, Words
from delrec_lite.runtime.words.table import WordTable
from delrec_lite.runtime.words.text import words_in

# Words outside the catalogue, and numbers of a vector: 1.8 MB for ML-100K.
COMMON, WIDTH = 20_000, 96
SHORTEST = 3  # letters of a common word
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0)
# Words of a title that stand for a user's where an item has no side text.
FROM_TITLE = 2


def descriptions(request: ExportRequest) -> list[str]:
    """Title and side text of each item."""
    titles = request.dataset.catalog.titles
    return [described(title, text) for title, text in zip(titles, side_texts(request), strict=True)]


def side_texts(request: ExportRequest) -> Sequence[str]:
    """Side text of each item: that of the data set, or else of its source; empty where there is none."""
    catalog = request.dataset.catalog
    return catalog.texts or request.texts or ("",) * len(catalog)


@torch.no_grad()
def word_table(request: ExportRequest, width: int = WIDTH, common: int = COMMON) -> WordTable:
    """The table of a bundle; the request's model must not be merged yet."""
    model, texts = request.model, descriptions(request)
    catalogue = dict.fromkeys(word for text in texts for word in words_in(text))
    words = list(dict.fromkeys([*catalogue, *_common_words(request)[:common]])) or ["unknown"]
    rows = model.body.embed_tokens.weight[: model.vocabulary.text]
    forms = (words, [word.capitalize() for word in words])  # a title's word and a typed one are the same
    vectors = torch.stack([title_vectors(rows, form, request.base.encode) for form in forms]).mean(0).cpu().double()
    matrix, shift = half_whitening(vectors, width)
    return WordTable.of(words, (vectors @ matrix + shift).float().numpy(), texts)


def _common_words(request: ExportRequest) -> list[str]:
    """Words that are one token with a space before it, those of smaller ids first."""
    vocabulary = open_tokenizer(request.tokenizer_json).get_vocab()
    names = (name for name, _ in sorted(vocabulary.items(), key=lambda entry: entry[1]) if name[:1] in "\u0120\u2581")
    return [name[1:].casefold() for name in names if name[1:].isascii() and name[1:].isalpha() and len(name) > SHORTEST]


def words_weights(
    request: ExportRequest, recommender: Recommender, split: Split, scores: Floats, among: Ints | None = None
) -> dict[str, float]:
    """The weights of words that give the next items of validation users the highest likelihood.

    The words are the next item's side text, or two words of its title where it has none. Every second user says it in
    other words, because people do not type the catalogue's own: with these alone, words would become a filter. Nothing
    is trained on them.

    Args:
        request: Of the export.
        recommender: Of the bundle.
        split: The users.
        scores: Of the catalogue after their histories, float32 ``[users, items]``, or of their candidates.
        among: The candidates, int64 ``[users, m]``; None: the catalogue.
    """
    words, texts = Words(recommender.bundle), side_texts(request)
    asked = [example_words(request.dataset.catalog.titles[t], texts[t], int(t)) for t in split.targets]
    asked = [words.table.in_other_words(text) if n % 2 else text for n, text in enumerate(asked)]
    worded = {text: words.read(text, 1.0) for text in dict.fromkeys(asked)}
    fit = np.stack([w.fit if (w := worded[text]) else np.zeros(len(texts), np.float32) for text in asked])
    popular = np.tile(np.log1p(np.asarray(recommender.bundle.items.popularity, np.float32)), (len(asked), 1))
    columns = split.targets
    if among is not None:
        fit, popular = (np.take_along_axis(values, among, 1) for values in (fit, popular))
        columns = (among == split.targets[:, None]).argmax(1)
    return {WEIGHT: best_weight(scores, fit, columns), WEIGHT_ALONE: best_weight(popular, fit, columns)}


def example_words(title: str, text: str, seed: int) -> str:
    """What a user who looks for an item might type: its side text, or two words of its title."""
    if text:
        return text
    words = words_in(title)
    return " ".join(random.Random(seed).sample(words, min(FROM_TITLE, len(words))))


def best_weight(scores: Floats, fit: Floats, columns: Ints) -> float:
    """The weight of ``fit`` beside ``scores``, both float32 ``[users, n]``, at which ``columns`` are likeliest."""
    rows = np.arange(len(columns))

    def likelihood(weight: float) -> float:
        mixed = scores + np.float32(weight) * fit
        return float((mixed[rows, columns] - logsumexp(mixed)[:, 0]).mean())

    return max(WEIGHTS, key=likelihood)
