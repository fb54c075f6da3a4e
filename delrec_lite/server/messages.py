"""Turns the validation errors of FastAPI and pydantic into one line that says what is wrong, where, and what to do."""

from collections.abc import Mapping, Sequence
from typing import Any

from delrec_lite.errors import did_you_mean

JSON = "application/json"
_EXAMPLE = '{"history": ["Toy Story (1995)", "id:42"]}'
_BATCH_EXAMPLE = '{"histories": [["Toy Story (1995)", "id:42"], ["id:7"]]}'
_AVAILABILITY_EXAMPLE = '{"unavailable": ["id:42"], "available": []}'
_FEEDBACK_EXAMPLE = '{"request_id": "1f2e3d4c", "item": "42", "event": "click"}'
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
_SEE = "see /docs for the fields of a request"


def unreadable_body(content_type: str) -> tuple[int, str, str]:
    """Status, error and hint where FastAPI could not read a body at all."""
    if not _is_json(content_type):
        return not_json(content_type)
    return 400, "the body is not JSON that can be read", f"send UTF-8, such as {_EXAMPLE}"


def not_json(content_type: str) -> tuple[int, str, str]:
    """Status, error and hint for a body that does not say that it is JSON."""
    kind = f"is sent as {content_type[:100]!r}, not as JSON" if content_type else "has no Content-Type"
    return 415, f"the body {kind}", f"send the header Content-Type: {JSON}"


def invalid(errors: Sequence[Mapping[str, Any]], content_type: str, fields: Sequence[str]) -> tuple[int, str, str]:
    """Status, error and hint for a request that does not fit its schema.

    Args:
        errors: As FastAPI reports them; the first one counts.
        content_type: Of the request; empty where it has none.
        fields: Names that the request may hold.
    """
    error = errors[0]
    place, kind, value = error["loc"], error["type"], error.get("input")
    send = f"send JSON such as {_example(fields)}"
    if kind == "json_invalid":
        reason = error.get("ctx", {}).get("error", "it cannot be read")
        message = f"the body is not JSON: {reason} (character {place[-1]})"
        return (422, message, send) if _is_json(content_type) else not_json(content_type)
    if len(place) == 1 and place[0] == "body":
        if kind == "missing":
            return 422, "the body is empty", send
        if kind == "value_error":
            hint = "give one entry for each history, or none" if "histories" in fields else send
            return 422, str(error["msg"]).removeprefix("Value error, "), hint
        if not _is_json(content_type):
            return not_json(content_type)
        return 422, f"the body is {_kind(value)}, not an object", send
    where = _where(place[1:])
    if kind == "missing":
        return 422, f"{where} is missing", f"{send}; it may be empty: []" if where.startswith("histor") else _SEE
    if kind == "extra_forbidden":
        return 422, f"there is no field {where}", did_you_mean(where, fields)
    if kind == "string_type":
        hint = f'put it in quotes: an id as "id:{value}"' if type(value) is int else 'give a title, or "id:42"'
        return 422, f"{where} is {_kind(value)}, not a text", _SEE if where.startswith("words") else hint
    if kind == "list_type":
        return 422, f"{where} is {_kind(value)}, not a list", "put it in brackets: [...]"
    return 422, f"{where}: {str(error['msg']).replace('Input should', 'it should')}", _SEE


def _example(fields: Sequence[str]) -> str:
    """A body with some of these fields."""
    examples = {"histories": _BATCH_EXAMPLE, "unavailable": _AVAILABILITY_EXAMPLE, "events": _FEEDBACK_EXAMPLE}
    return next((examples[name] for name in examples if name in fields), _EXAMPLE)


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON or (media_type.startswith("application/") and media_type.endswith("+json"))


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def _where(place: Sequence[str | int]) -> str:
    """``history[3]`` for ``("history", 3)``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)[:100]
    return text
