"""A language model and a data set small enough to train in a test, built when a test needs them."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from delrec_lite.console import QUIET
from delrec_lite.data.types import CandidateSets, Catalog, Dataset
from delrec_lite.llm.load import Base, load_base
from delrec_lite.llm.model import ItemLM
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.tasks import Prompts, compile_prompts
from delrec_lite.training.context import TrainingContext

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ITEMS, USERS = 30, 24
# Not in the tokenizer's corpus, but for the last one.
UNSEEN_TEXTS = ["Zebra's café — 東京 ☃ <|im_start|>", " a", "\n", "Red River (1950)"]


@cache
def dataset() -> Dataset:
    """Users walk a ring of items: after item i comes i + 1."""
    rng = np.random.default_rng(7)
    titles = tuple(f"{a} {b} ({1950 + 2 * n})" for n, (a, b) in enumerate(_names()))
    starts = rng.integers(0, ITEMS, USERS)
    lengths = rng.integers(10, 20, USERS)
    sequences = tuple((s + np.arange(n)) % ITEMS for s, n in zip(starts, lengths, strict=True))
    users = tuple(f"u{n}" for n in range(USERS))
    return Dataset("ring", Catalog(tuple(f"i{n}" for n in range(ITEMS)), titles), users, sequences, "ring")


def _names() -> list[tuple[str, str]]:
    first = ["Red", "Blue", "Green", "Silent", "Golden", "Last"]
    second = ["River", "Mountain", "Garden", "Harbour", "Winter"]
    return [(a, b) for a in first for b in second]


def candidates(split: str = "test", m: int = 5) -> CandidateSets:
    rng = np.random.default_rng(3)
    data = dataset()
    targets = data.test().targets if split == "test" else data.valid().targets
    rows = []
    for sequence, target in zip(data.sequences, targets, strict=True):
        pool = np.setdiff1d(np.arange(ITEMS), sequence)
        rows.append(rng.permutation(np.append(rng.choice(pool, m - 1, replace=False), target)))
    return CandidateSets(split, np.array(rows), 3)


def write_base(folder: Path, more: Sequence[str] = (), layers: int = 2) -> Path:
    """A small Llama with byte-pair tokenizer, as a Hugging Face folder; the tokenizer knows titles and ``more``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer(models.BPE(byte_fallback=True))  # in vain, as SmolLM2's is: it has no tokens for bytes
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([*(f" {t}" for t in dataset().catalog.titles), *more], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.15,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_model(folder: Path, soft: int = 4, deep: bool = False) -> tuple[ItemLM, Prompts, Base]:
    """The tiny model in float32, its prompts and its base, from a folder of ``write_base``."""
    base = load_base("tiny", folder, torch.float32)
    model = ItemLM(base, dataset().catalog.titles, soft, seed=0, deep=deep)
    prompts = compile_prompts(DOMAINS["movie"], model.vocabulary, base.encode, base.bos)
    return model, prompts, base


class Ring:
    """A teacher that knows the ring: after item i comes i + 1."""

    def scores(self, histories):
        return np.stack([self.sequence_scores_many([h])[0][-1] for h in histories])

    def sequence_scores_many(self, sequences):
        out = []
        for s in sequences:
            rows = np.zeros((len(s), ITEMS), np.float32)
            rows[np.arange(len(s)), (np.asarray(s) + 1) % ITEMS] = 8.0
            out.append(rows)
        return out


def context(model: ItemLM, prompts: Prompts, out: Path, teacher=None, data: Dataset | None = None) -> TrainingContext:
    """What a stage of training is given: the ring's teacher, data and candidate sets, and histories of ten items."""
    return TrainingContext(model, prompts, teacher or Ring(), data or dataset(), candidates("valid"), 10, out, QUIET)
