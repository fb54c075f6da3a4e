"""The memory plan: bytes of training by term, and the batch, precision and checkpointing that fit a card."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from delrec_lite.architectures import Layers, find_architecture
from delrec_lite.architectures.record import Modules
from delrec_lite.machine import unit_bytes
from delrec_lite.softmax.choice import NEGATIVES, Softmax, chosen_softmax, in_half_precision
from delrec_lite.softmax.parts import block_size
from delrec_lite.training.shapes import Shape

# Bytes of a linear weight. NF4: 4 bits, a scale in 8 bits for 64 weights and a float32 for 256 of those.
WEIGHT_BYTES = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0, "nf4": (4 + 8 / 64 + 32 / (64 * 256)) / 8}
# float32 value, gradient and two moments, and the buffers of the optimiser's step.
TRAINED_BYTES = {"adamw": 20.0, "paged_adamw_8bit": 10.1}
# Float32 copies of the scores in memory at once: scores, log-softmax, gradients for the true items; with a teacher
# the same again, and its distribution.
SCORE_COPIES, TEACHER_COPIES = 4, 5
# Float32 copies of the item vectors in a step beside the trained ones: titles, sums, their gradients.
ITEM_COPIES = 7
# Of the item vectors that a step of a sampled softmax reads: rows, their gradients and what the graph keeps of them.
ROW_COPIES = 8
ROW_STATE = 4.0  # bytes of the optimiser's state for an item, in each of the two tables
# Bytes of an item's id, title and teacher's vector, where a catalogue is so large that they count. Measured with a
# million items, two layers of SmolLM2-135M, 400 tokens and 4,096 negatives: 4.87 GB at the peak, planned 4.94.
NAME_AND_TEACHER = 700.0
CUDA_CONTEXT = 0.45e9
USABLE = 0.93  # of a card; the rest is lost between blocks
# Resident memory of a process that trains on a CPU, before it loads a model: torch, transformers and peft.
CPU_PROCESS = 0.43e9
# A served bundle: q8_0 has 34 bytes for 32 weights; the process with numpy and llama.cpp beside the file.
Q8_0_BYTES, SERVING_PROCESS = 34 / 32, 0.09e9
# A card's sustained speed that `minutes_on_card` assumes; a 12 GB consumer card's peak is two to five times that.
ASSUMED_FLOPS = 10e12
PROMPT_WORDS = 45  # tokens of the prompt beside the soft ones
ROW_TOKENS = 200  # see llm.forward


@dataclass(frozen=True)
class Training:
    """Settings of training that decide its memory.

    Attributes:
        precision: Of the base.
        checkpointing: Whether activations are computed again.
        tokens: Item tokens whose gradients are computed at once: ``tokens_per_step / accumulate``.
        context: Items of a history.
        items: In the catalogue.
        soft: Soft tokens.
        rank: Of the adapter.
        modules: Linear layers that get an adapter.
        teacher: Whether the target includes the teacher's distribution.
        optimiser: See ``training.optimisers``.
        softmax: Over the catalogue, as ``softmax.choice`` chose it.
        negatives: Items that each step of a sampled softmax draws.
    """

    precision: str = "bf16"
    checkpointing: bool = False
    tokens: int = 800
    context: int = 50
    items: int = 1349
    soft: int = 16
    rank: int = 16
    modules: Modules = "attention"
    teacher: bool = True
    optimiser: str = "adamw"
    softmax: Softmax = "full"
    negatives: int = NEGATIVES

    @property
    def scored(self) -> int:
        """Items whose scores are in memory at once."""
        of_block = min(self.items, block_size(self.tokens))
        return {"blocks": of_block, "sampled": min(self.items, self.negatives)}.get(self.softmax, self.items)

    @property
    def positions(self) -> int:
        """Tokens that the model computes: item tokens packed into rows, each with its own prompt."""
        row = max(ROW_TOKENS, self.context)
        return math.ceil(self.tokens / row) * (PROMPT_WORDS + self.soft) + self.tokens


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a step, by use."""

    weights: float
    trained: float
    items: float
    activations: float
    scores: float
    working: float
    context: float

    @property
    def total(self) -> float:
        """The sum of all terms."""
        return float(sum(asdict(self).values()))


@dataclass(frozen=True)
class Choice:
    """A fitting setting: ``tokens_per_step`` in ``gradient_accumulation_steps`` micro-batches."""

    precision: str
    checkpointing: bool
    gradient_accumulation_steps: int
    memory: Memory


