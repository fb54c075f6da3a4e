"""Filters over item columns: ``category = "toys" and price < 20 and not brand in ("x", "y")`` to a mask of the items.

The grammar, in which ``{}`` may come again and ``[]`` may be left out; keywords in small or capital letters::

    filter  = both {"or" both}
    both    = test {"and" test}
    test    = "not" test | "(" filter ")" | column condition | column
    condition = ("=" | "!=" | "<" | "<=" | ">" | ">=") value
              | ["not"] "in" "(" value {"," value} ")"
              | ["not"] "between" value "and" value
              | "has" text
              | "is" ["not"] "missing"
    value   = text | number | "true" | "false"
    column  = a name of letters, digits, "_", "." and "-", or any name in backquotes

A column alone must hold truth values. A text stands in ``"`` or ``'``; a backslash keeps the next character. ``has``
is for lists, and ``between`` includes both ends.

A missing value equals nothing: every condition but ``is missing`` is false for it, ``not`` of that is true, and
``!=``, ``not in`` and ``not between`` are ``not`` of the condition without it. So ``not brand = "x"`` keeps the items
without a brand, as search engines do and SQL does not.

The parser is a recursive descent over the tokens of one regular expression and knows nothing but this grammar: nothing
of a filter is ever evaluated as code. A parser library would replace 60 of these lines, and bring a second language for
the grammar and errors of its own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from delrec_lite.data.columns import LIST, NUMBER, TEXT, TRUTH
from delrec_lite.data.types import Bools
from delrec_lite.errors import UsageError, did_you_mean
from delrec_lite.runtime.item_columns import Column, ItemColumns

LONGEST, DEEPEST = 4000, 40
# Masks that stay in memory: so many filters, or so many bytes.
MOST_CACHED, CACHED_BYTES = 256, 1 << 25

_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<quoted>`[^`]*`)
      | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))
      | (?P<word>[^\W\d][\w.\-]*)
      | (?P<sign><=|>=|!=|[=<>(),]))""",
    re.VERBOSE | re.DOTALL,
)
_KEYWORDS = {"and", "or", "not", "in", "between", "has", "is", "missing", "true", "false"}
_COMPARISONS = ("=", "!=", "<", "<=", ">", ">=")
_END = "the end"
_SHOWN = {TEXT: "text", NUMBER: "a number", TRUTH: "true or false", LIST: "a list of texts"}
_EXAMPLE = 'write it as in category = "toys" and price < 20'


