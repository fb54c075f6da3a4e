"""The synthetic log with which `prepare` is timed: every malformed row in it is refused or counted."""

import re

from delrec_lite.bench.preparing import measure_prepare, write_log

ROW = re.compile(r"customer-\d+,sku-\d+,\d+\n")


def test_malformed_rows_of_a_synthetic_log_are_refused_or_counted(tmp_path):
    log, titles = write_log(tmp_path, 6000, bad=0.1)
    with log.open() as file:
        malformed = sum(not ROW.fullmatch(line) for line in list(file)[1:])
    assert 500 < malformed < 700
    refused = measure_prepare(log, titles, tmp_path / "prepared", "refuse")
    assert refused["exit"] == 4
    assert not (tmp_path / "prepared").exists()
    dropped = measure_prepare(log, titles, tmp_path / "prepared", "drop")
    assert dropped["exit"] == 0
    (counts,) = dropped["result"]["dropped"]["files"]
    assert counts["malformed"] == malformed
    assert dropped["result"]["interactions"] > 4000
    assert dropped["peak_bytes"] > 20e6
    assert dropped["processor_seconds"] > 0


def test_no_row_of_a_valid_log_is_dropped(tmp_path):
    log, titles = write_log(tmp_path, 6000)
    cost = measure_prepare(log, titles, tmp_path / "prepared", "refuse")
    assert (cost["exit"], cost["result"]["dropped"]["files"]) == (0, [])
