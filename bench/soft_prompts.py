"""What a soft prompt gives a trained model: ``python -m delrec_lite.bench.soft_prompts RECIPE --out FILE``.

Everything that the recipe trained is frozen. Vectors of the soft tokens, before the first layer and in the layers, are
then fitted once for each goal: the next items, and each teacher's distribution alone. The report has the test users'
ranks with each prompt, paired with the model as it was, and how near each prompt brings the model to each teacher: a
prompt that is a switch is nearest to its own.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from delrec_lite.bench.script import add_recipe, script_parser, write_json
from delrec_lite.config import FinetuneSection, load_recipe
from delrec_lite.console import Console
from delrec_lite.data.types import Floats, subsample
from delrec_lite.evaluation.table import compare_all, rows_for
from delrec_lite.llm.forward import score_all
from delrec_lite.pipeline.model_builder import BuiltModel
from delrec_lite.pipeline.run import Run
from delrec_lite.provenance import stamp
from delrec_lite.training.context import TrainingContext
from delrec_lite.training.finetune import losses
from delrec_lite.training.loop import Group, Schedule, finish_stage, train
from delrec_lite.training.ranking import ranked

AS_TRAINED, TRUTH = "as trained", "the next items"
COMPARED_USERS = 500  # test users whose distributions are compared with the teachers'

Prompt = dict[str, Any]  # the tensors of a soft prompt by name


def parser() -> argparse.ArgumentParser:
    """Recipe, runs, and how the prompts are fitted."""
    options = script_parser("soft_prompts", __doc__)
    add_recipe(options)
    options.add_argument("--epochs", type=float, default=0.5, help="of each prompt, over all training interactions")
    options.add_argument("--lr", type=float, default=0.01)
    options.add_argument("--seeds", default="1", help="of the fits, separated by commas")
    options.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    return options


def fit(context: TrainingContext, section: FinetuneSection, label: str) -> None:
    """Fit the soft prompt of a frozen model to the target of this section.

    Args:
        context: Its model's soft prompt is changed in place.
        section: Stage 2, of which length, learning rate and the teacher's share count.
        label: Before the bar.
    """
    model = context.model
    model.eval().requires_grad_(False)
    prompt = model.soft_prompt()
    for vectors in prompt.values():
        vectors.requires_grad_(True)
    schedule = Schedule(context.steps(section), section.warmup)
    groups = [Group(prompt, section.lr)]
    train(groups, losses(context, section, 1), schedule, context.out, context.console, label, section.seed)
    model.requires_grad_(False)
    finish_stage(context.out, context.console)


def log_probabilities(scores: Floats) -> Any:
    """Of the whole catalogue, float32 ``[users, items]``, from its scores."""
    return functional.log_softmax(torch.from_numpy(scores), 1)


def divergences(own: Any, theirs: dict[str, Any]) -> dict[str, float]:
    """The mean KL from each teacher's distribution over the catalogue to the model's, nats; both are logarithms."""
    return {
        kind: round(functional.kl_div(own, known, reduction="batchmean", log_target=True).item(), 4)
        for kind, known in theirs.items()
    }


def set_prompt(built: BuiltModel, prompt: Prompt) -> None:
    """Put a soft prompt's values into the model."""
    with torch.no_grad():
        for name, vectors in built.model.soft_prompt().items():
            vectors.copy_(prompt[name])


def measure(run: Run, options: argparse.Namespace) -> dict[str, Any]:
    """Fit a prompt for each goal and seed; ranks, paired tests and divergences."""
    built, teachers = run.models.trained(), run.models.teachers()
    built.model.deepen()
    before = {name: vectors.detach().clone() for name, vectors in built.model.soft_prompt().items()}
    ranks, near = {}, {}
    test, sets, length = run.dataset.test(), run.candidates["test"], run.recipe.model.max_history
    histories = test.take(subsample(len(test), COMPARED_USERS)).histories
    theirs = {kind: log_probabilities(teacher.scores(histories)) for kind, teacher in teachers.items()}

    def ask(name: str) -> None:
        ranks[name] = ranked(built.model, built.prompts, test, sets, length, run.console, f"prompt for {name}")
        near[name] = divergences(log_probabilities(score_all(built.model, built.prompts, histories, length)), theirs)

    ask(AS_TRAINED)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for seed in seeds:
        for goal in (TRUTH, *teachers):
            name = f"{goal}, seed {seed}"
            set_prompt(built, before)
            context = run.context(built, options.work / f"{goal.replace(' ', '-')}-{seed}")
            section = run.recipe.finetune.model_copy(
                update={
                    "epochs": options.epochs,
                    "lr": options.lr,
                    "seed": seed,
                    "teacher_weight": float(goal in teachers),
                    "teacher_until": 1.0,
                    "teacher_inside": False,
                }
            )
            fit(replace(context, teacher=teachers.get(goal, context.teacher)), section, f"prompt for {name}")
            ask(name)
    expected = run.expected(test)
    fitted = [name for name in ranks if name != AS_TRAINED]
    return {
        "divergence": near,
        "rows": [asdict(row) for name, r in ranks.items() for row in rows_for(name, r, expected)],
        "comparisons": compare_all(ranks, [(name, AS_TRAINED) for name in fitted], expected),
        "ranks": {name: r.dump() for name, r in ranks.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit, rank, compare, and write the report."""
    options = parser().parse_args(arguments)
    started, recipe = stamp(), load_recipe(options.recipe)
    run = Run(recipe, options.runs, Console("human"), shipped=True)
    report = {**started, "recipe": recipe.dump(), "epochs": options.epochs, "lr": options.lr, **measure(run, options)}
    write_json(report, options.out, indent=None)
    for name, near in report["divergence"].items():
        print(f"{name}: nats from " + ", ".join(f"{kind} {value:.3f}" for kind, value in near.items()), file=sys.stderr)


if __name__ == "__main__":
    main()
