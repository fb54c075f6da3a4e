"""Measure what the plan computes: ``python -m delrec_lite.bench.training_memory --shape qwen2.5-1.5b --precision nf4``.

A model of the shape with random weights makes a few real steps of stage 2; nothing is downloaded. On a CUDA card the
peak is the allocator's and the context's, on a CPU the growth of the process, freed blocks given back at once.
"""

import argparse
import ctypes
import gc
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from delrec_lite.architectures import find_architecture
from delrec_lite.config import FinetuneSection
from delrec_lite.llm.forward import read_states
from delrec_lite.llm.load import Base
from delrec_lite.llm.model import ItemLM
from delrec_lite.llm.packing import Segment
from delrec_lite.llm.precision import keep_layout
from delrec_lite.training.adapters import add_adapter
from delrec_lite.training.memory import enable_gradient_checkpointing
from delrec_lite.training.optimisers import make_optimiser
from delrec_lite.training.plan import PROMPT_WORDS, Training, estimate
from delrec_lite.training.shapes import Shape, find_shape

# glibc keeps freed blocks of up to 32 MB for later ones that do not fit: SmolLM2-135M, 800 tokens at once, grew by 1.57
# GB and not by the 1.13 GB that it needs. Above this size a block goes back to the system.
M_MMAP_THRESHOLD, GIVEN_BACK = -3, 1 << 18


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
            module.__init__(config=config, device=torch.device(device))
            continue
        for name, p in list(module.named_parameters(recurse=False)):
            if p.is_meta:
                ones = p.dim() == 1 and name == "weight" and not find_architecture(shape.family).norms_from_one
                made = torch.ones(p.shape, dtype=wide, device=device)
                made = made if ones else made.normal_(std=0.02)
                setattr(module, name, torch.nn.Parameter(made, requires_grad=False))
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
        made = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias, torch.bfloat16, True, "nf4", device="meta"
        )
        made.weight = bnb.nn.Params4bit(weight.cpu(), False, quant_type="nf4", compress_statistics=True).to(device)
    else:
        made = bnb.nn.Linear8bitLt(module.in_features, module.out_features, bias, has_fp16_weights=False, device="meta")
        made.weight = bnb.nn.Int8Params(weight.cpu(), False, has_fp16_weights=False).to(device)
    return made


def measure(shape: Shape, training: Training, device: str, steps: int = 2) -> dict[str, float]:
    """Peak bytes of ``steps`` steps, and what the plan computes for them."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, GIVEN_BACK)
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
        wanted = F.log_softmax(torch.randn(scores.shape), 1).to(scores.device)
        kl = F.kl_div(F.log_softmax(scores, 1), wanted, reduction="batchmean", log_target=True)
        loss = 0.5 * loss + 0.5 * kl
    return loss


def _histories(training: Training, base: int) -> Iterator[list[int]]:
    left = training.tokens
    while left > 0:
        length = min(left, training.context)
        yield (base + torch.randint(training.items, (length,))).tolist()
        left -= length


def _status(key: str) -> float:
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(f"{key}:"))
    return float(line.split()[1]) * 1024


def _reset(device: str) -> float:
    """Begin to watch the peak; what is in use by now. On a card nothing: the context counts."""
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
    context = total - free - torch.cuda.memory_reserved()  # of all processes: measure on a card of your own
    return float(torch.cuda.max_memory_reserved() + context)


def main() -> None:
    """Measure one setting and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="smollm2-135m")
    parser.add_argument("--precision", choices=["bf16", "fp32", "nf4", "int8"], default="bf16")
    parser.add_argument("--tokens", type=int, default=800, help="item tokens at once")
    parser.add_argument("--context", type=int, default=50)
    parser.add_argument("--items", type=int, default=1349)
    parser.add_argument("--modules", choices=["attention", "all", "qv"], default="attention")
    parser.add_argument("--optimiser", choices=["adamw", "paged_adamw_8bit"], default="adamw")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--steps", type=int, default=2)
    asked = parser.parse_args()
    training = Training(
        precision=asked.precision,
        checkpointing=asked.checkpointing,
        tokens=asked.tokens,
        context=asked.context,
        items=asked.items,
        modules=asked.modules,
        optimiser=asked.optimiser,
    )
    shape, _ = find_shape(asked.shape)
    found = measure(shape, training, asked.device, asked.steps)
    device = torch.cuda.get_device_name() if asked.device == "cuda" else "cpu"
    print(json.dumps({"shape": asked.shape, "device": device, **vars(training), **found}))


if __name__ == "__main__":
    main()
