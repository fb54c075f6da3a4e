"""Whatever name is mistyped, the error says which one was meant."""

import sys

import pytest

from delrec_lite.cli import app as cli
from delrec_lite.errors import UsageError, did_you_mean, nearest_name


@pytest.fixture
def call(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["delrec-lite", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian"], "train"),
        (["recomend", "x"], "recommend"),
        (["catalog", "ad"], "add"),
        (["train", "--stag", "distill"], "--stage"),
        (["train", "--stage", "finetun"], "finetune"),
        (["train", "--sett", "finetune.lr=1"], "--set"),
        (["train", "--log", "tensorbord"], "tensorboard"),
        (["train", "ml-100k-cp"], "ml-100k-cpu"),
        (["train", "ML-100K-CPU"], "ml-100k-cpu"),
        (["tune", "--model", "techer"], "teacher"),
        (["ablate", "--variant", "witout soft prompt"], "without soft prompt"),
        (["bench", "-w", "cld", "x"], "cold"),
        (["export", "--quant", "q80", "--out", "x.delrec"], "q8_0"),
        (["export", "--format", "ggfu", "--out", "x.delrec"], "gguf"),
        (["pull", "ml-100"], "ml-100k"),
        (["prepare", "ml-10k"], "ml-100k"),
        (["prepare", "--split", "leave-one"], "leave-one-out"),
        (["prepare", "--duplicates", "frist"], "first"),
        (["prepare", "--on-bad-row", "drp"], "drop"),
        (["plan", "--model", "qwen2.5-0.6b"], "qwen2.5-0.5b"),
        (["score", "a", "b", "--out", "c", "--engine", "rai"], "ray"),
    ],
)
def test_a_mistyped_name_is_answered_with_the_nearest(call, words, meant):
    code, err = call(*words)
    assert 0 < code < 10
    assert f"did you mean {meant}?" in err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 2


@pytest.mark.parametrize("words", [["recommend"], ["prepare", "--k-core", "0"], ["train", "a", "b"], ["--zzz"]])
def test_other_errors_of_usage_name_the_help(call, words):
    code, err = call(*words)
    assert (code, "--help" in err, err.startswith("error: ")) == (UsageError.exit_code, True, True)


def test_names_are_compared_whatever_their_case():
    assert nearest_name("SASREC", ["sasrec", "caser"]) == "sasrec"
    assert nearest_name("zzz", ["sasrec", "caser"]) is None
    assert nearest_name("a" * 10**6, ["aaaa"]) is None
    assert (
        did_you_mean("casr", ["sasrec", "caser"], ", or a file")
        == "did you mean caser? one of sasrec, caser, or a file"
    )
