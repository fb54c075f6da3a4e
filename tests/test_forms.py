"""Prompt formats: histories as titles or items, candidates in the prompt, one contract for all verbalizers."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from delrec_lite.bench.quantisations import choose_quant
from delrec_lite.config import DistillSection, FinetuneSection, Recipe, load_recipe, parse
from delrec_lite.console import QUIET
from delrec_lite.data.candidates import SPLITS, sample_candidates
from delrec_lite.data.store import Settings, make_dataset, save_dataset
from delrec_lite.errors import ConfigError, DataError, UsageError
from delrec_lite.llm.forward import read_states, score_all, score_histories, window_segment
from delrec_lite.llm.questions import (
    next_question,
    next_scores,
    score_candidates,
    temporal_question,
    temporal_scores,
)
from delrec_lite.llm.verbalizer import catalogue_scores
from delrec_lite.pipeline.bundle import write_bundle
from delrec_lite.pipeline.quickstart import example
from delrec_lite.pipeline.rows import TRAINED, bundle_row
from delrec_lite.pipeline.run import Run
from delrec_lite.pipeline.table import evaluate
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.format import PromptFormat
from delrec_lite.prompts.history import HISTORIES
from delrec_lite.prompts.verbalizer import VERBALIZERS
from delrec_lite.prompts.verbalizers.letter import LETTERS, letter_ids
from delrec_lite.training import distill as stage1
from delrec_lite.training import finetune as stage2
from delrec_lite.training.adapters import add_adapter, load_finetuned
from delrec_lite.training.choice import Sampler
from delrec_lite.training.ranking import ranked
from delrec_lite.training.weighting import TaskWeights, balance
from tests.formats import FORMATS, make_formatted
from tests.resuming import killed_then_resumed
from tests.tiny import ITEMS, Ring, candidates, context, dataset, make_model


def decode(base_folder, ids):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(base_folder / "tokenizer.json")).decode(list(ids), skip_special_tokens=False)


# --- prompts ---


def test_a_history_of_titles_is_read_at_the_end_of_each(tiny_base):
    _, prompts, _ = make_formatted(tiny_base, FORMATS["titles"])
    ids, ends = prompts.history([3, 0, 7])
    titles = dataset().catalog.titles
    assert decode(tiny_base, ids) == "".join(f" {titles[i]}\n" for i in (3, 0, 7))
    pieces = [decode(tiny_base, ids[: end + 1]) for end in ends]
    assert pieces[0] == f" {titles[3]}\n"
    assert pieces[1].endswith(f"\n {titles[0]}\n")
    assert ends[-1] == len(ids) - 1


def test_items_are_one_token_each(tiny_base):
    _, plain, base = make_model(tiny_base)
    _, prompts, _ = make_formatted(tiny_base, PromptFormat())
    assert prompts.next_prefix == plain.next_prefix
    assert prompts.history([3, 0]) == ([plain.vocabulary.item_base + 3, plain.vocabulary.item_base], [0, 1])
    assert prompts.question([5, 6], [1, 2]) == [5, 6]
    assert plain.text == prompts.text


def test_long_titles_are_cut(tiny_base):
    _, prompts, base = make_formatted(tiny_base, PromptFormat(history="titles", title_tokens=2))
    title_ids = base.encode(" " + dataset().catalog.titles[4])
    assert len(title_ids) > 2
    assert prompts.item(4)[:2] == tuple(title_ids[:2])
    assert len(prompts.item(4)) == 2 + len(prompts.separator)


@pytest.mark.parametrize("history", ["items", "titles"])
def test_a_full_prompt_drops_only_its_oldest_items(tiny_base, history):
    _, unlimited, _ = make_formatted(tiny_base, PromptFormat(history=history, candidates=True))
    sequence, chosen = dataset().sequences[0][:9], np.array([1, 2, 3])
    uncut = next_question(unlimited, sequence, chosen, 50)
    size = len(unlimited.next_prefix) + len(uncut.ids)
    oldest = len(unlimited.item(int(sequence[0]))) + 1  # one token less than the newest eight need
    _, limited, _ = make_formatted(tiny_base, PromptFormat(history=history, candidates=True, context=size - oldest))
    cut = next_question(limited, sequence, chosen, 50)
    assert cut.ids == next_question(unlimited, sequence[2:], chosen, 50).ids
    assert len(limited.next_prefix) + len(cut.ids) <= size - oldest
    _, too_short, _ = make_formatted(
        tiny_base, PromptFormat(history=history, candidates=True, context=len(unlimited.next_prefix) + 5)
    )
    with pytest.raises(ConfigError, match="no room"):
        next_question(too_short, sequence, chosen, 50)


def test_temporal_analysis_keeps_its_example_and_its_hidden_item(tiny_base):
    _, unlimited, _ = make_formatted(tiny_base, FORMATS["titles"])
    sequence = dataset().sequences[0][:10].tolist()
    ids, reads, hidden = unlimited.temporal(sequence)
    assert [decode(tiny_base, ids[: r + 1])[-10:] for r in reads] == [" hidden is"] * 2
    assert hidden == [sequence[2], sequence[-2]]
    _, limited, _ = make_formatted(
        tiny_base, PromptFormat(history="titles", context=len(unlimited.temporal_prefix) + len(ids) - 1)
    )
    shorter, _, hidden_when_cut = limited.temporal(sequence)
    assert hidden_when_cut == hidden
    assert shorter == unlimited.temporal(sequence[:4] + sequence[5:])[0]


def test_candidates_have_letters_in_the_prompt(tiny_base):
    _, prompts, _ = make_formatted(tiny_base, FORMATS["letter, titles"])
    ids = next_question(prompts, np.array([0]), np.array([4, 2]), 50).ids
    titles = dataset().catalog.titles
    assert decode(tiny_base, ids).endswith(f":\nA. {titles[4]}\nB. {titles[2]}\nAnswer:")


def test_letters_are_single_tokens_or_refused():
    spaced = {f" {letter}": [n] for n, letter in enumerate(LETTERS)}
    assert letter_ids(lambda text: spaced.get(text, [1, 2])) == tuple(range(26))
    plain = {letter: [n + 50] for n, letter in enumerate(LETTERS)}
    assert letter_ids(lambda text: plain.get(text, [1, 2]))[0] == 50
    with pytest.raises(ConfigError, match="single token"):
        letter_ids(lambda text: [1] if text == " A" else [1, 2])


# --- the contract of all verbalizers ---


@pytest.fixture(params=FORMATS, ids=FORMATS)
def formatted(request, tiny_base):
    return make_formatted(tiny_base, FORMATS[request.param])


def candidate_questions(prompts, n=4):
    sets = candidates().items
    return [
        next_question(prompts, s[:k], sets[u], 50)
        for u, (s, k) in enumerate(zip(dataset().sequences[:n], (1, 8, 3, 5), strict=False))
    ]


def test_every_verbalizer_scores_a_candidate_alike_in_every_batch(formatted):
    model, prompts, _ = formatted
    questions = candidate_questions(prompts)
    together = next_scores(model, prompts, questions).detach()
    assert together.shape == (4, 5)
    assert together.dtype == torch.float32
    assert torch.isfinite(together).all()
    assert (together.std(1) > 0).all()
    for row, question in zip(together, questions, strict=True):
        torch.testing.assert_close(next_scores(model, prompts, [question]).detach()[0], row, atol=2e-5, rtol=1e-4)


def test_every_verbalizer_lets_the_soft_prompt_learn_from_both_tasks(formatted):
    model, prompts, _ = formatted
    window, chosen = dataset().sequences[0][:9], candidates().items[0]
    for scores in (
        next_scores(model, prompts, candidate_questions(prompts, 2)),
        temporal_scores(model, prompts, [temporal_question(prompts, window, chosen)]),
    ):
        (gradient,) = torch.autograd.grad(scores[:, 0].sum(), model.soft)
        assert gradient.abs().sum(1).min() > 0


def test_the_order_of_candidates_matters_only_where_the_prompt_lists_them(formatted):
    model, prompts, _ = formatted
    history, chosen = dataset().sequences[0][:6], np.array([1, 9, 20, 4])
    orders = np.stack([chosen, chosen[::-1]])
    scores, reversed_scores = (score_candidates(model, prompts, [history], order[None], 50)[0] for order in orders)
    equal = np.allclose(scores, reversed_scores[::-1], atol=2e-5)
    assert equal != prompts.format.candidates


def test_every_verbalizer_can_be_trained(formatted):
    """The adapter overfits a few answers: the loss is the softmax over the candidates' scores."""
    model, prompts, _ = formatted
    add_adapter(model, FinetuneSection(rank=8, alpha=16), steps=1)
    learning = [p for name, p in model.lm.named_parameters() if "lora_" in name]
    optimiser = torch.optim.AdamW(learning, lr=1e-2)
    questions, places = candidate_questions(prompts), torch.tensor([4, 0, 2, 1])
    losses = []
    for _ in range(15):
        loss = torch.nn.functional.cross_entropy(next_scores(model, prompts, questions), places)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_all_verbalizers_and_history_formats_are_tested():
    assert {prompt_format.verbalizer for prompt_format in FORMATS.values()} == set(VERBALIZERS.built_in)
    assert {prompt_format.history for prompt_format in FORMATS.values()} == set(HISTORIES.built_in)
    for registry in (VERBALIZERS, HISTORIES):
        assert {registry[name].name for name in registry.built_in} == set(registry.built_in)


