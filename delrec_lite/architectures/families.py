"""The families that are known, one record each."""

from delrec_lite.architectures.record import Architecture, register

register(
    Architecture(
        "llama",
        gguf="llama",
        interleaved_rope=True,
        rope_scaling=("linear", "yarn", "llama3"),
        optional_bias=True,
    )
)
register(Architecture("mistral", gguf="llama", interleaved_rope=True, rope_scaling=("linear", "yarn", "llama3")))
register(Architecture("qwen2", gguf="qwen2", qkv_bias=True, split_rule="qwen2"))
register(Architecture("qwen3", gguf="qwen3", qk_norm=True, split_rule="qwen2"))
register(
    Architecture(
        "phi3",
        gguf="phi3",
        rope_scaling=("longrope",),
        partial_rope=True,
        qkv=("qkv_proj",),
        gate_up=("gate_up_proj",),
    )
)
register(
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
    )
)
