"""The settings of a server: command line before environment before file before default; rubbish is one clear error."""

import pytest
import yaml
from typer.testing import CliRunner

from delrec_lite.cli.app import app
from delrec_lite.errors import ConfigError, DelrecError, UsageError
from delrec_lite.server.settings import Settings


@pytest.fixture
def show(tmp_path):
    """Settings as YAML, and the text with their sources."""

    def run(*options, text=None, **environment):
        config = []
        if text is not None:
            (tmp_path / "serve.yaml").write_text(text)
            config = ["--config", str(tmp_path / "serve.yaml")]
        result = CliRunner().invoke(app, ["serve", *config, *options, "--show-settings"], env=environment)
        if isinstance(result.exception, DelrecError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return yaml.safe_load(result.stdout), result

    return run


FILE = "bundle: my.delrec\nport: 9000\nqueue: 5\ncors_origin: https://a.example\nfused: true\ntls_cert:\n"


def test_the_command_line_counts_before_environment_file_and_default(show):
    settings, result = show("--queue", "7", text=FILE, DELREC_SERVE_PORT=" 9100 ", DELREC_SERVE_QUEUE="6")
    expected = {"bundle": "my.delrec", "port": 9100, "queue": 7, "deadline": 10.0, "fused": True, "tls_cert": None}
    assert {name: settings[name] for name in expected} == expected
    assert settings["cors_origin"] == ["https://a.example"]
    for line in ("port: 9100  # DELREC_SERVE_PORT", "queue: 7  # command line", "deadline: 10.0  # default"):
        assert line in result.stdout.splitlines()
    assert "serve.yaml" in next(line for line in result.stdout.splitlines() if line.startswith("fused"))


def test_what_is_shown_is_a_file_of_settings(show):
    first, result = show("my.delrec", "--rate", "20/s", "--cors-origin", "https://a.example", "--log-histories")
    assert show(text=result.stdout)[0] == first


def test_every_setting_can_be_a_variable(show):
    names = set(show("my.delrec")[0])
    variables = {
        "bundle": "b.delrec",
        "cors_origin": "https://a.example, https://b.example",
        "fused": "off",
        "log_histories": "yes",
        "traces": "yes",
        "exact": "yes",
        "rate": "20/s",
        "uds": "/run/x",
    }
    numbers = {"port": 1, "threads": 2, "workers": 3, "micro_batch": 4, "queue": 5, "deadline": 6.0, "burst": 7}
    numbers["share"] = 0.5
    texts = names - set(variables) - set(numbers)
    given = {**variables, **dict.fromkeys(texts, "text"), **numbers}
    environment = {f"DELREC_SERVE_{name.upper()}": str(value) for name, value in given.items()}
    settings, result = show(**environment)
    expected = {**given, "cors_origin": ["https://a.example", "https://b.example"], "fused": False}
    assert settings == {**expected, "log_histories": True, "traces": True, "exact": True}
    assert "default" not in result.stdout
    assert show("my.delrec", DELREC_SERVE_PORT=" ", DELREC_SERVE_LOG_HISTORIES="0")[0]["port"] == 8080


def test_the_file_can_be_named_by_a_variable(show, tmp_path):
    (tmp_path / "other.yaml").write_text("port: 7000\n")
    assert show("b.delrec", DELREC_SERVE_CONFIG=str(tmp_path / "other.yaml"))[0]["port"] == 7000


def test_an_unknown_variable_is_warned_of(show):
    _, result = show("b.delrec", DELREC_SERVE_PROT="1")
    assert "DELREC_SERVE_PROT is set, and there is no such setting" in result.stderr
    assert "did you mean DELREC_SERVE_PORT?" in result.stderr


# Two to the power of 24 texts in one line.
BOMB = "[&a [x, x], " + ", ".join(f"&{chr(n + 1)} [*{chr(n)}, *{chr(n)}]" for n in range(ord("a"), ord("x"))) + "]"


@pytest.mark.parametrize(
    ("text", "words", "hint"),
    [
        ("prot: 1", "there is no setting 'prot'", "did you mean port?"),
        ("cors-origin: https://a.example", "there is no setting 'cors-origin'", "did you mean cors_origin?"),
        ("config: x", "there is no setting 'config'", "one of"),
        ("1: 2", "there is no setting '1'", "one of"),
        ("port: many", "port is 'many'", "integer"),
        ("port: 70000", "port is 70000", "65535"),
        ("port: 80.5", "port is 80.5", "integer"),
        ("port: true", "port is True", "give a text or a number"),
        ("port: [1, 2]", "port is [1, 2]", "give a text or a number"),
        ("cors_origin: [a, {b: c}]", "cors_origin is", "or a list"),
        ("fused: sometimes", "fused is 'sometimes'", "true or false"),
        ("pid_file: 2026-01-01", "pid_file is", "give a text or a number"),
        ("- port", "holds no settings", "port: 8080"),
        ("port: [", "is not valid YAML", "correct"),
        ("port: &a [*a]", "port is", "give a text"),
        ("cors_origin: " + BOMB, "cors_origin is", "or a list"),
    ],
)
def test_a_file_with_rubbish_is_one_clear_error(show, text, words, hint):
    with pytest.raises(ConfigError) as raised:
        show("b.delrec", text=text)
    assert words in raised.value.message
    assert "serve.yaml" in raised.value.message
    assert hint in raised.value.hint
    assert "\n" not in raised.value.message + raised.value.hint


def test_a_file_that_cannot_be_read_is_one_clear_error(show, tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            show("b.delrec", "--config", str(path))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        show("b.delrec", "--config", str(tmp_path / "binary.yaml"))


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "tcp://10.0.0.1:80"), ("FUSED", "perhaps"), ("DEADLINE", "soon"), ("WORKERS", "0")]
)
def test_a_variable_with_rubbish_is_one_clear_error(show, name, value):
    with pytest.raises(UsageError, match=f"the environment variable DELREC_SERVE_{name} is") as raised:
        show("b.delrec", **{f"DELREC_SERVE_{name}": value})
    assert raised.value.hint


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls_cert": "a.pem"}, "--tls-cert needs --tls-key"),
        ({"tls_key": "a.pem"}, "--tls-key needs --tls-cert"),
        ({"burst": 5}, "--burst needs --rate"),
        ({"micro_batch": 17}, "--micro-batch is 17"),
        ({"workers": 0}, "--workers is 0"),
        ({"feedback_limit": "much"}, "much"),
        ({"share": 1.0}, "--share is 1.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        Settings(**settings)


def test_workers_divide_the_cores(monkeypatch):
    monkeypatch.setattr("delrec_lite.server.settings.cores_allowed", lambda: 5)
    assert [Settings(workers=n).threads_of_each for n in (1, 2, 8)] == [None, 2, 1]
    assert Settings(workers=2, threads=4).threads_of_each == 4
