"""Item text: features of titles and side text, the maps that training learns, and new items by the same maps."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from delrec_lite.config import FinetuneSection, Recipe
from delrec_lite.console import QUIET
from delrec_lite.data.vectors import read_vectors
from delrec_lite.errors import DataError
from delrec_lite.export.text_items import LOST, bearable_boost, new_item_boost, new_rows, text_item_maps
from delrec_lite.llm.forward import last_states, score_all
from delrec_lite.llm.item_text import half_whitening, item_text, state_means
from delrec_lite.llm.items import title_vectors
from delrec_lite.llm.load import load_base
from delrec_lite.llm.model import ItemLM
from delrec_lite.pipeline.start import start_recipe
from delrec_lite.prompts.domain import DOMAINS
from delrec_lite.prompts.tasks import compile_prompts
from delrec_lite.runtime.additions import add_items
from delrec_lite.runtime.recommender import Recommender
from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.fit import fit
from delrec_lite.teachers.store import load_teacher, save_teacher
from delrec_lite.teachers.text import add_text, bake_text, shared_vectors
from delrec_lite.training import finetune as stage2
from tests.command import call
from tests.conftest import export_tiny
from tests.tiny import ITEMS, context, dataset

SEEN = torch.arange(ITEMS) > 1
TEXTS = tuple(f"{title}, {'wet' if 'River' in title else 'dry'}" for title in dataset().catalog.titles)


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base("tiny", tiny_base, torch.float32)


@pytest.fixture(scope="module")
def text(base):
    return item_text(base, TEXTS, SEEN)


def model_of(tiny_base, text, seed=3):
    """A model with text whose maps and offsets are random, its prompts and its base."""
    base = load_base("tiny", tiny_base, torch.float32)
    model = ItemLM(base, dataset().catalog.titles, 4, text=text)
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in (model.text_in, model.text_out, model.offset_in, model.offset_out):
            p.normal_(0, 0.3)
    return model, compile_prompts(DOMAINS["movie"], model.vocabulary, base.encode, base.bos), base


def test_whitening_evens_out_the_strengths_of_directions():
    torch.manual_seed(0)
    vectors = torch.randn(500, 6).double() * torch.tensor([16.0, 9, 4, 1, 0.25, 0]).double() + 7
    matrix, shift = half_whitening(vectors, width=4)
    features = vectors @ matrix + shift
    assert features.shape == (500, 4)
    assert features.mean(0).abs().max() < 1e-9
    assert features.square().sum(1).mean().item() == pytest.approx(1)
    strengths = torch.linalg.svdvals(features)
    assert (strengths / strengths[0]).tolist() == pytest.approx([1, 0.75, 0.5, 0.25], rel=0.05)  # square roots
    again, _ = half_whitening(-vectors, width=4)  # the same directions with the same signs
    torch.testing.assert_close(again, matrix)


def test_features_of_token_rows_are_a_linear_map_of_them(base, text):
    rows = title_vectors(base.model.get_input_embeddings().weight, TEXTS, base.encode)
    torch.testing.assert_close(text.of_rows(rows), text.features, atol=1e-4, rtol=1e-4)
    assert text.features[SEEN].mean(0).abs().max() < 1e-5
    unseen_changed = item_text(base, (*("x", "y"), *TEXTS[2:]), SEEN)
    torch.testing.assert_close(unseen_changed.features[2:], text.features[2:])


def test_states_do_not_depend_on_the_texts_beside_them(base):
    together, alone = state_means(base, TEXTS), state_means(base, TEXTS[4:5])
    torch.testing.assert_close(together[4], alone[0], atol=1e-5, rtol=1e-5)


def test_the_maps_begin_as_what_text_tells_of_the_teacher(tiny_base, text):
    model, _, _ = model_of(tiny_base, text)
    plain = ItemLM(load_base("tiny", tiny_base, torch.float32), dataset().catalog.titles, 4)
    torch.manual_seed(1)
    vectors = torch.randn(ITEMS, 8)
    for m in (model, plain):
        m.start_from(vectors, SEEN)
    # Together they are the teacher's vectors, and an item that the teacher has not seen has text alone.
    torch.testing.assert_close(model.extension()[4:][SEEN], plain.extension()[4:][SEEN], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.head()[SEEN], plain.head()[SEEN], atol=1e-4, rtol=1e-4)
    assert model.offset_in[~SEEN].abs().max() == 0
    assert model.offset_in[SEEN].norm() < plain.offset_in[SEEN].norm()


def test_offsets_are_dropped_in_training_alone(tiny_base, text):
    model, _, _ = model_of(tiny_base, text)
    with torch.no_grad():
        head = model.eval().head()
        model.drop_offsets(0.5, seed=1)
        assert torch.equal(model.head(), head)
        model.train()
        alone = model.titles_out + model.features @ model.text_out
        left_out = (model.head() - alone).abs().max(1).values == 0
        assert 0.2 < left_out.float().mean() < 0.8
        assert torch.equal(
            (model.extension()[4:] - model.titles_in - model.features @ model.text_in).norm(dim=1) < 1e-5, left_out
        )
        model.drop_offsets(0.0, seed=1)
        assert torch.equal(model.head(), head)


def test_dropout_of_items_and_states_is_off_in_evaluation(tiny_base, text):
    model, prompts, _ = model_of(tiny_base, text)
    ids = torch.tensor([[5, *range(model.vocabulary.text, model.vocabulary.text + 8)]])
    plain = model.train().embed(ids)
    model.item_dropout = 0.5
    dropped = model.embed(ids)
    assert torch.equal(dropped[0, :5], plain[0, :5])  # a token and the soft prompt
    assert 0.2 < (dropped[0, 5:] == 0).float().mean() < 0.8
    assert torch.equal(model.eval().embed(ids), plain)
    histories = dataset().test().histories[:3]
    before = score_all(model, prompts, histories, 10)
    model.state_dropout = 0.5
    np.testing.assert_array_equal(score_all(model, prompts, histories, 10), before)


def trained(tiny_base, text, folder, **settings):
    base = load_base("tiny", tiny_base, torch.float32)
    model = ItemLM(base, dataset().catalog.titles, 4, text=text)
    prompts = compile_prompts(DOMAINS["movie"], model.vocabulary, base.encode, base.bos)
    recipe = FinetuneSection(epochs=0.5, tokens_per_step=100, rank=2, **settings)
    stage2.finetune(context(model, prompts, folder), recipe)
    return load_file(folder / stage2.ITEMS)


def test_stage_2_learns_the_maps_and_the_share_of_dropped_offsets_matters(tiny_base, text, tmp_path):
    default, none = (
        trained(tiny_base, text, tmp_path / str(n), **s) for n, s in enumerate(({}, {"offset_dropout": 0}))
    )
    assert {"text_in", "text_out", "offset_in", "offset_out"} < set(default)
    assert default["text_out"].abs().max() > 0
    assert not torch.equal(default["offset_out"], none["offset_out"])
    said = trained(tiny_base, text, tmp_path / "said", offset_dropout=stage2.OFFSET_DROPOUT)
    assert torch.equal(said["offset_out"], default["offset_out"])
    other = trained(tiny_base, text, tmp_path / "other", item_dropout=0.3, state_dropout=0.3, text_lr=1e-4)
    assert other["text_out"].norm() < default["text_out"].norm()
    assert set(trained(tiny_base, None, tmp_path / "without")) == set(default) - {"text_in", "text_out"}


def test_a_run_with_text_scores_the_same_when_it_is_read_again(tiny_run):
    changes = {"model": {"base": "tiny", "soft_tokens": 3, "item_text": "rows"}, "teacher": {"text": True}}
    run = tiny_run(**changes)
    built = run.models.trained()
    histories = run.dataset.test().histories
    scores = score_all(built.model, built.prompts, histories, 10)
    again = tiny_run(**changes)
    built = again.models.trained()
    np.testing.assert_array_equal(score_all(built.model, built.prompts, histories, 10), scores)
    assert not again.finetune().computed
    teacher = run.models.teacher()
    assert set(teacher.network.state_dict()) >= {"items"}
    assert not any("parametrizations" in name for name in teacher.network.state_dict())
    np.testing.assert_array_equal(again.models.teacher().scores(histories), teacher.scores(histories))


def test_a_recipe_without_text_keeps_its_keys_and_one_with_text_has_others(tiny_run):
    plain = tiny_run()
    assert "text" not in plain.stages
    keys = {name: getattr(plain, name)().key for name in ("teacher", "distill", "finetune")}
    taught = tiny_run("taught", teacher={"text": True})
    assert taught.teacher().key != keys["teacher"]
    read = tiny_run("read", model={"item_text": "rows"})
    assert read.teacher().key == keys["teacher"]
    assert read.distill().key != keys["distill"]
    for section in ("model", "teacher", "finetune", "data"):
        fields = getattr(plain.recipe, section).cache_key_fields()
        assert not {"item_text", "item_vectors", "text", "text_lr", "offset_dropout", "text_columns"} & set(fields)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"item_text": "file"}}, "item_vectors"),
        ({"model": {"item_vectors": "v.npy"}}, "item_vectors"),
        ({"finetune": {"offset_dropout": 0.1}}, "item_text"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(sections, said):
    with pytest.raises(ValueError, match=said):
        Recipe.model_validate({"name": "r", **sections})


def test_own_vectors_are_features(tiny_run, tmp_path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(ITEMS, 5)))
    run = tiny_run(model={"item_text": "file", "item_vectors": str(tmp_path / "v.npy")})
    key = run.text().key
    assert run.models.item_text().features.shape == (ITEMS, 5)
    assert run.models.untrained().model.text_in.shape == (5, 64)
    np.save(tmp_path / "v.npy", np.random.default_rng(1).normal(size=(ITEMS, 5)))
    assert tiny_run(model={"item_text": "file", "item_vectors": str(tmp_path / "v.npy")}).text().key != key


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (np.zeros((3, 5)), rf"not \[{ITEMS}, width\]"),
        (np.zeros((ITEMS, 0)), rf"not \[{ITEMS}, width\]"),
        (np.full((ITEMS, 2), np.nan), "holds NaN"),
        (np.full((ITEMS, 2), 1e300), "numbers above"),
        (np.ones((ITEMS, 2), complex), "complex128 and no numbers"),
        (np.ones((ITEMS, 2)), "text features of all items are the same"),
    ],
)
def test_own_vectors_that_tell_nothing_are_refused(tiny_run, tmp_path, vectors, said):
    np.save(tmp_path / "v.npy", vectors)
    with pytest.raises(DataError, match=said):
        tiny_run(model={"item_text": "file", "item_vectors": str(tmp_path / "v.npy")}).text()


def test_what_is_no_npy_file_is_named(tmp_path):
    np.savez(tmp_path / "v.npz", np.ones((2, 2)))
    (tmp_path / "v.csv").write_text("1,2\n3,4\n")
    (tmp_path / "empty").touch()
    for name in ("v.npz", "v.csv", "empty"):
        with pytest.raises(DataError, match=rf"{name} is no \.npy file"):
            read_vectors(tmp_path / name, 2)
    np.save(tmp_path / "flags.npy", np.eye(2, dtype=bool))
    assert read_vectors(tmp_path / "flags.npy", 2).tolist() == [[1, 0], [0, 1]]


def test_vectors_of_an_item_list_come_into_the_order_of_the_catalogue(tmp_path, capfd):
    items = ["z", "a", "left out", "m", "a"]
    (tmp_path / "items.csv").write_text("item_id,title\n" + "".join(f"{i},Title of {i}\n" for i in [*items, "b"]))
    rows = [f"not {u},{item},{n}" for u in "mzab" for n, item in enumerate("mzab") if item != u]
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n" + "\n".join(rows))
    np.save(tmp_path / "v.npy", np.arange(12).reshape(6, 2))
    command = ["prepare", "shop", "--interactions", tmp_path / "log.csv", "--items", tmp_path / "items.csv"]
    command += ["--k-core", 2, "--candidates", 2, "--out", tmp_path / "shop", "--item-vectors"]
    for memory in ((), ("--memory", "2GB")):
        assert call(*command, tmp_path / "v.npy", *memory) == 0
        ids = json.loads((tmp_path / "shop" / "catalog.json").read_text())["ids"]
        first = {item: row for row, item in reversed(list(enumerate([*items, "b"])))}
        vectors = np.load(tmp_path / "shop" / "item-vectors.npy")
        assert vectors.tolist() == [[2 * first[i], 2 * first[i] + 1] for i in ids]
    np.save(tmp_path / "v.npy", np.ones((4, 2)))
    assert call(*command, tmp_path / "v.npy") == DataError.exit_code
    assert "has the shape (4, 2), not [6, width]" in capfd.readouterr().err
    started = start_recipe("shop", tmp_path / "shop", None, "", tmp_path / "shop.yaml").recipe
    assert started.model.item_vectors == str(tmp_path / "shop" / "item-vectors.npy")
    assert started.model.item_text == "file"
    assert call(*command[:6], "--k-core", 2, "--candidates", 2, "--out", tmp_path / "shop") == 0
    assert not (tmp_path / "shop" / "item-vectors.npy").exists()


def test_a_text_beyond_the_context_is_cut(base):
    long = " ".join(["River"] * 2000)
    torch.testing.assert_close(state_means(base, [long]), state_means(base, [f"{long} Mountain"]))


def test_text_that_no_vector_would_carry_is_refused():
    form = {"history": "titles", "verbalizer": "likelihood", "item_text": "rows"}
    with pytest.raises(ValueError, match="with history titles and verbalizer likelihood there are none"):
        Recipe.model_validate({"name": "r", "model": form})
    Recipe.model_validate({"name": "r", "model": form, "teacher": {"text": True}})


@pytest.mark.parametrize("formats", ["gguf", "onnx"])
def test_a_bundle_scores_as_the_model_and_makes_new_items_by_its_maps(tiny_base, text, tmp_path, formats):
    model, prompts, base = model_of(tiny_base, text)
    histories = dataset().test().histories[:4]
    scores = score_all(model, prompts, histories, 10)
    names = ("Violet Garden (2020)", "Last Harbour (2021)")
    said = ("Violet Garden (2020), dry", "Last Harbour (2021), wet River")
    rows, text_rows = (title_vectors(model.body.embed_tokens.weight, t, base.encode) for t in (names, said))
    with torch.no_grad():
        features = text.of_rows(text_rows)
        inputs = rows * (model.input_norm / rows.norm(dim=1, keepdim=True)) + features @ model.text_in
        outputs = model.log_scale.exp() * (rows + features @ model.text_out)
    boost, vector = new_item_boost(model, prompts, dataset(), 10)
    path = export_tiny(
        tiny_base, tmp_path / "t.delrec", model=(model, prompts, base), formats=formats, onnx_quant="fp32"
    ).path
    texts = {"n0": "dry", "n1": "wet River"}
    added = add_items(path, dict(zip(texts, names, strict=True)), tmp_path / "more.delrec", texts)
    with Recommender.load(path) as recommender:
        assert recommender.bundle.new_items is None
        np.testing.assert_allclose(recommender.scores(histories), scores, atol=0.05)
        outputs = outputs + vector
        assert recommender.bundle.manifest["model"]["new_item_boost"] == pytest.approx(boost, abs=1e-3)
        for n, name in enumerate(names):
            first, second = recommender.new_item(name, texts[f"n{n}"])
            np.testing.assert_allclose(first, inputs[n], atol=0.01)
            np.testing.assert_allclose(second, outputs[n], atol=0.01)
            assert np.abs(recommender.new_item(name)[1] - second).max() > 0.1  # without its side text
    with Recommender.load(added.folder) as recommender:
        states = last_states(*model_of(tiny_base, text)[:2], histories, 10)
        np.testing.assert_allclose(recommender.scores(histories)[:, ITEMS:], states @ outputs.T, atol=0.05)


def test_maps_give_the_trained_vectors_without_offsets(tiny_base, text):
    model, _, base = model_of(tiny_base, text)
    titles, texts = (
        title_vectors(model.body.embed_tokens.weight, t, base.encode) for t in (dataset().catalog.titles, TEXTS)
    )
    inputs, outputs = new_rows(model, titles, texts, text_item_maps(model, titles))
    with torch.no_grad():
        model.offset_in.zero_()
        model.offset_out.zero_()
        torch.testing.assert_close(inputs, model.extension()[4:], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(outputs, model.head(), atol=1e-3, rtol=1e-3)


def test_the_boost_of_new_items_is_as_much_as_the_first_ten_bear():
    torch.manual_seed(2)
    scores = torch.randn(200, 300) * 2
    text_alone = torch.randn(200, 300) - 3  # below the trained ones
    boost = bearable_boost(scores, text_alone, torch.ones(200))
    assert boost > 0

    def lost(added):
        """The probability that leaves the first ten when the items of a fold are scored as new ones."""
        probability, gone, total = scores.softmax(1), 0.0, 0.0
        for n in range(10):
            new = torch.arange(300) % 10 == n
            before = scores.masked_fill(new, -torch.inf).topk(10, 1).indices
            after = torch.where(new, text_alone + added, scores).topk(10, 1).indices
            missing = ~(before[:, :, None] == after[:, None, :]).any(2)
            share = probability.gather(1, before)
            gone, total = gone + share[missing].sum().item(), total + share.sum().item()
        return gone / total

    assert lost(boost) == pytest.approx(LOST, rel=0.2)
    assert lost(boost + 1) > 2 * LOST
    assert bearable_boost(scores, text_alone + 10, torch.ones(200)) == pytest.approx(boost - 10, abs=1e-2)


@pytest.mark.parametrize("kind", ["sasrec", "gru4rec", "caser", "esasrec"])
def test_a_teacher_of_any_kind_learns_from_text_and_keeps_its_scores_on_disk(text, tmp_path, kind):
    config = TEACHERS[kind].configure(hidden=8, max_length=8, epochs=2, lr=0.01)
    teacher = fit(config, dataset(), QUIET, features=text.features)
    plain = fit(config, dataset(), QUIET)
    assert type(teacher.network) is type(plain.network)
    assert set(teacher.network.state_dict()) == set(plain.network.state_dict())
    histories = dataset().test().histories
    scores = teacher.scores(histories)
    assert np.abs(scores - plain.scores(histories)).max() > 1e-3
    save_teacher(teacher, tmp_path / kind)
    np.testing.assert_array_equal(load_teacher(tmp_path / kind).scores(histories), scores)


def test_items_with_text_are_the_sums_that_baking_keeps(text):
    torch.manual_seed(0)
    config = TEACHERS["sasrec"].configure(hidden=8, max_length=8)
    network = TEACHERS["sasrec"].build(config, ITEMS).eval()
    offsets = network.items.detach().clone()
    add_text(network, text.features)
    torch.testing.assert_close(network.items, offsets + text.features @ network.text_map.weight.T)
    with shared_vectors(network):
        assert network.items is network.items
        network.loss(network.states(torch.tensor([[1, 2]]))[0], torch.tensor([2, 3])).backward()
    assert network.text_map.weight.grad.abs().max() > 0
    states = network.states(torch.tensor([[1, 2, 3]]))
    vectors = network.items.detach().clone()
    bake_text(network)
    assert torch.equal(network.items, vectors)
    assert torch.equal(network.states(torch.tensor([[1, 2, 3]])), states)
