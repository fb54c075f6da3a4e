"""Makes docs/tensorboard.png anew: `python docs/sweep_picture.py`, a sweep of four trials in TensorBoard, in Chromium.

The model is tiny and random, so that it takes a minute; `make browser` installs Chromium.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from urllib.parse import quote

import yaml

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
BIN = Path(sys.executable).parent
SWEEP = ("--set", "finetune.lr=1e-3,1e-2", "--set", "finetune.seed=1,2")
# The tags on the picture, and the runs: those of hyper-parameters are named by a time behind the trial's name.
TAGS, RUNS = r"finetune/(loss|valid_full_ndcg@10)$|validation", r"seed-\d$"


def train(folder: Path) -> Path:
    """Train the sweep; returns the folder of TensorBoard's logs."""
    from delrec_lite.data.store import Settings, make_dataset, save_dataset
    from tests.tiny import candidates, dataset, write_base

    ring = dataset()
    data = make_dataset("ring", ring.catalog, ring.user_ids, ring.sequences)
    save_dataset(data, {split: candidates(split) for split in ("valid", "test")}, Settings(2, 5, 3), folder / "ring")
    recipe = {
        "name": "ring",
        "data": {"folder": str(folder / "ring")},
        "model": {"base": str(write_base(folder / "base")), "soft_tokens": 3, "precision": "fp32", "device": "cpu"},
        "teacher": {"settings": {"epochs": 2, "hidden": 8}},
        "distill": {"epochs": 1.0, "tokens_per_step": 100},
        "finetune": {"epochs": 8.0, "tokens_per_step": 100, "valid_every": 1.0, "patience": 99},
    }
    (folder / "ring.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [BIN / "delrec-lite", "train", folder / "ring.yaml", "--runs", folder / "runs", *SWEEP]
    # A tiny model gains nothing by threads, and loses much by them beside other work.
    subprocess.run([*command, "--log", "tensorboard"], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder / "runs" / "ring-sweep" / "tensorboard"


def tensorboard(logs: Path) -> AbstractContextManager[str]:
    """The address of TensorBoard over these logs."""
    from page import announced

    def address_in(line: str) -> str | None:
        found = re.search(r"http://\S+", line)
        return found[0].replace("(Press", "") if found else None

    command = [BIN / "tensorboard", "--logdir", logs, "--port", "0", "--load_fast", "false"]
    return announced(command, address_in, "TensorBoard")


def main(arguments: list[str] | None = None) -> None:
    """Write the picture."""
    from page import browsing

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "tensorboard.png")
    parser.add_argument("--width", type=int, default=1250)
    parser.add_argument("--height", type=int, default=760)
    chosen = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as folder,
        tensorboard(train(Path(folder))) as address,
        browsing(chosen.width, chosen.height, "light", "--disable-3d-apis") as browser,  # curves as SVG, not by WebGL
    ):
        browser.get(f"{address.rstrip('/')}/?darkMode=false&runFilter={quote(RUNS)}&tagFilter={quote(TAGS)}#timeseries")
        deadline = time.monotonic() + 120
        while len(browser.find_elements("css selector", "line-chart")) < 1:
            if time.monotonic() > deadline:
                browser.save_screenshot(str(chosen.out))
                sys.exit("TensorBoard shows no curve")
            time.sleep(1)
        browser.execute_script(
            "[...document.querySelectorAll('button')].find(button => button.textContent.includes('Settings'))?.click()"
        )
        time.sleep(8)  # the curves are drawn one after another
        browser.save_screenshot(str(chosen.out))


if __name__ == "__main__":
    main()
