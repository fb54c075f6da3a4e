"""The texts of a bundle: its README (a model card) and the licences of what is inside."""

from collections.abc import Mapping
from typing import Any


def bundle_readme(name: str, model: Mapping[str, Any], licences: Mapping[str, str]) -> str:
    """A model card with front matter."""
    tags = "\n".join(f"  - {tag}" for tag in ("recommendation", "sequential-recommendation", "gguf", "delrec"))
    types = ", ".join(f"{count} x {kind}" for kind, count in model["tensor_types"].items()) or "F16"
    return f"""---
library_name: delrec-lite
tags:
{tags}
---
# {name}

A sequential recommender: {model["base"]} with a distilled soft prompt, a fine-tuned adapter merged in and the whole
catalogue as item tokens. Model file: `{model["file"]}` ({types}).

    pip install "delrec-lite[gguf]"
    delrec-lite recommend {name}.delrec --history "a title" --history "another title" -k 10

In Python:

    from delrec_lite.runtime.recommender import Recommender

    recommender = Recommender.load("{name}.delrec")
    recommender.recommend(history=["a title", "another title"], k=10)

`manifest.json` holds the hash of every file, the recipe and the figures of the comparison with the trained model.

## Licences

{licences_text(licences)}"""


def licences_text(licences: Mapping[str, str]) -> str:
    """One line for the base model and one for the data."""
    return "".join(f"- {name}: {licence}\n" for name, licence in licences.items())