class Filters:
    """Filters over the columns of one catalogue; the masks of the last ones stay in memory. Safe under threads.

    Args:
        columns: Of the catalogue.
    """

    def __init__(self, columns: ItemColumns) -> None:
        self._columns = columns
        most = max(1, min(MOST_CACHED, CACHED_BYTES // (columns.items + 1)))
        self._cached = lru_cache(most)(self._parse)

    def mask(self, where: str) -> Bools:
        """The items that a filter keeps.

        Args:
            where: The filter.

        Returns:
            bool ``[items + 1]``, not to be written to; the last is for any item outside the catalogue, which has no
            values.

        Raises:
            UsageError: It is no filter, too long or too deep, names no column, or compares values of different types;
                says where.
        """
        if not isinstance(where, str):
            raise UsageError(f"where is of type {type(where).__name__}", f"give a text: {_EXAMPLE}")
        if len(where) > LONGEST:
            raise UsageError(f"where has {len(where)} characters", f"write at most {LONGEST}")
        return self._cached(str(where))

    def _parse(self, where: str) -> Bools:
        mask = _Parser(where, self._columns).filter()
        mask.setflags(write=False)
        return mask


@dataclass(frozen=True)
class _Token:
    """A token: its kind (``text``, ``number``, ``name``, ``sign``, a keyword or the end), value and place from 1."""

    kind: str
    value: Any
    at: int

    @property
    def written(self) -> str:
        """About as the filter has it."""
        return f"{self.value:g}" if self.kind == "number" else str(self.value)[:60]

    def __str__(self) -> str:
        return self.written if self.kind in (_END, "number") else repr(self.written)


class _Parser:
    """Parses a filter and computes its mask in the same walk, so that every error knows its place."""

    def __init__(self, where: str, columns: ItemColumns) -> None:
        self._columns, self._depth, self._next = columns, 0, 0
        self._tokens = _tokens(where)

    def filter(self) -> Bools:
        if self._now.kind == _END:
            raise _error(self._now, "the filter is empty", f"leave it out, or {_EXAMPLE}")
        mask = self._either()
        if self._now.kind != _END:
            raise _error(self._now, f"{self._now} does not belong here", "join conditions with and, or")
        return mask

    @property
    def _now(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *kinds: str) -> _Token | None:
        """The next token if it is of one of these kinds."""
        token = self._now
        if token.kind not in kinds:
            return None
        self._next += 1
        return token

    def _expect(self, kind: str, hint: str) -> _Token:
        token = self._take(kind)
        if token is None:
            raise _error(self._now, f"{kind!r} is missing before {self._now}", hint)
        return token

    def _either(self) -> Bools:
        mask = self._both()
        while self._take("or"):
            mask = mask | self._both()
        return mask

    def _both(self) -> Bools:
        mask = self._test()
        while self._take("and"):
            mask = mask & self._test()
        return mask

    def _test(self) -> Bools:
        if (token := self._take("not", "(")) is None:
            return self._condition()
        self._depth += 1
        if self._depth > DEEPEST:
            raise _error(token, f"more than {DEEPEST} parentheses and nots inside each other", "write a flatter filter")
        if token.kind == "not":
            mask = ~self._test()
        else:
            mask = self._either()
            self._expect(")", "close every parenthesis")
        self._depth -= 1
        return mask

    def _condition(self) -> Bools:
        name = self._take("name")
        if name is None:
            raise _error(self._now, f"{self._now} is no column", self._columns_hint(self._now))
        if name.value not in self._columns:
            raise _error(name, f"there is no column {name.value[:60]!r}", self._columns_hint(name))
        column = self._columns[name.value]
        if token := self._take(*_COMPARISONS):
            return self._compared(column, token)
        if self._take("is"):
            positive = not self._take("not")
            self._expect("missing", "write is missing, or is not missing")
            return column.missing.copy() if positive else ~column.missing
        if token := self._take("has"):
            self._check(column, token, LIST)
            return column.has([self._value(token, TEXT)])
        positive = not self._take("not")
        if token := self._take("in"):
            mask = self._listed(column, token)
        elif token := self._take("between"):
            self._check(column, token, NUMBER, TEXT)
            low = self._value(token, column.kind)
            self._expect("and", "write between 5 and 20")
            high = self._value(token, column.kind)
            mask = column.compares(">=", low) & column.compares("<=", high)
        elif positive:
            if column.kind != TRUTH:
                hint = f"compare it, such as {_named(column)} {_example(column)}"
                raise _error(name, f"{column.name!r} is {_SHOWN[column.kind]}, which alone is no condition", hint)
            mask = column.is_true()
        else:
            raise _error(
                self._now, f"{self._now} does not belong here", "after a column, not is followed by in or between"
            )
        return mask if positive else ~mask

    def _compared(self, column: Column, token: _Token) -> Bools:
        if token.kind in ("=", "!="):
            self._check(column, token, NUMBER, TEXT, TRUTH)
            mask = column.compares("=", self._value(token, column.kind))
            return mask if token.kind == "=" else ~mask
        self._check(column, token, NUMBER, TEXT)
        return column.compares(token.kind, self._value(token, column.kind))

    def _listed(self, column: Column, token: _Token) -> Bools:
        self._check(column, token, NUMBER, TEXT, TRUTH)
        self._expect("(", 'write the values in parentheses: in ("x", "y")')
        values = [self._value(token, column.kind)]
        while self._take(","):
            values.append(self._value(token, column.kind))
        self._expect(")", "close the list, with commas between its values")
        if column.kind == TEXT:
            return column.has(values)
        mask = column.compares("=", values[0])
        for value in dict.fromkeys(values[1:]):
            mask = mask | column.compares("=", value)
        return mask

    def _check(self, column: Column, token: _Token, *kinds: str) -> None:
        """Refuse a condition that the column's type does not have."""
        if column.kind not in kinds:
            hint = f"write {_named(column)} {_example(column)}".rstrip()
            raise _error(token, f"{column.name!r} is {_SHOWN[column.kind]}: it has no {token.value!r}", hint)

    def _value(self, after: _Token, kind: str) -> Any:
        """The next value, which must be of this kind."""
        token = self._take("text", "number", "true", "false")
        if token is None:
            token = self._now
            hint = f'put it in quotes: "{token.written}"' if token.kind == "name" and kind == TEXT else _EXAMPLE
            hint = "write = once" if token.kind == after.kind == "=" else hint
            raise _error(token, f"{token} is no value after {after.value!r}", hint)
        given = TRUTH if token.kind in ("true", "false") else token.kind
        if given != kind:
            hint = {TEXT: f'put it in quotes: "{token.written}"', NUMBER: "write a number without quotes"}.get(kind, "")
            raise _error(
                token, f"{token} is {_SHOWN[given]}; the column is compared with {_SHOWN[kind]}", hint or _EXAMPLE
            )
        return token.kind == "true" if given == TRUTH else token.value

    def _columns_hint(self, token: _Token) -> str:
        if not self._columns.names:
            return "this bundle has no item columns: set them with `delrec-lite catalog columns ... --item-columns`"
        return did_you_mean(str(token.value)[:100], self._columns.names)


def _tokens(where: str) -> list[_Token]:
    """The tokens of a filter, the last of which is the end."""
    tokens, at = [], 0
    where = where.rstrip()
    while at < len(where):
        match = _TOKEN.match(where, at)
        if match is None or match.lastgroup is None:
            start = at + len(where[at:]) - len(where[at:].lstrip())
            sign = where[start]
            problem = f"the quote {sign} is not closed" if sign in "\"'`" else f"{sign!r} does not belong here"
            hint = (
                "use =, !=, and, or, not" if sign in "&|!~" else "texts stand in quotes, and \\ keeps a quote in them"
            )
            raise _error(_Token("", sign, start + 1), problem, hint)
        kind, text, start = match.lastgroup, match[match.lastgroup], match.start(match.lastgroup) + 1
        tokens.append(_READ[kind](text, start))
        at = match.end()
    return [*tokens, _Token(_END, _END, len(where) + 1)]


def _word(text: str, at: int) -> _Token:
    lower = text.lower()
    return _Token(lower, lower, at) if lower in _KEYWORDS else _Token("name", text, at)


_READ: dict[str, Callable[[str, int], _Token]] = {
    "text": lambda text, at: _Token("text", re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL), at),
    "quoted": lambda text, at: _Token("name", text[1:-1], at),
    "number": lambda text, at: _Token("number", float(text), at),
    "sign": lambda text, at: _Token(text, text, at),
    "word": _word,
}


def _named(column: Column) -> str:
    """A column's name as a filter writes it."""
    plain = re.fullmatch(r"[^\W\d][\w.\-]*", column.name) and column.name.lower() not in _KEYWORDS
    return column.name if plain else f"`{column.name}`"


def _example(column: Column) -> str:
    return {TEXT: '= "..."', NUMBER: "< 20", TRUTH: "= true", LIST: 'has "..."'}[column.kind]


def _error(token: _Token, problem: str, hint: str) -> UsageError:
    return UsageError(f"where, character {token.at}: {problem}", hint)
