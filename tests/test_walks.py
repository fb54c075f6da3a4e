"""The walks of docs/walks: three newcomers, each from an empty folder, line by line."""

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from delrec_lite.cli.app import app
from tests.command import options_of
from tests.frames import interactions, items, tiny_recipe
from tests.images import exec_form, read_stages
from tests.serving import Served
from tests.walks import WALKS, Walk

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.stem for path in WALKS.glob("*.md"))


@pytest.mark.parametrize("page", PAGES)
def test_a_walk_has_links_with_targets_extras_that_exist_and_the_minutes_it_takes(page, tmp_path):
    text = (WALKS / f"{page}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
        assert (WALKS / target).exists(), target
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"delrec-lite\[([\w,]+)\]", text):
        assert set(named.split(",")) <= extras.keys()
    assert re.search(r"about \d+ minutes", " ".join(text.split()))
    walked = ("pip install ", "delrec-lite ", "python ", "docker ", "git clone ", "curl ", "export ", "printf ")
    assert all(line.startswith(walked) for line in Walk(page, tmp_path).lines)


def test_a_researcher_with_frames_of_rectools(tiny_base, tmp_path):
    recipe = tiny_recipe(tiny_base, "films")
    log, listed = tmp_path / "log.parquet", tmp_path / "items.parquet"
    interactions().to_parquet(log)
    items().to_parquet(listed)
    frames = f"[__import__('pandas').read_parquet(path) for path in ({str(log)!r}, {str(listed)!r})]"
    walk = Walk(
        "researcher",
        tmp_path,
        {
            'delrec_lite.pull_frames("ml-100k", to="pandas")': frames,
            'name="films", ': 'name="films", k_core=2, candidates=5, ',
        },
    )
    page = (tmp_path / "frames.py").read_text()
    shown = page[page.index("recipe = {") : page.index("model = ")]
    (tmp_path / "frames.py").write_text(page.replace(shown, f"recipe = {recipe}\n"))
    for line in walk.beginning("python "):
        output = walk.run(line)
    assert re.search(r"HR@10 of 24 users: 0\.\d+, MRR@10: 0\.\d+|HR@10 of 24 users: 1\.000", output)
    assert {"popularity", "SASRec"} <= set(re.findall(r"^ *(popularity|SASRec) ", output, re.MULTILINE))
    names = {}
    exec(shown, names)  # what the page shows is a recipe
    from delrec_lite.frames.recipes import read_recipe

    assert read_recipe(names["recipe"]).model.layers == 8


def test_an_engineer_with_a_csv_and_a_card(tiny_base, tmp_path):
    walk = Walk("engineer", tmp_path, {"in range(400)": "in range(60)"})
    for line in walk.lines:
        if line.startswith(("pip install ", "delrec-lite serve ")):
            continue
        output = walk.run(line)
        if line.startswith("delrec-lite plan "):  # of the card's recipe; from here on with the tiny model on the CPU
            recipe = yaml.safe_load((tmp_path / "shop.yaml").read_text())
            assert recipe["model"]["device"] == "cuda"
            tiny = tiny_recipe(tiny_base, "shop", data=recipe["data"])
            (tmp_path / "shop.yaml").write_text(yaml.safe_dump(tiny))
        if line.startswith("delrec-lite recommend "):
            assert len(re.findall(r"%$|% *$", output, re.MULTILINE)) == 5
    (serve,) = walk.beginning("delrec-lite serve ")
    words = shlex.split(serve)
    assert (tmp_path / words[2]).is_dir()
    options_of(words)
    with Served(tmp_path, bundle=tmp_path / words[2]) as served:
        answer = served.post({"history": ["red lamp"], "candidates": ["golden lamp", "blue rug"]})
    assert {item["title"] for item in answer["items"]} == {"golden lamp", "blue rug"}


def test_an_application_developer_with_docker(tmp_path):
    if not shutil.which("curl"):
        pytest.skip("no curl here")
    options = ("--api-key-env", "SHOP_KEY")
    with Served(tmp_path, *options, SHOP_KEY="secret") as served:
        walk = Walk("application", tmp_path, {"localhost:8080": served.address.removeprefix("http://")})
        (ready,) = walk.beginning("curl -s --retry")
        assert json.loads(walk.run(ready))
        asked = [json.loads(walk.run(line, SHOP_KEY="secret")) for line in walk.beginning("curl ") if line != ready]
        assert len(asked[1]["items"]) == 5
        (line,) = walk.beginning("python ")
        assert walk.run(line, SHOP_KEY="secret").splitlines()[4].startswith("5 ")
    (export,) = walk.beginning("delrec-lite export ")
    typer.main.get_command(app).commands["export"].make_context("export", shlex.split(export)[2:])
    build, run, *later = (shlex.split(line, comments=True)[1:] for line in walk.beginning("docker "))
    stages = read_stages((ROOT / build[build.index("-f") + 1].removeprefix("delrec-lite/")).read_text())
    image, tag = list(stages)[-1], build[build.index("-t") + 1]
    settings = stages[image].settings
    behind = run[run.index(tag) + 1 :]
    assert behind == list(options)
    assert options_of(behind) == ["--api-key-env"]
    assert run[run.index("-e") + 1] == behind[1]
    assert run[run.index("-p") + 1].rpartition(":")[2] == settings["EXPOSE"]
    mounted, target, mode = run[run.index("-v") + 1].split(":")
    assert mounted == f"$PWD/{shlex.split(export)[-1]}"
    assert (target, mode) == (exec_form(settings["ENTRYPOINT"])[2], "ro")
    name = run[run.index("--name") + 1]
    assert [words[-1] for words in later] == [name, name]
    (key,) = walk.beginning("export ")
    assert key.startswith(f"export {behind[1]}=")