def test_title_mean_scores_candidates_as_the_catalogue(tiny_base):
    model, prompts, _ = make_formatted(tiny_base, FORMATS["titles"])
    histories, sets = dataset().test().histories, candidates().items
    catalogue = score_all(model, prompts, histories, 10)
    among_candidates = score_candidates(model, prompts, histories, sets, 10)
    np.testing.assert_allclose(among_candidates, np.take_along_axis(catalogue, sets, 1), atol=2e-5)


def test_titles_are_scored_at_every_item_as_each_shorter_history(tiny_base):
    model, prompts, _ = make_formatted(tiny_base, FORMATS["titles"])
    window = dataset().sequences[1][:6]
    with torch.no_grad():
        states = read_states(model, prompts.next_prefix, [window_segment(prompts, window)])
        at_every_item = catalogue_scores(model, prompts, states).numpy()
    separate_scores = score_histories(model, prompts, [window[: n + 1] for n in range(6)], 50)
    np.testing.assert_allclose(at_every_item, separate_scores, atol=3e-5)


def test_likelihood_is_the_sum_of_the_title_s_log_probabilities(tiny_base):
    model, prompts, _ = make_formatted(tiny_base, FORMATS["likelihood"])
    history, chosen = dataset().sequences[0][:4], np.array([8, 3])
    scores = score_candidates(model, prompts, [history], chosen[None], 50)[0]
    for score, item in zip(scores, chosen, strict=True):
        before = [*prompts.next_prefix, *prompts.history(history.tolist())[0]]
        ids = torch.tensor([before + list(prompts.titles[item])])
        with torch.no_grad():
            logits = model.lm(inputs_embeds=model.embed(ids)).logits[0].log_softmax(-1)
        expected = sum(float(logits[len(before) - 1 + n, t]) for n, t in enumerate(prompts.titles[item]))
        assert score == pytest.approx(expected, abs=1e-3)


