"""The cluster of Ray that a command joins or starts; with a stand-in for Ray."""

import socket
import sys
import types

import pytest

from delrec_lite.errors import DelrecError, MissingPackageError
from delrec_lite.ray_cluster import ray_cluster


class Ray(types.ModuleType):
    """Remembers how it was started and ended."""

    def __init__(self, joined=False, errors=()):
        super().__init__("ray")
        self.joined, self.errors, self.calls = joined, list(errors), []

    def is_initialized(self):
        return self.joined

    def init(self, **options):
        self.calls.append(options)
        if self.errors:
            raise self.errors.pop()

    def shutdown(self):
        self.calls.append("shutdown")


@pytest.fixture
def use(monkeypatch):
    """Makes a module the one that ``import ray`` gives."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return lambda ray: monkeypatch.setitem(sys.modules, "ray", ray) or ray


def test_a_cluster_of_its_own_is_never_that_of_somebody_else_and_ends(use):
    ray = use(Ray())
    with ray_cluster("score", 3) as joined:
        assert joined is ray
    with pytest.raises(KeyError), ray_cluster("score", 3):
        raise KeyError
    started, *ended = ray.calls[:2]
    assert (started["address"], started["num_cpus"], ended) == ("local", 3, ["shutdown"])
    assert ray.calls[3] == "shutdown"


def test_a_start_that_takes_too_long_is_tried_again(use):
    ray = use(Ray(errors=[Exception("The current node timed out during startup.")] * 2))
    with ray_cluster("score", 3):
        assert [call != "shutdown" for call in ray.calls] == [True, False, True, False, True]


def test_the_cluster_of_the_environment_is_joined_as_it_is(use, monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"ray://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        ray = use(Ray())
        with ray_cluster("score", 3):
            assert ray.calls[0]["address"] == address
            assert "num_cpus" not in ray.calls[0]
    with pytest.raises(DelrecError, match=f"{address} cannot be joined"), ray_cluster("score", 3):
        pass  # nobody listens any more: said before Ray tries for minutes
    assert ray.calls[1:] == ["shutdown", "shutdown"]


def test_what_the_caller_has_joined_stays(use):
    ray = use(Ray(joined=True))
    with ray_cluster("score", 3):
        pass
    assert ray.calls == []


@pytest.mark.parametrize("address", ["", "auto"])
@pytest.mark.parametrize("error", [ConnectionError("no GCS\nat all"), Exception("timed out"), ValueError()])
def test_a_cluster_that_cannot_be_reached_is_one_line(use, monkeypatch, address, error):
    monkeypatch.setenv("RAY_ADDRESS", address)
    use(Ray(errors=[error] * 3))
    with pytest.raises(DelrecError, match=address or "cannot be started here") as raised, ray_cluster("score", 3):
        pass
    assert "\n" not in raised.value.message
    assert "RAY_ADDRESS" in raised.value.hint


def test_what_ray_prints_is_no_result(use, capsys):
    use(Ray())
    for verbose in (False, True):
        with ray_cluster("score", 3, verbose):
            print("(raylet) A worker died")
    assert capsys.readouterr() == ("", "(raylet) A worker died\n")
    print("result")
    assert capsys.readouterr().out == "result\n"


def test_without_ray_the_install_line_is_named(use):
    use(None)
    with pytest.raises(MissingPackageError, match="--engine ray needs ray") as error, ray_cluster("--engine ray", 1):
        pass
    assert 'pip install "delrec-lite[ray]"' in error.value.hint
