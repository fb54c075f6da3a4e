"""Cards, drivers and CUDA builds of torch as files and `nvidia-smi` tell them, and what doctor and train say."""

import subprocess

import pytest
import torch

from delrec_lite import cards as module
from delrec_lite import doctor, needs
from delrec_lite.cards import Card, card_in_slot, cuda_of_torch, find_cards, find_problem
from delrec_lite.errors import ConfigError
from delrec_lite.llm.precision import device_for

GB = 10**9
SMI = "NVIDIA GeForce RTX 3060, 535.183.01, 12288, 11900\n"
CARD = Card("NVIDIA GeForce RTX 3060", "535.183.01", 12288 << 20, 11900 << 20)
OLD = Card("Tesla K80", "470.1", 11 * GB, 11 * GB)


@pytest.fixture
def here(monkeypatch):
    """Sets what this machine has: cards, the CUDA version of torch, a card on the bus."""

    def set_machine(cards=(), cuda="", in_slot=False):
        for target in (module, doctor):
            monkeypatch.setattr(target, "find_cards", lambda *_: tuple(cards))
            monkeypatch.setattr(target, "cuda_of_torch", lambda: cuda)
            monkeypatch.setattr(target, "card_in_slot", lambda *_: in_slot)

    return set_machine


def gpu_checks(cache):
    return [c for c in doctor.examine(cache).checks if c.name in {"GPU", "CUDA build of torch"}]


def test_cards_are_read_from_the_driver():
    assert find_cards(lambda: SMI) == (CARD,)
    assert len(find_cards(lambda: SMI * 2)) == 2
    assert find_cards(lambda: "No devices were found\n") == find_cards(lambda: "") == ()


def test_without_a_driver_there_are_no_cards(monkeypatch):
    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(subprocess, "run", absent)
    assert find_cards() == ()


@pytest.mark.parametrize(
    ("vendor", "kind", "found"),
    [("0x10de", "0x030000", True), ("0x10de", "0x0c0330", False), ("0x1002", "0x030000", False)],
)
def test_a_card_in_a_slot_is_found_without_a_driver(tmp_path, vendor, kind, found):
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    assert card_in_slot(tmp_path) is found
    assert card_in_slot(tmp_path / "nothing") is False


@pytest.mark.parametrize(
    ("line", "cuda"), [("cuda: Optional[str] = '13.0'", "13.0"), ("cuda = '12.4'", "12.4"), ("cuda = None", "")]
)
def test_the_cuda_build_of_torch_is_read_without_importing_it(tmp_path, monkeypatch, line, cuda):
    class Torch:
        @staticmethod
        def locate_file(name):
            return tmp_path / name

    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/version.py").write_text(f"__all__ = ['cuda']\n{line}\nhip: Optional[str] = None\n")
    monkeypatch.setattr(module, "distribution", lambda name: Torch)
    assert cuda_of_torch() == cuda


def test_the_cuda_build_agrees_with_torch_itself():
    assert cuda_of_torch() == (torch.version.cuda or "")


@pytest.mark.parametrize(
    ("cards", "cuda", "in_slot", "message", "hint"),
    [
        ((), "13.0", False, "no NVIDIA driver", "whl/cpu"),
        ((), "13.0", True, "no NVIDIA driver", "install the NVIDIA driver"),
        ((CARD,), "", True, "built without CUDA", "pip uninstall torch"),
        ((OLD,), "12.8", True, "driver 470.1 is too old", "driver 525"),
    ],
)
def test_what_keeps_torch_from_a_card_is_one_line(here, tmp_path, cards, cuda, in_slot, message, hint):
    problem = find_problem(cards, cuda, in_slot)
    assert message in problem.message
    assert hint in problem.hint
    assert "\n" not in problem.message + problem.hint
    here(cards, cuda, in_slot)
    check = gpu_checks(tmp_path)[-1]
    assert check.state == "warning"
    assert message in check.fix
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=message) as raised:
            device_for("cuda")
        assert hint in raised.value.hint


@pytest.mark.parametrize(("cards", "cuda"), [((), ""), ((), None), ((CARD,), "12.8"), ((CARD,), None)])
def test_no_problem_where_there_is_none(cards, cuda):
    assert find_problem(cards, cuda, in_slot=False) is None


def test_doctor_names_card_driver_memory_and_build(here, tmp_path):
    here((CARD,), "12.8", True)
    card, build = gpu_checks(tmp_path)
    for part in ("RTX 3060", "12.9 GB", "12.5 GB free", "535.183.01"):
        assert part in card.value
    assert build.value == "torch is built for CUDA 12.8"
    assert {card.state, build.state} == {"ok"}
    report = doctor.examine(tmp_path)
    assert report.machine["cards"][0]["name"] == CARD.name
    assert any(check.name == "bitsandbytes" for check in report.checks)


def test_doctor_says_one_line_without_a_card(here, tmp_path):
    here()
    (check,) = gpu_checks(tmp_path)
    assert (check.state, check.value, check.fix) == ("ok", "none, training uses the CPU", "")


@pytest.mark.parametrize(
    ("total", "words", "missing"),
    [(4 * GB, "qwen2.5-1.5b:", "qwen2.5-7b"), (GB, "smollm2-135m:", "qwen"), (GB // 2, "device: cpu", "that fit")],
)
def test_doctor_says_what_fits_a_card_that_is_too_small(here, tmp_path, total, words, missing):
    here((Card("GT 1010", "550.1", total, total),), "12.8", True)
    card = gpu_checks(tmp_path)[0]
    assert card.state == "warning"
    assert "too small for ml-100k-gpu" in card.fix
    assert words in card.fix
    assert missing not in card.fix
    assert "\n" not in card.fix


def facts(monkeypatch, **changed):
    for name, value in changed.items():
        monkeypatch.setattr(doctor.machine, name, lambda *_, value=value: value)


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (8 * GB, ""),
        (GB, "fits with finetune.gradient_accumulation_steps: 4"),
        (int(0.85 * GB), "fits with finetune.checkpointing: true"),
        (int(0.7 * GB), "at least 0.8 GB"),
        (GB // 20, "too little to serve"),
    ],
)
def test_doctor_says_what_fits_the_memory(monkeypatch, tmp_path, memory, words):
    facts(monkeypatch, memory_limit_bytes=memory)
    check = next(c for c in doctor.examine(tmp_path).checks if c.name == "memory")
    assert words in check.fix
    assert bool(words) == bool(check.fix) == (check.state == "warning")
    assert f"{needs.SERVING / 1e9:.1f} GB" in check.purpose


@pytest.mark.parametrize(("cores", "state"), [(1, "warning"), (2, "ok")])
def test_doctor_names_a_single_core(monkeypatch, tmp_path, cores, state):
    facts(monkeypatch, cores_allowed=cores)
    check = next(c for c in doctor.examine(tmp_path).checks if c.name == "cores allowed")
    assert check.state == state
    assert ("one core" in check.fix) == (cores == 1)


@pytest.mark.parametrize(
    ("x86", "features", "state"), [(True, ("f16c",), "warning"), (True, (), "ok"), (False, ("neon",), "ok")]
)
def test_doctor_names_a_processor_without_avx2(monkeypatch, tmp_path, x86, features, state):
    facts(monkeypatch, cpu_features=features, runs_x86=x86)
    check = next(c for c in doctor.examine(tmp_path).checks if c.name == "CPU features")
    assert check.state == state
    assert ("lacks AVX2" in check.fix) == (state == "warning")
