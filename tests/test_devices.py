"""Training, export and evaluation on another device than the CPU, in a process of their own.

Torch counts the devices at the first backward pass of a process, so the stand-in must be there before it; and no other
test should run where torch knows the stand-in.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils import backend_registration

from tests.strict_device import NAME

CASES = Path(__file__).with_name("device_cases.py")
ROOT = CASES.parents[1]
STAND_IN = pytest.param(
    NAME,
    marks=pytest.mark.skipif(
        not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
        reason="this torch has no devices made in Python",
    ),
)
CARD = pytest.param(
    "cuda",
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA card")],
)


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("device", [STAND_IN, CARD])
def test_a_device_computes_what_the_cpu_computes(device, which):
    command = [sys.executable, "-m", "pytest", str(CASES), "-m", which, "-p", "no:cacheprovider"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"DELREC_TEST_DEVICE": device}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-20000:]
