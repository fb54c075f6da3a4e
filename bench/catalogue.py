"""What the size of a catalogue costs: ``python -m delrec_lite.bench.catalogue BUNDLE --work FOLDER --out FILE``.

A bundle's items are repeated up to the given number, once as rows of the vocabulary (as export writes them) and once
as vectors beside the model (as ``catalog add`` writes them). Both answer the same cold requests in turn.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from delrec_lite.bench.probe import new_process
from delrec_lite.bench.report import latency_summary
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.bench.workloads import SETTLE_S, Request, ask, requests_of
from delrec_lite.provenance import stamp
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.finish import finish_bundle
from delrec_lite.runtime.manifest import ADDITION_ROWS, ADDITIONS, INDEX, INDEX_MAPS
from delrec_lite.runtime.recommender import Recommender

SAMPLES, WARM_UP = 15, 2
THREADS = 2


def in_vocabulary(bundle: Bundle, items: int, target: Path) -> Bundle:
    """A bundle with so many items, each a row of the model."""
    staging = staged_copy(bundle, target)
    write_longer(
        bundle.model_path, staging / bundle.model_path.name, bundle.prompt.item_token_base, bundle.trained, items
    )
    names_of(bundle, items, staging)
    return _finished(bundle, staging, target)


def as_vectors(bundle: Bundle, items: int, target: Path) -> Bundle:
    """A bundle with so many items, those beyond the model's own as vectors beside it."""
    staging = staged_copy(bundle, target)
    (staging / bundle.model_path.name).hardlink_to(bundle.model_path)
    ids, titles = _names(bundle, items)
    additions = {"ids": ids[bundle.trained :], "titles": titles[bundle.trained :]}
    (staging / ADDITIONS).write_text(json.dumps(additions), encoding="utf-8")
    with Recommender.load(bundle.folder) as recommender:
        rows = np.stack([recommender.new_item(title) for title in bundle.items.titles[:64]], axis=1)
    vectors = np.lib.format.open_memmap(
        staging / ADDITION_ROWS, "w+", np.float32, (2, items - bundle.trained, rows.shape[2])
    )
    vectors[:] = rows[:, np.arange(vectors.shape[1]) % rows.shape[1]]
    vectors.flush()
    del vectors
    return _finished(bundle, staging, target)


def names_of(bundle: Bundle, items: int, staging: Path) -> None:
    """Write the catalogue of a bundle with so many items."""
    ids, titles = _names(bundle, items)
    catalog = {"ids": ids, "titles": titles, "popularity": [0] * items}
    (staging / "catalog.json").unlink()
    (staging / "catalog.json").write_text(json.dumps(catalog), encoding="utf-8")


def staged_copy(bundle: Bundle, target: Path) -> Path:
    """A folder beside ``target`` with a bundle's files, without its model, stored requests and teacher."""
    staging = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for name in bundle.manifest["files"]:
        if name not in {bundle.model_path.name, "golden.json", "retriever.onnx", INDEX, INDEX_MAPS}:
            shutil.copyfile(bundle.folder / name, staging / name)
    return staging


def _finished(bundle: Bundle, staging: Path, target: Path) -> Bundle:
    facts = {key: bundle.manifest[key] for key in ("name", "model", "provenance", "licences")}
    return finish_bundle(staging, target, gated=False, **facts)


def _names(bundle: Bundle, items: int) -> tuple[list[str], list[str]]:
    added = range(items - bundle.trained)
    titles = [f"Another item of the catalogue, number {n}" for n in added]
    return bundle.items.ids + [f"more-{n}" for n in added], bundle.items.titles + titles


