"""The synthetic log that `prepare` is timed with: it prepares, and every malformed row in it is refused or counted."""

import re

from delrec_lite.bench.preparing import measure_prepare, write_log

ROW = re.compile(r"customer-\d+,sku-\d+,\d+\n")


def test_malformed_rows_of_a_synthetic_log_are_refused_or_counted(tmp_path):
    log, titles = write_log(tmp_path, 6000, bad=0.1)
    with log.open() as file:
        wrong = sum(not ROW.fullmatch(line) for line in list(file)[1:])
    assert 500 < wrong < 700
    refused = measure_prepare(log, titles, tmp_path / "prepared", "refuse")
    assert refused["exit"] == 4
    assert not (tmp_path / "prepared").exists()
    dropped = measure_prepare(log, titles, tmp_path / "prepared", "drop")
    assert dropped["exit"] == 0
    (counts,) = dropped["result"]["dropped"]["files"]
    assert counts["malformed"] == wrong
    assert dropped["result"]["interactions"] > 4000
    assert dropped["peak_bytes"] > 20e6
    assert dropped["processor_seconds"] > 0


def test_a_log_without_malformed_rows_is_taken_whole(tmp_path):
    log, titles = write_log(tmp_path, 6000)
    cost = measure_prepare(log, titles, tmp_path / "prepared", "refuse")
    assert (cost["exit"], cost["result"]["dropped"]["files"]) == (0, [])
