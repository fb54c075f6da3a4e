"""The release workflow and the page on security name what exists."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/\w+\.py)::(\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_a_test_that_shows_a_promise_exists(file, name):
    body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
    assert name in {node.name for node in body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_its_test():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| promised")]
    assert len(rows) >= 20
    assert all(re.search(r"\| `tests/\w+\.py::\w+` \|$", row) for row in rows)


def test_the_release_workflow_is_well_formed():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML's `on`
    assert workflow["permissions"] == {"contents": "read"}
    signing = {name for name, job in jobs.items() if job.get("permissions", {}).get("id-token") == "write"}
    assert signing == {"publish", "sign"}, "no step of the build can sign or publish"
    assert [jobs[name].get("needs") for name in ("build", "publish", "sign")] == [None, "build", "publish"]
    steps = [step for job in jobs.values() for step in job["steps"]]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    actions = {step["uses"].split("@")[0] for step in steps if "uses" in step}
    assert all("@" in step["uses"] for step in steps if "uses" in step)
    assert {"pypa/gh-action-pypi-publish", "sigstore/gh-action-sigstore-python"} <= actions
    commands = "\n".join(step.get("run", "") for step in steps)
    assert "cyclonedx-py" in commands
    assert "secrets." not in str(workflow)
    for path in (".ci/audit.py", "constraints.txt", "delrec_lite/version.py", "pyproject.toml"):
        assert path in commands
        assert (ROOT / path).is_file()
