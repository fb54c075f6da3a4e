"""Several processes that train one run together, started by a launcher; a single process has no overhead.

``accelerate launch`` and ``torchrun`` start the same command once for each GPU, Ray Train the same function. Each
process then computes its share of a training step; the first one writes files, shows progress and does the work that is
not shared, while the rest wait for it.
"""

import atexit
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from delrec_lite.environment import number
from delrec_lite.errors import DelrecError, MissingPackageError, install_line

T = TypeVar("T")
# The other processes wait while the first fits teachers, which takes hours on a large data set.
TIMEOUT = timedelta(days=7)


class LostProcessesError(DelrecError):
    """Another process of the run has ended; its own error says why."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        count: How many processes.
        index: Index of this process, from 0.
    """

    count: int = 1
    index: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.index == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The items that are this process's work, where each is the work of one."""
        return items[self.index :: self.count]

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.count > 1:
            import torch.distributed

            with _collective():
                torch.distributed.barrier()

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns. Only the first process calls it; the other processes wait and get a copy."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        results = [make() if self.first else None]
        with _collective():
            broadcast_object_list(results)
        return results[0]  # type: ignore[return-value]

    def broadcast(self, tensors: Sequence[Any]) -> None:
        """Copy the first process's values to all processes, in place."""
        if self.count > 1:
            import torch.distributed

            with _collective():
                for tensor in tensors:
                    torch.distributed.broadcast(tensor, 0)

    def all_reduce(self, tensors: Sequence[Any]) -> None:
        """Replace tensors on one device by their sums over all processes, in place."""
        if self.count == 1:
            return
        import torch
        import torch.distributed

        # One transfer instead of hundreds.
        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        with _collective():
            torch.distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


_joined = Processes()


@contextmanager
def _collective() -> Iterator[None]:
    """A failed collective operation means that another process has ended: say so."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessesError(
            f"process {_joined.index} lost the other processes: {str(error).splitlines()[0]}",
            "one of them has ended, see its error message; the same command resumes from the last checkpoint",
        ) from error


def current() -> Processes:
    """The processes of the run; only this one unless ``join`` was called under a launcher."""
    return _joined


def join(device: str = "auto") -> Processes:
    """Join the other processes that a launcher started; without a launcher, nothing is imported.

    Args:
        device: The recipe's ``model.device``; ``auto`` gives each process its own CUDA card if there are
            any.

    Raises:
        MissingPackageError: Started by a launcher, and accelerate is not installed.
    """
    global _joined
    if number("WORLD_SIZE", 1) > 1:
        try:
            import torch

            # Import this before the process group exists: at import its functions store the current group as a default
            # argument. peft imports it too, later, and would keep the group and its threads past their end below.
            import torch.distributed.nn.functional
            from accelerate import PartialState
        except ImportError as error:
            raise MissingPackageError(
                f"training in several processes needs {error.name}, which is not installed", install_line(error.name)
            ) from error
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=TIMEOUT)
        # Without this the process sometimes aborts at exit: the group's threads release their last tensors after the
        # interpreter has finalised.
        atexit.register(state.destroy_process_group)
        _joined = Processes(state.num_processes, state.process_index)
    return _joined
