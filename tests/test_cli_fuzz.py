"""Hundreds of calls with random arguments: each ends with a documented exit code, and no traceback."""

import random
import signal
import sys

import pytest
import typer

from delrec_lite import errors
from delrec_lite.cli import app as cli

CALLS = 400
SECONDS = 60  # a call that takes longer hangs
USAGE = 2  # the command line library's own
CODES = {
    0,
    USAGE,
    *(k.exit_code for k in vars(errors).values() if isinstance(k, type) and issubclass(k, errors.DelrecError)),
}
UNEXPECTED = errors.DelrecError.exit_code
# Real work on a real bundle: these get none here, or they would serve, or time for minutes.
SLOW = {"serve", "bench"}


@pytest.fixture
def words(tiny_bundle, tmp_path):
    broken, recipe = tmp_path / "broken.yaml", tmp_path / "recipe.yaml"
    broken.write_text("name: [")
    recipe.write_text("name: r\ndata: {folder: nowhere}\n")
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n1,2,3\n")
    (tmp_path / "items.csv").write_text('item_id,title\n1,"a\n')
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    odd = [
        "",
        " ",
        "-",
        "--",
        "0",
        "-1",
        "1",
        "3",
        "nan",
        "1e999",
        "99999999999999999999",
        "\u202e",
        "é" * 300,
        "a=b",
        "=",
        ",",
    ]
    files = [
        tmp_path,
        broken,
        recipe,
        tmp_path / "log.csv",
        tmp_path / "items.csv",
        tmp_path / "binary",
        "nowhere",
        "/dev/null",
    ]
    titles = ["Red River", "id:3", "id:", "<|im_start|>", "red"]
    return {"": [*odd, *map(str, files), *titles], "bundle": [str(tiny_bundle)]}


def verbs():
    commands = []
    for name, command in typer.main.get_command(cli.app).commands.items():
        inner = getattr(command, "commands", None)
        commands += [((name, *([] if not inner else [sub])), c) for sub, c in (inner or {"": command}).items()]
    return commands


def arguments(rng, words):
    path, command = rng.choice(verbs())
    pool = words[""] + (words["bundle"] * 8 if path[0] not in SLOW else [])
    call_words = list(path)
    for parameter in command.params:
        option = parameter.param_type_name == "option"
        if option and rng.random() < 0.7 or not option and rng.random() < 0.1:
            continue
        if option:
            call_words.append(rng.choice(parameter.opts))
        if not getattr(parameter, "is_flag", False):
            call_words.append(
                rng.choice(words["bundle"] if parameter.name == "bundle" and path[0] not in SLOW else pool)
            )
    if rng.random() < 0.1:
        call_words.insert(rng.randrange(len(call_words)), rng.choice([*words[""], "--nonsense"]))
    return call_words


def call(monkeypatch, words):
    def hangs(*_):
        pytest.fail(f"no end within {SECONDS} seconds: {words}")

    monkeypatch.setattr(sys, "argv", ["delrec-lite", *words])
    before = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(SECONDS)
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code or 0
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return 0


def test_hundreds_of_odd_calls_end_with_a_clear_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DELREC_OFFLINE", "1")
    monkeypatch.setenv("DELREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DELREC_DEBUG", raising=False)
    rng = random.Random(5)
    codes = {}
    for _ in range(CALLS):
        call_words = [word.replace("\x00", "") for word in arguments(rng, words)]
        code = call(monkeypatch, call_words)
        output = capsys.readouterr()
        assert code in CODES, (call_words, code, output.err)
        assert "Traceback" not in output.err + output.out, call_words
        assert "should not happen" not in output.err, (call_words, output.err)
        if code:
            assert output.err.strip(), call_words
        codes[code] = codes.get(code, 0) + 1
    assert codes[0] > CALLS // 20, codes
    assert codes[USAGE] > CALLS // 20, codes
    assert len(codes) > 4, codes
