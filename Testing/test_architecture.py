"""The rules of the house, read off the sources: who may import whom, what is cheap to import, what a message may name,
how long a file may be. One test per rule; each lists everything that breaks it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import re
import string
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXTENSION = ROOT / "DeSAMSegment"
PACKAGE = "DeSAMSegmentLib"
HOMES = {PACKAGE: EXTENSION, "desam_cli": ROOT / "command_line", "desam_research": ROOT / "research"}
FOR_EVERYONE = {"errors", "files", "__init__", "__version__"}
MAY_USE = {  # layers of the library -> those they may import
    "model": set(),
    "data": set(),
    "store": set(),
    "engine": {"model", "data", "store"},
    "jobs": {"engine", "data", "store"},
    "panel": {"engine", "data", "store", "jobs"},
}
MAY_NOT_USE_WITHIN_ENGINE = {"runtime": {"segment", "train", "evaluate"}, "segment": {"train", "evaluate"}}
CLI_MAY_USE = {"engine", "data", "store", "jobs"}
RESEARCH_MAY_USE = {"model", "data", "store", "engine", "jobs"}
SLICER = {"slicer", "qt", "ctk", "vtk"}

LONGEST_FILE = {
    "DeSAMSegment": 350,
    "command_line": 350,
    "research": 350,
    "Testing": 450,
    "benchmarks": 450,
    "scripts": 450,
}


class Module:
    """A source file of the product: its dotted name and its syntax tree."""

    def __init__(self, path: Path, home: Path) -> None:
        self.path = path
        self.parts = path.relative_to(home).with_suffix("").parts  # of a package, the last is __init__
        self.tree = ast.parse(path.read_text(encoding="utf-8"))

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def package(self) -> str:
        return self.parts[0]

    @property
    def layer(self) -> str:
        """The folder of the package it lies in; empty for a file of the package itself."""
        return self.parts[1] if len(self.parts) > 2 else ""

    @functools.cached_property
    def imports(self) -> set[str]:
        """Absolute dotted names of everything it imports, wherever in it, relative imports resolved."""
        return set(self._imports(ast.walk(self.tree)))

    @functools.cached_property
    def imports_on_loading(self) -> set[str]:
        """Of its imports, those that are carried out when it is imported itself."""
        return set(self._imports(node for node in self.tree.body))

    def _imports(self, nodes: Iterator[ast.AST]) -> Iterator[str]:
        for node in nodes:
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = ".".join(self.parts[: len(self.parts) - node.level]) if node.level else ""
                module = ".".join(part for part in (base, node.module) if part)
                # "from ..store import weights" may import a module; both names are judged alike
                yield from (f"{module}.{alias.name}" for alias in node.names)

    @property
    def imported_roots(self) -> set[str]:
        return {name.split(".")[0] for name in self.imports}

    def layers_used(self, package: str = PACKAGE) -> set[str]:
        """Layers of the library that it imports, its own and those for everyone left out."""
        used = {parts[1] for name in self.imports if (parts := name.split("."))[0] == package and len(parts) > 1}
        return used - FOR_EVERYONE - ({self.layer} if self.package == package else set())

    def messages(self) -> Iterator[tuple[int, str]]:
        """(line, text) of every string literal, the constant parts of f-strings included; no docstrings."""
        docstrings = {
            id(node.value)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                yield node.lineno, node.value


@functools.cache
def modules(package: str) -> tuple[Module, ...]:
    home = HOMES[package]
    return tuple(Module(path, home) for path in sorted((home / package).rglob("*.py")))


def library(*layers: str) -> list[Module]:
    """Modules of some layers of the library; all of it when none is named."""
    return [module for module in modules(PACKAGE) if not layers or module.layer in layers]


def product() -> list[Module]:
    module_file = Module(EXTENSION / "DeSAMSegment.py", EXTENSION)
    return [module_file, *(module for package in HOMES for module in modules(package))]


def listed(violations: Iterable[object]) -> str:
    return "\n".join(["", *map(str, violations)])


def test_the_sources_are_found() -> None:
    """The rules below hold for nothing when nothing is looked at."""
    assert {module.layer for module in library()} == {"", *MAY_USE}
    assert all(len(modules(package)) > 5 for package in HOMES)
    worker = next(module for module in library("jobs") if module.path.name == "worker.py")
    assert {"DeSAMSegmentLib.jobs.protocol", "DeSAMSegmentLib.errors.BadInput", "os"} <= worker.imports
    assert worker.layers_used() == {"engine"}
    assert "Internal error: " in dict(map(reversed, worker.messages()))


# ---- layers
# ------------------------------------------------------------------------------------------------------


def test_a_layer_uses_only_the_layers_below_it() -> None:
    violations = [
        f"{module} uses {', '.join(sorted(wrong))}"
        for module in library(*MAY_USE)
        if (wrong := module.layers_used() - MAY_USE[module.layer])
    ]
    assert not violations, listed(violations)


def test_what_engines_share_knows_no_engine_and_segmenting_knows_no_training() -> None:
    violations = [
        f"{module} imports {name}"
        for module in library("engine")
        for name in sorted(module.imports)
        if (parts := name.split("."))[:2] == [PACKAGE, "engine"]
        and len(parts) > 2
        and parts[2] in MAY_NOT_USE_WITHIN_ENGINE.get(module.parts[2], ())
    ]
    assert not violations, listed(violations)


def test_the_library_knows_neither_command_line_nor_research() -> None:
    violations = [
        f"{module} imports {', '.join(sorted(wrong))}"
        for module in (*library(), product()[0])
        if (wrong := module.imported_roots & {"desam_cli", "desam_research"})
    ]
    assert not violations, listed(violations)


def test_the_command_line_uses_engines_data_store_and_jobs() -> None:
    violations = [
        f"{module} uses {', '.join(sorted(wrong))}"
        for module in modules("desam_cli")
        if (wrong := (module.layers_used() - CLI_MAY_USE) | (module.imported_roots & {"desam_research", *SLICER}))
    ]
    assert not violations, listed(violations)


def test_research_uses_everything_but_the_panel() -> None:
    violations = [
        f"{module} uses {', '.join(sorted(wrong))}"
        for module in modules("desam_research")
        if (wrong := (module.layers_used() - RESEARCH_MAY_USE) | (module.imported_roots & SLICER))
    ]
    assert not violations, listed(violations)


def test_only_the_panel_and_the_module_file_know_slicer() -> None:
    violations = [
        f"{module} imports {', '.join(sorted(known))}"
        for module in product()
        if (known := module.imported_roots & SLICER) and module.layer != "panel" and module.parts != ("DeSAMSegment",)
    ]
    assert not violations, listed(violations)


def test_the_network_reads_no_file_and_no_volume() -> None:
    violations = [
        f"{module} imports {', '.join(sorted(wrong))}"
        for module in library("model")
        if (wrong := module.imported_roots & {"SimpleITK", "pathlib", "json", "safetensors"})
    ]
    assert not violations, listed(violations)


def test_volumes_and_cases_need_no_torch() -> None:
    violations = [str(module) for module in library("data") if "torch" in module.imported_roots]
    assert not violations, listed(violations)


def test_the_extension_carries_nothing_for_papers() -> None:
    words = ("benchmark", "rival", "simulate", "baseline")
    found = (path.relative_to(EXTENSION) for path in EXTENSION.rglob("*") if "__pycache__" not in path.parts)
    files = [path for path in found if (EXTENSION / path).is_file()]
    violations = [path for path in files if any(word in part.lower() for part in path.parts for word in words)]
    assert not violations, listed(violations)


# ---- what is cheap to import
# -------------------------------------------------------------------------------------

CHEAP = [
    *(PACKAGE + name for name in (
        "", ".errors", ".files", ".engine.options", ".engine.events", ".engine.train.run_folder", ".store.card",
        ".data.volume", ".data.cases", ".jobs.requests", ".jobs.client", ".model.registry",
    )),
    "desam_cli.app", "desam_research", "desam_research.cli",
]  # fmt: skip
BY_THE_PANEL = [f"{PACKAGE}.jobs.requests", f"{PACKAGE}.data.cases", f"{PACKAGE}.data.volume"]


def loaded_by(names: list[str], heavy: list[str]) -> list[str]:
    """``name loads package`` for each of the modules that, alone in a fresh Python, loads one of the heavy packages."""
    if not loaded_together(names, heavy):
        return []  # one Python for all of them is quicker
    return [f"{name} loads {found}" for name in names if (found := loaded_together([name], heavy))]


def loaded_together(names: list[str], heavy: list[str]) -> str:
    """Those of the heavy packages that are loaded after some modules were imported in a fresh Python."""
    code = f"import sys, {', '.join(names)}; print(*set({heavy}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=EXTENSION, capture_output=True, text=True)
    return done.stdout.strip()


def test_cheap_imports_load_no_torch_and_no_matplotlib() -> None:
    violations = loaded_by(CHEAP, ["torch", "matplotlib"])
    assert not violations, listed(violations)


def test_what_the_panel_imports_loads_no_simpleitk() -> None:
    """Neither what it must not by name, nor anything that one of its files imports at its top."""
    names = {
        module
        for each in library("panel")
        for name in each.imports_on_loading
        for module in (name, name.rpartition(".")[0])
        if name.startswith(f"{PACKAGE}.") and not name.startswith(f"{PACKAGE}.panel")
    }
    known = {".".join(module.parts).removesuffix(".__init__") for module in library()}
    assert set(BY_THE_PANEL) <= known
    used = sorted({*BY_THE_PANEL, *(names & known)})
    assert len(used) > len(BY_THE_PANEL)
    violations = loaded_by(used, ["SimpleITK", "torch", "matplotlib"])
    assert not violations, listed(violations)


def test_the_package_itself_loads_nothing_but_itself() -> None:
    assert loaded_by([PACKAGE], ["numpy"]) == []


# ---- names
# -------------------------------------------------------------------------------------------------------


def test_every_promised_name_can_be_imported() -> None:
    package = __import__(PACKAGE)
    violations = []
    for name in package.__all__:
        try:
            value = getattr(package, name)
        except (ImportError, AttributeError) as error:
            violations.append(f"{name}: {error}")
        else:
            if value is None or isinstance(value, type(package)):
                violations.append(f"{name} is {value}")
    assert not violations, listed(violations)


def test_the_network_can_be_used_from_the_package() -> None:
    from DeSAMSegmentLib import DeSAM, Features, Prompts

    assert all(callable(getattr(DeSAM, name)) for name in ("from_reference", "load", "decode"))
    assert (Features.__name__, Prompts.__name__) == ("Features", "Prompts")
    assert callable(Prompts.grid)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        getattr(__import__(PACKAGE), "non" + "sense")


TWICE = {  # names that stand for two things, and why they may
    "DeSAM": "the network of model/, and its subclass with card and files, which everybody uses",
    "command": "what typer calls for a desam command, one in each file of that name",
    "duration": "each face words a duration itself, the panel in the user's language",
    "main": "an entry point",
}


def is_subcommand(node: ast.AST) -> bool:
    """Whether it is a function that typer calls: 'desam models add' and 'desam weights add' are both named add."""
    return isinstance(node, ast.FunctionDef) and any(
        ast.unparse(decorator).startswith("app.command(") for decorator in node.decorator_list
    )


def test_one_name_is_one_thing() -> None:
    """No two classes or public functions of the product share a name."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in product():
        for node in module.tree.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_"):
                continue
            if not is_subcommand(node):
                places[node.name].append(f"{module}:{node.lineno}")
    violations = [
        f"{name}: {', '.join(where)}" for name, where in places.items() if len(where) > 1 and name not in TWICE
    ]
    assert not violations, listed(violations)
    assert not [name for name in TWICE if len(places[name]) < 2], "no longer needed in the list"