def test_letter_scores_are_the_logits_of_the_letters(tiny_base):
    model, prompts, base = make_formatted(tiny_base, FORMATS["letter, titles"])
    history, chosen = dataset().sequences[0][:4], np.array([8, 3, 5])
    ids = [*prompts.next_prefix, *next_question(prompts, history, chosen, 50).ids]
    with torch.no_grad():
        logits = model.lm(inputs_embeds=model.embed(torch.tensor([ids]))).logits[0, -1]
    expected = [float(logits[base.encode(letter)[0]]) for letter in "ABC"]
    scores = score_candidates(model, prompts, [history], chosen[None], 50)[0]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_more_candidates_than_letters_are_refused(tiny_base):
    model, prompts, _ = make_formatted(tiny_base, FORMATS["letter, items"])
    with pytest.raises(ConfigError, match="27 candidates"):
        score_candidates(model, prompts, [np.array([1])], np.arange(27)[None], 50)


# --- training ---


def test_candidate_sets_for_training():
    windows = [s[:10] for s in dataset().sequences]
    sampler = Sampler(ITEMS, 6, seed=3)
    next_item = sampler.next_item(5, windows)
    repeated = Sampler(ITEMS, 6, seed=3).next_item(5, windows)
    assert (next_item.candidates == repeated.candidates).all()
    assert not (next_item.candidates == sampler.next_item(6, windows).candidates).all()
    for window, history, chosen, place in zip(
        windows, next_item.histories, next_item.candidates, next_item.places, strict=True
    ):
        assert chosen[place] == window[len(history)]
        assert len(set(chosen.tolist())) == 6
        assert len(set(chosen.tolist()) & set(window.tolist())) == 1
    assert len(set(next_item.places.tolist())) > 3, "the answer would be known by its place"
    every = Sampler(12, 6, 0).next_item(0, [np.arange(12)])  # of a user who had every item
    assert len(set(every.candidates[0].tolist())) == 6
    with pytest.raises(DataError, match="has 5 items, 6 candidates are needed"):
        Sampler(5, 6, 0).next_item(0, [np.arange(5)])


