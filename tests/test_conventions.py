"""The house rules of the source that no linter holds; each failure names the file and the line."""

from __future__ import annotations

import ast
import builtins
import dis
import re
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "cryomorph"
FILES = sorted(SOURCE.rglob("*.py"))
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)

QUESTIONED: dict[str, str] = {}
"""Files of more than 400 lines that were asked about, and the reason why each stays whole."""

PICKLE_READERS = {"io/cryodrgn.py"}
"""The one reader of foreign pickles, which refuses all but numpy arrays."""


def name_of(path: Path) -> str:
    return path.relative_to(SOURCE).as_posix()


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def public_definitions(tree: ast.Module) -> Iterator[tuple[str, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Public functions and classes of a module, and the public methods of those classes."""
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, *FUNCTION)) and not node.name.startswith("_"):
            yield node.name, node
            for inner in node.body if isinstance(node, ast.ClassDef) else []:
                if isinstance(inner, FUNCTION) and not inner.name.startswith("_"):
                    yield f"{node.name}.{inner.name}", inner


def decorators(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The last word of each decorator: `dataclass` of `@dataclass(frozen=True)`."""
    calls = [decorator.func if isinstance(decorator, ast.Call) else decorator for decorator in node.decorator_list]
    return {ast.unparse(call).split(".")[-1] for call in calls}


def test_the_source_was_found():
    assert len(FILES) > 10


def test_files_are_short_enough_to_read():
    lines = {name_of(path): len(path.read_text().splitlines()) for path in FILES}
    assert not {name: count for name, count in lines.items() if count > (800 if name in QUESTIONED else 400)}


def test_nothing_is_questioned_in_vain():
    long = {name_of(path) for path in FILES if len(path.read_text().splitlines()) > 400}
    assert set(QUESTIONED) <= long


def test_no_drawer_for_odds_and_ends():
    stems = {part for path in FILES for part in (*path.relative_to(SOURCE).parts[:-1], path.stem)}
    drawers = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert not {stem for stem in stems if stem.strip("_") in drawers}


def test_modules_say_what_they_are():
    for path in FILES:
        tree = tree_of(path)
        assert ast.get_docstring(tree), f"{name_of(path)} has no docstring"
        annotated = any(isinstance(node, (*FUNCTION, ast.AnnAssign)) for node in ast.walk(tree))
        future = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
        assert future or not annotated, f"{name_of(path)}: `from __future__ import annotations` is missing"


def test_public_names_have_docstrings():
    bare = [
        f"{name_of(path)}:{node.lineno} {name}"
        for path in FILES
        for name, node in public_definitions(tree_of(path))
        if not ast.get_docstring(node) and not decorators(node) & {"setter", "overload", "override"}
    ]
    assert not bare


def test_at_most_three_positional_arguments():
    """Functions that numba compiles are exempt: it has no arguments by keyword alone."""
    crowded = [
        f"{name_of(path)}:{node.lineno} {name}"
        for path in FILES
        for name, node in public_definitions(tree_of(path))
        if isinstance(node, FUNCTION)
        and "compiled" not in decorators(node)
        and len([a for a in (*node.args.posonlyargs, *node.args.args) if a.arg not in ("self", "cls")]) > 3
    ]
    assert not crowded


def test_no_assert_in_the_source():
    """`python -O` drops them, and a user's mistake deserves a sentence."""
    nodes = ((path, node) for path in FILES for node in ast.walk(tree_of(path)))
    found = [f"{name_of(path)}:{node.lineno}" for path, node in nodes if isinstance(node, ast.Assert)]
    assert not found


def test_nothing_that_is_read_can_run_code():
    """No pickle outside its one careful reader, no `allow_pickle=True`, `torch.load` of tensors only, no `eval`."""
    found = []
    for path, node in ((file, node) for file in FILES for node in ast.walk(tree_of(file))):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            opens = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
            safe = {f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords}
            loads = called == "torch.load" and "weights_only=True" not in safe
            if loads or called in ("eval", "exec") or opens:
                found.append(f"{name_of(path)}:{node.lineno} {called}")
        if name_of(path) not in PICKLE_READERS:
            found += [
                f"{name_of(path)}:{node.lineno} {m}"
                for m in modules
                if m.lstrip("_") in ("pickle", "shelve", "marshal")
            ]
    assert not found


def test_a_config_field_is_a_name_a_default_and_a_sentence():
    """The string under a field is its `--help`; configs are frozen."""
    mute = []
    files = sorted((SOURCE / "config").glob("*.py"))
    for path, node in ((file, node) for file in files for node in tree_of(file).body):
        if not isinstance(node, ast.ClassDef) or "dataclass" not in decorators(node):
            continue
        assert any("frozen=True" in ast.unparse(d) for d in node.decorator_list), f"{name_of(path)}: {node.name}"
        for field, below in zip(node.body, [*node.body[1:], None], strict=True):
            said = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and below.value.value
            if isinstance(field, ast.AnnAssign) and not said:
                mute.append(f"{name_of(path)}:{field.lineno} {node.name}.{ast.unparse(field.target)}")
    assert not mute


def test_test_files_have_names_of_their_own():
    """Without `__init__.py` in tests, pytest needs each basename once."""
    counts = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert not [name for name, count in counts.items() if count > 1]


def test_pages_name_only_files_that_exist():
    """Tests, scripts and figures that the documents point to, from the source too."""
    for page in (*sorted((ROOT / "docs").rglob("*.md")), *ROOT.glob("*.md"), *FILES):
        text = page.read_text()
        named = [ROOT / path for path in re.findall(r"(?<![\w/])(?:tests|benchmarks|docs|src)/[\w/.-]+\.\w+", text)]
        if page.suffix == ".md":
            named += [page.parent / path for path in re.findall(r"\]\(([\w/.-]+)\)", text)]
        missing = [str(path) for path in named if not path.exists() and "_build" not in path.parts]
        assert not missing, f"{page} names {missing}"


def imported_files(path: Path) -> set[str]:
    """Files of the package that a file imports, inside functions too, but not those under `if TYPE_CHECKING`."""
    package = ["cryomorph", *path.relative_to(SOURCE).parts[:-1]]
    modules, pending = set(), list(ast.iter_child_nodes(tree_of(path)))
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            pending += node.orelse
            continue
        pending += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            modules |= {module} | {f"{module}.{alias.name}" for alias in node.names}  # a name may be a module
    return {MODULES[module] for module in modules if module in MODULES} - {name_of(path)}


MODULES = {
    ".".join(["cryomorph", *name_of(path)[:-3].split("/")]).removesuffix(".__init__"): name_of(path) for path in FILES
}


def test_no_import_cycles_between_files():
    graph = {name_of(path): imported_files(path) for path in FILES}
    assert graph["cli/main.py"], "the imports were found"
    TopologicalSorter(graph).prepare()  # names the files of a cycle


def loaded_globals(code: CodeType) -> Iterator[str]:
    """Names that a code object, or one within it, looks up outside itself."""
    yield from (step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL")
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from loaded_globals(inner)


def test_every_name_is_defined():
    """Linters cannot tell: the axis names in jaxtyping's strings made us switch that rule off."""
    for path in FILES:
        module = import_module(".".join(("cryomorph", *path.relative_to(SOURCE).with_suffix("").parts)))
        known = {*vars(module), *vars(builtins)}
        missing = sorted(set(loaded_globals(compile(path.read_text(), str(path), "exec"))) - known)
        assert not missing, f"{name_of(path)} uses {missing}, which it neither defines nor imports"
