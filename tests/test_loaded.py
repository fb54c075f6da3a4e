"""What is loaded does not depend on the bundle's files any more, and a forked process is told what to do."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from delrec_lite.teacher_kinds.registry import TEACHERS
from delrec_lite.teachers.contract import Teacher
from tests.conftest import export_tiny
from tests.tiny import dataset

ENGINES = ("llama.cpp", "onnxruntime")


@pytest.fixture(scope="module")
def both(tiny_base, tmp_path_factory):
    """A bundle with a GGUF and an ONNX file and a teacher."""
    torch.manual_seed(1)
    items, sasrec = len(dataset().catalog), TEACHERS["sasrec"]
    teacher = Teacher(sasrec.build(sasrec.configure(hidden=8, max_length=8), items), items)
    folder = tmp_path_factory.mktemp("both") / "tiny.delrec"
    return export_tiny(tiny_base, folder, "q8_0", formats="both", onnx_quant="int8", teacher=teacher).path


def run(code, *arguments):
    """The last line that a program writes, as JSON; it is killed after two minutes, for example where it hangs."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert process.returncode == 0, (process.returncode, process.stderr)
    return json.loads(process.stdout.splitlines()[-1])


# A mapped file that is cut short kills the process, so it is one of its own.
CHANGED = """
import json, shutil, sys
from pathlib import Path
from delrec_lite import Recommender
from delrec_lite.runtime.explain import explain

folder, engine = Path(sys.argv[1]), sys.argv[2]
recommender = Recommender.load(folder, threads=2, engine=engine)
recommender.preload()
titles = recommender.bundle.items.titles

def answers():
    batch = [[titles[(n + m) % len(titles)] for m in range(3)] for n in range(40)]
    return [
        [item.title for item in recommender.recommend(titles[:3]).items],
        [item.title for item in recommender.recommend([titles[0], "A new title"], allow_new=True).items],
        [[item.title for item in ranking] for ranking in recommender.recommend_batch(batch, 3)],
        [item.title for item in recommender.teacher_ranking(titles[:3])],
        explain(recommender, titles[:3]).teacher.first,
    ]

expected, same = answers(), []
for file in folder.iterdir():
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))
same.append(answers() == expected)
for file in folder.iterdir():
    file.write_bytes(b"")
same.append(answers() == expected)
shutil.rmtree(folder)
same.append(answers() == expected)
print(json.dumps(same))
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_loaded_bundle_answers_as_before_when_its_files_are_overwritten_cut_and_removed(both, tmp_path, engine):
    folder = shutil.copytree(both, tmp_path / "tiny.delrec")
    assert run(CHANGED, folder, engine) == [True, True, True]


FORKED = """
import json, os, sys
from delrec_lite import Recommender

folder, engine = sys.argv[1:]
recommender = Recommender.load(folder, threads=2, engine=engine)
titles = recommender.bundle.items.titles
expected = [item.title for item in recommender.recommend(titles[:3]).items]
pid = os.fork()
if not pid:
    status = 0
    for ask in (lambda: recommender.recommend(titles[:3]), lambda: recommender.scores([[0, 1]])):
        try:
            ask()
        except Exception as error:
            status += "after the fork" in error.hint
    recommender.close()
    with Recommender.load(folder, threads=2, engine=engine) as newer:
        status += 4 * ([item.title for item in newer.recommend(titles[:3]).items] == expected)
    sys.exit(status)  # with Python's clean-up and that of the libraries
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps([status, [item.title for item in recommender.recommend(titles[:3]).items] == expected]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork by default")
@pytest.mark.parametrize("engine", ENGINES)
def test_a_forked_process_is_refused_in_one_line_loads_its_own_and_ends(both, engine):
    assert run(FORKED, both, engine) == [6, True]