def saved_bytes(shape: Shape, training: Training) -> float:
    """Activations that a layer keeps for the backward pass, per token.

    Frozen linear layers keep nothing; a norm keeps its float32 input; rotary embedding and attention keep queries,
    keys, values and result; the gated part keeps the gate, its activation and the other factor. An adapted module keeps
    its input twice: in its own type and in bf16.
    """
    element_bytes = 4.0 if training.precision == "fp32" else 2.0
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    family = find_architecture(shape.family)
    norms = 4.0 * ((4 if family.sandwich_norms else 2) * shape.hidden + (q + kv if family.qk_norm else 0))
    attention = element_bytes * (2 * q + 2 * q) + 4.0 * shape.heads  # keys and values are repeated for every query head
    gated = 3 * element_bytes * shape.intermediate
    linear = shape.linear()
    adapters = sum(element_bytes * (linear[name][0] + training.rank) for name in family.adapted(training.modules))
    return norms + attention + gated + adapters


def estimate(shape: Shape, training: Training, cuda: bool = True) -> Memory:
    """Bytes at the peak of a step of stage 2; stage 1 needs less.

    Args:
        shape: Of the base.
        training: The settings.
        cuda: On a card: its context is counted.
    """
    element_bytes = 4.0 if training.precision == "fp32" else 2.0
    weights = shape.linear_parameters * WEIGHT_BYTES[training.precision] + shape.other_parameters * element_bytes
    linear = shape.linear()
    adapted = find_architecture(shape.family).adapted(training.modules)
    adapter = shape.layers * training.rank * sum(sum(linear[name]) for name in adapted)
    trained, items = _item_bytes(shape, training)
    per_token = saved_bytes(shape, training)
    working = element_bytes * (3 * shape.intermediate + 4 * shape.hidden) * training.positions
    if training.checkpointing:
        activations = training.positions * (shape.layers * element_bytes * shape.hidden + per_token)
    else:
        activations = training.positions * shape.layers * per_token
    copies = SCORE_COPIES + (TEACHER_COPIES if training.teacher else 0)
    # A quantised layer is turned into bf16 when it is used, one at a time.
    unpacked = 2.0 * max(a * b for a, b in linear.values()) if training.precision in {"nf4", "int8"} else 0.0
    return Memory(
        weights,
        adapter * TRAINED_BYTES[training.optimiser] + trained,
        items,
        activations,
        copies * 4.0 * training.tokens * training.scored,
        working + unpacked,
        CUDA_CONTEXT if cuda else 0.0,
    )


def _item_bytes(shape: Shape, training: Training) -> tuple[float, float]:
    """Bytes of the trained item vectors with their optimiser, and of all other item vectors."""
    table = float(training.items * shape.hidden)
    if training.softmax != "sampled":
        return 2 * table * TRAINED_BYTES[training.optimiser], ITEM_COPIES * 4.0 * table
    half = in_half_precision(training.softmax, training.items)
    width, titles = (2.0, 1 if shape.tied else 2) if half else (4.0, 2)
    read = min(training.items, training.tokens + training.negatives) * shape.hidden
    others = titles * table * width + training.items * NAME_AND_TEACHER
    return 2 * (table * width + training.items * ROW_STATE), others + ROW_COPIES * 4.0 * read


def usable(available: float, cuda: bool) -> float:
    """Bytes that ``estimate`` may come to, of a card's memory, or of a CPU's, where the process itself takes a part."""
    return available * USABLE if cuda else available - CPU_PROCESS


def required(total: float, cuda: bool) -> float:
    """Bytes of memory that a training of ``total`` bytes needs: the inverse of ``usable``."""
    return total / USABLE if cuda else total + CPU_PROCESS


def serving_bytes(shape: Shape, items: int) -> float:
    """Resident memory of a process that serves a GGUF bundle in q8_0, without text tokens; an estimate."""
    return SERVING_PROCESS + Q8_0_BYTES * (shape.linear_parameters + 2 * items * shape.hidden)


def minutes_on_card(shape: Shape, training: Training, interactions: float) -> float:
    """Minutes for a number of training interactions on a card that sustains ``ASSUMED_FLOPS``; never measured.

    A frozen weight costs two operations a token forward and two backward; checkpointing computes forward again.
    Teachers, validation and export are not counted.
    """
    scored = training.scored if training.softmax == "sampled" else training.items
    operations = (6 if training.checkpointing else 4) * shape.linear_parameters + 6 * scored * shape.hidden
    return interactions * training.positions / training.tokens * operations / ASSUMED_FLOPS / 60


