"""The model card of a bundle on the Hub: the card that export wrote, with the Hub's fields at its head."""

import re
from typing import Any

from delrec_lite.errors import DelrecError
from delrec_lite.hub.card import card_fields
from delrec_lite.hub.huggingface import library
from delrec_lite.publishing.figures import figures_of
from delrec_lite.runtime.bundle import Bundle

CARD = "README.md"
_HEAD = re.compile(r"\A---\n.*?^---\n", re.DOTALL | re.MULTILINE)
_SECTION = "## With delrec-lite\n"


def hub_card(bundle: Bundle, repository: str) -> str:
    """The card, read back by huggingface_hub's own classes.

    Args:
        bundle: To publish.
        repository: ``owner/name``.

    Raises:
        DelrecError: huggingface_hub does not take its fields.
        MissingPackageError: huggingface_hub is not installed.
    """
    hub = library()
    fields: dict[str, Any] = card_fields(bundle.manifest)
    if figures := figures_of(bundle):
        fields["metrics"] = sorted({figure["metric_type"] for figure in figures})
    try:
        results = [hub.EvalResult(**figure) for figure in figures]
        data = hub.ModelCardData(**fields, model_name=bundle.name, eval_results=results or None)
        card = str(hub.ModelCard(f"---\n{data.to_yaml()}\n---\n{_body(bundle, repository)}"))
        hub.ModelCard(card)
    except (TypeError, ValueError) as error:
        raise DelrecError(f"the card of {bundle.folder} has fields that the Hub does not take: {error}") from error
    return card


def _body(bundle: Bundle, repository: str) -> str:
    """The text of export's card, in which the commands of this program name the repository."""
    try:
        text = _HEAD.sub("", (bundle.folder / CARD).read_text(encoding="utf-8"))
    except OSError:
        text = f"# {bundle.name}\n\n{_SECTION}\n```bash\ndelrec-lite verify {bundle.name}.delrec\n```\n"
    before, heading, after = text.partition(_SECTION)
    ours, following, rest = after.partition("\n## ")
    ours = ours.replace(f"{bundle.name}.delrec", f"hf://{repository}").replace("delrec-lite[", "delrec-lite[hub,")
    download = f"\nFor the runtimes below: `hf download {repository} --local-dir {bundle.name}.delrec`.\n"
    return f"{before}{heading}{ours}{download if following else ''}{following}{rest}"
