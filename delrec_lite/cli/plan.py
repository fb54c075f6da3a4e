"""`delrec-lite plan`: whether training fits a GPU, and with which settings, before any download."""

from typing import Annotated

import typer

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

EXAMPLE = "Example: `delrec-lite plan --model Qwen/Qwen2.5-1.5B-Instruct --gpu-memory 8GB`"


def plan(
    model: Annotated[str, typer.Option(help="Name, Hub id, folder or config.json; it is not downloaded.")],
    gpu_memory: Annotated[str, typer.Option(help="Memory of the GPU, such as 8GB or 24GiB.")] = "8GB",
    context: Annotated[int, typer.Option(min=2, help="Items of a history (model.max_history).")] = 50,
    items: Annotated[int, typer.Option(min=2, help="Items in the catalogue.")] = 1349,
    tokens: Annotated[int, typer.Option(min=16, help="Item tokens per step (finetune.tokens_per_step).")] = 800,
    json_output: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Show which precision, checkpointing and batch size fit a GPU, computed from the model's shape."""
    from delrec_lite.files import cache_folder
    from delrec_lite.hub.huggingface import hub_folders
    from delrec_lite.training.plan import plan as make_plan

    console = make_console(json_output, quiet)
    report = make_plan(model, gpu_memory, context, items, tokens, (*hub_folders(), cache_folder() / "models"))
    if json_output:
        console.result(report)
        return
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
    console.say(report["measured"])
