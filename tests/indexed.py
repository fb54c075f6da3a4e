"""A bundle with an item index: 600 items in 40 groups, so that few numbers an item tell which are near."""

import numpy as np

from delrec_lite.data.columns import ItemColumn
from delrec_lite.runtime.bundle import Bundle
from delrec_lite.runtime.changing import changing, finish_changed, link_files
from delrec_lite.runtime.item_index.fit import Choice, fit_maps
from delrec_lite.runtime.item_index.index import write_index
from tests.bundles import HIDDEN, tiny_bundle

ITEMS, GROUPS = 600, 40
NAMES = [f"Title {n} of group {n % GROUPS}" for n in range(ITEMS)]
HISTORIES = [[n, (7 * n + 3) % ITEMS, (11 * n + 5) % ITEMS][: 1 + n % 3] for n in range(120)]
COLUMNS = (
    ItemColumn("number", "number", tuple(float(n) for n in range(ITEMS))),
    ItemColumn("available", "truth", tuple(n % 10 != 9 for n in range(ITEMS))),
)
CHOICE = Choice(48, 60, 1.0, 120)


def with_index(folder, target, choice=CHOICE, histories=HISTORIES):
    """A copy of a bundle, with an index of its items."""
    from delrec_lite.runtime.engines.llama_trunk import LlamaTrunkEngine

    bundle = Bundle.open(folder)
    engine = LlamaTrunkEngine(bundle, threads=1)
    maps = fit_maps(engine.head, engine.hidden_states(histories), choice.rank)
    with changing(folder, target) as (_, path, staging):
        link_files(bundle, staging, set())
        facts = write_index(staging, maps.shortened(engine.head), maps, choice)
        model = {**bundle.manifest["model"], **facts}
        finish_changed(Bundle(bundle.folder, {**bundle.manifest, "model": model}), staging, path)
    engine.close()
    return target


def indexed_bundle(tmp_path, **options):
    """The bundle with its index, and what wrote it."""
    tiny = tiny_bundle(tmp_path, titles=tuple(NAMES), columns=COLUMNS)
    return with_index(tiny.bundle.folder, tmp_path / "indexed.delrec", **options), tiny


def clustered(items, hidden=HIDDEN, groups=GROUPS, seed=0):
    """Rows and states that agree in few directions, as those of a trained model do: float32 ``[n, hidden]``."""
    rng = np.random.default_rng(seed)
    scale = np.linspace(1, 0.05, hidden) ** 2
    turn = np.linalg.qr(rng.standard_normal((hidden, hidden)))[0]
    centres = rng.standard_normal((groups, hidden)) * scale

    def drawn(n, spread):
        near = centres[rng.integers(0, groups, n)] + spread * rng.standard_normal((n, hidden)) * scale
        return (near @ turn).astype(np.float32)

    return drawn(items, 0.5), drawn(400, 0.3)
