"""Filters over item columns: what each condition keeps, the errors of a text, and that nothing else is evaluated."""

import builtins
import operator
import random
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delrec_lite.data.columns import ItemColumn
from delrec_lite.errors import DelrecError, UsageError
from delrec_lite.runtime.filters import DEEPEST, LONGEST, Filters
from delrec_lite.runtime.item_columns import ItemColumns

COLUMNS = (
    ItemColumn("category", "text", ("toys", "books", "toys", None, "gar den")),
    ItemColumn("brand", "text", ("x", None, "z", "y", 'a"b')),
    ItemColumn("price", "number", (5.0, 19.5, 30.0, None, -2.0)),
    ItemColumn("available", "truth", (True, False, None, True, True)),
    ItemColumn("genres", "list", (("A", "B"), ("B",), None, (), ("C d",))),
    ItemColumn("in", "text", ("1", "2", "3", "4", None)),
    ItemColumn("two words", "number", (1.0, 2.0, 3.0, 4.0, 5.0)),
)
ITEMS = 5
FILTERS = Filters(ItemColumns(COLUMNS, ITEMS))


def kept(where):
    mask = FILTERS.mask(where)
    assert (mask.dtype, mask.shape) == (bool, (ITEMS + 1,))
    return np.flatnonzero(mask).tolist()


NEW = ITEMS  # the place of any item outside the catalogue


@pytest.mark.parametrize(
    ("where", "items"),
    [
        ('category = "toys"', [0, 2]),
        ("category = 'toys'", [0, 2]),
        ('category != "toys"', [1, 3, 4, NEW]),
        ('category = "Toys"', []),
        ('category = "gar den"', [4]),
        ('category in ("toys", "books", "none")', [0, 1, 2]),
        ('category not in ("toys", "books")', [3, 4, NEW]),
        ('not brand in ("x", "y")', [1, 2, 4, NEW]),
        (r'brand = "a\"b"', [4]),
        ("brand = 'a\"b'", [4]),
        ("price < 20", [0, 1, 4]),
        ("price<=19.5", [0, 1, 4]),
        ("price > -2", [0, 1, 2]),
        ("price >= -2e0", [0, 1, 2, 4]),
        ("price = 5.0", [0]),
        ("price in (5, 30)", [0, 2]),
        ("price between 5 and 20", [0, 1]),
        ("not (price < 20)", [2, 3, NEW]),
        ("price not between 5 and 20", [2, 3, 4, NEW]),
        ("available", [0, 3, 4]),
        ("not available", [1, 2, NEW]),
        ("available = false", [1]),
        ("available != true", [1, 2, NEW]),
        ("available is missing", [2, NEW]),
        ("price is not missing", [0, 1, 2, 4]),
        ('genres has "B"', [0, 1]),
        ('genres has "C d"', [4]),
        ("genres is missing", [2, NEW]),
        ('category < "d"', [1]),
        ('category between "books" and "h"', [1, 4]),
        ('category > "books"', [0, 2, 4]),
        ('`in` = "2" or `two words` = 5', [1, 4]),
        ('category = "toys" and price < 20 and not brand in ("z", "y")', [0]),
        ('category = "books" or category = "toys" and price > 20', [1, 2]),
        ('(category = "books" or category = "toys") and price > 19', [1, 2]),
        ('NOT category = "toys" AND price IS NOT MISSING', [1, 4]),
    ],
)
def test_a_filter_keeps_what_it_says(where, items):
    assert kept(where) == items


@pytest.mark.parametrize(
    ("where", "message", "hint"),
    [
        ("", "character 1: the filter is empty", "leave it out"),
        ('categry = "x"', "character 1: there is no column 'categry'", "did you mean category?"),
        ("category = toys", "character 12: 'toys' is no value after '='", 'quotes: "toys"'),
        ('price = "5"', "character 9: '5' is text; the column is compared with a number", "without quotes"),
        ("brand = 5", "character 9: 5 is a number; the column is compared with text", '"5"'),
        ('genres = "A"', "character 8: 'genres' is a list of texts: it has no '='", 'genres has "..."'),
        ('category has "A"', "'category' is text: it has no 'has'", 'category = "..."'),
        ("`two words` has 1", "it has no 'has'", "`two words` < 20"),
        ("available > true", "true or false: it has no '>'", "available = true"),
        ("category", "character 1: 'category' is text, which alone is no condition", "compare it"),
        ('price < 20 & category = "x"', "character 12: '&' does not belong here", "and"),
        ("price == 5", "character 8: '=' is no value after '='", "write = once"),
        ("price < 20 price", "character 12: 'price' does not belong here", "and, or"),
        ("(price < 20", "character 12: ')' is missing before the end", "parenthesis"),
        ("price between 5", "'and' is missing before the end", "between 5 and 20"),
        ("price in 5", "'(' is missing before 5", "parentheses"),
        ("price in (5, )", "is no value", ""),
        ("price not 5", "5 does not belong here", "in or between"),
        ('category = "toys', 'character 12: the quote " is not closed', "quotes"),
        ("price < 5x", "does not belong here", ""),
        ("price is 5", "'missing' is missing before 5", "is not missing"),
        ("__import__('os')", "there is no column '__import__'", "one of"),
        ("not " * (DEEPEST + 1) + "available", f"more than {DEEPEST}", "flatter"),
        ("(" * 2000, f"more than {DEEPEST}", "flatter"),
        ("x" * (LONGEST + 1), f"where has {LONGEST + 1} characters", str(LONGEST)),
        (5, "where is of type int", "give a text"),
        (b"price", "where is of type bytes", "give a text"),
    ],
)
def test_an_error_says_where_and_what_to_do(where, message, hint):
    with pytest.raises(UsageError) as raised:
        FILTERS.mask(where)
    assert message in raised.value.message
    assert hint in raised.value.hint
    assert "\n" not in raised.value.message + raised.value.hint


