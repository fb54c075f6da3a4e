"""`delrec-lite plan`: whether training fits a GPU and this machine's memory, with which settings, before a download."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console
from delrec_lite.cli.options import SetOption
from delrec_lite.console import Console

if TYPE_CHECKING:
    from delrec_lite.architectures import Layers
    from delrec_lite.softmax.choice import Softmax

EXAMPLE = "Example: `delrec-lite plan --model Qwen/Qwen2.5-1.5B-Instruct --gpu-memory 8GB`"


def plan(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name or file: its base and sizes, and whether it fits as it is.")
    ] = "",
    changes: SetOption = None,
    model: Annotated[str, typer.Option(help="Name, Hub id, folder or config.json; it is not downloaded.")] = "",
    gpu_memory: Annotated[
        str, typer.Option(help="Memory of the GPU, such as 8GB or 24GiB; default: of the card here, else 8GB.")
    ] = "",
    context: Annotated[int, typer.Option(min=2, help="Items of a history (model.max_history).")] = 50,
    items: Annotated[int, typer.Option(min=2, help="Items in the catalogue.")] = 1349,
    tokens: Annotated[int, typer.Option(min=16, help="Item tokens per step (finetune.tokens_per_step).")] = 800,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show which precision, checkpointing and batch size fit a GPU, computed from the model's shape.

    A recipe that does not fit as it is ends with an error that says what to set.
    """
    from delrec_lite import machine
    from delrec_lite.cards import find_cards
    from delrec_lite.errors import UsageError
    from delrec_lite.hub.base import base_folders
    from delrec_lite.pipeline.memory import RecipeCheck
    from delrec_lite.pipeline.overrides import load_changed
    from delrec_lite.training.plan import plan as make_plan

    if bool(recipe) == bool(model):
        raise UsageError("plan needs a recipe or a model, one of the two", "delrec-lite plan ml-100k-gpu")
    if changes and not recipe:
        raise UsageError("--set changes a recipe, and --model is none", "delrec-lite plan ml-100k-gpu --set KEY=VALUE")
    console = make_console(json_output, quiet)
    folders = base_folders()
    cards = [] if gpu_memory else find_cards()
    gpu_memory = gpu_memory or (f"{cards[0].total_bytes / 1e9:.1f}GB" if cards else "8GB")
    check: RecipeCheck | None = None
    layers: Layers | None = None
    softmax: Softmax = "auto"
    if recipe:
        check = RecipeCheck.of(load_changed(recipe, changes), gpu_memory, items, folders)
        model, context = check.recipe.model.base, check.recipe.model.max_history
        tokens, items = check.recipe.finetune.tokens_per_step, check.items
        layers, softmax = check.recipe.model.layers, check.recipe.model.softmax
    memory = machine.memory_limit_bytes()
    report = make_plan(model, gpu_memory, context, items, tokens, folders, memory, layers, softmax)
    if json_output:
        console.result(report)
    else:
        _show(report, model, gpu_memory, console)
    if check is not None:
        check.run()
        console.say(f"{recipe} fits {check.place.name} as it is")


def _show(report: dict[str, Any], model: str, gpu_memory: str, console: Console) -> None:
    rows = [
        (
            choice["model.precision"],
            "yes" if choice["finetune.checkpointing"] else "no",
            str(choice["tokens_at_once"]),
            str(choice["finetune.gradient_accumulation_steps"]),
            f"{choice['bytes']['total'] / 1e9:.1f} GB",
        )
        for choice in report["choices"]
    ]
    header = ("model.precision", "checkpointing", "tokens at once", "gradient_accumulation_steps", "peak")
    title = f"{model}, {report['parameters'] / 1e6:.0f}M parameters ({report['shape']['source']}), on {gpu_memory}"
    if rows:
        console.result(None, rows, header, title=title)
        console.say("the first line is the fastest setting that fits")
    else:
        console.result(f"{title}: does not fit; the minimum is {report['least']['total'] / 1e9:.1f} GB")
    if report["softmax"] != "full":
        console.say(f"the softmax over {report['items']:,} items is {report['softmax']}, by model.softmax")
    console.say(_on_cpu(report["cpu"]))
    console.say(report["measured"])


def _on_cpu(cpu: dict[str, Any]) -> str:
    """What fits the memory of this machine, in one line."""
    where = f"on this machine's CPU, {cpu['memory'] / 1e9:.1f} GB"
    serving = f"serving its bundle takes about {cpu['serving'] / 1e9:.1f} GB"
    if not cpu["memory"]:
        return f"on a CPU: training needs at least {cpu['least'] / 1e9:.1f} GB; {serving}"
    fitting = [
        f"{c['model.precision']}"
        f"{' with checkpointing' if c['finetune.checkpointing'] else ''}"
        f"{' in ' + str(n) + ' micro-batches' if (n := c['finetune.gradient_accumulation_steps']) > 1 else ''}"
        f" {(c['bytes']['total'] + cpu['process']) / 1e9:.1f} GB"
        for c in cpu["choices"]
    ]
    if fitting:
        return f"{where}: training fits as {'; '.join(fitting)}; {serving}"
    return f"{where}: training does not fit, it needs at least {cpu['least'] / 1e9:.1f} GB; {serving}"
