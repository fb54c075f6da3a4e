"""The measurement of diversity and discount: its figures follow from the lists, and its options are read."""

import json

import numpy as np

from delrec_lite.bench import diversity
from delrec_lite.data.store import Settings, make_dataset, save_dataset
from delrec_lite.data.types import CandidateSets, Catalog
from tests.bundles import COLUMNS, TITLES, tiny_bundle


def test_a_report_holds_every_setting(tmp_path, capsys):
    bundle = tiny_bundle(tmp_path, columns=COLUMNS).bundle
    rng = np.random.default_rng(2)
    sequences = [rng.permutation(len(TITLES))[:8] for _ in range(12)]
    catalog = Catalog(tuple(bundle.items.ids), tuple(TITLES))
    data = make_dataset("t", catalog, [f"u{n}" for n in range(12)], sequences)
    sets = {s: CandidateSets(s, np.tile(np.arange(2), (12, 1)), 1) for s in ("valid", "test")}
    save_dataset(data, sets, Settings(1, 2, 1), tmp_path / "data")
    words = [str(bundle.folder), "--dataset", str(tmp_path / "data"), "-k", "10", "--threads", "1"]
    diversity.main([*words, "--out", str(tmp_path / "report.json")])
    report = json.loads((tmp_path / "report.json").read_text())
    rows = {(row["diversity"], row["popularity_discount"]): row for row in report["rows"]}
    assert (report["users"], len(rows)) == (12, 9)
    assert {len(row["samples_ms"]) for row in rows.values()} == {12}
    assert rows[0.7, 0.0]["likeness"] < rows[0.0, 0.0]["likeness"]
    assert rows[0.0, 1.0]["mean popularity"] < rows[0.0, 0.0]["mean popularity"]
    ranks = rows[0.0, 0.0]["ranks"]
    assert rows[0.0, 0.0]["HR@10"] == round(sum(rank > 0 for rank in ranks) / 12, 4)
    assert report["filter"]["new"]["p50"] >= 0
    assert "likeness" in capsys.readouterr().err
