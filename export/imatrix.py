"""The importance matrix: the mean square of each input column of each weight on this catalogue's prompts.

llama.cpp's quantiser rounds the important columns more precisely (``llama_model_quantize_params.imatrix``). llama.cpp
measures them on plain text; this model reads item tokens, so they are measured here.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from delrec_lite.data.types import Floats
from delrec_lite.export.gguf_file import tensor_names

_MODULE = re.compile(r"layers\.\d+\.(?:self_attn|mlp)\.\w+_proj$")


@contextmanager
def measure_importance(lm: Any) -> Iterator[Mapping[str, Floats]]:
    """Inside this context every forward pass of ``lm`` is measured.

    Args:
        lm: A decoder of ``transformers``, with or without adapter.

    Yields:
        GGUF tensor name -> mean square of each input column, float32 ``[columns]``; filled at the end of the context.
    """
    sums: dict[str, Any] = {}
    counts: dict[str, int] = {}
    importance: dict[str, Floats] = {}

    def hook(name: str) -> Any:
        def add(_: Any, inputs: Any) -> None:
            rows = inputs[0].detach().float().flatten(0, -2)
            sums[name] = sums.get(name, 0) + rows.square().sum(0)
            counts[name] = counts.get(name, 0) + len(rows)

        return add

    hooks, names = [], tensor_names(lm.config)
    for name, module in lm.named_modules():
        if (match := _MODULE.search(name)) and (target := names.get_name(f"model.{match.group()}")):
            hooks.append(module.register_forward_pre_hook(hook(f"{target}.weight")))
    try:
        with torch.no_grad():
            yield importance
    finally:
        for handle in hooks:
            handle.remove()
        means = {name: (total / counts[name]).cpu().numpy().astype(np.float32) for name, total in sums.items()}
        importance.update(means)