def test_without_columns_the_error_says_how_to_get_them():
    with pytest.raises(UsageError) as raised:
        Filters(ItemColumns((), 3)).mask("price < 5")
    assert "--item-columns" in raised.value.hint


def test_long_filters_of_one_level_are_evaluated_and_the_last_ones_remembered():
    many = " or ".join(["price < 20"] * 285)
    assert kept(many) == kept("price < 20")
    assert FILTERS.mask("price < 20") is FILTERS.mask("price < 20")
    with pytest.raises(ValueError, match="read-only"):
        FILTERS.mask("price < 20")[0] = False


# Filters of the grammar, each with a function that says of one item whether it is kept.
COMPARE = {"=": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
BY_NAME = {column.name: (*column.values, None) for column in COLUMNS}
NUMBERS = st.floats(-40, 40, allow_nan=False).map(lambda x: round(x, 1))
WORDS = st.sampled_from(["toys", "books", "x", "a b", "", "B", 'a"b', "z\\"])


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def compared(name, sign, value):
    text = quoted(value) if isinstance(value, str) else str(value)
    values = BY_NAME[name]
    if sign == "!=":
        return f"{name} != {text}", lambda n: not (values[n] is not None and values[n] == value)
    return f"{name} {sign} {text}", lambda n: values[n] is not None and COMPARE[sign](values[n], value)


def listed(values):
    text = ", ".join(map(quoted, values))
    return f"category in ({text})", lambda n: BY_NAME["category"][n] in values


CONDITIONS = st.one_of(
    st.builds(compared, st.just("price"), st.sampled_from([*COMPARE, "!="]), NUMBERS),
    st.builds(compared, st.sampled_from(["category", "brand"]), st.sampled_from([*COMPARE, "!="]), WORDS),
    st.builds(listed, st.lists(WORDS, min_size=1, max_size=4)),
    WORDS.map(lambda word: (f"genres has {quoted(word)}", lambda n: word in (BY_NAME["genres"][n] or ()))),
    st.sampled_from(list(BY_NAME)[:5]).map(lambda name: (f"{name} is missing", lambda n: BY_NAME[name][n] is None)),
    st.just(("available", lambda n: bool(BY_NAME["available"][n]))),
)


def joined(inner):
    def both(word, test):
        return st.tuples(inner, inner).map(
            lambda two: (f"({two[0][0]}) {word} ({two[1][0]})", lambda n: test(two[0][1](n), two[1][1](n)))
        )

    negated = inner.map(lambda one: (f"not ({one[0]})", lambda n: not one[1](n)))
    return st.one_of(both("and", operator.and_), both("or", operator.or_), negated)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.recursive(CONDITIONS, joined, max_leaves=8))
def test_a_filter_agrees_with_a_walk_over_the_items(filtered):
    where, keeps = filtered
    assert kept(where) == [n for n in (*range(ITEMS), NEW) if keeps(n)]


# Events of Python that no filter may cause: code that is compiled or run, imports, files, processes, the network.
FORBIDDEN = ("compile", "exec", "import", "open", "os.", "subprocess.", "socket.", "ctypes.", "pickle.", "marshal.")
watched = []
watching = False


def _audit(event, _):
    if watching and event.startswith(FORBIDDEN):
        watched.append(event)


sys.addaudithook(_audit)
TOKENS = [
    *BY_NAME,
    "and",
    "or",
    "not",
    "in",
    "between",
    "is",
    "missing",
    "has",
    "true",
    "false",
    "(",
    ")",
    ",",
    "=",
    "!=",
]
TOKENS += [
    "<",
    "<=",
    ">",
    ">=",
    "5",
    "-1.5e3",
    '"toys"',
    "'x'",
    "`two words`",
    "__import__",
    "lambda",
    ";",
    "eval",
    "{",
    "%s",
]
CODE = ["__import__('os').system('x')", "().__class__.__bases__", "1 or exec('x')", "price < 5; drop table"]


def only_the_grammar(where):
    """A text gives a mask or one error, and nothing else happens."""
    global watching
    before, refused = dict(vars(builtins)), None
    watched.clear()
    watching = True
    try:
        mask = FILTERS.mask(where)
    except DelrecError as error:
        refused = error
    finally:
        watching = False
    assert (refused.message and refused.hint) if refused else mask.shape == (ITEMS + 1,)
    assert watched == []
    assert vars(builtins) == before


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.text(max_size=60))
def test_any_text_gives_a_mask_or_one_error(where):
    only_the_grammar(where)


def test_texts_of_the_grammars_words_give_a_mask_or_one_error():
    rng = random.Random(1)
    texts = [rng.choice(["", " "]).join(rng.choices(TOKENS, k=rng.randrange(25))) for _ in range(5000)]
    for where in [*CODE, *texts]:
        only_the_grammar(where)
    for where in (
        f"{name} {rest}" for name in TOKENS[:7] for rest in ("is missing", "< 5", '= "x"', "in (5)", 'has "x"')
    ):
        only_the_grammar(where)
