"""Runs independent inference in parallel, one core each: torch's own threads gain little at this size."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results of ``work`` for every item, in order; as many run in parallel as torch has threads.

    Measured on 2 cores, SmolLM2-135M in bf16, prompts of 220 tokens: 315 ms each one by one with two threads inside
    torch, 265 ms each with two prompts in parallel.

    Args:
        work: Called in another thread; must not train.
        items: Its arguments.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield from pool.map(torch.no_grad()(work), items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
