"""How a catalogue's size is paid for: ``python -m delrec_lite.bench.catalogue BUNDLE WORK OUT [ITEMS ...]``.

A bundle's items are repeated until there are as many as asked for, once as rows of the vocabulary (as export writes
them) and once as vectors beside the model (as ``catalog add`` writes them). Both answer the same cold requests in turn.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from delrec_lite.bench.report import summary
from delrec_lite.bench.runner import SETTLE_S, new_process
from delrec_lite.bench.workloads import Request, ask, requests_of
from delrec_lite.files import write_whole
from delrec_lite.provenance import stamp
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.finish import finish_bundle
from delrec_lite.runtime.manifest import ADDITION_ROWS, ADDITIONS
from delrec_lite.runtime.recommender import Recommender

SAMPLES, WARM_UP = 15, 2
THREADS = 2


def in_vocabulary(bundle: Bundle, items: int, target: Path) -> Bundle:
    """A bundle with so many items, each a row of the model."""
    staging = _staged(bundle, target)
    base, had = bundle.prompt.item_token_base, bundle.trained
    _write_longer(bundle.model_path, staging / bundle.model_path.name, base, had, items)
    ids, titles = _names(bundle, items)
    catalog = {"ids": ids, "titles": titles, "popularity": [0] * items}
    (staging / "catalog.json").unlink()
    (staging / "catalog.json").write_text(json.dumps(catalog), encoding="utf-8")
    return _finished(bundle, staging, target)


def as_vectors(bundle: Bundle, items: int, target: Path) -> Bundle:
    """A bundle with so many items, those beyond the model's own as vectors beside it."""
    staging = _staged(bundle, target)
    (staging / bundle.model_path.name).hardlink_to(bundle.model_path)
    ids, titles = _names(bundle, items)
    more = {"ids": ids[bundle.trained :], "titles": titles[bundle.trained :]}
    (staging / ADDITIONS).write_text(json.dumps(more), encoding="utf-8")
    with Recommender.load(bundle.folder) as recommender:
        rows = np.stack([recommender.new_item(title) for title in bundle.items.titles[:64]], axis=1)
    held = np.lib.format.open_memmap(
        staging / ADDITION_ROWS, "w+", np.float32, (2, items - bundle.trained, rows.shape[2])
    )
    held[:] = rows[:, np.arange(held.shape[1]) % rows.shape[1]]
    held.flush()
    del held
    return _finished(bundle, staging, target)


def _staged(bundle: Bundle, target: Path) -> Path:
    staging = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    for name in bundle.manifest["files"]:
        if name not in {bundle.model_path.name, "golden.json", "retriever.onnx"}:
            shutil.copyfile(bundle.folder / name, staging / name)
    return staging


def _finished(bundle: Bundle, staging: Path, target: Path) -> Bundle:
    kept = {key: bundle.manifest[key] for key in ("name", "model", "provenance", "licences")}
    return finish_bundle(staging, target, gated=False, **kept)


def _names(bundle: Bundle, items: int) -> tuple[list[str], list[str]]:
    more = range(items - bundle.trained)
    had = bundle.items
    return had.ids + [f"more-{n}" for n in more], had.titles + [
        f"Another item of the catalogue, number {n}" for n in more
    ]


def _write_longer(source: Path, target: Path, base: int, had: int, items: int) -> None:
    """Copy a GGUF file, its item tokens and their rows repeated."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value: Any = field.contents()
        if name == "tokenizer.ggml.tokens":
            value = value + [f"Another item of the catalogue, number {n}" for n in range(items - had)]
        elif name == "tokenizer.ggml.token_type":
            value = [*value, *[int(gguf.TokenType.USER_DEFINED)] * (items - had)]
        elif name.endswith(".vocab_size"):
            value = base + items
        kinds = [*field.types, None]
        writer.add_key_value(name, value, kinds[0], kinds[1])
    for tensor in reader.tensors:
        data = tensor.data
        if tensor.name in {"token_embd.weight", "output.weight"}:
            data = np.concatenate([data[:base], data[base + np.arange(items) % had]])
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def measure(bundle: Bundle, work: Path, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Cold requests through both forms of every size, in turn."""
    import time

    requests = requests_of(bundle)
    asked = [Request(requests.of("cold", n).history) for n in range(len(requests))]
    rows = []
    for size in sizes:
        made = {"vocabulary": in_vocabulary(bundle, size, work / f"vocabulary-{size}.delrec")}
        if size > bundle.trained:
            made["vectors"] = as_vectors(bundle, size, work / f"vectors-{size}.delrec")
        samples: dict[str, list[float]] = {form: [] for form in made}
        with ExitStack() as stack:
            serving = {form: stack.enter_context(Recommender.load(b.folder, THREADS)) for form, b in made.items()}
            for n in range(-WARM_UP, SAMPLES):
                for form, one in serving.items():
                    time.sleep(SETTLE_S)
                    sample = ask(one, asked[n % len(asked)])
                    samples[form] += [sample.ms] if n >= 0 else []
        for form, b in made.items():
            job = {"bundle": str(b.folder), "threads": THREADS, "together": False, "requests": [asdict(asked[0])] * 3}
            facts = new_process(job)
            rows.append(
                {
                    "items": size,
                    "form": form,
                    "bytes": sum(int(f["bytes"]) for f in b.manifest["files"].values()),
                    "ms": summary(samples[form]),
                    "load_ms": round(facts["load"], 1),
                    "peak_rss_bytes": int(facts["peak_rss_bytes"]),
                    "samples_ms": [round(ms, 3) for ms in samples[form]],
                }
            )
            print({key: value for key, value in rows[-1].items() if key != "samples_ms"}, file=sys.stderr)
            shutil.rmtree(b.folder)
    return rows


def main() -> None:
    """Measure and write the report."""
    held = Bundle.open(sys.argv[1])
    bundle, work, out = held.choose(held.models[0].quant), Path(sys.argv[2]), Path(sys.argv[3])
    sizes = [int(size) for size in sys.argv[4:]] or [bundle.trained, 10_000, 100_000, 1_000_000]
    report = {
        **stamp(),
        "quant": bundle.manifest["model"]["quant"],
        "threads": THREADS,
        "rows": measure(bundle, work, sizes),
    }
    write_whole(out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