# ---- words
# -------------------------------------------------------------------------------------------------------


def mentions(found: list[Module], pattern: str) -> list[str]:
    """``file:line: text`` of every string literal, docstrings excepted, that the pattern finds."""
    return [
        f"{module}:{line}: {text!r}"
        for module in found
        for line, text in module.messages()
        if re.search(pattern, text, re.IGNORECASE)
    ]


def test_messages_of_the_engine_name_no_command_and_no_section() -> None:
    """A user of the panel cannot type, one of the command line sees no section: the faces word the remedies."""
    engine = library("data", "store", "engine", "jobs", "model", "")
    violations = mentions(engine, r"--[a-z]|`desam |\bsections?\b")
    assert not violations, listed(violations)


def test_messages_of_the_panel_name_no_command() -> None:
    found = mentions([*library("panel"), product()[0]], r"`desam|--[a-z]")
    # a literal that is a flag and nothing else is an argument for pip, no message
    violations = [each for each in found if not re.search(r": '--[a-z-]+'$", each)]
    assert not violations, listed(violations)


def test_messages_of_the_command_line_name_no_section() -> None:
    violations = mentions([*modules("desam_cli"), *modules("desam_research")], r"\bsections?\b")
    assert not violations, listed(violations)


def raised() -> dict[str, list[set[str]]]:
    """Kind of error -> the names of its data, once for every place that makes such an error."""
    from DeSAMSegmentLib.store.weights import WEIGHTS, facts

    found: dict[str, list[set[str]]] = defaultdict(list)
    for module in library():
        for node in ast.walk(module.tree):
            given = {each.arg: each.value for each in node.keywords} if isinstance(node, ast.Call) else {}
            if isinstance(kind := given.pop("kind", None), ast.Constant):
                found[kind.value].append({name for name in given if name})
    for data in (facts(info, what) for info in WEIGHTS.values() for what in ("weights", "damaged")):
        found[data.pop("kind")].append(set(data))
    return found


def test_every_remedy_fits_the_errors_it_is_for() -> None:
    """Words for a kind that nothing raises are dead; words that name what an error lacks would raise another error."""
    import host
    from desam_cli.remedies import REMEDIES

    host.start()
    panel = importlib.import_module(f"{PACKAGE}.panel.kit.remedies").remedies()
    errors, violations = raised(), []
    for face, remedies in (("command line", REMEDIES), ("panel", panel)):
        for kind, text in remedies.items():
            named = {name for _, name, _, _ in string.Formatter().parse(text) if name}
            if kind not in errors:
                violations.append(f"{face}: nothing raises {kind}")
            violations += [f"{face}: {kind} lacks {named - data}" for data in errors[kind] if named - data]
    assert not violations, listed(violations)


# ---- files
# -------------------------------------------------------------------------------------------------------


def test_a_file_can_be_read_in_one_sitting() -> None:
    """Lines: one file tells one story."""
    violations, count = [], 0
    for folder, longest in LONGEST_FILE.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            lines, count = len(path.read_text(encoding="utf-8").splitlines()), count + 1
            if lines > longest:
                violations.append(f"{path.relative_to(ROOT)}: {lines} lines")
    assert count > 150
    assert not violations, listed(violations)
