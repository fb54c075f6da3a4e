"""Errors of a command line that cannot be read, in the form of all other errors, with the nearest names."""

import re
from typing import Any

from delrec_lite.errors import UsageError, did_you_mean, nearest_name

_NOT_ONE_OF = re.compile(r"(?:Invalid value for (.*?): )?(?:Value error, )?'(.*)' is not one of (.*)", re.DOTALL)


def is_usage_error(error: BaseException) -> bool:
    """Whether typer raised it about the command line."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def usage_error(error: Any) -> UsageError:
    """The error of this package for one of typer's: an unknown verb, option or value, or one that is missing."""
    message, context = str(error.format_message()).removesuffix("."), getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    hint = f"{context.command_path} --help" if context is not None else "delrec-lite --help"
    if (name := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
        known = [option for parameter in getattr(command, "params", ()) for option in parameter.opts]
        nearest = nearest_name(name, [option for option in known if option.startswith("--")])
        return UsageError(f"no such option: {name}", f"did you mean {nearest}? {hint}" if nearest else hint)
    if match := re.match(r"No such command '(.*?)'", message):
        return UsageError(f"no such command: {match[1]}", did_you_mean(match[1], getattr(command, "commands", ())))
    if match := re.match(
        r"(?:Invalid value for (.*?): )?(?:Value error, )?'(.*)' is not one of (.*)", message, re.DOTALL
    ):
        names, option = re.findall(r"'([^']*)'", match[3]), (match[1] or "an argument").replace("'", "")
        return UsageError(f"{option} has no value {match[2]!r}", did_you_mean(match[2], names))
    return UsageError(message[:1].lower() + message[1:], hint)