def test_pattern_simulating_has_the_first_ten_of_the_teacher():
    windows = [s[:10] for s in dataset().sequences]
    batch, teacher_scores = Sampler(ITEMS, 15, seed=3).pattern(0, windows, Ring())
    scores = Ring().scores(batch.histories)
    for row, chosen, place, expected in zip(scores, batch.candidates, batch.places, teacher_scores, strict=True):
        best = np.argsort(-row, kind="stable")
        assert chosen[place] == best[0]
        assert set(best[:10].tolist()) <= set(chosen.tolist())
        assert len(set(chosen.tolist())) == 15
        assert (expected == row[chosen]).all()


def test_gradients_of_the_tasks_are_balanced():
    shared = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    losses = [shared[0] * 30.0, shared[1] * 0.2, shared.sum() * 0.0]
    weights = balance(losses, shared)
    norms = [
        float(torch.autograd.grad(w * loss, shared, retain_graph=True)[0].norm())
        for w, loss in zip(weights, losses, strict=True)
    ]
    assert norms == pytest.approx([15.1, 15.1, 0.0])
    assert balance([shared.sum() * 0.0] * 2, shared).tolist() == [1.0, 1.0]
    total = TaskWeights(2, "gradient-norm")(losses[:2], shared)
    assert torch.autograd.grad(total, shared, retain_graph=True)[0].tolist() == pytest.approx([15.1, 15.1])
    plain = TaskWeights(2, "fixed")(losses[:2], shared)
    assert torch.autograd.grad(plain, shared)[0].tolist() == pytest.approx([30.0, 0.2])


