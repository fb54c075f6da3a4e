"""SentencePiece vocabularies (Gemma's): read from GGUF, written to GGUF, pruned; llama.cpp encodes alike."""

import json

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

from delrec_lite.console import QUIET
from delrec_lite.export import prune as pruning
from delrec_lite.export.prune import prune
from delrec_lite.llm.forward import score_all
from delrec_lite.llm.load import load_base, unpack
from delrec_lite.llm.pieces import SPACE, merges
from delrec_lite.prompts.tokenizer import open_tokenizer
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.recommender import Recommender
from tests.conftest import export_tiny
from tests.tiny import UNSEEN_TEXTS, dataset, make_model

TEXTS = [
    *dataset().catalog.titles,
    *(f" {title}" for title in dataset().catalog.titles),
    "Silent  Winter\n\nred",
    *UNSEEN_TEXTS,
]


def write_pieces(folder, prefix=False):
    """A small Gemma with SentencePiece's vocabulary, as a Hugging Face folder; some tokens have two merges.

    With ``prefix`` it is a Mistral, whose tokenizer adds a space in front of every text.
    """
    import transformers

    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", SPACE)
    corpus = [f" {title}" for title in dataset().catalog.titles]
    learner.train_from_iterator([*corpus, "watermelon elephants umbrella"] * 2, trainers.BpeTrainer(vocab_size=300))
    model = json.loads(learner.to_str())["model"]
    learned = sorted(model["vocab"], key=model["vocab"].get)
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<unused0>", "\n\n", *(f"<0x{b:02X}>" for b in range(256)), *learned]
    vocab = {token: i for i, token in enumerate(tokens)}
    order = merges({token: float(-i) for token, i in vocab.items() if token in learned}, vocab)
    tokenizer = Tokenizer(models.BPE(vocab, order, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    spaces = [normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), *spaces] if prefix else spaces)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<pad>", "<eos>", "<bos>", "<unk>", "<unused0>"])
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False)])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        "mistral" if prefix else "gemma3_text",
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=0.15,
        sliding_window=128,
        **({} if prefix else {"query_pre_attn_scalar": 16}),
    )
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return write_pieces(tmp_path_factory.mktemp("pieces") / "base")


@pytest.fixture(scope="module")
def bundle(pieces, tmp_path_factory):
    """The small Gemma exported with its whole vocabulary."""
    return export_tiny(pieces, tmp_path_factory.mktemp("whole") / "x.delrec", prune_vocab=False).path


def splits(path, texts, special=False):
    """Token ids that llama.cpp makes of texts."""
    import llama_cpp

    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return [llama.tokenize(text.encode(), add_bos=False, special=special) for text in texts]


def encoded(tokenizer, texts):
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def test_merges_of_one_token_are_ordered_by_score():
    vocab = {"a": 0, "b": 1, "c": 2, "bc": 3, "ab": 4, "abc": 5}
    scores = {token: float(-i) for token, i in vocab.items()}
    assert merges(scores, vocab) == [("b", "c"), ("a", "b"), ("a", "bc"), ("ab", "c")]


def test_a_title_in_the_bundle_is_split_as_in_llama_cpp(pieces, bundle):
    texts = [text for text in TEXTS if text.strip() not in dataset().catalog.titles]  # those are tokens by themselves
    words = [title.lower().replace(" ", "  ") for title in dataset().catalog.titles]
    expected = encoded(open_tokenizer(pieces / "tokenizer.json"), [*texts, *words])
    assert splits(bundle / "model-f16.gguf", [*texts, *words]) == expected
    assert max(map(len, expected)) > 10


def test_llama_cpp_adds_the_space_in_front_of_every_text(tmp_path):
    path = export_tiny(write_pieces(tmp_path / "base", prefix=True), tmp_path / "x.delrec", prune_vocab=False).path
    texts = [text for text in TEXTS if text.strip() not in dataset().catalog.titles]
    expected = encoded(open_tokenizer(tmp_path / "base" / "tokenizer.json"), texts)
    assert splits(path / "model-f16.gguf", texts) == expected
    prompt = Bundle.open(path).prompt
    words = json.loads((path / "prompt.json").read_text())["text"]["stock"]
    assert splits(path / "model-f16.gguf", [words], special=True) == [prompt.prefix]


