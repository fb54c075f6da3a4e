"""Memory in training: gradient checkpointing, and advice for when memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

from delrec_lite.errors import OutOfMemoryError
from delrec_lite.llm.model import ItemLM


def enable_gradient_checkpointing(model: ItemLM) -> None:
    """Keep only each layer's input and compute the rest again in the backward pass (arXiv 1604.06174)."""
    base = model.lm.get_base_model() if hasattr(model.lm, "get_base_model") else model.lm
    base.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": model.checkpoint_contexts})
    for module in base.modules():
        if getattr(module, "gradient_checkpointing", False):
            module.training = True  # layers check this; their submodules keep their own mode


@contextmanager
def memory_advice(stage: str) -> Iterator[None]:
    """Turn a failed allocation, on a card or on the CPU, into an error that says what to change.

    Raises:
        OutOfMemoryError: Instead of torch's and Python's own.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        where = "the CUDA card" if "CUDA" in str(error) or "OutOfMemory" in type(error).__name__ else "this machine"
        raise OutOfMemoryError(
            f"{stage} needs more memory than {where} has",
            "in this order: finetune.gradient_accumulation_steps: 4 (same result), checkpointing: true (same result), "
            "model.precision: nf4, fewer tokens_per_step; `delrec-lite plan` says what fits",
        ) from error


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    return "can't allocate memory" in text or "not enough memory" in text or "out of memory" in text
