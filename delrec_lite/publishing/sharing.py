"""Whether a bundle's catalogue may become public: it holds titles and some users' histories."""

from delrec_lite.hub.card import licence_id, section
from delrec_lite.runtime.bundle import Bundle


def why_private(bundle: Bundle) -> str:
    """Why a bundle's catalogue must not become public unless its owner says so; empty if its licence allows it.

    Args:
        bundle: Whose data set is one that can be pulled, or the user's own.
    """
    data = section(bundle.manifest, "provenance", "recipe", "data")
    name = str(data.get("name") or "")
    if not name:
        return "nothing in the bundle says where its catalogue comes from"
    if data.get("folder"):
        return f"its catalogue comes from data of your own, {data['folder']}"
    licence = str(section(bundle.manifest, "licences").get(name) or "none is known")
    if licence_id(licence) is None:
        return f"the licence of its data set {name} does not allow it: {licence}"
    if bundle.holds_additions:
        return f"{len(bundle.items.ids) - bundle.trained} items were added to its catalogue"
    added = [column.name for column in bundle.columns if column.name not in (data.get("item_columns") or ())]
    return f"item columns were added to its catalogue: {', '.join(added)}" if added else ""
