"""What visitors of the repository find: forms, workflows that call the Makefile, a citation, honest addresses."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from delrec_lite.version import __version__

ROOT = Path(__file__).parents[1]
CHECKER = ROOT / "build" / "package-tools" / "bin" / "check-jsonschema"
GITHUB = ROOT / ".github"
SCHEMAS = {
    "vendor.github-workflows": sorted(GITHUB.glob("workflows/*.yml")),
    "vendor.github-issue-forms": sorted(p for p in GITHUB.glob("ISSUE_TEMPLATE/*.yml") if p.stem != "config"),
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def public():
    """The module `.ci/public.py`."""
    spec = importlib.util.spec_from_file_location("public", ROOT / ".ci" / "public.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not CHECKER.exists(), reason="check-jsonschema is not installed: make package-tools")
@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_for_github_follow_their_schema(schema):
    done = subprocess.run(
        [CHECKER, "--builtin-schema", schema, *SCHEMAS[schema]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_workflows_call_targets_of_the_makefile_and_pin_nothing_of_their_own():
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    jobs = load(GITHUB / "workflows" / "test.yml")["jobs"]
    called = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert all(line.startswith("make ") for line in called)
    assert {target for line in called for target in line.split()[1:]} <= targets
    assert jobs["whole"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert {name.split("-")[0] for name in jobs["onnx"]["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}


def test_the_onnx_tests_exist():
    names = re.search(r"^ONNX := .*\.py,(.*?)\)\)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in names.split())


def test_pythons_that_are_tested_are_those_that_are_named():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)]
    tested = load(GITHUB / "workflows" / "test.yml")["jobs"]["whole"]["strategy"]["matrix"]["python"]
    assert named == tested
    assert project["requires-python"] == f">={tested[0]}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"])
def test_links_between_the_pages_for_visitors_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (ROOT / target).exists(), target


def test_the_owner_is_a_placeholder_everywhere_until_a_release_says_who_it_is():
    module = public()
    files = [ROOT / name for name in module.NAMED]
    assert all(module.PLACEHOLDER in path.read_text(encoding="utf-8") for path in files)
    steps = load(GITHUB / "workflows" / "release.yml")["jobs"]["build"]["steps"]
    commands = [step.get("run", "") for step in steps]
    assert 'python .ci/public.py "$GITHUB_REPOSITORY" "$GITHUB_REF_NAME"' in commands
    assert not [path.name for path in ROOT.glob("*.md") if "OWNER" in path.read_text(encoding="utf-8")]


def test_links_of_the_long_description_are_absolute():
    text = public().absolute((ROOT / "README.md").read_text(encoding="utf-8"), "me/delrec-lite", "v1")
    assert not re.findall(r"\]\((?!https?:)", text)
    assert "![Page of the server](https://raw.githubusercontent.com/me/delrec-lite/v1/docs/page.png)" in text
    assert "[Accuracy](https://github.com/me/delrec-lite/blob/v1/docs/accuracy.md)" in text


def test_the_conda_recipe_has_the_version_and_dependencies_of_the_package():
    recipe = load(ROOT / "recipe" / "recipe.yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert recipe["context"]["version"] == __version__
    assert set(recipe) == {
        "schema_version",
        "context",
        "package",
        "source",
        "build",
        "requirements",
        "tests",
        "about",
        "extra",
    }
    onnx = project["optional-dependencies"]["onnx"]
    needed = {re.sub(r"(?<=[a-z])(?=[<>=])", " ", line) for line in (*project["dependencies"], *onnx)}
    run = {line for line in recipe["requirements"]["run"] if not line.startswith("python ")}
    assert run == needed
    assert recipe["build"]["python"]["entry_points"] == ["delrec-lite = delrec_lite.cli.app:main"]
    assert recipe["about"]["license"] == project["license"]


@pytest.mark.skipif(not CHECKER.exists(), reason="py-rattler-build is not installed: make package-tools")
def test_rattler_build_reads_the_conda_recipe(tmp_path):
    wrong = tmp_path / "recipe.yaml"
    wrong.write_text((ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8").replace("noarch:", "no_arch:"))
    read = "import sys; from rattler_build import Stage0Recipe; Stage0Recipe.from_file(sys.argv[1])"
    for recipe, fails in ((ROOT / "recipe" / "recipe.yaml", False), (wrong, True)):
        command = [CHECKER.with_name("python"), "-c", read, recipe]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert bool(done.returncode) is fails, done.stderr


def test_the_citation_names_the_paper():
    (paper,) = load(ROOT / "CITATION.cff")["references"]
    assert paper["url"] == "https://arxiv.org/abs/2406.11156"
