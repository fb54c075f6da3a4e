"""The recommender as a torch module: a causal LM, a soft prompt, item vectors and the title-mean verbalizer."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from delrec_lite.llm.item_start import norm_from_mean, teacher_similarity
from delrec_lite.llm.item_text import ItemText, fitting_rows
from delrec_lite.llm.items import median_norm, title_vectors
from delrec_lite.llm.load import Base
from delrec_lite.llm.ridge import ridge
from delrec_lite.prompts.vocabulary import FIRST_DEEP, Vocabulary
from delrec_lite.softmax.parts import block_ends
from delrec_lite.softmax.rows import RowTable

# Norm of the teacher's part of an item vector relative to the title's, for input and output. After 40 steps of stage 2
# (0.33 epochs) on ML-100K, 315 validation users, whole catalogue: HR@10 0.181 with 0.7 and 0.200 with 1.5.
TEACHER_SHARE_IN = 1.5
TEACHER_SHARE_OUT = 1.5
# Of the regression of the teacher's item vectors on text features, where the maps begin.
TEXT_RIDGE = 0.1


class ItemLM(nn.Module):
    """Reads prompts in the extended vocabulary; scores the catalogue with one row per item.

    The score of item i at hidden state h is ``scale * h . (mean LM-head row of i's title + offset_i)`` (the
    title-mean verbalizer; without bias, so that the rows fit the output head of any runtime). The input vector of an
    item is its title's mean token embedding plus an offset. Offsets start at zero, so an untrained item is represented
    by its title alone, unless ``start_from`` initialises them from the teacher's item vectors.

    With item text, a learned linear map of an item's text features is added to its input and to its output vector. In
    training, ``drop_offsets`` leaves out the offsets of some items, so that the maps alone must represent them: a new
    item is one that training has seen the like of.

    Args:
        base: The language model.
        titles: The catalogue's titles.
        soft: k, the number of soft-prompt vectors.
        seed: Random seed of the soft prompt's initial values, which are random token rows.
        start: Token ids whose rows, repeated if necessary, are the initial values instead.
        deep: Soft tokens also have vectors in each layer (deep prompts, arXiv 2110.07602), initially zero and added to
            the layer's input.
        text: Text features of the items.
        half: Item vectors are kept as bfloat16, and only those that are read are ever float32: for a large catalogue.
    """

    def __init__(
        self,
        base: Base,
        titles: Sequence[str],
        soft: int,
        seed: int = 0,
        start: Sequence[int] | None = None,
        deep: bool = False,
        text: ItemText | None = None,
        half: bool = False,
    ) -> None:
        super().__init__()
        self.lm = base.model
        rows = self.lm.get_input_embeddings().weight
        hidden = rows.shape[1]
        self.vocabulary = Vocabulary(text=rows.shape[0], soft=soft, items=len(titles))
        self.input_norm = median_norm(rows)
        head = self.lm.get_output_embeddings().weight
        self.register_buffer("titles_out", title_vectors(head, titles, base.encode, half=half))
        # Where both embeddings are one, the input's titles are the output's with another norm.
        tied = half and head.data_ptr() == rows.data_ptr()
        titles_in = None if tied else title_vectors(rows, titles, base.encode, self.input_norm, half)
        self.register_buffer("titles_in", titles_in)
        self.half = half
        # Tables of which a step of training reads some rows, by the names of their parameters; none: all is read.
        self.tables: Mapping[str, RowTable] = {}
        initial = torch.randint(rows.shape[0], (soft,), generator=torch.Generator().manual_seed(seed))
        if start is not None:
            initial = torch.tensor([start[n % len(start)] for n in range(soft)])
        self.soft = nn.Parameter(rows[initial].float().clone())
        self._soft_index: Any = None  # soft-token index at each position of the rows being computed
        if deep:
            self.deepen()
        self.offset_in = nn.Parameter(torch.zeros_like(self.titles_out))
        self.offset_out = nn.Parameter(torch.zeros_like(self.titles_out))
        self.log_scale = nn.Parameter(torch.zeros((), device=rows.device))
        self.text = text
        if text is not None:
            if half:
                self.text = text = replace(text, features=text.features.bfloat16())
            self.register_buffer("features", text.features.to(rows.device))
            self.text_in = nn.Parameter(torch.zeros(text.features.shape[1], hidden, device=rows.device))
            self.text_out = nn.Parameter(torch.zeros(text.features.shape[1], hidden, device=rows.device))
        # In training, shares of dropped numbers of the items' input vectors and of the states that are read.
        self.item_dropout, self.state_dropout = 0.0, 0.0
        self._counts: Any = None  # in training, 1 for items whose offsets count, float32 ``[items, 1]``; None: all

    def deepen(self) -> None:
        """Give the soft tokens vectors in each layer too, initially zero: the model answers as before."""
        layers = self.body.layers[FIRST_DEEP:]
        self.deep = nn.Parameter(self.soft.new_zeros(len(layers), *self.soft.shape))
        for n, layer in enumerate(layers):
            layer.register_forward_pre_hook(partial(self._add_deep_prompt, n))

    @torch.no_grad()
    def start_from(self, vectors: Any, trained: Any) -> None:
        """Initialise item offsets with the item similarity of a sequential recommender.

        A fixed random rotation maps its item vectors to the LLM's width, the same for input and output, so that only
        the similarity between items is transferred.

        With item text, the maps begin as the regression of these vectors on the features, and the offsets as what it
        leaves.

        Args:
            vectors: The recommender's item vectors, float32 ``[items, d]``; if d exceeds the LLM's width, only
                the first principal components are used.
            trained: Which items it has seen, bool ``[items]``; offsets of all other items stay zero.
        """
        similar, rotation = teacher_similarity(vectors, trained, self.offset_in.shape[1])
        norm_out = norm_from_mean(self.titles_out)
        for start, end in block_ends(len(vectors)):
            block = similar[start:end] @ rotation.T
            self.offset_in[start:end] = block * TEACHER_SHARE_IN * self.input_norm
            self.offset_out[start:end] = block * TEACHER_SHARE_OUT * norm_out
        if self.text is None:
            return
        features, fitted = self.text.features, fitting_rows(trained)
        for offset, text_map in ((self.offset_in, self.text_in), (self.offset_out, self.text_out)):
            text_map.copy_(ridge(features[fitted].float(), offset.cpu()[fitted].float(), TEXT_RIDGE)[0])
            for start, end in block_ends(len(vectors)):
                target, seen = offset[start:end].cpu().float(), trained[start:end].unsqueeze(1)
                offset[start:end] = (target - features[start:end].float() @ text_map.cpu()) * seen

    @torch.no_grad()
    def start_random(self, seed: int) -> None:
        """Initialise items with random vectors of a token's norm, independent of the title."""
        generator = torch.Generator().manual_seed(seed)
        norm_out = median_norm(self.text_head)
        for name, norm in (("in", self.input_norm), ("out", norm_out)):
            offset = getattr(self, f"offset_{name}")
            for start, end in block_ends(len(offset)):
                titles = self._titles(name, slice(start, end))
                vectors = torch.randn(titles.shape, generator=generator) * (norm / titles.shape[1] ** 0.5)
                offset[start:end] = vectors.to(titles.device) - titles

    @property
    def body(self) -> Any:
        """The transformer without its 49k-wide head."""
        return self.lm.get_base_model().model if hasattr(self.lm, "get_base_model") else self.lm.model

    @property
    def text_head(self) -> Any:
        """The LM head's rows of text tokens: ``[text, hidden]``."""
        return self.lm.get_output_embeddings().weight

    def soft_prompt(self) -> dict[str, Any]:
        """Parameters of stage 1: ``soft`` ``[k, hidden]``, ``deep`` ``[layers - 2, k, hidden]`` of a deep prompt."""
        deep = getattr(self, "deep", None)
        return {"soft": self.soft} if deep is None else {"soft": self.soft, "deep": deep}

    def _add_deep_prompt(self, layer: int, _: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """A layer's inputs with this layer's vectors added at the soft tokens."""
        states, *rest = inputs
        count = self.vocabulary.soft
        index = self._soft_index.to(states.device)
        vectors = self.deep[layer][index.clamp(0, count - 1)].to(states.dtype)
        return (torch.where(((index >= 0) & (index < count)).unsqueeze(-1), states + vectors, states), *rest)

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of a checkpointed layer: for its forward pass, and for its recomputation in the backward pass.

        Other forward passes may run in between, so the second context restores the soft-token index of this one.
        """
        return nullcontext(), _SoftIndexContext(self, self._soft_index)

    @property
    def by_rows(self) -> bool:
        """Whether only the item vectors that are asked for are computed, and never all of them at once."""
        return self.half or bool(self.tables)

    def extension(self) -> Any:
        """Input rows of soft tokens and items: shape ``[k + items, hidden]``, float32."""
        return torch.cat([self.soft, self._vectors("in")])

    def head(self, items: Any = None) -> Any:
        """The verbalizer's rows with the scale folded in: shape ``[items, hidden]``, float32.

        Args:
            items: Item indices, int64, or a slice; default: all items.
        """
        return self.log_scale.exp() * self._vectors("out", items)

    def _vectors(self, side: str, items: Any = None) -> Any:
        """Vectors of items for the input (``in``) or the output (``out``), float32 ``[..., hidden]``."""
        vectors = self._titles(side, items)
        if self.text is not None:
            features = self.features if items is None else self.features[items]
            vectors = vectors + features.float() @ getattr(self, f"text_{side}")
        table = self.tables.get(f"offset_{side}")
        if table is None or items is None:
            offsets = getattr(self, f"offset_{side}")
            offsets = (offsets if items is None else offsets[items]).float()
        else:
            offsets = table.read(items)
        if self.training and self._counts is not None:
            offsets = offsets * (self._counts if items is None else self._counts[items])
        return vectors + offsets

    def _titles(self, side: str, items: Any = None) -> Any:
        titles = self.titles_out if side == "out" or self.titles_in is None else self.titles_in
        titles = (titles if items is None else titles[items]).float()
        if side == "in" and self.titles_in is None:
            return titles * (self.input_norm / titles.norm(dim=-1, keepdim=True))
        return titles

    def text_maps(self) -> dict[str, nn.Parameter]:
        """The maps from text features, by name: ``text_in`` and ``text_out``, ``[d, hidden]``; none without text."""
        return {} if self.text is None else {"text_in": self.text_in, "text_out": self.text_out}

    def drop_offsets(self, share: float, seed: int) -> None:
        """Leave out the offsets of a share of the items from now on, while the model is in training mode.

        Args:
            share: 0 to 1.
            seed: Decides which items; the same in every process and micro-batch of a step.
        """
        drawn = torch.rand(len(self.offset_in), 1, generator=torch.Generator().manual_seed(seed))
        self._counts = (drawn >= share).float().to(self.offset_in.device) if share else None

    def embed(self, ids: Any) -> Any:
        """Vectors of extended token ids, any shape, in the body's precision."""
        rows = self.body.embed_tokens.weight
        text = rows[ids.clamp(max=self.vocabulary.text - 1)]
        extra = self._extended(ids - self.vocabulary.text)
        if self.training and self.item_dropout:
            dropped = functional.dropout(extra, self.item_dropout)
            extra = torch.where((ids >= self.vocabulary.item_base).unsqueeze(-1), dropped, extra)
        extra = extra.to(rows.dtype)
        vectors = torch.where((ids < self.vocabulary.text).unsqueeze(-1), text, extra)
        # Gemma scales input embeddings; every runtime scales the extended rows too.
        scale = getattr(self.body.embed_tokens, "embed_scale", None)
        return vectors if scale is None else vectors * torch.as_tensor(scale).to(vectors)

    def _extended(self, index: Any) -> Any:
        """Rows of ``extension`` by their index in it; of a text token, whose index is negative, any row."""
        if not self.by_rows:
            return self.extension()[index.clamp(min=0)]
        count = self.vocabulary.soft
        items = self._vectors("in", (index - count).clamp(min=0))
        return torch.where((index < count).unsqueeze(-1), self.soft[index.clamp(0, count - 1)], items)

    def hidden(self, ids: Any, positions: Any, mask: Any, read: Any) -> Any:
        """Hidden states after the final norm, at the read positions.

        Args:
            ids: Extended token ids, int64 ``[rows, length]``.
            positions: Position of each, int64, same shape.
            mask: Attention mask, bool ``[rows, 1, length, length]``.
            read: Flat indices into ``rows * length``, int64 ``[reads]``.

        Returns:
            float32 ``[reads, hidden]``.
        """
        with _SoftIndexContext(self, ids - self.vocabulary.text):
            states = self.body(
                inputs_embeds=self.embed(ids), position_ids=positions, attention_mask=mask, use_cache=False
            ).last_hidden_state
        return functional.dropout(states.flatten(0, 1)[read].float(), self.state_dropout, self.training)


class _SoftIndexContext(AbstractContextManager[None]):
    """Sets the soft-token index for the layers of one forward pass, and again for each recomputation.

    Args:
        model: The model whose layers read it.
        index: Soft-token index at each position, int64 ``[rows, length]``; outside ``0..k - 1`` there is none.
    """

    def __init__(self, model: ItemLM, index: Any) -> None:
        self._model, self._index, self._previous = model, index, None

    def __enter__(self) -> None:
        self._previous, self._model._soft_index = self._model._soft_index, self._index

    def __exit__(self, *_: object) -> None:
        self._model._soft_index, self._previous = self._previous, None