def choices(
    shape: Shape,
    memory: float,
    training: Training,
    precisions: Sequence[str] = ("bf16", "nf4"),
    cuda: bool = True,
) -> list[Choice]:
    """The settings that fit, the fastest and most exact first.

    Micro-batches cost almost no time, so they come before checkpointing (about a third more time), and that before NF4.

    Args:
        shape: Of the base.
        memory: Bytes of the card, or of a CPU.
        training: Its ``tokens`` are those of a step.
        precisions: In the order of preference.
        cuda: On a card.
    """
    fitting = []
    for precision in precisions:
        for checkpointing in (False, True):
            for gradient_accumulation_steps in (1, 2, 4, 8, 16):
                settings = {
                    **asdict(training),
                    "precision": precision,
                    "checkpointing": checkpointing,
                    "tokens": math.ceil(training.tokens / gradient_accumulation_steps),
                }
                needed = estimate(shape, Training(**settings), cuda)
                if needed.total <= usable(memory, cuda):
                    fitting.append(Choice(precision, checkpointing, gradient_accumulation_steps, needed))
                    break
    return fitting


def parse_bytes(text: str) -> float:
    """``8GB``, ``7.5 GiB``, ``512MB`` in bytes; a number alone is GB.

    Raises:
        UsageError: Not a size of memory.
    """
    import re

    from delrec_lite.errors import UsageError

    match = re.fullmatch(r"\s*([0-9.]+)\s*([KMGT]i?B|[KMGT])?\s*", text, re.IGNORECASE)
    try:
        value = float(match.group(1)) if match else math.nan
    except ValueError:
        value = math.nan
    if match is None or not value > 0:
        raise UsageError(f"{text!r} is not a size of memory", "such as 8GB or 24GiB")
    return value * float(unit_bytes(match.group(2) or "GB"))


def plan(
    model: str,
    memory: str,
    context: int,
    items: int,
    tokens: int,
    folders: tuple[Any, ...] = (),
    cpu_memory: int = 0,
    layers: Layers | None = None,
    softmax: Softmax = "auto",
) -> dict[str, Any]:
    """The output of ``delrec-lite plan``: every setting that fits, and the memory of the smallest one.

    Args:
        model: Name, Hub id, folder or config.json.
        memory: Of the card, such as ``8GB``.
        context: Items of a history.
        items: In the catalogue.
        tokens: Item tokens of a step.
        folders: Where cached configurations may lie.
        cpu_memory: Bytes that a process on this machine's CPU may use; 0 if unknown.
        layers: Only these layers of the model, as in a recipe's ``model.layers``; None: all.
        softmax: As a recipe's ``model.softmax``.
    """
    from delrec_lite.training.shapes import find_shape

    shape, source = find_shape(model, folders)
    shape, available = shape.cut(layers), parse_bytes(memory)
    training = Training(context=context, items=items, tokens=tokens, softmax=chosen_softmax(softmax, items, tokens))
    fitting = choices(shape, available, training)
    least = smallest(shape, training)
    on_cpu = choices(shape, cpu_memory, training, ("bf16", "fp32"), cuda=False)
    return {
        "model": model,
        "shape": {**asdict(shape), "source": source},
        "parameters": shape.linear_parameters + shape.other_parameters,
        "gpu_memory": available,
        "context": context,
        "items": items,
        "softmax": training.softmax,
        "fits": bool(fitting),
        "recommended": _summary(fitting[0], tokens) if fitting else None,
        "choices": [_summary(choice, tokens) for choice in fitting],
        "least": {**asdict(least), "total": least.total},
        "cpu": {
            "memory": cpu_memory,
            "choices": [_summary(choice, tokens) for choice in on_cpu],
            "least": required(smallest(shape, training, cuda=False).total, cuda=False),
            "process": CPU_PROCESS,
            "serving": serving_bytes(shape, items),
        },
        "measured": MEASURED,
    }


def smallest(shape: Shape, training: Training, cuda: bool = True) -> Memory:
    """Memory of the smallest setting of a base: checkpointing, 16 micro-batches, and on a card NF4."""
    settings = {
        **asdict(training),
        "precision": "nf4" if cuda else "bf16",
        "checkpointing": True,
        "tokens": math.ceil(training.tokens / 16),
    }
    return estimate(shape, Training(**settings), cuda)


MEASURED = (
    "within 2% (fp32: 10% above) of what SmolLM2-135M needs on a CPU, where the process may hold up to 40% more; "
    "figures for CUDA cards are computed and not yet measured (python -m delrec_lite.bench.training_memory does)"
)


def _summary(choice: Choice, tokens: int) -> dict[str, Any]:
    return {
        "model.precision": choice.precision,
        "finetune.checkpointing": choice.checkpointing,
        "finetune.tokens_per_step": tokens,
        "finetune.gradient_accumulation_steps": choice.gradient_accumulation_steps,
        "tokens_at_once": math.ceil(tokens / choice.gradient_accumulation_steps),
        "bytes": {**asdict(choice.memory), "total": choice.memory.total},
    }
