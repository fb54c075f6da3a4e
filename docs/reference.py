"""Writes the pages that are made from code: commands, recipe keys, library. `python docs/reference.py` writes them."""

import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, is_typeddict

import typer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

HERE = Path(__file__).parent
MADE = "<!-- made by docs/reference.py from the code: change it there -->\n"
# What a person who writes Python against this library meets.
LIBRARY = {
    "Frames": (
        "delrec_lite.frames.dataset.Dataset",
        "delrec_lite.frames.model.DelRec",
        "delrec_lite.frames.report.Report",
        "delrec_lite.frames.pulled.pull_frames",
        "delrec_lite.data.frames.frame_of",
    ),
    "Serving (no torch)": (
        "delrec_lite.runtime.recommender.Recommender",
        "delrec_lite.runtime.answer.Recommendation",
        "delrec_lite.runtime.answer.Ranked",
        "delrec_lite.runtime.answer.Ranking",
        "delrec_lite.runtime.resolving.Skipped",
        "delrec_lite.runtime.resolving.Resolved",
        "delrec_lite.runtime.availability.Availability",
        "delrec_lite.runtime.availability.Change",
        "delrec_lite.runtime.bundle.Bundle",
        "delrec_lite.runtime.engines.base.Engine",
        "delrec_lite.runtime.explain.explain",
        "delrec_lite.runtime.explain.Explanation",
        "delrec_lite.runtime.retriever.Retriever",
        "delrec_lite.runtime.additions.add_items",
        "delrec_lite.runtime.verify.verify",
        "delrec_lite.scoring.scorer.Scorer",
        "delrec_lite.scoring.run.score",
        "delrec_lite.scoring.run.Options",
        "delrec_lite.scoring.folder.Scored",
    ),
    "A client of a server": (
        "delrec_lite.client.Client",
        "delrec_lite.client.AsyncClient",
        "delrec_lite.client.Retries",
        "delrec_lite.client.calls.RecommendOptions",
        "delrec_lite.client.calls.BatchOptions",
        "delrec_lite.client.answers.RecommendAnswer",
        "delrec_lite.client.RequestError",
        "delrec_lite.client.RefusedError",
        "delrec_lite.client.BusyError",
        "delrec_lite.client.UnreachableError",
        "delrec_lite.client.LateError",
    ),
    "Data": (
        "delrec_lite.data.types.Dataset",
        "delrec_lite.data.types.Catalog",
        "delrec_lite.data.columns.ItemColumn",
        "delrec_lite.data.columns.ItemRows",
        "delrec_lite.data.typed_columns.ColumnSpec",
        "delrec_lite.data.types.Split",
        "delrec_lite.data.types.CandidateSets",
        "delrec_lite.data.store.load_dataset",
    ),
    "Engines, quantisations and data sets of other packages": (
        "delrec_lite.runtime.engines.factory.EngineKind",
        "delrec_lite.runtime.engines.factory.register_engine",
        "delrec_lite.runtime.engines.base.Evaluation",
        "delrec_lite.quantisations.Quantisation",
        "delrec_lite.quantisations.register_quantisation",
        "delrec_lite.hub.registry.Asset",
        "delrec_lite.hub.registry.register_dataset",
        "delrec_lite.registry.Registry",
    ),
    "Runs": (
        "delrec_lite.config.load_recipe",
        "delrec_lite.pipeline.run.Run",
        "delrec_lite.pipeline.folder.RunFolder",
        "delrec_lite.pipeline.model_builder.ModelBuilder",
        "delrec_lite.pipeline.model_builder.BuiltModel",
        "delrec_lite.pipeline.bundle.write_bundle",
        "delrec_lite.export.write.export",
        "delrec_lite.export.request.ExportRequest",
        "delrec_lite.bench.runner.bench",
    ),
    "Teachers": (
        "delrec_lite.teacher_kinds.registry.TeacherKind",
        "delrec_lite.teacher_kinds.registry.register_teacher",
        "delrec_lite.registry.Registry",
        "delrec_lite.teachers.contract.Network",
        "delrec_lite.teachers.contract.Teacher",
        "delrec_lite.teachers.fit.fit",
    ),
    "Errors": (
        "delrec_lite.errors.DelrecError",
        "delrec_lite.errors.UsageError",
        "delrec_lite.errors.ConfigError",
        "delrec_lite.errors.DataError",
        "delrec_lite.errors.FetchError",
        "delrec_lite.errors.BundleError",
        "delrec_lite.errors.MissingPackageError",
        "delrec_lite.errors.StorageError",
        "delrec_lite.errors.GateError",
    ),
}


