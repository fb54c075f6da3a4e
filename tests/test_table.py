"""The table of a run: every model on the same users, segments of users, and fusion."""

import json

import numpy as np
import pytest

from delrec_lite.console import QUIET
from delrec_lite.evaluation.metrics import per_user
from delrec_lite.evaluation.segments import by_segment, segments
from delrec_lite.pipeline.rows import ALL_TEACHERS, FUSED, TRAINED, bundle_row, fused_row
from delrec_lite.pipeline.table import evaluate, show
from delrec_lite.teacher_kinds.registry import TEACHERS
from tests.tiny import dataset


@pytest.fixture
def evaluated(tiny_run):
    two_teachers = {"kind": ["sasrec", "caser"], "settings": {"caser": {"hidden": 16, "epochs": 2}}}
    run = tiny_run(teacher=two_teachers, finetune={"epochs": 2, "item_lr": 0.03})
    rows = evaluate(run, fused=True, zero_shot=True)
    return run, rows


def test_the_table_of_a_run(evaluated):
    run, rows = evaluated
    exported, exported_fused = bundle_row(run), fused_row(run)
    assert exported == "DELRec (GGUF f16)"
    assert {row.model for row in evaluate(run)} == {row.model for row in rows} - {
        "LLM zero-shot",
        FUSED,
        exported_fused,
    }
    assert evaluate(run, fused=True, bundle=False)[-1].model == FUSED
    compared = json.loads((run.folder / "comparisons.json").read_text())
    assert {(TRAINED, "SASRec"), (FUSED, "Caser")} <= {(c["model"], c["against"]) for c in compared}
    assert not {exported, exported_fused} & {model for c in compared for model in (c["model"], c["against"])}
    rows = evaluate(run, fused=True, zero_shot=True)
    names = ["popularity", "SASRec", "Caser", ALL_TEACHERS, "LLM zero-shot", TRAINED, exported, FUSED, exported_fused]
    assert [row.model for row in rows if row.protocol == "full"] == names
    assert [row.model for row in rows if row.protocol == "expected_sampled"] == [
        n for n in names if n != "LLM zero-shot"
    ]
    report = json.loads((run.folder / "report.json").read_text())
    ranks = json.loads((run.folder / "ranks.json").read_text())
    for row in (row for row in rows if row.protocol != "expected_sampled"):
        row_ranks = np.array(ranks[row.model][row.protocol])
        assert row.metrics["HR@5"] == pytest.approx(per_user(row_ranks, "HR@5").mean(), abs=1e-4)
    assert report["expected_sampled"]["negatives"] == 4
    assert report["ranks"] == ranks
    compared = {(c["model"], c["against"]) for c in report["comparisons"]}
    assert {(exported, "SASRec"), (TRAINED, "Caser"), (FUSED, ALL_TEACHERS), (exported_fused, "SASRec")} <= compared
    assert {row["model"] for row in report["segments"]} == set(names)
    assert report["setting"] == {"candidates": 5, "by_time": False, "repeats": False}
    table = (run.folder / "table.md").read_text()
    assert "**5 candidates (1 positive, 4 unseen negatives)**, 24 test users" in table
    assert "**5 candidates, expected over all candidate sets**" in table
    assert "| HR@1, 5 candidates " in table
    assert "15" not in "".join(line for line in table.splitlines() if "candidates" in line)
    assert "seen at most" in table
    assert "**the first 10 of the whole catalogue**, 95% intervals" in table
    listed = [row for row in rows if row.protocol == "full"]
    assert all({"coverage@10", "novelty@10", "text diversity@10"} <= set(row.metrics) for row in listed)
    assert report["rows"][-1]["intervals"]["coverage@10"] == list(rows[-1].intervals["coverage@10"])
    assert set(report["lists"]["most_recommended"]) == set(names)
    assert report["main"] == exported
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert all(f'<th scope="row">{name}</th>' in page for name in names)
    assert FUSED in table


def test_the_row_of_an_onnx_bundle_names_format_and_quantisation(tiny_run, tmp_path):
    run = tiny_run(export={"format": "onnx", "onnx_quant": "int8", "score_correlation": 0.3})
    rows = evaluate(run, fused=True)
    names = {row.model for row in rows if row.model.startswith("DELRec (")}
    assert names == {TRAINED, "DELRec (ONNX int8)", "DELRec (ONNX int8) and teachers fused"}
    assert "GGUF" not in (run.folder / "table.md").read_text()
    lines = []
    show(run, rows, _TitleConsole(lines))
    assert lines[0] == "5 candidates (1 positive, 4 unseen negatives), 24 test users"
    assert lines[-1] == "the first 10 of the whole catalogue"


class _TitleConsole:
    """A console that keeps the titles of tables."""

    mode = QUIET.mode

    def __init__(self, titles):
        self._titles = titles

    def result(self, data, rows=(), header=(), title=""):
        self._titles.append(title)


def test_each_of_several_teachers_has_its_settings(evaluated):
    teachers = evaluated[0].models.teachers()
    assert teachers["caser"].network.config.hidden == 16
    assert teachers["sasrec"].network.config == TEACHERS["sasrec"].configure()


def test_fusion_is_not_much_worse_than_the_weaker_model(evaluated):
    run, rows = evaluated
    mrr = {row.model: row.metrics["MRR"] for row in rows if row.protocol == "full"}
    assert mrr[FUSED] >= min(mrr[TRAINED], mrr[ALL_TEACHERS]) - 0.05


def test_segments_divide_the_users_and_average_their_ranks():
    data = dataset()
    parts = list(segments(data).values())
    assert (parts[0] ^ parts[1]).all()
    assert (parts[2] ^ parts[3]).all()
    lengths = np.array([len(h) for h in data.test().histories])
    assert lengths[parts[0]].max() < lengths[parts[1]].min()

    from delrec_lite.evaluation.metrics import Ranks

    short = parts[0]
    ranks = Ranks(np.where(short, 1, 9), np.where(short, 11, 2), 0.0)
    first, second = by_segment({"m": ranks}, data)[:2]
    assert (first["sampled HR@1"], first["full HR@10"], first["users"]) == (1.0, 0.0, int(short.sum()))
    assert (second["sampled HR@1"], second["full HR@10"]) == (0.0, 1.0)
