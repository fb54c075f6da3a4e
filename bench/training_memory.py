"""Measured against planned training memory: ``python -m delrec_lite.bench.training_memory SHAPE --precision nf4``.

A model of the shape with random weights makes a few real steps of stage 2; nothing is downloaded. On a CUDA card the
peak is the allocator's and the context's, on a CPU the growth of the process, with freed blocks returned at once.
"""

import argparse
import ctypes
import gc
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from delrec_lite.architectures import find_architecture
from delrec_lite.bench.script import script_parser, write_json
from delrec_lite.config import FinetuneSection
from delrec_lite.llm.forward import read_states
from delrec_lite.llm.load import Base
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.packing import Segment
from delrec_lite.llm.precision import keep_layout
from delrec_lite.provenance import stamp
from delrec_lite.training.adapters import add_adapter
from delrec_lite.training.memory import enable_gradient_checkpointing
from delrec_lite.training.optimisers import make_optimiser
from delrec_lite.training.plan import PROMPT_WORDS, Training, estimate
from delrec_lite.training.shapes import Shape, find_shape

# glibc keeps freed blocks of up to 32 MB for later ones that do not fit: SmolLM2-135M, 800 tokens at once, grew by 1.57
# GB and not by the 1.13 GB that it needs. Above this size a block goes back to the system.
M_MMAP_THRESHOLD, RETURNED_FROM = -3, 1 << 18


