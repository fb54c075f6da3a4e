"""Independent pieces of inference side by side, each on one core: torch's own threads gain little at this size."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def side_by_side(work: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
    """``work`` of every piece, in their order; as many at a time as torch may use threads.

    Measured on 2 cores, SmolLM2-135M in bf16, prompts of 220 tokens one by one: 315 ms each with two threads inside
    torch, 265 ms with two prompts side by side.

    Args:
        work: Called in another thread; must not train.
        pieces: What it is called with.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(torch.no_grad()(work), pieces)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
