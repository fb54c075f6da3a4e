"""A stand-in for a CUDA card: a torch device that computes on the CPU, but refuses mixed operands as CUDA does.

``strict:0`` is torch's device type for backends of one's own, taken by a Python one. A tensor there wraps a CPU tensor.
An operation on tensors of both sides is refused, as torch refuses it with a card, and so is ``numpy()`` without
``cpu()``. What CUDA lets pass passes here: copies from one side to the other, single numbers of the CPU beside tensors
of the card, and indices of the CPU into a tensor of the card.
"""

from functools import cache, partial
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

NAME = "strict"
# CUDA's kernels take indices that lie on the CPU.
INDEXING = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default}
COPYING = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default, torch.ops.aten.copy.default}
# What makes tensors out of nothing, and has no way of its own from ``empty`` to its result.
FACTORIES = (
    "empty.memory_format",
    "empty_strided",
    "arange",
    "arange.start",
    "arange.start_step",
    "eye",
    "eye.m",
    "linspace",
    "randperm.generator",
    "randperm",
)
# What autocast computes in its precision, of what a model needs.
LOWERED = ("linear", "matmul", "mm", "bmm", "addmm", "scaled_dot_product_attention")


class StrictTensor(torch.Tensor):
    """A tensor of the stand-in; ``inner`` is the CPU tensor that it wraps."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "StrictTensor":
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        wrapper.inner = inner
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def data(self) -> Any:
        """The wrapped tensor must follow an assignment."""
        return torch.Tensor.data.__get__(self)

    @data.setter
    def data(self, value: Any) -> None:
        torch.Tensor.data.__set__(self, value)
        self.inner = value.inner

    def numpy(self, *, force: bool = False) -> Any:
        """As with a card: the values are not where numpy can read them."""
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def untyped_storage(self) -> Any:
        """Of the wrapped tensor: says which tensors share their memory."""
        return self.inner.untyped_storage()

    def storage(self) -> Any:
        """See ``untyped_storage``."""
        return self.inner.storage()

    def data_ptr(self) -> int:
        """See ``untyped_storage``."""
        return self.inner.data_ptr()

    def tolist(self) -> Any:
        """A copy, which is allowed; torch's own knows no subclasses."""
        return self.cpu().tolist()

    def __repr__(self, **_: Any) -> str:
        return f"StrictTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in COPYING:
            _refuse_mixture(func, args, kwargs)
        wraps = True
        if "device" in kwargs and kwargs["device"] is not None:
            wraps = torch.device(kwargs["device"]).type == NAME
        if wraps and any(isinstance(x, torch.Generator) for x in pytree.tree_leaves((args, kwargs))):
            raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu'")
        return _on_cpu(func, args, kwargs, wraps)


def _refuse_mixture(func: Any, args: Any, kwargs: Any) -> None:
    if func in INDEXING and isinstance(args[0], StrictTensor):
        args = (args[0], *args[2:])
    flat = pytree.tree_leaves((args, kwargs))
    unwrapped = [x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, StrictTensor) and x.dim()]
    if unwrapped:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cpu and {NAME}:0! ({func})"
        )


def _on_cpu(func: Any, args: Any, kwargs: dict[str, Any], wraps: bool) -> Any:
    """Compute with the wrapped tensors; results are wrapped, and tensors changed in place stay the same objects."""
    wrappers = {id(x.inner): x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, StrictTensor)}
    args, kwargs = pytree.tree_map_only(StrictTensor, lambda x: x.inner, (args, kwargs))
    if "device" in kwargs:
        kwargs = {**kwargs, "device": "cpu"}
    kwargs.pop("pin_memory", None)

    def wrap(result: Any) -> Any:
        if not isinstance(result, torch.Tensor) or not wraps:
            return result
        if id(result) in wrappers:
            return _reshaped(wrappers[id(result)])
        with torch.inference_mode(False):  # a view made inside would have to count its base's versions, and cannot
            return StrictTensor(result)

    out = OF_CARDS.get(func, func)(*args, **kwargs)
    if func is torch.ops.aten.copy_.default and id(args[0]) not in wrappers:  # from the card to the CPU
        return out
    return pytree.tree_map_only(torch.Tensor, wrap, out)


