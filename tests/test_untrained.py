"""A bundle of an untrained model has the format and size of the trained one."""

from delrec_lite.bench.untrained import Untrained
from delrec_lite.pipeline.bundle import write_bundle
from delrec_lite.runtime.recommender import Recommender


def test_an_untrained_bundle_has_the_format_and_size_of_a_trained_one(tiny_run):
    settings = {"model": {"history": "titles", "item_start": "titles"}, "export": {"retriever": False, "quant": "q8_0"}}
    run = tiny_run(**settings)
    untrained = Untrained(run.recipe, run.folder.parent / "untrained", run.console)
    write_bundle(untrained, untrained.bundle, ["q8_0"], gated=False)
    assert not (untrained.folder / "finetune").exists()
    run.export()
    with Recommender.load(untrained.bundle, threads=1) as before, Recommender.load(run.bundle, threads=1) as after:
        title = before.bundle.items.titles[3]
        assert before.recommend([title]).tokens_computed == after.recommend([title]).tokens_computed > 1
        sizes = [recommender.bundle.model_path.stat().st_size for recommender in (before, after)]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[1]
