"""STAR files as tables of strings, so that a round trip loses nothing.

The `starfile` library is not used: it turns numbers into floats (digits are lost) unless it is told every column's name
beforehand, and even then cuts values at '#', takes 'nan' for a missing value and drops quotes. The tests use it as a
second opinion.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from pathlib import Path

import pandas as pd

from cryomorph.config.errors import InputError
from cryomorph.io.atomic import atomic_path
from cryomorph.io.text import read_text

BLOCK = re.compile(r"^[ \t]*data_(\S*)[ \t]*$", re.MULTILINE)
VERSION = re.compile(r"^#[ \t]*version[ \t]+(\S+)", re.MULTILINE)
TOKEN = re.compile(r""""[^"]*"(?=\s|$)|'[^']*'(?=\s|$)|\[[^\]]*\]|\S+""")


def read_star(path: str | Path) -> dict[str, pd.DataFrame]:
    """Blocks of a STAR file by name (without `data_`), in file order; every value is the string in the file.

    Bytes that are not UTF-8 are kept as `read_text` has them, and written again by `write_star`.
    Column names lose only their leading underscore. A block that is no loop (`_key value` lines) is a table of one row
    with `attrs["loop"]` False; `attrs["version"]` holds RELION's `# version` comment above a block, or None.

    Raises:
        InputError: the file is missing or not text, has no block, two blocks of one name, or a row of the wrong length.
    """
    path = Path(path)
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read as a STAR file ({error}): give a text file with data_ blocks"
        ) from error
    heads = list(BLOCK.finditer(text))
    if not heads:
        raise InputError(f"{path} has no line that starts a block (data_...): expected a STAR file")
    blocks: dict[str, pd.DataFrame] = {}
    comment_start = 0
    for head, stop in zip(heads, [head.start() for head in heads[1:]] + [len(text)], strict=True):
        name = head.group(1)
        if name in blocks:
            raise InputError(f"{path} has two blocks named data_{name}: expected different names, rename one")
        table = _parse_block(text[head.end() : stop], f"{path}, block data_{name}")
        versions = VERSION.findall(text, comment_start, head.start())
        table.attrs["version"] = versions[-1] if versions else None
        blocks[name] = table
        comment_start = head.end()
    return blocks


def _parse_block(body: str, where: str) -> pd.DataFrame:
    lines = [line for line in body.split("\n") if (bare := line.lstrip()) and bare[0] != "#"]
    loop = bool(lines) and lines[0].strip() == "loop_"
    if not loop:
        pairs = [TOKEN.findall(line) for line in lines]
        wrong = next((pair for pair in pairs if len(pair) < 2 or pair[0][0] != "_"), None)
        if wrong is not None:
            raise InputError(
                f"{where}: the line {' '.join(wrong)!r} is no `_name value` pair, and no loop_ stands above"
            )
        table = pd.DataFrame({key[1:]: [value] for key, value, *_ in pairs}, dtype=object)
        table.attrs["loop"] = False
        return table
    head = 1
    while head < len(lines) and lines[head].lstrip()[0] == "_":
        head += 1
    columns = [line.split()[0][1:] for line in lines[1:head]]
    repeated = sorted({name for name in columns if columns.count(name) > 1})
    if not columns or repeated:
        found = f"the columns {', '.join(repeated)} twice" if repeated else "no column names under loop_"
        raise InputError(f"{where} has {found}: expected different `_name` lines")
    table = _split_rows(lines[head:], columns, where)
    table.attrs["loop"] = True
    return table


def _split_rows(rows: list[str], columns: list[str], where: str) -> pd.DataFrame:
    n = len(columns)
    if not rows:
        return pd.DataFrame({name: pd.Series([], dtype=object) for name in columns})
    table = _split_on_blanks(rows, n)
    if table is not None:
        return table.set_axis(columns, axis=1)
    tokens = [TOKEN.findall(row) for row in rows]  # blanks inside quotes or brackets need the slower split
    for number, row in enumerate(tokens):
        if len(row) != n:
            raise InputError(
                f"{where}: row {number} (0-based) has {len(row)} values where its header names {n} columns: "
                "fix or remove that row"
            )
    return pd.DataFrame(tokens, columns=columns, dtype=object)


def _split_on_blanks(rows: list[str], n: int) -> pd.DataFrame | None:
    """The rows split at blanks by pandas' parser; None where any has not `n` values."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # longer rows show in the spare column
            table = pd.read_csv(
                # a StringIO holds four bytes for each character
                io.BytesIO("\n".join(rows).encode(errors="surrogateescape")),
                encoding_errors="surrogateescape",
                sep=r"\s+",
                header=None,
                names=list(range(n + 1)),
                index_col=False,
                dtype=object,
                na_filter=False,
                quoting=csv.QUOTE_NONE,
                engine="c",
            )
    except pd.errors.ParserError:
        return None
    even = (table[n - 1] != "").all() and (table[n] == "").all() and len(table) == len(rows)
    return table.drop(columns=n) if even else None


def quote(values: pd.Series) -> pd.Series:
    """STAR tokens of plain strings: those that are empty or hold blanks are put in double quotes."""
    needed = values.str.contains(r"\s", regex=True) | (values == "")
    return values.where(~needed, '"' + values + '"')


def unquote(values: pd.Series) -> pd.Series:
    """Plain strings of STAR tokens: a pair of quotes around a value is taken off."""
    quoted = values.str.match(r"""(?:"[^"]*"|'[^']*')$""")
    return values.where(~quoted, values.str[1:-1]) if quoted.any() else values


def write_star(path: str | Path, blocks: dict[str, pd.DataFrame]) -> None:
    """Write blocks of string tokens, in order, atomically.

    `attrs["loop"]` and `attrs["version"]` are used as `read_star` sets them.
    Every value must be one token already: `quote` makes it one.
    """
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file,
    ):
        for name, table in blocks.items():
            version = table.attrs.get("version")
            file.write(f"\n# version {version}\n\n" if version else "\n")
            file.write(f"data_{name}\n\n")
            if not table.attrs.get("loop", True):
                file.writelines(f"_{column} {table[column].iloc[0]}\n" for column in table.columns)
            else:
                file.write("loop_\n")
                file.writelines(f"_{column} #{number}\n" for number, column in enumerate(table.columns, 1))
                rows = zip(*(table[column].tolist() for column in table.columns), strict=True)
                file.writelines(" ".join(row) + "\n" for row in rows)
            file.write("\n")
