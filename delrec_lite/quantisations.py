"""The ways to write a model file: what each does to the weights, and what that costs, by name and format.

A quantisation is its record: recipes, ``--quant``, help, export and bench know no other list. One that needs a way of
packing which no type here has names a function of its own as the type of its layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from delrec_lite.errors import UsageError
from delrec_lite.registry import Registry

AUTO = "auto"
# What the others are compared with: the numbers of training, not rounded.
BASELINE = "bf16"
_ROWS = {"gguf": "q8_0", "onnx": "float16"}


@dataclass(frozen=True)
class Quantisation:
    """A way to write a model file of one format.

    Attributes:
        name: What ``--quant`` and a recipe call it.
        format: ``gguf`` or ``onnx``.
        about: What it does, and what it costs in size and speed: a line of help.
        layers: Type of every matrix of the transformer that no pattern names. GGUF: a type of llama.cpp's. ONNX:
            ``fp32``, ``f16``, ``int8`` (rounded anew for each request, one scale for all activations), ``int8_block``,
            ``int4_block``, or ``module:function`` that is given the graph, the input's name, the layer's name and its
            weight, and returns the output's name.
        finer: Regular expression over a matrix's name -> its type; the first that is found counts. In GGUF's,
            ``{last}`` is the number of the last layer, ``{more}`` those that llama.cpp's Q4_K_M keeps finer.
        rows: Of what is no matrix of the transformer. GGUF: type of the token rows, which stay at 8 bits or more, for
            they are the recommender's own answers; default: ``q8_0``. ONNX: how floats are stored, ``float32`` or
            ``float16``, which is the default.
        narrow: GGUF: type -> what a matrix becomes instead whose rows are not whole blocks of it; llama.cpp takes the
            same, and does not say so.
        file_type: GGUF: llama.cpp's name of the whole; default: the layers' type.
        batches: ONNX: whether histories are evaluated together; not where that would change each other's scores.
    """

    name: str
    format: str
    about: str
    layers: str
    finer: Mapping[str, str] = field(default_factory=dict)
    rows: str = ""
    narrow: Mapping[str, str] = field(default_factory=dict)
    file_type: str = ""
    batches: bool = True

    def __post_init__(self) -> None:
        if self.format not in _ROWS:
            raise UsageError(
                f"quantisation {self.name!r} is for the format {self.format!r}", f"one of {', '.join(_ROWS)}"
            )
        object.__setattr__(self, "rows", self.rows or _ROWS[self.format])


# Without `pure` llama.cpp chooses types of its own; so each of these says what every tensor becomes.
GGUF = Registry(
    "quantisation",
    Quantisation,
    "delrec_lite.quantisations.gguf",
    (
        Quantisation("q4_0", "gguf", "4 bits in blocks of 32; the smallest, and the furthest from training", "q4_0"),
        Quantisation("iq4_nl", "gguf", "4 bits in blocks of 32, on uneven steps; as small, and closer", "iq4_nl"),
        Quantisation(
            "iq4_mix",
            "gguf",
            "iq4_nl, but 8 bits for the first and the last layer and for keys and values; a tenth larger, closer still",
            "iq4_nl",
            finer={r"blk\.(0|{last})\.": "q8_0", r"attn_(k|v)\.weight": "q8_0"},
        ),
        Quantisation(  # as llama.cpp's Q4_K_M, but for the token rows
            "q4_k_m",
            "gguf",
            "4 and 6 bits in blocks of 256; 5 and 8 bits where a layer's width is no multiple of 256",
            "q4_k",
            finer={r"blk\.({more})\.(attn_v|ffn_down)\.weight": "q6_k"},
            narrow={"q4_k": "q5_0", "q6_k": "q8_0"},
            file_type="Q4_K_M",
        ),
        Quantisation("q5_0", "gguf", "5 bits in blocks of 32; between 4 and 8 bits in size, often no faster", "q5_0"),
        Quantisation("q8_0", "gguf", "8 bits in blocks of 32; half of 16 bits, ranks as training does", "q8_0"),
        Quantisation("f16", "gguf", "16-bit floats; the largest, ranks as training does", "f16", rows="f16"),
        Quantisation(
            "bf16", "gguf", "16-bit floats of training's range; what the others are compared with", "bf16", rows="bf16"
        ),
    ),
)
ONNX = Registry(
    "quantisation for ONNX",
    Quantisation,
    "delrec_lite.quantisations.onnx",
    (
        Quantisation("int4", "onnx", "4 bits in blocks of 32; the smallest, no faster than 8", "int4_block"),
        Quantisation(
            "int8",
            "onnx",
            "8 bits, a scale for each output; fast, but one history at a time",
            "int8",
            finer={"down_proj$": "int8_block"},  # its activations have outliers
            batches=False,
        ),
        Quantisation("int8_block", "onnx", "8 bits in blocks of 32; ranks as training does", "int8_block"),
        Quantisation("f16", "onnx", "16-bit floats, computed in 32; half of fp32, as fast", "f16"),
        Quantisation("fp32", "onnx", "32-bit floats; the largest, ranks as training does", "fp32", rows="float32"),
    ),
)
FORMATS = {"gguf": GGUF, "onnx": ONNX}


def register_quantisation(quantisation: Quantisation) -> Quantisation:
    """Make a quantisation known to this process; see ``Registry.register``.

    A package that installs one names its record in the entry-point group ``delrec_lite.quantisations.gguf`` or
    ``delrec_lite.quantisations.onnx`` instead.
    """
    return FORMATS[quantisation.format].register(quantisation)


def quantisation_names() -> tuple[str, ...]:
    """All names, those of GGUF first; one that both formats have stands once."""
    return tuple(dict.fromkeys([*GGUF.names(), *ONNX.names()]))


def formats_of(name: str) -> tuple[str, ...]:
    """Formats that have a quantisation of this name, GGUF first; none where nobody knows it."""
    return tuple(kind for kind, known in FORMATS.items() if name in known)


def auto_candidates(model_format: str) -> tuple[str, ...]:
    """What ``auto`` chooses among; a name that both formats have means the GGUF file."""
    return tuple(
        name for name in FORMATS[model_format].names() if name != BASELINE and formats_of(name)[0] == model_format
    )


def help_lines() -> str:
    """The built-in ones as a list in Markdown, a line each."""
    built_in = [known[name] for known in FORMATS.values() for name in known.built_in]
    return "\n".join(f"- `{q.name}` ({q.format.upper()}): {q.about}." for q in built_in)
