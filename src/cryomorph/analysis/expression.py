"""Conditions on particles as text, such as `state == 4 and rlnDefocusU > 12000`: read, checked, evaluated with numpy.

The syntax is that of `pandas.DataFrame.query`, of which only comparisons, logic, arithmetic and a few functions are
allowed: an expression can look at columns and do nothing else. Python parses it, but never runs it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from jaxtyping import Bool

from cryomorph.config.errors import InputError

Column = Callable[[str], np.ndarray]

LONGEST = 20_000  # characters: a list of some hundred micrographs
TOKEN = re.compile(r"""(?P<text>"[^"]*"|'[^']*')|`(?P<name>[^`]+)`|(?P<sign>&&?|\|\|?)""")
SIGNS = {"&": " and ", "|": " or "}
COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
NUMERIC: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "sqrt": np.sqrt,
    "exp": np.exp,
    "log": np.log,
    "log10": np.log10,
    "isnan": np.isnan,
}
TEXT: dict[str, Callable[[str, str], bool]] = {
    "startswith": str.startswith,
    "endswith": str.endswith,
    "contains": str.__contains__,
}
FUNCTIONS = (*NUMERIC, "quantile", *TEXT)
NAMED_NUMBERS = {"inf": np.inf, "pi": np.pi}


@dataclass(frozen=True)
class Expression:
    """A condition that was read and found harmless; `quoted` maps stand-ins to the names written in backticks."""

    text: str
    tree: ast.expr
    quoted: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Read a condition.

        Raises:
            InputError: it is empty, too long, no expression, or holds anything that is not allowed.
        """
        if not text.strip():
            raise InputError("the condition is empty: expected something like `state == 4`")
        if len(text) > LONGEST:
            raise InputError(f"the condition has {len(text):,} characters: expected at most {LONGEST:,}")
        quoted: dict[str, str] = {}
        prefix = "quoted"
        while prefix in text:
            prefix += "_"

        def plain(token: re.Match[str]) -> str:
            if token["text"] is not None:
                return token["text"]
            if token["sign"] is not None:  # as in pandas, & binds no tighter than `and`
                return SIGNS[token["sign"][0]]
            stand_in = f"{prefix}{len(quoted)}_"
            quoted[stand_in] = token["name"]
            return f" {stand_in} "

        try:
            tree = ast.parse(TOKEN.sub(plain, text).strip(), mode="eval").body
            _check(tree, text)
        except SyntaxError as error:
            advice = ": compare with == instead of =" if re.search(r"(?<![=<>!])=(?!=)", text) else ""
            raise InputError(f"`{_short(text)}` is not a condition ({_short(error.msg)}){advice}") from None
        except (ValueError, MemoryError, RecursionError):
            raise InputError(f"`{_short(text)}` cannot be read as a condition: write it more simply") from None
        return cls(text, tree, quoted)

    def __call__(self, column: Column) -> Bool[np.ndarray, " n"]:
        """For which particles it holds.

        Args:
            column: gives the values of a column by its name, or raises `InputError`.

        Raises:
            InputError: a column is not known, text meets numbers, or the outcome is no yes or no for each particle.
        """
        with np.errstate(all="ignore"):
            try:
                found = _Evaluation(self, column).value(self.tree)
            except (OverflowError, RecursionError):
                raise InputError(
                    f"`{_short(self.text)}` holds too large a number or too many parentheses: write it more simply"
                ) from None
        if not isinstance(found, np.ndarray) or found.dtype != bool or found.ndim != 1:
            raise InputError(f"`{_short(self.text)}` is not a condition: expected a comparison such as `z1 > 0`")
        return found


ALLOWED = (
    ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.Invert, ast.USub, ast.UAdd, ast.BinOp, *ARITHMETIC,
    ast.Compare, *COMPARE, ast.In, ast.NotIn, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Call,
)  # fmt: skip
REFUSED = {
    ast.Attribute: "a dot after a name",
    ast.Subscript: "square brackets after a value",
    ast.Lambda: "lambda",
    ast.NamedExpr: ":=",
    ast.JoinedStr: "an f-string",
    ast.IfExp: "if ... else",
    ast.Starred: "a star",
    ast.Dict: "a dictionary",
    ast.Set: "a set in braces: write a list in square brackets",
    ast.ListComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.Is: "`is`: compare with ==",
    ast.IsNot: "`is not`: compare with !=",
    ast.MatMult: "@",
}


def _check(tree: ast.expr, text: str) -> None:
    """Refuse every part of an expression that is not one of those allowed."""
    for node in ast.walk(tree):
        if not isinstance(node, ALLOWED):
            what = REFUSED.get(type(node), type(node).__name__)
            raise InputError(f"`{_short(text)}` holds what a condition may not: {what}")
        if isinstance(node, ast.Constant) and not isinstance(node.value, (bool, int, float, str)):
            raise InputError(f"`{_short(text)}` holds {node.value!r}: expected numbers, or text in quotes")
        if isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS):
            name = ast.unparse(node.func)
            raise InputError(f"`{_short(text)}` calls {name}: the functions are {', '.join(FUNCTIONS)}")
        if isinstance(node, ast.Call) and node.keywords:
            raise InputError(f"`{_short(text)}` names an argument of a function: give values alone")


class _Evaluation:
    """One evaluation: every part of the expression becomes an array with a value for each particle, or a constant."""

    def __init__(self, expression: Expression, column: Column) -> None:
        self.quoted = expression.quoted
        self.column = column

    def value(self, node: ast.expr) -> Any:
        """The value of a part."""
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise InputError(
                f"`{self._text(node)}` stands where a number or a column was expected; lists go after `in`"
            )
        return method(node)

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _name(self, node: ast.Name) -> Any:
        if node.id in NAMED_NUMBERS:
            return NAMED_NUMBERS[node.id]
        return self.column(self.quoted.get(node.id, node.id))

    def _boolop(self, node: ast.BoolOp) -> Any:
        combine = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return reduce(combine, [self._condition(part) for part in node.values])

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        if isinstance(node.op, (ast.Not, ast.Invert)):
            return ~self._condition(node.operand)
        number = self._number(node.operand)
        return -number if isinstance(node.op, ast.USub) else number

    def _text(self, node: ast.expr) -> str:
        text = ast.unparse(node)
        for stand_in, name in self.quoted.items():
            text = text.replace(stand_in, f"`{name}`")
        return _short(text)

    def _condition(self, node: ast.expr) -> Bool[np.ndarray, " n"]:
        found = self.value(node)
        if not isinstance(found, np.ndarray) or found.dtype != bool:
            raise InputError(
                f"`{self._text(node)}` is not a condition, but is combined with `and`, `or`, `not`, `&`, `|` or `~`: "
                "compare it with something; after ~ put the comparison in parentheses"
            )
        return found

    def _number(self, node: ast.expr) -> Any:
        found = self.value(node)
        if _is_text(found):
            raise InputError(f"`{self._text(node)}` is text: expected a number")
        return found.astype(np.float64) if isinstance(found, np.ndarray) and found.dtype == bool else found

    def _binop(self, node: ast.BinOp) -> Any:
        # in double precision, so that 9**9**9 is infinite at once
        left, right = (np.asarray(self._number(side), dtype=np.float64) for side in (node.left, node.right))
        return ARITHMETIC[type(node.op)](left, right)

    def _compare(self, node: ast.Compare) -> Any:
        sides = [node.left, *node.comparators]
        held = []
        for left, how, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(how, (ast.In, ast.NotIn)):
                inside = self._inside(left, right)
                held.append(~inside if isinstance(how, ast.NotIn) else inside)
                continue
            a, b = self.value(left), self.value(right)
            if _is_text(a) != _is_text(b):
                raise InputError(
                    f"`{self._text(left)}` and `{self._text(right)}` cannot be compared: one is text, one a number"
                )
            held.append(np.asarray(COMPARE[type(how)](a, b), dtype=bool))
        return reduce(np.logical_and, held)

    def _inside(self, left: ast.expr, right: ast.expr) -> Bool[np.ndarray, " n"]:
        """Which values of a column a list holds."""
        if not isinstance(right, (ast.List, ast.Tuple)):
            raise InputError(f"`{self._text(right)}` stands after `in`: expected a list such as [1, 2]")
        column, members = self.value(left), [self.value(member) for member in right.elts]
        if any(isinstance(member, np.ndarray) for member in members):
            raise InputError(f"`{self._text(right)}` holds a column: expected a list of numbers or texts")
        if any(_is_text(member) != _is_text(column) for member in members):
            raise InputError(f"`{self._text(left)}` and `{self._text(right)}`: one has text, one numbers")
        if isinstance(column, np.ndarray) and _is_text(column):
            texts = set(members)
            return np.fromiter((value in texts for value in column), dtype=bool, count=len(column))
        # one by one: as an array, unsigned numbers of 64 bits would be rounded
        return reduce(np.logical_or, (np.equal(column, member) for member in members), np.zeros(np.shape(column), bool))

    def _call(self, node: ast.Call) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        given = node.args
        wanted = 1 if name in NUMERIC else 2
        if len(given) != wanted:
            raise InputError(
                f"{name} takes {wanted} value{'s' * (wanted > 1)}, `{self._text(node)}` gives {len(given)}"
            )
        if name in NUMERIC:
            return NUMERIC[name](np.asarray(self._number(given[0]), dtype=np.float64))
        first, second = self.value(given[0]), self.value(given[1])
        if name == "quantile":
            if _is_text(first) or isinstance(second, (np.ndarray, str)) or not 0 <= second <= 1:
                raise InputError(f"`{self._text(node)}`: expected a column of numbers and a share from 0 to 1")
            return float(np.nanquantile(np.asarray(first, dtype=np.float64), second))
        if not (isinstance(first, np.ndarray) and _is_text(first) and isinstance(second, str)):
            raise InputError(f"`{self._text(node)}`: expected a column of text, and a text in quotes")
        return np.fromiter((TEXT[name](value, second) for value in first), dtype=bool, count=len(first))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind in "OUS")


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
