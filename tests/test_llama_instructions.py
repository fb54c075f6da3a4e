"""A llama.cpp that was compiled for another processor is refused before it starts; SIGILL would end the process."""

import llama_cpp
import pytest

from delrec_lite import machine
from delrec_lite.errors import MissingPackageError
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.engines import llama_context
from delrec_lite.runtime.engines.factory import open_engine
from delrec_lite.runtime.engines.llama_instructions import check_instructions, compiled_features
from delrec_lite.runtime.verify import verify

HASWELL = ("avx2", "f16c", "fma")


class Library:
    """llama.cpp compiled for some instructions, by ggml's names."""

    def __init__(self, *compiled):
        for name in ("avx2", "fma", "f16c", "avx512", "avx512_vnni"):
            setattr(self, f"ggml_cpu_has_{name}", lambda name=name: int(name in compiled))


@pytest.fixture(autouse=True)
def on_x86(monkeypatch):
    monkeypatch.setattr(machine, "runs_x86", lambda: True)


@pytest.mark.parametrize(
    ("compiled", "available", "missing"),
    [
        (("avx2", "fma", "f16c"), ("f16c",), "avx2, fma"),
        (("avx2", "avx512", "avx512_vnni"), HASWELL, "avx512f, avx512_vnni"),
    ],
)
def test_missing_instructions_are_one_line(compiled, available, missing):
    with pytest.raises(MissingPackageError, match=f"compiled for {missing}, which this processor") as raised:
        check_instructions(Library(*compiled), available)
    assert "--no-binary llama-cpp-python" in raised.value.hint
    assert "\n" not in raised.value.message + raised.value.hint


@pytest.mark.parametrize(
    ("compiled", "available"),
    [
        (("avx2", "fma", "f16c"), HASWELL),
        ((), ("f16c",)),  # no AVX2, and compiled on this machine
        (("avx2",), ()),  # features cannot be read
    ],
)
def test_what_runs_here_is_not_refused(compiled, available):
    check_instructions(Library(*compiled), available)


def test_other_processors_are_not_checked(monkeypatch):
    monkeypatch.setattr(machine, "runs_x86", lambda: False)
    check_instructions(Library("avx2"), ("neon",))


def test_the_installed_llama_cpp_is_asked():
    reported = llama_cpp.llama_print_system_info().decode()
    compiled = compiled_features(llama_cpp.llama_cpp._lib)
    assert ("AVX2 = 1" in reported) == ("avx2" in compiled)
    assert ("AVX512 = 1" in reported) == ("avx512f" in compiled)


def test_it_is_checked_before_it_starts(monkeypatch, tiny_bundle):
    """As the first bundle of a process is loaded, on a processor that has nothing; ONNX is not affected."""
    monkeypatch.setattr(llama_context, "_log_callback", None)
    monkeypatch.setattr(llama_cpp, "llama_backend_init", lambda: pytest.fail("started"))
    monkeypatch.setattr(llama_cpp.llama_cpp._lib, "ggml_cpu_has_avx2", lambda: 1, raising=False)
    monkeypatch.setattr(machine, "cpu_features", lambda: ("f16c", "fma"))
    for load in (lambda: open_engine(Bundle.open(tiny_bundle)), lambda: verify(tiny_bundle, isolated=False)):
        with pytest.raises(MissingPackageError, match="compiled for avx2"):
            load()
