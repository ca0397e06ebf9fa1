"""The house's rules, read off the imports: who may call whom, what is cheap to import, how long a file may
be.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = ROOT / "DeSAMSegment" / "DeSAMSegmentLib"
PACKAGE = "DeSAMSegmentLib"
FOR_EVERYONE = {"errors", "files", "__init__"}
MAY_USE = {
    "model": set(),
    "data": set(),
    "store": set(),
    "engine": {"model", "data", "store"},
    "jobs": {"engine", "data", "store"},
    "cli": {"engine", "data", "store", "jobs"},
    "panel": {"engine", "data", "store", "jobs"},
}
SLICER = {"slicer", "qt", "ctk", "vtk"}
MODULES = sorted(LIBRARY.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(LIBRARY))


def imports(path: Path) -> Iterator[str]:
    """Absolute dotted names of everything a module imports, wherever in it, relative imports resolved."""
    inside = (PACKAGE, *path.relative_to(LIBRARY).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            # "from ..store import weights" may import a module; both names are judged alike
            yield from (f"{module}.{alias.name}" for alias in node.names)


def layer_of(dotted: str) -> str | None:
    """The layer of the library that an imported name belongs to; None outside the library."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent != LIBRARY], ids=name_of)
def test_a_module_uses_only_the_layers_below_it(path: Path) -> None:
    own = path.relative_to(LIBRARY).parts[0]
    used = {layer for each in imports(path) if (layer := layer_of(each))}
    assert used - FOR_EVERYONE - {own, "__version__"} <= MAY_USE[own]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_panel_knows_slicer(path: Path) -> None:
    known = {each.split(".")[0] for each in imports(path)} & SLICER
    assert not known or path.relative_to(LIBRARY).parts[0] == "panel"


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name == "model"], ids=name_of)
def test_the_network_reads_no_file_and_no_volume(path: Path) -> None:
    assert not {each.split(".")[0] for each in imports(path)} & {"SimpleITK", "pathlib", "json", "safetensors"}


@pytest.mark.parametrize("path", [p for p in MODULES if p.parent.name == "data"], ids=name_of)
def test_volumes_and_cases_need_no_torch(path: Path) -> None:
    assert "torch" not in {each.split(".")[0] for each in imports(path)}


CHEAP = ["", ".errors", ".files", ".engine.options", ".engine.events", ".store.card", ".cli.app", ".data.volume"]


def test_cheap_imports_load_no_torch() -> None:
    names = [PACKAGE + each for each in CHEAP]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=LIBRARY.parent)


def test_the_package_itself_loads_nothing_but_itself() -> None:
    code = f"import sys, {PACKAGE}; sys.exit('numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=LIBRARY.parent)


def test_every_promised_name_can_be_imported() -> None:
    package = __import__(PACKAGE)
    for name in package.__all__:
        assert getattr(package, name) is not None, name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(__import__(PACKAGE), "non" + "sense")


def python_files() -> list[Path]:
    folders = ("DeSAMSegment", "Testing", "benchmarks", "scripts")
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350
