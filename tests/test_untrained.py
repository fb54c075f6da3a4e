"""A bundle before training has the form and size that the trained one will have."""

from delrec_lite.bench.untrained import Untrained
from delrec_lite.pipeline.bundle import write_bundle
from delrec_lite.runtime.recommender import Recommender


def test_an_untrained_bundle_is_a_bundle_of_its_form(tiny_run):
    settings = {"model": {"history": "titles", "item_start": "titles"}, "export": {"retriever": False, "quant": "q8_0"}}
    run = tiny_run(**settings)
    early = Untrained(run.recipe, run.folder.parent / "early", run.console)
    write_bundle(early, early.bundle, ["q8_0"], gated=False)
    assert not (early.folder / "finetune").exists()
    run.export()
    with Recommender.load(early.bundle, threads=1) as before, Recommender.load(run.bundle, threads=1) as after:
        title = before.bundle.items.titles[3]
        assert before.recommend([title]).tokens_computed == after.recommend([title]).tokens_computed > 1
        sizes = [recommender.bundle.model_path.stat().st_size for recommender in (before, after)]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[1]
