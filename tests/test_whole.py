"""Training of the whole network, from pretrained or random weights: what is trained, saved and refused."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from delrec_lite.config import FinetuneSection, ModelSection, parse
from delrec_lite.errors import ConfigError
from delrec_lite.llm.forward import score_all
from delrec_lite.llm.load import load_base
from delrec_lite.pipeline.ablate import VARIANTS
from delrec_lite.pipeline.bundle import write_bundle
from delrec_lite.pipeline.rows import TRAINED, ZERO_SHOT
from delrec_lite.pipeline.table import evaluate
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.training.adapters import BODY, unfreeze
from tests.formats import FORMATS, make_formatted
from tests.resuming import killed_then_resumed
from tests.tiny import dataset, make_model

RANDOM = VARIANTS["random network trained whole"]
LEARNING = {"finetune": {"epochs": 8, "lr": 3e-3, "item_lr": 3e-2, "adapter": "full"}}


def of_random(**finetune):
    return {**RANDOM, "finetune": LEARNING["finetune"] | finetune}


def test_a_random_base_has_the_shape_and_none_of_the_weights(tiny_base):
    pretrained, random_base, same_seed, other_seed = (
        load_base("tiny", tiny_base, torch.float32, init_seed=seed).model for seed in (None, 1, 1, 2)
    )
    assert random_base.config.num_hidden_layers == pretrained.config.num_hidden_layers
    for name, p in random_base.named_parameters():
        assert torch.equal(p, same_seed.get_parameter(name))
        if "norm" not in name:
            assert not torch.allclose(p, pretrained.get_parameter(name), atol=1e-3)
            assert not torch.allclose(p, other_seed.get_parameter(name), atol=1e-3)
            assert p.std().item() == pytest.approx(pretrained.config.initializer_range, rel=0.1)


def test_random_item_vectors_are_unlike_their_titles(tiny_base):
    model, _, _ = make_model(tiny_base)
    titles = model.titles_in.clone()
    model.start_random(3)
    vectors, answers = model.extension()[4:], model.head()
    assert vectors.norm(dim=1).median().item() == pytest.approx(model.input_norm, rel=0.1)
    for title_vectors, random_vectors in ((titles, vectors), (model.titles_out, answers)):
        cosine = torch.nn.functional.cosine_similarity(title_vectors, random_vectors)
        assert cosine.abs().mean() < 0.3
    similarity = torch.nn.functional.cosine_similarity(vectors[:-1], vectors[1:]).abs().mean()
    assert similarity < 0.2


def test_all_weights_are_trained_and_reloaded(tiny_run):
    run = tiny_run(**LEARNING)
    before = run.models.untrained().model
    built = run.models.trained()
    model, prompts = built.model, built.prompts
    saved = load_file(run.finetune().folder / BODY)
    assert not (run.finetune().folder / "adapter").exists()
    names = {name for name, _ in before.lm.named_parameters()}
    assert saved.keys() == names - {"model.embed_tokens.weight"}
    for name, tensor in saved.items():
        assert torch.equal(model.lm.get_parameter(name), tensor)
        assert not torch.equal(before.lm.get_parameter(name), tensor), name
    test = dataset().test()
    first = score_all(model, prompts, test.histories, 10).argmax(1)
    assert (first == test.targets).mean() > 0.8
    assert not any(p.requires_grad for p in model.parameters())


def test_token_rows_learn_where_the_prompt_reads_titles(tiny_base):
    for prompt_format, rows in (("titles", True), ("letter, items", False)):
        model, prompts, _ = make_formatted(tiny_base, FORMATS[prompt_format])
        model.requires_grad_(False)
        unfreeze(model.to(torch.bfloat16), rows=prompts.format.history_format.titles)
        assert model.body.embed_tokens.weight.requires_grad == rows
        learning = [p for p in model.body.parameters() if p.requires_grad]
        assert {p.dtype for p in learning} == {torch.float32}
        assert len(learning) == len(list(model.body.parameters())) - (not rows)


def test_a_random_network_is_trained_evaluated_and_exported(tiny_run):
    run = tiny_run(**of_random())
    rows = {row.model: row for row in evaluate(run, zero_shot=True) if row.protocol == "full"}
    assert ZERO_SHOT not in rows
    assert rows[TRAINED].metrics["HR@1"] > 0.8
    built = run.models.trained()
    model, prompts = built.model, built.prompts
    test = dataset().test()
    expected = score_all(model, prompts, test.histories, 10)
    with Recommender.load(run.bundle) as recommender:
        served = recommender.scores(test.histories)
    assert np.corrcoef(expected.ravel(), served.ravel())[0, 1] > 0.99
    assert (expected.argmax(1) == served.argmax(1)).mean() > 0.9
    with pytest.raises(ConfigError, match="no adapter"):
        write_bundle(run, run.folder / "other.delrec", "f16", merge_base="original")


def test_a_killed_run_of_all_weights_ends_with_the_same(tiny_run, monkeypatch):
    def go(runs):
        folder = tiny_run(runs=runs, **of_random(epochs=1.5)).finetune().folder
        return load_file(folder / BODY)

    unbroken = go("unbroken")
    resumed = killed_then_resumed(monkeypatch, 2, lambda: go("broken"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in unbroken.items())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {weights: random}", "finetune.adapter: full"),
        ("model: {precision: nf4}\nfinetune: {adapter: full}", "quantised"),
        ("distill: {train_llm: true}\nfinetune: {adapter: full}", "needs an adapter"),
    ],
)
def test_invalid_recipes_of_full_training_are_refused(text, words):
    with pytest.raises(ConfigError, match=words):
        parse(f"name: x\n{text}", "f")


def test_a_new_key_leaves_earlier_cache_keys_unchanged():
    assert "weights" not in ModelSection().cache_key_fields()
    assert ModelSection(weights="random").cache_key_fields()["weights"] == "random"
    assert FinetuneSection().cache_key_fields()["adapter"] == "lora"