def write_longer(
    source: Path, target: Path, base: int, trained: int, items: int, output: Callable[[Any], Any] | None = None
) -> None:
    """Copy a GGUF file, its ``trained`` item tokens and their rows repeated up to ``items``.

    Args:
        source: The file.
        target: The longer one.
        base: Tokens before the items.
        trained: Items of the file.
        items: Of the longer one.
        output: Gives the items' rows of the output head in a type of GGUF; default: those of the file, repeated.
    """
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value: Any = field.contents()
        if name == "tokenizer.ggml.tokens":
            value = value + [f"Another item of the catalogue, number {n}" for n in range(items - trained)]
        elif name == "tokenizer.ggml.token_type":
            value = [*value, *[int(gguf.TokenType.USER_DEFINED)] * (items - trained)]
        elif name.endswith(".vocab_size"):
            value = base + items
        kinds = [*field.types, None]
        writer.add_key_value(name, value, kinds[0], kinds[1])
    for tensor in reader.tensors:
        data = tensor.data
        if tensor.name in {"token_embd.weight", "output.weight"}:
            new = output(tensor.tensor_type) if output is not None and tensor.name == "output.weight" else None
            rows = data[base + np.arange(items) % trained] if new is None else new
            data = np.concatenate([data[:base], rows])
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def measure_sizes(bundle: Bundle, work: Path, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Cold requests through both forms of every size, in turn.

    Args:
        bundle: With a GGUF file.
        work: Folder for the bundles that are made and removed again.
        sizes: Numbers of items, none below the bundle's own.
    """
    requests = requests_of(bundle)
    cold = [Request(requests.of("cold", n).history) for n in range(len(requests))]
    rows = []
    for size in sizes:
        forms = {"vocabulary": in_vocabulary(bundle, size, work / f"vocabulary-{size}.delrec")}
        if size > bundle.trained:
            forms["vectors"] = as_vectors(bundle, size, work / f"vectors-{size}.delrec")
        samples: dict[str, list[float]] = {form: [] for form in forms}
        with ExitStack() as stack:
            serving = {form: stack.enter_context(Recommender.load(b.folder, THREADS)) for form, b in forms.items()}
            for n in range(-WARM_UP, SAMPLES):
                for form, recommender in serving.items():
                    time.sleep(SETTLE_S)
                    timing = ask(recommender, cold[n % len(cold)])
                    samples[form] += [timing.ms] if n >= 0 else []
        for form, enlarged in forms.items():
            row = _row(enlarged, size, form, cold[0], samples[form])
            print({key: value for key, value in row.items() if key != "samples_ms"}, file=sys.stderr)
            rows.append(row)
            shutil.rmtree(enlarged.folder)
    return rows


def _row(bundle: Bundle, size: int, form: str, request: Request, samples: Sequence[float]) -> dict[str, Any]:
    job = {"bundle": str(bundle.folder), "threads": THREADS, "together": False, "requests": [asdict(request)] * 3}
    process = new_process(job)
    return {
        "items": size,
        "form": form,
        "bytes": sum(int(facts["bytes"]) for facts in bundle.manifest["files"].values()),
        "ms": latency_summary(samples),
        "load_ms": round(process["load"], 1),
        "peak_rss_bytes": int(process["peak_rss_bytes"]),
        "samples_ms": [round(ms, 3) for ms in samples],
    }


def parser() -> argparse.ArgumentParser:
    """Bundle, work folder and sizes."""
    options = script_parser("catalogue", __doc__)
    options.add_argument("bundle", type=Path)
    options.add_argument("--work", type=Path, required=True, help="folder for the bundles that are made meanwhile")
    options.add_argument("--items", help="sizes with commas between them; default: its own, then up to a million")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    options = parser().parse_args(arguments)
    opened = Bundle.open(options.bundle)
    bundle = opened.choose(opened.models[0].quant)
    sizes = [int(n) for n in options.items.split(",")] if options.items else [bundle.trained, 10**4, 10**5, 10**6]
    report = {
        **stamp(),
        "quant": bundle.manifest["model"]["quant"],
        "threads": THREADS,
        "rows": measure_sizes(bundle, options.work, sizes),
    }
    write_json(report, options.out)


if __name__ == "__main__":
    main()