def figures(folder, name):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = [line[name] for line in lines]
    return np.mean(values[: len(values) // 4]), np.mean(values[-len(values) // 4 :])


@pytest.mark.parametrize("name", ["titles", "letter, titles", "likelihood"])
def test_both_stages_learn_in_every_form(tiny_base, tmp_path, name):
    model, prompts, _ = make_formatted(tiny_base, FORMATS[name])
    first = DistillSection(epochs=1, tokens_per_step=100, weighting="gradient-norm", pattern_loss="top1")
    report = stage1.distill(context(model, prompts, tmp_path / "1"), first, prompts)
    assert 0 <= report.trained.agreement <= 1
    assert np.isfinite(list(vars(report.trained).values())).all()
    second = FinetuneSection(
        epochs=3, tokens_per_step=100, lr=1e-2, item_lr=3e-2, rank=4, alpha=8, teacher_weight=0.3, valid_every=3
    )
    stage2.finetune(context(model, prompts, tmp_path / "2"), second)
    before, after = figures(tmp_path / "2", "next_item")
    assert after < before - 0.05
    reloaded, _, _ = make_formatted(tiny_base, FORMATS[name])
    stage1.load_soft(reloaded, tmp_path / "1")
    load_finetuned(reloaded, tmp_path / "2")
    split, sets = dataset().test(), candidates()
    both_ranks = [ranked(m, prompts, split, sets, 10) for m in (model, reloaded)]
    assert (both_ranks[0].sampled == both_ranks[1].sampled).all()
    assert both_ranks[0].protocols == (("sampled", "full") if prompts.format.ranks_catalogue else ("sampled",))


def test_a_killed_stage_among_candidates_ends_with_the_same_weights(tiny_base, tmp_path, monkeypatch):
    """Candidate sets and balanced gradients depend only on the number of the step."""
    recipe = DistillSection(epochs=2, tokens_per_step=100, weighting="gradient-norm")

    def go(folder):
        model, prompts, _ = make_formatted(tiny_base, FORMATS["letter, items"])
        stage1.distill(context(model, prompts, folder), recipe, prompts)
        return model.soft.detach()

    unbroken = go(tmp_path / "unbroken")
    assert torch.equal(killed_then_resumed(monkeypatch, 2, lambda: go(tmp_path / "broken")), unbroken)


# --- recipes and runs ---


def test_a_soft_prompt_that_starts_from_words(tiny_run):
    run = tiny_run(model={"soft_start": "words", "soft_tokens": 150})
    built = run.models.untrained()
    model, base = built.model, built.base
    from delrec_lite.prompts.tasks import start_words

    words = start_words(DOMAINS["movie"], base.encode)
    assert 20 < len(words) < 150
    rows = base.model.get_input_embeddings().weight
    assert torch.equal(model.soft[: len(words)], rows[words])
    assert torch.equal(model.soft[len(words)], rows[words[0]])


def test_letters_need_candidates_in_the_prompt():
    with pytest.raises(ConfigError, match="candidates_in_prompt"):
        parse("name: x\nmodel: {verbalizer: letter}", "f")


PAPER = {"history": "titles", "candidates_in_prompt": True, "soft_start": "words", "item_start": "titles"}


@pytest.mark.parametrize("verbalizer", ["letter", "title-mean"])
def test_the_paper_s_path_end_to_end(tiny_run, verbalizer):
    """Titles, candidates in the prompt, two stages, the table: a row among the candidates and no other."""
    run = tiny_run(model=PAPER | {"verbalizer": verbalizer}, distill={"pattern_loss": "top1"})
    rows = evaluate(run)
    protocols = {
        name: [row.protocol for row in rows if row.model == name] for name in (TRAINED, "SASRec", bundle_row(run))
    }
    assert protocols == {
        TRAINED: ["sampled"],
        "SASRec": ["sampled", "expected_sampled", "full"],
        bundle_row(run): ["sampled"],
    }
    report = json.loads((run.folder / "report.json").read_text())
    assert {(c["model"], c["against"], c["protocol"]) for c in report["comparisons"]} >= {
        (bundle_row(run), "SASRec", "sampled")
    }
    assert not [c for c in report["comparisons"] if c["protocol"] == "full"]
    segments = [s for s in report["segments"] if s["model"] == TRAINED]
    assert segments
    assert all("sampled HR@1" in s and "full HR@10" not in s for s in segments)
    lines, _, _ = (run.folder / "table.md").read_text().partition("HR@1, 5 candidates")
    assert TRAINED not in lines.partition("**whole catalogue**")[2]
    example(run, QUIET)
    with pytest.raises(ConfigError, match="ONNX") as error:
        write_bundle(run, run.folder / "x.delrec", "f16", "onnx")
    assert "GGUF" in error.value.hint
    with pytest.raises(UsageError, match="whole catalogue"):
        choose_quant(run, ["q8_0"])
    with pytest.raises(UsageError, match="fused"):
        evaluate(run, fused=True)


def test_the_paper_s_recipe_has_its_choices():
    recipe = load_recipe("ml-100k-paper")
    assert recipe.model.model_dump().items() >= PAPER.items()
    assert (recipe.model.soft_tokens, recipe.data.candidates, recipe.finetune.teacher_weight) == (100, 15, 0.0)
    assert (recipe.distill.pattern_loss, recipe.distill.train_llm, recipe.finetune.train_soft) == ("top1", False, False)
    assert (recipe.finetune.adapter, recipe.finetune.modules, recipe.data.split) == ("adalora", "qv", "chronological")


def test_the_paper_s_recipe_runs_on_a_small_model(tiny_run, tmp_path):
    """Split by time: users without a question, users without a training part, users with several questions."""
    users = dataset().user_ids
    lengths = np.array([len(s) for s in dataset().sequences])
    cuts = np.stack([lengths, lengths], 1)
    cuts[:6] = [[0, 2]] * 6
    cuts[6:16] = np.stack([lengths[6:16] - 4, lengths[6:16] - 2], 1)
    data = make_dataset("ring", dataset().catalog, users, dataset().sequences, cuts)
    sets = {split: sample_candidates(data, split, 5, 1) for split in SPLITS}
    save_dataset(data, sets, Settings(2, 5, 1, "chronological"), tmp_path / "by-time")
    sections = load_recipe("ml-100k-paper").dump()
    for section, values in tiny_run.recipe().dump().items():
        if section in {"teacher", "export"}:
            sections[section] = values
    sections["data"] = {"folder": str(tmp_path / "by-time"), "split": sections["data"]["split"]}
    sections["model"] |= {"soft_tokens": 10, "max_tokens": None, "max_history": 8}
    sections["distill"] |= {"epochs": 0.5, "tokens_per_step": 60}
    sections["finetune"] |= {"epochs": 4, "tokens_per_step": 60, "lr": 1e-2, "rank": 4}
    run = Run(Recipe.model_validate(sections), tmp_path / "runs", QUIET)
    rows = evaluate(run)
    trained_rows = [row for row in rows if row.model == TRAINED]
    assert [row.protocol for row in trained_rows] == ["sampled"]
    assert trained_rows[0].users == len(data.test()) == 20 + sum(lengths[:6] - 2)
    heading = f"**5 candidates (1 positive, 4 unseen negatives)**, {len(data.test())} test interactions"
    assert heading in (run.folder / "table.md").read_text()
    adapter = load_file(run.finetune().folder / "adapter/adapter_model.safetensors")
    assert {name.split("self_attn.")[1].split(".")[0] for name in adapter} == {"q_proj", "v_proj"}
    assert any("lora_E" in name for name in adapter)


def test_titles_rank_the_whole_catalogue_and_are_exported(tiny_run):
    run = tiny_run(model={"history": "titles"})
    rows = evaluate(run)
    protocols = {name: [row.protocol for row in rows if row.model == name] for name in (TRAINED, bundle_row(run))}
    assert protocols == {
        TRAINED: ["sampled", "expected_sampled", "full"],
        bundle_row(run): ["sampled", "expected_sampled", "full"],
    }


def test_adalora_plans_its_ranks_over_the_steps_that_stage_2_makes(tiny_run):
    """Also where the adapter learns in stage 1 already: at the end of stage 2 it has the configured rank."""
    changed = {"adapter": "adalora", "epochs": 6, "rank": 2, "lr": 1e-2}
    run = tiny_run(distill={"train_llm": True, "epochs": 1}, finetune=changed)
    steps = run.finetune().result["steps"]
    plan = json.loads((run.distill().folder / "llm/adapter_config.json").read_text())
    assert plan["total_step"] == steps < 100
    adapter = load_file(run.finetune().folder / "adapter/adapter_model.safetensors")
    ranks = [tensor for name, tensor in adapter.items() if "lora_E" in name]
    assert {len(tensor) for tensor in ranks} == {3}
    assert 0 < sum(int(torch.count_nonzero(tensor)) for tensor in ranks) <= 2 * len(ranks)


def test_adalora_without_the_steps_to_plan_is_refused_before_stage_1(tiny_run):
    run = tiny_run(distill={"train_llm": True}, finetune={"adapter": "adalora", "epochs": 0.1})
    with pytest.raises(ConfigError, match="plan its ranks"):
        run.distill()
    assert not (run.folder / "distill" / "metrics.jsonl").exists()


def test_an_llm_trained_in_stage_1_continues_in_stage_2(tiny_run):
    run = tiny_run(distill={"train_llm": True, "epochs": 1}, finetune={"epochs": 0, "lr": 1e-2})
    plain = tiny_run(runs="plain", distill={"epochs": 1}, finetune={"epochs": 0, "lr": 1e-2})
    adapter = "adapter/adapter_model.safetensors"
    first = load_file(run.distill().folder / "llm/adapter_model.safetensors")
    second = load_file(run.finetune().folder / adapter)
    untrained = load_file(plain.finetune().folder / adapter)
    assert first.keys() == second.keys() == untrained.keys()
    assert any(torch.count_nonzero(t) for name, t in first.items() if "lora_B" in name)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name])
        assert "lora_B" not in name or not torch.count_nonzero(untrained[name])
    assert not (plain.distill().folder / "llm").exists()
