"""The bundle's README: its code runs unchanged."""

import re
import subprocess
import sys

import yaml

from delrec_lite.runtime.recommender import Recommender


def blocks(bundle, language):
    return re.findall(rf"```{language}\n(.*?)```", (bundle / "README.md").read_text(encoding="utf-8"), re.S)


def test_the_front_matter_reads(tiny_bundle):
    head = (tiny_bundle / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert yaml.safe_load(head)["base_model"] == "tiny"


def test_every_python_block_runs_and_both_rank_the_same(tiny_bundle):
    package_code, stock_code = blocks(tiny_bundle, "python")
    assert len(stock_code.splitlines()) <= 10
    assert "delrec_lite" not in stock_code
    outputs = []
    for code in (package_code, stock_code):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tiny_bundle.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    titles = Recommender.load(tiny_bundle, threads=1).bundle.items.titles
    first = [line.split(maxsplit=1)[1] for line in outputs[1].splitlines()]
    assert len(first) >= 10
    assert set(first) <= set(titles)
    unseen = [title for title in first if title not in package_code]
    ranked = sorted((outputs[0].index(title), title) for title in unseen if title in outputs[0])
    assert [title for _, title in ranked] == [title for title in unseen if title in outputs[0]]
    assert len(ranked) >= 8