def _reshaped(changed: StrictTensor) -> StrictTensor:
    """Strides and sizes as the wrapped tensor has them, after an operation such as ``transpose_``."""
    if (changed.size(), changed.stride()) != (changed.inner.size(), changed.inner.stride()):
        with torch._C._DisableTorchDispatch():
            changed.as_strided_(changed.inner.size(), changed.inner.stride(), changed.inner.storage_offset())
    return changed


def _gru_cell(inputs: Any, hiddens: Any, before: Any, input_bias: Any = None, hidden_bias: Any = None) -> Any:
    if input_bias is not None:
        inputs, hiddens = inputs + input_bias, hiddens + hidden_bias
    (ir, iz, new), (hr, hz, old) = inputs.chunk(3, 1), hiddens.chunk(3, 1)
    r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    n = (new + r * old).tanh()
    return n + z * (before - n), torch.cat([r, z, n, before, old], 1)


def _gru_cell_backward(gradient: Any, workspace: Any, has_bias: bool) -> Any:
    r, z, n, before, old = workspace.chunk(5, 1)
    of_n = gradient * (1 - z) * (1 - n * n)
    of_r, of_z = of_n * old * r * (1 - r), gradient * (before - n) * z * (1 - z)
    of_inputs, of_hiddens = torch.cat([of_r, of_z, of_n], 1), torch.cat([of_r, of_z, of_n * r], 1)
    biases = (of_inputs.sum(0), of_hiddens.sum(0)) if has_bias else (None, None)
    return of_inputs, of_hiddens, gradient * z, *biases


# What torch calls for a device that is none of its own, and the CPU has not.
OF_CARDS = {
    torch.ops.aten._thnn_fused_gru_cell.default: _gru_cell,
    torch.ops.aten._thnn_fused_gru_cell_backward.default: _gru_cell_backward,
}


def _lowered(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Autocast: a product in the precision of autocast."""
    dtype = torch.get_autocast_dtype(NAME)

    def cast(x: torch.Tensor) -> torch.Tensor:
        return x.to(dtype) if x.device.type == NAME and x.dtype == torch.float32 else x

    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)):
        return func(*pytree.tree_map_only(torch.Tensor, cast, args), **kwargs)


def _copy_from(source: Any, target: Any, non_blocking: bool = False) -> Any:
    plain = [x.inner if isinstance(x, StrictTensor) else x for x in (target, source)]
    plain[0].copy_(plain[1])
    return target


class _Module:
    """What torch asks a backend's module for."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Its numbers are the CPU's."""

    def get_amp_supported_dtype(self) -> list[Any]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: Any = None) -> Any:
        return torch.get_rng_state()

    def set_rng_state(self, state: Any, device: Any = None) -> None:
        torch.set_rng_state(state)


@cache
def strict_device() -> str:
    """Make the device known to torch, once a process, and return its name."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    library = torch.library.Library("aten", "IMPL")
    for name in FACTORIES:
        packet, _, overload = name.partition(".")
        func = getattr(getattr(torch.ops.aten, packet), overload or "default")

        def make(*args: Any, _func: Any = func, **kwargs: Any) -> Any:
            return _on_cpu(_func, args, kwargs, True)

        library.impl(name, make, "PrivateUse1")
    # Where torch makes a tensor out of a list it looks past subclasses, and copies by this.
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    for name in LOWERED:
        library.impl(name, partial(_lowered, getattr(torch.ops.aten, name)), "AutocastPrivateUse1")
    fallthrough = torch.library.Library("_", "IMPL")
    fallthrough.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    strict_device.libraries = library, fallthrough  # type: ignore[attr-defined]
    return NAME
