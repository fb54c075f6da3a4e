"""Text features of items: vectors of title and side text, centred and half-whitened, that training maps linearly."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from delrec_lite.llm.items import title_vectors
from delrec_lite.llm.load import Base
from delrec_lite.llm.ridge import ridge
from delrec_lite.prompts.tasks import TITLE_PREFIX
from delrec_lite.softmax.parts import block_ends

FILE = "features.safetensors"
# The strongest directions that are kept. The prototypes on Beauty had 384.
WIDTH = 384
# Share of a direction's singular value that remains: 1 leaves it as it is, 0 makes all directions equally strong.
WHITENING = 0.5
# Of the map from mean token rows to features of another source, which a new item's features are computed with.
RIDGE = 0.03
BATCH = 64
# Items that a linear map is fitted on: its matrix has a few hundred rows.
MOST_FITTED = 1 << 16


@dataclass(frozen=True)
class ItemText:
    """Text features of a catalogue.

    Attributes:
        features: float32 ``[items, d]``; over the trained items their mean is 0 and their mean square norm 1.
        from_rows: From the mean token row of a text, in the base's input embedding, to its features: a matrix and its
            shift as the last row, float32 ``[hidden + 1, d]``. Exact for features of token rows, else a regression.
    """

    features: Any
    from_rows: Any

    def of_rows(self, mean_rows: Any) -> Any:
        """Features of texts outside the catalogue: float32 ``[texts, hidden]`` to ``[texts, d]``."""
        return mean_rows @ self.from_rows[:-1] + self.from_rows[-1]

    def save(self, folder: Path) -> None:
        """Write ``features.safetensors``."""
        save_file({"features": self.features.contiguous(), "from_rows": self.from_rows.contiguous()}, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> "ItemText":
        """Read what ``save`` wrote."""
        return cls(**load_file(folder / FILE))


@torch.no_grad()
def item_text(base: Base, texts: Sequence[str], trained: Any, vectors: Any | None = None) -> ItemText:
    """Compute the features of a catalogue.

    Args:
        base: Its token rows give every text's mean row.
        texts: Title and side text of each item.
        trained: Which items occur in training, bool ``[items]``; the others have no influence on the map.
        vectors: Another source of features, float ``[items, width]``; default: the mean token rows.
    """
    fitted = fitting_rows(trained)

    def rows_of(some: Sequence[str]) -> Any:
        return title_vectors(base.model.get_input_embeddings().weight, some, base.encode).cpu().double()

    def source_of(places: Any) -> Any:
        return rows_of([texts[n] for n in places]) if vectors is None else vectors[places].cpu().double()

    matrix, shift = half_whitening(source_of(fitted))
    features, of_fitted = [], []
    for ends in block_ends(len(texts)):
        block = torch.arange(*ends)
        of_block = source_of(block) @ matrix + shift
        of_fitted.append(of_block[torch.isin(block, fitted)])
        features.append(of_block.float())
    if vectors is not None:
        matrix, shift = ridge(rows_of([texts[n] for n in fitted]), torch.cat(of_fitted), RIDGE)
    return ItemText(torch.cat(features), torch.cat([matrix, shift[None]]).float())


def fitting_rows(trained: Any) -> Any:
    """Indices of the items that a linear map is fitted on: those that occur in training, of many a part.

    Args:
        trained: Which do, bool ``[items]``.
    """
    places = trained.nonzero()[:, 0]
    return places[torch.arange(MOST_FITTED) * len(places) // MOST_FITTED] if len(places) > MOST_FITTED else places


def half_whitening(vectors: Any, width: int = WIDTH) -> tuple[Any, Any]:
    """The linear map that centres vectors, keeps their strongest directions and evens out their strengths.

    In float64 and with fixed signs, so that every machine computes the same features for a trained map.

    Args:
        vectors: float64 ``[n, a]``.
        width: The largest number of directions.

    Returns:
        Matrix ``[a, d]`` and shift ``[d]``, float64.
    """
    mean = vectors.mean(0)
    centred = vectors - mean
    strengths, directions = torch.linalg.eigh(centred.T @ centred)
    singular = strengths.clamp(min=0).sqrt()
    chosen = singular.argsort(descending=True)[:width]
    chosen = chosen[singular[chosen] > 1e-6 * singular.max()]
    directions, singular = directions[:, chosen], singular[chosen]
    largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
    matrix = directions * largest.sign() * singular ** (WHITENING - 1)
    matrix = matrix / (centred @ matrix).square().sum(1).mean().sqrt()
    return matrix, -mean @ matrix


@torch.inference_mode()
def state_means(base: Base, texts: Sequence[str]) -> Any:
    """The mean of the base's last hidden states over each text: float32 ``[texts, hidden]``.

    A text beyond the base's context is cut.
    """
    body, device = base.model.model, base.model.get_input_embeddings().weight.device
    begin = [] if base.bos is None else [base.bos]
    longest = base.model.config.max_position_embeddings
    tokens = [[*begin, *base.encode(TITLE_PREFIX + text)][:longest] for text in texts]

    def states(ids: Any, mask: Any) -> Any:
        return body(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).last_hidden_state

    return _means(tokens, len(begin), states)


@torch.inference_mode()
def encoder_means(folder: Path, texts: Sequence[str]) -> Any:
    """The mean of a sentence encoder's last hidden states over each text: float32 ``[texts, width]``.

    Args:
        folder: With ``config.json``, ``model.safetensors`` and ``tokenizer.json``.
        texts: A text beyond the encoder's length is cut.
    """
    from tokenizers import Tokenizer
    from transformers import AutoModel

    encoder = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(encoder.config.max_position_embeddings)
    blocks = (tokenizer.encode_batch(list(texts[start:end])) for start, end in block_ends(len(texts)))
    tokens = [encoded.ids for block in blocks for encoded in block]
    return _means(tokens, 0, lambda ids, mask: encoder(input_ids=ids, attention_mask=mask).last_hidden_state)


def _means(tokens: Sequence[Sequence[int]], skipped: int, states_of: Any) -> Any:
    """Mean states of token lists, without those of the first ``skipped`` tokens; in batches of similar length."""
    order = sorted(range(len(tokens)), key=lambda n: len(tokens[n]))
    means: Any = None
    for at in range(0, len(order), BATCH):
        chosen = order[at : at + BATCH]
        ids = torch.zeros(len(chosen), len(tokens[chosen[-1]]), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, n in enumerate(chosen):
            ids[row, : len(tokens[n])] = torch.tensor(tokens[n])
            mask[row, : len(tokens[n])] = 1
        states = states_of(ids, mask).float().cpu()
        mask[:, :skipped] = 0
        sums = (states * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
        means = torch.empty(len(tokens), sums.shape[1]) if means is None else means
        means[chosen] = sums
    return means
