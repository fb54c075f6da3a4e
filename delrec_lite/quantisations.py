"""Quantisations of a model file, by name and format: the type of every tensor, and a line of help.

Recipes, ``--quant``, help, export and bench all use these records. A quantisation with a new packing names a function
as the type of its layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from delrec_lite.errors import UsageError, did_you_mean
from delrec_lite.registry import Registry

AUTO = "auto"
# The reference of comparisons: the weights as trained, not quantised.
BASELINE = "bf16"
_ROWS = {"gguf": "q8_0", "onnx": "float16"}


@dataclass(frozen=True)
class Quantisation:
    """How to quantise a model file of one format.

    Attributes:
        name: Its name in ``--quant`` and recipes.
        format: ``gguf`` or ``onnx``.
        about: What it does, its size and its speed, in one line of help.
        layers: Type of every matrix of the transformer that no pattern of ``overrides`` matches. GGUF: a type of
            llama.cpp. ONNX: ``fp32``, ``f16``, ``int8`` (dynamic, one scale for all activations of a request),
            ``int8_block``, ``int4_block``, or ``module:function`` that gets the graph, the input's name, the layer's
            name and its weight, and returns the output's name.
        overrides: Regular expression over a matrix's name -> its type; the first match counts. In patterns for GGUF,
            ``{last}`` is the number of the last layer, ``{more}`` the layers that llama.cpp's Q4_K_M gives more bits.
        rows: Type of the tensors that are no matrix of the transformer. GGUF: of the token rows; at least 8 bits,
            because scores are computed from them; default: ``q8_0``. ONNX: of stored floats, ``float32`` or
            ``float16``; default: ``float16``.
        fallbacks: GGUF: type -> type of a matrix whose row length is no multiple of the first type's block size;
            llama.cpp makes the same replacement silently.
        file_type: GGUF: llama.cpp's name of the file type; default: the layers' type.
        batches: ONNX: whether histories may share a batch; False if that would change their scores.
    """

    name: str
    format: str
    about: str
    layers: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    rows: str = ""
    fallbacks: Mapping[str, str] = field(default_factory=dict)
    file_type: str = ""
    batches: bool = True

    def __post_init__(self) -> None:
        if self.format not in _ROWS:
            raise UsageError(
                f"quantisation {self.name!r} is for the format {self.format!r}", did_you_mean(self.format, _ROWS)
            )
        object.__setattr__(self, "rows", self.rows or _ROWS[self.format])


# Without `pure` llama.cpp chooses tensor types itself; so each record gives the type of every tensor.
GGUF = Registry(
    "quantisation",
    Quantisation,
    "delrec_lite.quantisations.gguf",
    (
        Quantisation("q4_0", "gguf", "4 bits in blocks of 32; the smallest and the least accurate", "q4_0"),
        Quantisation("iq4_nl", "gguf", "4 bits in blocks of 32, non-uniform levels; as small, more accurate", "iq4_nl"),
        Quantisation(
            "iq4_mix",
            "gguf",
            "iq4_nl, but 8 bits for the first and the last layer and for keys and values; 10% larger, more accurate",
            "iq4_nl",
            overrides={r"blk\.(0|{last})\.": "q8_0", r"attn_(k|v)\.weight": "q8_0"},
        ),
        Quantisation(  # as llama.cpp's Q4_K_M, except for the token rows
            "q4_k_m",
            "gguf",
            "4 and 6 bits in blocks of 256; 5 and 8 bits if a layer's width is no multiple of 256",
            "q4_k",
            overrides={r"blk\.({more})\.(attn_v|ffn_down)\.weight": "q6_k"},
            fallbacks={"q4_k": "q5_0", "q6_k": "q8_0"},
            file_type="Q4_K_M",
        ),
        Quantisation("q5_0", "gguf", "5 bits in blocks of 32; between 4 and 8 bits in size, often no faster", "q5_0"),
        Quantisation("q8_0", "gguf", "8 bits in blocks of 32; half the size of 16 bits, ranks as in training", "q8_0"),
        Quantisation("f16", "gguf", "16-bit floats; the largest, ranks as in training", "f16", rows="f16"),
        Quantisation(
            "bf16",
            "gguf",
            "16-bit floats with the range of fp32; the reference of comparisons",
            "bf16",
            rows="bf16",
        ),
    ),
)
ONNX = Registry(
    "quantisation for ONNX",
    Quantisation,
    "delrec_lite.quantisations.onnx",
    (
        Quantisation("int4", "onnx", "4 bits in blocks of 32; the smallest, no faster than 8 bits", "int4_block"),
        Quantisation(
            "int8",
            "onnx",
            "8 bits, one scale per output; fast, but one history at a time",
            "int8",
            overrides={"down_proj$": "int8_block"},  # its activations have outliers
            batches=False,
        ),
        Quantisation("int8_block", "onnx", "8 bits in blocks of 32; ranks as in training", "int8_block"),
        Quantisation("f16", "onnx", "16-bit floats, computed in 32 bits; half the size of fp32, as fast", "f16"),
        Quantisation("fp32", "onnx", "32-bit floats; the largest, ranks as in training", "fp32", rows="float32"),
    ),
)
FORMATS = {"gguf": GGUF, "onnx": ONNX}


def register_quantisation(quantisation: Quantisation) -> Quantisation:
    """Register a quantisation in this process; see ``Registry.register``.

    A package that installs one names its record in the entry-point group ``delrec_lite.quantisations.gguf`` or
    ``delrec_lite.quantisations.onnx`` instead.
    """
    return FORMATS[quantisation.format].register(quantisation)


def quantisation_names() -> tuple[str, ...]:
    """All names, those of GGUF first, without duplicates."""
    return tuple(dict.fromkeys([*GGUF.names(), *ONNX.names()]))


def formats_of(name: str) -> tuple[str, ...]:
    """Formats that have a quantisation of this name, GGUF first; none for an unknown name."""
    return tuple(kind for kind, registry in FORMATS.items() if name in registry)


def auto_candidates(model_format: str) -> tuple[str, ...]:
    """The quantisations that ``auto`` tries; a name that both formats have means GGUF."""
    return tuple(
        name for name in FORMATS[model_format].names() if name != BASELINE and formats_of(name)[0] == model_format
    )


def help_lines() -> str:
    """The built-in quantisations as a Markdown list."""
    built_in = [registry[name] for registry in FORMATS.values() for name in registry.built_in]
    return "\n".join(f"- `{q.name}` ({q.format.upper()}): {q.about}." for q in built_in)
