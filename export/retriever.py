"""Write the teacher as `retriever.onnx`: item indices in, scores of the whole catalogue out."""

import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from delrec_lite.errors import DelrecError
from delrec_lite.teachers.contract import Network, Teacher
from delrec_lite.teachers.ensemble import Ensemble

OPSET = 18


def write_retriever(teacher: Teacher | Ensemble, path: Path) -> None:
    """Write a teacher or an ensemble.

    The graph has the input ``items``, int64 ``[batch, n]``, oldest first, padded at the end with -1, and the output
    ``scores``, float32 ``[batch, items]``. Each member reads the newest ``max_length`` items, as in
    training, for any n.

    Args:
        teacher: Fitted.
        path: New file.

    Raises:
        DelrecError: Torch cannot write it.
    """
    members = teacher.members if isinstance(teacher, Ensemble) else (teacher,)
    module = _Retriever([deepcopy(member.network).cpu() for member in members]).eval()
    example = torch.tensor([[0, 1, 2], [1, -1, -1]]).clamp(max=teacher.items - 1)
    axes = {"items": {0: "batch", 1: "n"}, "scores": {0: "batch"}}
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the tracing exporter announces the newer one on every call
            torch.onnx.export(
                module,
                (example,),
                str(path),
                input_names=["items"],
                output_names=["scores"],
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,  # the newer one needs another package and fixes Caser's windows to the example's length
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise DelrecError(f"cannot write the teacher as ONNX: {str(error).splitlines()[0]}") from error
    model = onnx.load(path)
    metadata = {"delrec.kinds": json.dumps([m.config.kind for m in members]), "delrec.items": str(teacher.items)}
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


class _Retriever(nn.Module):
    def __init__(self, networks: list[Network]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, items: Any) -> Any:
        length = (items >= 0).sum(1, keepdim=True)
        scores = [self._member(network, items, length) for network in self.networks]
        if len(scores) == 1:
            return scores[0]
        return torch.stack([s.log_softmax(1) for s in scores]).exp().mean(0).log()

    @staticmethod
    def _member(network: Any, items: Any, length: Any) -> Any:
        """A network's scores after the newest items, at most its ``max_length``."""
        newest = network.config.max_length
        first = (length - newest).clamp(min=0)
        window = first + torch.arange(newest)[: items.shape[1]]
        # Positions after the last item do not change the state that is read.
        states = network.states(items.gather(1, torch.minimum(window, length - 1)))
        last = (length - first - 1).unsqueeze(2).expand(-1, -1, states.shape[2])
        return network.scores(states.gather(1, last).squeeze(1))
