"""Teachers with item text from each source: ``python -m delrec_lite.bench.text_sources RECIPE --out FILE``.

Trains the recipe's teachers without text and with the text features of every source, and ranks validation and test
users with each. Trained teachers stay in the folder of runs, so that an interrupted call continues.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from delrec_lite.bench.script import add_recipe, script_parser, write_json
from delrec_lite.config import Recipe, load_recipe
from delrec_lite.console import Console
from delrec_lite.data.types import subsample
from delrec_lite.evaluation.choosing import RANKED_USERS
from delrec_lite.evaluation.protocol import rank_all
from delrec_lite.evaluation.table import compare_all, rows_for
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp

SOURCES = ("none", "rows", "states", "encoder", "encoder+rows")


def parser() -> argparse.ArgumentParser:
    """Recipe, runs and sources."""
    options = script_parser("text_sources", __doc__)
    add_recipe(options)
    options.add_argument("--sources", default=",".join(SOURCES), help="of `model.item_text`, separated by commas")
    return options


def with_source(recipe: Recipe, source: str) -> Recipe:
    """The recipe with teachers whose items have text of this source, or ``none``."""
    dump = recipe.dump()
    dump["name"] = f"{recipe.name}-text-{source.replace('+', '-')}"
    dump["model"] |= {"item_text": source, "item_vectors": None}
    dump["teacher"]["text"] = source != "none"
    if source == "none":
        dump["finetune"]["offset_dropout"] = None
    return Recipe.model_validate(dump)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, rank and write the report."""
    options = parser().parse_args(arguments)
    started, console, recipe = stamp(), Console("human"), load_recipe(options.recipe)
    test_ranks, training, validation, rows = {}, {}, {}, list[dict[str, Any]]()
    for source in options.sources.split(","):
        run = Run(with_source(recipe, source), options.runs, console)
        teacher, test = run.models.teacher(), run.dataset.test()
        training[source] = run.teacher().result
        valid, expected = run.dataset.valid(), run.expected(test)
        users = subsample(len(valid), RANKED_USERS)
        ranked = rank_all(
            teacher.scores, valid.take(users), run.candidates["valid"].take(users), console=console, label=source
        )
        validation[source] = [asdict(row) for row in rows_for(source, ranked)]
        ranked = rank_all(teacher.scores, test, run.candidates["test"], console=console, label=source)
        test_ranks[source] = ranked
        rows += [asdict(row) for row in rows_for(source, ranked, expected)]
    pairs = [(source, other) for source in test_ranks for other in test_ranks if source < other]
    report = {
        **started,
        "recipe": recipe.dump(),
        "training": training,
        "validation": validation,
        "rows": rows,
        "comparisons": compare_all(test_ranks, pairs, expected),
        "ranks": {source: ranks.dump() for source, ranks in test_ranks.items()},
    }
    write_json(report, options.out, indent=None)


if __name__ == "__main__":
    main()
