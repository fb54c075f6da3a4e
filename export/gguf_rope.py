"""Write rotary positions into a GGUF file: scaling keys of llama.cpp, or a divisor for each frequency."""

from typing import Any

import gguf
import numpy as np

from delrec_lite.architectures.rope import Rope, yarn_attention


def add_rope(writer: Any, rope: Rope) -> None:
    """Write ``rope``.

    Args:
        writer: A ``gguf.GGUFWriter`` before its header is written.
        rope: Of the model.
    """
    writer.add_rope_dimension_count(rope.width)
    writer.add_rope_freq_base(rope.theta)
    if rope.kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope.factor)
    elif rope.kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope.factor)
        writer.add_rope_scaling_orig_ctx_len(rope.original)
        # llama.cpp multiplies this by YaRN's default factor.
        writer.add_rope_scaling_attn_factors(rope.attention_factor / yarn_attention(rope.factor))
    elif rope.kind == "llama3":
        writer.add_tensor("rope_freqs.weight", rope.divisors.astype(np.float32))
    elif rope.kind == "longrope":
        writer.add_rope_scaling_orig_ctx_len(rope.original)
        writer.add_rope_scaling_attn_factors(rope.attention_factor)
        # llama.cpp uses the long list if the context is longer than the original length, even for a short prompt.
        # Prompts are no longer than that length, so both are the short list, as in training.
        for length in ("short", "long"):
            writer.add_tensor(f"rope_factors_{length}.weight", rope.divisors.astype(np.float32))
