"""Pictures read out of their SVG, and a row to draw one from."""

from xml.etree.ElementTree import Element, ElementTree

from delrec_lite.bench.quantisations import Quantised

SVG = "{http://www.w3.org/2000/svg}"


def marks(picture: Element | ElementTree, what: str) -> dict[str, list[Element]]:
    """Groups named ``NAME-what`` or ``what-NAME``, by name, each with the marks in it."""
    groups = {group.get("id", ""): group for group in picture.iter(f"{SVG}g")}
    return {
        name.removesuffix(f"-{what}").removeprefix(f"{what}-"): list(group.iter(f"{SVG}use"))
        for name, group in groups.items()
        if name.endswith(f"-{what}") or name.startswith(f"{what}-")
    }


def quant_row(quant, ms, hr_drop):
    """A precision that takes ``ms`` and loses ``hr_drop`` of HR@1."""
    sampled = {"HR@1": 0.9, "NDCG@10": 0.9}  # with the sets that were drawn
    metrics = {
        "sampled": sampled,
        "expected_sampled": {"HR@1": 0.5 - hr_drop, "NDCG@10": 0.7},
        "full": {"HR@1": 0.1, "NDCG@10": 0.2},
    }
    return Quantised("gguf", quant, int(1e6 * ms), {}, ms, metrics, 0.9, {"difference": 0.4}, {"difference": -hr_drop})
