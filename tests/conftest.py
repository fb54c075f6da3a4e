import pytest

from tests.tiny import write_base


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)