def commands() -> str:
    """Every verb with its options."""
    from delrec_lite.cli.app import app

    group: Any = typer.main.get_command(app)
    parts = [MADE, "# Commands\n", f"{group.help}\n"]
    for name, command in _flat(group):
        parts += [f"## {name}\n", f"{inspect.cleandoc(command.help or '')}\n"]
        if command.epilog:
            parts.append(f"{command.epilog}\n")
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            option = parameter.param_type_name == "option"
            names = [*parameter.opts, *parameter.secondary_opts] if option else [(parameter.name or "").upper()]
            default = "" if parameter.default in (None, False) or callable(parameter.default) else parameter.default
            text = getattr(parameter, "help", None) or ""
            rows.append(
                f"| {', '.join(f'`{n}`' for n in names)} | {_cell(text)} | {f'`{default}`' if default != '' else ''} |"
            )
        parts.append("\n".join(["| option | meaning | default |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _flat(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _flat(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def recipe() -> str:
    """Every key of a recipe with its default."""
    from delrec_lite.config import Recipe
    from delrec_lite.registry import Registry
    from delrec_lite.teacher_kinds.registry import TEACHERS

    parts = [
        MADE,
        "# Recipe\n",
        "A recipe is a YAML file; every key but `name` has a default, an unknown key is refused.\n",
    ]
    for section, field in Recipe.model_fields.items():
        kind = field.annotation
        if not (inspect.isclass(kind) and issubclass(kind, BaseModel)):
            continue
        parts += [f"## {section}\n", f"{inspect.cleandoc(kind.__doc__ or '')}\n"]
        rows = []
        for name, key in kind.model_fields.items():
            default = key.get_default(call_default_factory=True)
            shown = "" if default is PydanticUndefined else f"`{'none' if default is None else default}`"
            registry = next((mark for mark in key.metadata if isinstance(mark, Registry)), None)
            if (section, name) == ("teacher", "kind"):
                values = ", ".join(TEACHERS.built_in)
            else:
                values = ", ".join(registry.built_in) if registry else _values(key.annotation)
            rows.append(f"| `{name}` | {_cell(values)} | {shown} | {_cell(key.description or '')} |")
        parts.append("\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows]) + "\n")
        if section == "teacher":
            parts.append(_teacher_settings())
    return "\n".join(parts)


def _teacher_settings() -> str:
    """Settings of each built-in kind of teacher, with defaults."""
    from delrec_lite.teacher_kinds.registry import TEACHERS
    from delrec_lite.teacher_kinds.settings import TeacherConfig

    meanings: dict[str, str] = {}
    defaults: dict[str, dict[str, Any]] = {}
    for kind in TEACHERS.built_in:
        model = TEACHERS[kind].settings
        for described in (described for described in reversed(model.__mro__) if issubclass(described, TeacherConfig)):
            entries = re.findall(r"^ +(\w+): (.*(?:\n {12}.*)*)", described.__doc__ or "", re.MULTILINE)
            meanings |= {name: text for name, text in entries if name in model.model_fields}
        defaults[kind] = {name: field.default for name, field in model.model_fields.items() if name != "kind"}
    names = dict.fromkeys(name for of_kind in defaults.values() for name in of_kind)
    rows = [
        f"| `{name}` | {_cell(meanings[name]).replace('``', '`')} | "
        + " | ".join(f"`{defaults[kind][name]}`" if name in defaults[kind] else "" for kind in TEACHERS.built_in)
        + " |"
        for name in names
    ]
    header = f"| `settings` | meaning | {' | '.join(TEACHERS.built_in)} |"
    return "\n".join([header, "|---" * (2 + len(TEACHERS.built_in)) + "|", *rows]) + "\n"


def library() -> str:
    """Signatures and docstrings of what a program calls."""
    parts = [MADE, "# Library\n"]
    for title, names in LIBRARY.items():
        parts.append(f"## {title}\n")
        for path in names:
            module, name = path.rsplit(".", 1)
            thing = getattr(importlib.import_module(module), name)
            parts += [f"### {path}\n", _described(name, thing)]
            if inspect.isclass(thing):
                for member, value in vars(thing).items():
                    called = value.__func__ if isinstance(value, classmethod | staticmethod) else value
                    if not member.startswith("_") and inspect.isfunction(called) and called.__doc__:
                        parts += [f"#### {name}.{member}\n", _described(member, called)]
    return "\n".join(parts)


BASE_MODELS = """\
A base model is a decoder-only language model of one of these families, by its `model_type` in config.json.

{table}

`train`, `quickstart`, `plan` and `init --base` read a base's config.json and tokenizer before anything is computed.
They refuse another family, other kinds of scaled rotary positions, another activation or scale of attention, a
tokenizer that is not byte-pair encoding, and `export.format: onnx` where the last column says no. A `.gguf` file as
base must have unscaled rotary positions, because `transformers` does not read their scaling from such files.

A prompt ends where runtimes would begin to differ: at `max_position_embeddings`, at the length of a sliding window,
and, with `longrope`, at `original_max_position_embeddings`. A history that is too long loses its oldest items.

A Llama-like family is added by [one record](extending.md#a-family-of-base-models).
"""


def base_models() -> str:
    """The families that a base may be of."""
    from delrec_lite.architectures import ARCHITECTURES

    rows = [
        f"| `{record.name}` | `{record.gguf}` | {', '.join(record.rope_scaling)} | {'yes' if record.onnx else 'no'} |"
        for record in ARCHITECTURES
    ]
    table = "\n".join(["| family | in GGUF | scaled rotary positions | ONNX |", "|---|---|---|---|", *rows])
    return "\n".join([MADE, "# Base models\n", BASE_MODELS.format(table=table)])


def _described(name: str, thing: Any) -> str:
    doc = inspect.cleandoc(thing.__doc__ or "")
    try:
        if is_typeddict(thing):
            signature = f"{name}({', '.join(f'{key}: {_shown(kind)}' for key, kind in thing.__annotations__.items())})"
        else:
            signature = f"{name}{inspect.signature(thing)}"
    except ValueError:
        signature = name
    if len(signature) > 110:
        signature = re.sub(r"\((.*)\)( ->.*)?$", _one_per_line, signature, flags=re.DOTALL)
    for module in ("collections.abc.", "delrec_lite.runtime.recommender.", "pathlib."):
        signature = signature.replace(module, "")
    signature = re.sub(r"\*<class '(\w+)'>", r"Unpack[\1]", signature)
    signature = re.sub(r"<[\w.]+ object at 0x[0-9a-f]+>", "...", signature)
    signature = re.sub(r"delrec_lite(\.\w+)+\.(\w+)", r"\2", signature)
    lines = []
    for line in doc.splitlines():
        if heading := re.fullmatch(r"(Args|Returns|Raises|Attributes|Yields):", line):
            lines += [f"**{heading[1]}**", ""]
        elif entry := re.fullmatch(r" {4}(\w[\w ,]*): (.*)", line):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            lines.append(line.strip() if line.startswith("     ") else textwrap.dedent(line))
    return f"```python\n{signature}\n```\n\n" + "\n".join(lines).replace("``", "`") + "\n"


def _shown(kind: Any) -> str:
    return re.sub(r"\b(typing|collections\.abc)\.", "", kind.__name__ if inspect.isclass(kind) else str(kind))


def _one_per_line(signature: re.Match[str]) -> str:
    inside, depth, start, parts = signature[1], 0, 0, []
    for at, letter in enumerate(inside):
        depth += letter in "([{"
        depth -= letter in ")]}"
        if letter == "," and depth == 0:
            parts.append(inside[start:at].strip())
            start = at + 1
    parts.append(inside[start:].strip())
    return "(\n    " + ",\n    ".join(parts) + f",\n){signature[2] or ''}"


def _values(kind: Any) -> str:
    if get_origin(kind) is None:
        return "" if kind is None else getattr(kind, "__name__", str(kind))
    inside = get_args(kind)
    if all(isinstance(value, str) for value in inside):
        return ", ".join(inside)
    return " or ".join(dict.fromkeys(_values(value) for value in inside if value is not type(None)))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


PAGES = {"base-models.md": base_models, "commands.md": commands, "recipe.md": recipe, "library.md": library}


def main() -> None:
    """Write all pages."""
    for name, make in PAGES.items():
        (HERE / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
