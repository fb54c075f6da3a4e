"""What the Hub reads at the head of a model card: licence, data sets, base model and tags of a bundle."""

import re
from collections.abc import Mapping
from typing import Any

from delrec_lite.hub.registry import ASSETS

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_HOME = "https://huggingface.co/"
# The Hub's names of licences under which a data set or a model may be passed on, by what people write.
OPEN_LICENCES = {
    "apache-2.0": "apache-2.0",
    "mit": "mit",
    "cc0": "cc0-1.0",
    "cc0-1.0": "cc0-1.0",
    "public-domain": "pddl",
    "pddl": "pddl",
    "odbl": "odbl",
    "odc-by": "odc-by",
    "cdla-permissive-2.0": "cdla-permissive-2.0",
    "cc-by-4.0": "cc-by-4.0",
    "cc-by-sa-4.0": "cc-by-sa-4.0",
    "cc-by-nc-4.0": "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0": "cc-by-nc-sa-4.0",
}


def licence_id(licence: str) -> str | None:
    """The Hub's name of an open licence; None for other terms."""
    return OPEN_LICENCES.get("-".join(licence.lower().split()))


def base_model_id(base: str) -> str | None:
    """The Hub's id of a base model; None for a folder, a file, or a model that the Hub does not have.

    Args:
        base: As in a recipe: a name to pull, ``owner/name@revision``, a folder or a .gguf file.
    """
    if base in ASSETS:
        asset = ASSETS[base]
        ids = [mirror.address.partition("@")[0] for mirror in asset.mirrors if mirror.kind == "hub"]
        if asset.homepage.startswith(_HOME):
            ids.append(asset.homepage.removeprefix(_HOME))
        return ids[0] if ids else None
    name = base.partition("@")[0]
    return name if _HUB_ID.fullmatch(name) and name[0] not in "./~" else None


def card_fields(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a bundle's card, as ``huggingface_hub.ModelCardData`` takes them.

    Args:
        manifest: Of the bundle: ``model``, ``provenance`` and ``licences``.
    """
    recipe = section(manifest, "provenance", "recipe")
    model, licences = section(manifest, "model"), section(manifest, "licences")
    base = base_model_id(str(section(recipe, "model").get("base") or model.get("base", "")))
    data = section(recipe, "data")
    kinds = [kind for kind in ("gguf", "onnx") if kind in _formats(model)]
    fields: dict[str, Any] = {"library_name": "delrec-lite", **_licence(licences, data)}
    if base is not None:
        fields |= {"base_model": base, "base_model_relation": "finetune"}
    if data.get("name") in licences and not data.get("folder"):
        fields["datasets"] = [data["name"]]
    fields["tags"] = ["recommendation", "sequential-recommendation", *kinds, "delrec"]
    return fields


def section(content: Mapping[str, Any], *path: str) -> Mapping[str, Any]:
    """A part of a manifest, which may be of another program; empty where there is none."""
    for key in path:
        inner = content.get(key)
        content = inner if isinstance(inner, Mapping) else {}
    return content


def _licence(licences: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, str]:
    """One licence if base and data have the same one; else the bundle's own list of them."""
    ids = {licence_id(str(licence)) for licence in licences.values()}
    known = ids.pop() if len(ids) == 1 and data.get("name") in licences else None
    return (
        {"license": known} if known else {"license": "other", "license_name": "several", "license_link": "LICENCES.md"}
    )


def _formats(model: Mapping[str, Any]) -> set[str]:
    entries = [model, model.get("onnx"), *(model.get("others") or [])]
    return {str(entry.get("file", "")).rpartition(".")[2] for entry in entries if isinstance(entry, Mapping)}
