"""As many threads compute as other programs leave cores free."""

import os

import pytest

from delrec_lite.runtime import free_cores
from delrec_lite.runtime.engines.llama_context import LlamaContext
from delrec_lite.runtime.free_cores import FreeCores


class Machine:
    """Four processors, 0, 2, 4 and 6, of which this process may use all; the odd ones belong to others."""

    def __init__(self, folder):
        self.stat = folder / "stat"
        self.now = self.own = 0.0
        self.work = dict.fromkeys(range(8), 0)
        self.write()

    def write(self):
        lines = [f"cpu{n} {ticks} 0 0 777 5 0 0 0 {ticks} 0" for n, ticks in self.work.items()]
        self.stat.write_text("\n".join(["cpu 9 9 9 9 9 9 9 9 9 9", *lines, "intr 5 5"]) + "\n")

    def run(self, seconds, others, own=0.0, processors=(0, 2, 4, 6)):
        self.now += seconds
        self.own += own * seconds
        for n in processors:
            self.work[n] += round(100 * seconds * (others + own) / len(processors))
        self.write()


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda _: 100, raising=False)
    monkeypatch.setattr(free_cores, "cores_allowed", lambda: 4)
    return Machine(tmp_path)


def follow(machine):
    return FreeCores(machine.stat, lambda: machine.now, lambda: machine.own)


def test_what_others_use_is_left_out_and_what_this_process_uses_is_not(machine):
    load = follow(machine)
    assert load.count() == 4
    for others, free in ((1.0, 3), (2.4, 2), (0.1, 4), (4.0, 1), (9.0, 1)):
        machine.run(1, others)
        assert load.count() == free
    machine.run(1, others=1, own=3)
    assert load.count() == 3


def test_other_processors_do_not_count(machine):
    load = follow(machine)
    machine.run(1, others=4, processors=(1, 3, 5, 7))
    assert load.count() == 4


def test_a_reading_is_kept_for_a_while(machine):
    load = follow(machine)
    machine.run(0.05, others=4)
    assert load.count() == 4
    machine.run(0.06, others=4)
    assert load.count() == 1


def test_a_quota_allows_fewer(machine, monkeypatch):
    monkeypatch.setattr(free_cores, "cores_allowed", lambda: 2)
    load = follow(machine)
    machine.run(1, others=1)
    assert load.count() == 2
    machine.run(1, others=3)
    assert load.count() == 1


def test_without_counters_all_cores_count(machine, tmp_path):
    load = FreeCores(tmp_path / "none", lambda: machine.now, lambda: machine.own)
    machine.run(1, others=4, own=1)
    assert load.count() == 4


class Library:
    """llama.cpp's functions that are called."""

    def __init__(self):
        self.threads = []

    def llama_set_n_threads(self, context, single, batch):
        assert single == batch
        self.threads.append(single)


def test_llama_cpp_takes_the_free_cores_unless_the_number_is_fixed():
    context = object.__new__(LlamaContext)
    context._c, context._context, context._threads = Library(), 1, 2
    counts = iter([2, 1, 1, 2])
    context._free_cores = type("Load", (), {"count": lambda self: next(counts)})()
    for _ in range(4):
        context._follow_load()
    assert context._c.threads == [1, 2]
    context._free_cores = None
    context._follow_load()
    assert context._c.threads == [1, 2]