def random_model(shape: Shape, precision: str, device: str) -> Any:
    """A causal LM of ``shape`` with random weights, made on ``device`` layer by layer; never larger than it ends."""
    import transformers

    wide = torch.float32 if precision == "fp32" else torch.bfloat16
    config = transformers.AutoConfig.for_model(
        shape.family,
        pad_token_id=0,
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        attn_implementation="sdpa",
        dtype=wide,
    )
    with torch.device("meta"):
        lm = transformers.AutoModelForCausalLM.from_config(config)
    for name, module in list(lm.model.layers.named_modules()):
        if isinstance(module, torch.nn.Linear) and precision in {"nf4", "int8"}:
            parent, _, child = name.rpartition(".")
            setattr(lm.model.layers.get_submodule(parent), child, _quantised_linear(module, precision, device))
    for module in lm.modules():
        if "rotary" in type(module).__name__.lower():
            with torch.device(device):
                module.__init__(config=config)
            continue
        for name, p in list(module.named_parameters(recurse=False)):
            if p.is_meta:
                ones = p.dim() == 1 and name == "weight" and not find_architecture(shape.family).norms_from_one
                values = torch.ones(p.shape, dtype=wide, device=device)
                values = values if ones else values.normal_(std=0.02)
                setattr(module, name, torch.nn.Parameter(values, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_meta:  # Gemma's factor on embeddings
                module.register_buffer(name, torch.tensor(shape.hidden**0.5, device=device), persistent=False)
    lm.tie_weights()
    keep_layout(lm)
    return lm.requires_grad_(False).eval()


def _quantised_linear(module: Any, precision: str, device: str) -> Any:
    import bitsandbytes as bnb

    weight = torch.randn(module.out_features, module.in_features, dtype=torch.bfloat16, device=device) * 0.02
    bias = module.bias is not None
    if precision == "nf4":
        linear = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias, torch.bfloat16, True, "nf4", device="meta"
        )
        linear.weight = bnb.nn.Params4bit(weight.cpu(), False, quant_type="nf4", compress_statistics=True).to(device)
    else:
        linear = bnb.nn.Linear8bitLt(
            module.in_features, module.out_features, bias, has_fp16_weights=False, device="meta"
        )
        linear.weight = bnb.nn.Int8Params(weight.cpu(), False, has_fp16_weights=False).to(device)
    return linear


def measure_training_peak(shape: Shape, training: Training, device: str, steps: int = 2) -> dict[str, float]:
    """Peak bytes of ``steps`` steps, and what the plan computes for them."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, RETURNED_FROM)
    add = _settle(shape, training, steps)  # libraries and threads are in memory before anything is counted
    before = _reset(device)
    lm = random_model(shape, training.precision, device)
    ids = torch.Generator().manual_seed(0)

    def encode(_: str) -> list[int]:
        return torch.randint(shape.vocabulary, (6,), generator=ids).tolist()  # type: ignore[no-any-return]

    model = ItemLM(Base(lm, encode, None, "random", Path()), ["title"] * training.items, training.soft)
    model.requires_grad_(False)
    add(model)
    if training.checkpointing:
        enable_gradient_checkpointing(model)
    for p in (model.offset_in, model.offset_out, model.log_scale):
        p.requires_grad_(True)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimiser = make_optimiser(training.optimiser, [{"params": list(named.values()), "lr": 1e-4}], device)
    model.train()
    for _ in range(steps):
        optimiser.zero_grad(set_to_none=True)
        _loss(model, training).backward()
        optimiser.step()
    peak = _peak(device) - before
    planned = estimate(shape, training, cuda=device == "cuda")
    return {"peak": peak, "planned": planned.total, "planned / peak": round(planned.total / peak, 3)}


def _settle(shape: Shape, training: Training, steps: int) -> Any:
    recipe = FinetuneSection(rank=training.rank, alpha=2 * training.rank, modules=training.modules)
    small = Shape(shape.family, 64, 1, 4, 2, 16, 128, 100, shape.tied, shape.bias)
    model = ItemLM(
        Base(random_model(small, training.precision, "cpu"), lambda _: [1, 2], None, "small", Path()), ["title"] * 9, 4
    )
    add_adapter(model, recipe, steps)
    loss = _loss(model, Training(items=9, soft=4, tokens=40, context=10, teacher=training.teacher))
    loss.backward()
    torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]).step()
    gc.collect()
    return lambda big: add_adapter(big, recipe, steps)


def _loss(model: ItemLM, training: Training) -> Any:
    vocabulary = model.vocabulary
    prefix = [*range(min(PROMPT_WORDS, vocabulary.text)), *vocabulary.soft_ids]
    segments = [Segment(ids, range(len(ids))) for ids in _histories(training, vocabulary.item_base)]
    scores = read_states(model, prefix, segments) @ model.head().T
    truth = torch.randint(training.items, (len(scores),), device=scores.device)
    loss = F.cross_entropy(scores, truth)
    if training.teacher:
        target = F.log_softmax(torch.randn(scores.shape), 1).to(scores.device)
        kl = F.kl_div(F.log_softmax(scores, 1), target, reduction="batchmean", log_target=True)
        loss = 0.5 * loss + 0.5 * kl
    return loss


def _histories(training: Training, base: int) -> Iterator[list[int]]:
    for start in range(0, training.tokens, training.context):
        length = min(training.context, training.tokens - start)
        yield (base + torch.randint(training.items, (length,))).tolist()


def _status(key: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{key}:"))
    return float(line.split()[1]) * 1024


def _reset(device: str) -> float:
    """Start to record the peak; returns the bytes in use now, 0 on a card, where the context counts too."""
    if device == "cuda":
        torch.zeros(1, device=device)
        torch.cuda.reset_peak_memory_stats()
        return 0.0
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak(device: str) -> float:
    if device != "cuda":
        return _status("VmHWM")
    free, total = torch.cuda.mem_get_info()
    context = total - free - torch.cuda.memory_reserved()  # of all processes: no other may use the card
    return float(torch.cuda.max_memory_reserved() + context)


def parser() -> argparse.ArgumentParser:
    """Shape, and what the plan depends on."""
    options = script_parser("training_memory", __doc__)
    options.add_argument("shape", help="of a base model, as `delrec-lite plan` knows it: smollm2-135m")
    options.add_argument("--precision", choices=["bf16", "fp32", "nf4", "int8"], default="bf16")
    options.add_argument("--tokens", type=int, default=800, help="item tokens at once")
    options.add_argument("--context", type=int, default=50)
    options.add_argument("--items", type=int, default=1349)
    options.add_argument("--modules", choices=["attention", "all", "qv"], default="attention")
    options.add_argument("--optimiser", choices=["adamw", "paged_adamw_8bit"], default="adamw")
    options.add_argument("--checkpointing", action="store_true")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    options.add_argument("--steps", type=int, default=2)
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one setting and write the report."""
    options = parser().parse_args(arguments)
    training = Training(
        precision=options.precision,
        checkpointing=options.checkpointing,
        tokens=options.tokens,
        context=options.context,
        items=options.items,
        modules=options.modules,
        optimiser=options.optimiser,
    )
    shape, _ = find_shape(options.shape)
    memory = measure_training_peak(shape, training, options.device, options.steps)
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    write_json(
        {**stamp(), "shape": options.shape, "device": device, **vars(training), **memory}, options.out, indent=None
    )


if __name__ == "__main__":
    main()
