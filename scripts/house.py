"""How large the house is and how far one has to walk in it: counted from the sources, so that two commits compare.

    python scripts/house.py            # this checkout
    python scripts/house.py --json     # the same for a script
    python scripts/house.py --root DIR # another checkout, such as `git worktree add DIR COMMIT`

A product file is one that serves users or researchers (the extension and ``research/``); tests, scripts and benchmarks
are counted apart. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INSTALLED = "DeSAMSegment"  # what Slicer's package holds
PRODUCT = (INSTALLED, "command_line", "research")
LONG = 40  # lines of a function
NAME_FIELDS = ("id", "attr", "arg", "name", "asname")  # where nodes of the syntax tree keep identifiers
OPTION = re.compile(r"-{0,2}\w+(?:[.-]\w+)*")  # a string that can be the name of an option
WORDS = ("points", "mode", "styles", "axis")  # options whose way through the files is counted


def python_files(root: Path, folder: str) -> list[Path]:
    found = (path for path in (root / folder).rglob("*.py") if "__pycache__" not in path.parts)
    return sorted(path for path in found if "Testing" not in path.relative_to(root).parts)


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def long_functions(paths: list[Path]) -> list[str]:
    """``file:function`` of every function of more than LONG lines, its docstring included."""
    found = []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno + 1 > LONG:
                found.append(f"{path.name}:{node.name}")
    return found


def module_name(path: Path, root: Path) -> str:
    """The dotted name under which a product file is imported."""
    parts = list(path.relative_to(root).with_suffix("").parts[1:])
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def importers(paths: list[Path], root: Path) -> Counter[str]:
    """Module -> number of product files that import it."""
    names = {module_name(path, root) for path in paths}
    count: Counter[str] = Counter(dict.fromkeys(names, 0))
    for path in paths:
        own = module_name(path, root)
        package = own if path.name == "__init__.py" else own.rpartition(".")[0]
        count.update({name for name in imported(path, package) & names if name != own})
    return count


def imported(path: Path, package: str) -> set[str]:
    """Absolute dotted names of everything a file imports, and of what it may import from a package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def files_that_name(word: str, paths: list[Path]) -> int:
    """Files whose code has the word as a name, alone or as a part of one (``slice_axis``, ``trainStyles``)."""
    pattern = re.compile(rf"(?<![A-Za-z]){word}(?![A-Za-z])|[a-z]{word.capitalize()}(?![a-z])")
    return sum(any(pattern.search(name) for name in names_in(path)) for path in paths)


def names_in(path: Path) -> Iterator[str]:
    """Identifiers and strings that are one name ("points", "segment.points", "--slice-axis"): neither comments nor
    docstrings nor sentences, which may speak of an option without depending on it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        yield from (value for field in NAME_FIELDS if isinstance(value := getattr(node, field, None), str))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and OPTION.fullmatch(node.value):
            yield node.value


def measure(root: Path) -> dict[str, Any]:
    product = [path for folder in PRODUCT for path in python_files(root, folder)]
    installed = python_files(root, INSTALLED)
    others = {folder: python_files(root, folder) for folder in ("Testing", "scripts", "benchmarks")}
    others["Testing"] = sorted((root / "Testing").rglob("*.py"))
    used = importers(product, root)
    entry_points = ("DeSAMSegment", "__main__", "worker", "__init__")
    single = sorted(name for name, count in used.items() if count == 1 and name.rpartition(".")[2] not in entry_points)
    folders = Counter(str(path.parent.relative_to(root)) for path in product)
    return {
        "installed files": len(installed),
        "installed lines": sum(map(lines_of, installed)),
        "product files": len(product),
        "product lines": sum(map(lines_of, product)),
        **{f"{folder} lines": sum(map(lines_of, paths)) for folder, paths in others.items()},
        f"functions over {LONG} lines": len(long_functions(product)),
        "files over 350 lines": sum(lines_of(path) > 350 for path in product),
        "files with one importer": len(single),
        **{f"files that name {word}": files_that_name(word, product) for word in WORDS},
        "most files in a folder": max(folders.values()),
        "files per folder": dict(sorted(folders.items())),
        "one importer": single,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1], help="checkout to measure")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    found = measure(arguments.root)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for key, value in found.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {count}" for name, count in value.items())
        print(f"{key:26} {', '.join(value) if isinstance(value, list) else value}")


if __name__ == "__main__":
    main()