def test_a_gguf_file_of_pieces_becomes_a_base_that_splits_alike(pieces, bundle, tmp_path):
    folder = unpack("again", bundle / "model-f16.gguf", tmp_path)
    unpacked = open_tokenizer(folder / "tokenizer.json")
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["type"] == "BPE"
    # The bundle's own titles are tokens of it: what a text is made of is asked below them.
    texts = [text for text in TEXTS if text.strip() not in dataset().catalog.titles]
    assert encoded(unpacked, texts) == splits(bundle / "model-f16.gguf", texts)
    for text in texts:
        assert unpacked.decode(encoded(unpacked, [text])[0], skip_special_tokens=False) == text
    assert load_base("again", folder).bos == 2


def test_pruned_pieces_split_what_is_known_as_before_and_spell_the_rest(pieces, tmp_path, monkeypatch):
    monkeypatch.setattr(pruning, "COMMON", 0)
    before = open_tokenizer(pieces / "tokenizer.json")
    corpus = [f" {title}" for title in dataset().catalog.titles[:6]]
    pruned = prune(pieces / "tokenizer.json", corpus, [2], before.get_vocab_size())
    (tmp_path / "tokenizer.json").write_text(json.dumps(pruned.tokenizer))
    after = open_tokenizer(tmp_path / "tokenizer.json")
    assert len(pruned.kept) < pruned.before
    assert after.token_to_id("<unused0>") is None
    assert encoded(after, corpus) == [pruned.ids(ids) for ids in encoded(before, corpus)]
    for text in UNSEEN_TEXTS:
        assert after.decode(encoded(after, [text])[0], skip_special_tokens=False) == text


def test_a_pruned_gemma_answers_as_the_whole_one(pieces, tmp_path, monkeypatch):
    monkeypatch.setattr(pruning, "COMMON", 0)
    histories = dataset().test().histories
    model, prompts, base = make_model(pieces)
    trained = score_all(model, prompts, histories, 10)
    exported = export_tiny(pieces, tmp_path / "x.delrec", "f16", (model, prompts, base), prune_vocab=True)
    facts = json.loads((exported.path / "manifest.json").read_text())["model"]["text_tokens"]
    assert 256 < facts["kept"] < facts["of"]
    with Recommender.load(exported.path, threads=1) as recommender:
        np.testing.assert_allclose(recommender.scores(histories), trained, atol=0.02 * np.ptp(trained))
        assert recommender.recommend(["Zebra's café — 東京 ☃"], allow_new=True).items
    texts = [text for text in TEXTS if text.strip() not in dataset().catalog.titles]
    expected = encoded(open_tokenizer(exported.path / "tokenizer.json"), texts)
    assert splits(exported.path / "model-f16.gguf", texts) == expected


@pytest.mark.slow
@pytest.mark.real
def test_the_real_gemma_splits_titles_as_llama_cpp_does(tmp_path):
    from delrec_lite.cache_folder import cache_folder
    from delrec_lite.hub.base import find_base

    base = find_base("gemma-3-270m", QUIET, cache_folder())
    path = unpack(base.name, base.folder, cache_folder()) / "tokenizer.json"
    texts = [" The Matrix (1999)", " Amélie (2001)", "A Clockwork Orange (1971)", "Was  watched\n\nby", *UNSEEN_TEXTS]
    tokenizer = open_tokenizer(path)
    assert encoded(tokenizer, texts) == splits(next(base.folder.glob("*.gguf")), texts)
    pruned = prune(path, texts, [2], tokenizer.get_vocab_size())
    after = type(tokenizer).from_str(json.dumps(pruned.tokenizer))
    after.encode_special_tokens = True
    assert len(pruned.kept) < 7000
    assert encoded(after, texts) == [pruned.ids(ids) for ids in encoded(tokenizer, texts)]
