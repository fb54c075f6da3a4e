"""Several processes on one run, as a launcher starts them; a process alone, the usual case, pays nothing for it.

``accelerate launch`` and ``torchrun`` start the same command once for each GPU. Each process then computes its share
of a training step; the first one writes, shows progress and makes what is not shared, and the others wait for it.
"""

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from delrec_lite.errors import DelrecError, MissingPackageError, install_line

T = TypeVar("T")
# The others wait for the first while it fits teachers, which takes hours on a large data set.
PATIENCE = timedelta(days=7)


@dataclass(frozen=True)
class Processes:
    """Who works on the run.

    Attributes:
        count: How many processes.
        index: Which of them this one is, from 0.
    """

    count: int = 1
    index: int = 0

    @property
    def first(self) -> bool:
        """Whether this one writes and shows progress."""
        return self.index == 0

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.count > 1:
            import torch.distributed

            with _talk():
                torch.distributed.barrier()

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns, called in the first process alone; the others wait and get a copy."""
        if self.count == 1:
            return make()
        from accelerate.utils import broadcast_object_list

        held = [make() if self.first else None]
        with _talk():
            broadcast_object_list(held)
        return held[0]  # type: ignore[return-value]

    def share(self, tensors: Sequence[Any]) -> None:
        """Give the first process's values to all, in place."""
        if self.count > 1:
            import torch.distributed

            with _talk():
                for tensor in tensors:
                    torch.distributed.broadcast(tensor, 0)

    def add(self, tensors: Sequence[Any]) -> None:
        """Replace tensors on one device by their sums over all processes, in place."""
        if self.count == 1:
            return
        import torch
        import torch.distributed

        # One message instead of hundreds.
        flat = torch.cat([tensor.flatten().float() for tensor in tensors])
        with _talk():
            torch.distributed.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


_joined = Processes()


@contextmanager
def _talk() -> Iterator[None]:
    """The others' end is an error of theirs; here it is told as what it is."""
    try:
        yield
    except RuntimeError as error:
        raise DelrecError(
            f"process {_joined.index} hears no more of the others: {str(error).splitlines()[0]}",
            "one of them has ended, and its own error says why; the same command goes on from the last checkpoint",
        ) from error


def current() -> Processes:
    """Who works on the run; this process alone unless ``join`` was called under a launcher."""
    return _joined


def join(device: str = "auto") -> Processes:
    """Meet the processes that a launcher started beside this one; without a launcher, nothing is imported.

    Args:
        device: The recipe's ``model.device``; ``auto`` gives each process a CUDA card of its own where there are
            cards.

    Raises:
        MissingPackageError: Launched, and accelerate is not installed.
    """
    global _joined
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        try:
            import torch

            # Its functions take the group that exists when they are imported as a default, and peft imports them: were
            # that after the group is made, they would keep it, and its threads, past its end below.
            import torch.distributed.nn.functional
            from accelerate import PartialState
        except ImportError as error:
            raise MissingPackageError(
                f"training in several processes needs {error.name}, which is not installed", install_line(error.name)
            ) from error
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
        # Left to the end of the interpreter, the group's threads now and then end the process with an abort: they let
        # go of their last tensors when no thread may ask for the interpreter any more.
        atexit.register(state.destroy_process_group)
        _joined = Processes(state.num_processes, state.process_index)
    return _joined
