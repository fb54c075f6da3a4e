"""The families that come with delrec-lite, one record each."""

from delrec_lite.architectures.record import Architecture

FAMILIES = (
    Architecture(
        "llama",
        gguf="llama",
        interleaved_rope=True,
        rope_scaling=("linear", "yarn", "llama3"),
        optional_bias=True,
    ),
    Architecture("mistral", gguf="llama", interleaved_rope=True, rope_scaling=("linear", "yarn", "llama3")),
    Architecture("qwen2", gguf="qwen2", qkv_bias=True, split_rule="qwen2"),
    Architecture("qwen3", gguf="qwen3", qk_norm=True, split_rule="qwen2"),
    Architecture(
        "phi3",
        gguf="phi3",
        rope_scaling=("longrope",),
        partial_rope=True,
        qkv=("qkv_proj",),
        gate_up=("gate_up_proj",),
    ),
    Architecture(
        "gemma3_text",
        gguf="gemma3",
        rope_scaling=("linear",),
        full_attention_every=6,
        qk_norm=True,
        sandwich_norms=True,
        norms_from_one=True,
        activation="gelu_pytorch_tanh",
        scaled_embedding=True,
        tied=True,
        onnx=False,
    ),
)
