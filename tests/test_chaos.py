"""A short chaos: nothing goes wrong, and what goes wrong would be told."""

import json

import pytest

from delrec_lite.bench import chaos
from delrec_lite.bench.faults import compiler
from tests.bundles import tiny_bundle


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="faults are injected by a C library")
def test_a_server_in_trouble_loses_nothing(tmp_path):
    out = tmp_path / "chaos.json"
    chaos.main([str(tiny_bundle(tmp_path).bundle.folder), "--seconds", "20", "--out", str(out)])
    report = json.loads(out.read_text())
    assert (report["problems"], report["lost"]) == ([], 0)
    assert report["acknowledged"] > 10
    assert report["statuses"]["disk full and free"] > 0
    assert report["alone"] == 2 * chaos.HISTORIES
