"""Writes the two file lists in DeSAMSegment/CMakeLists.txt from the folder: what is not listed is not packaged.

    python scripts/list_module_files.py          # after a file was added, renamed or deleted
    python scripts/list_module_files.py --check  # changes nothing; says what differs and exits with 1

Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

MODULE = Path(__file__).resolve().parents[1] / "DeSAMSegment"
LISTS = {  # variable -> which files of the module's folder it names
    "MODULE_PYTHON_SCRIPTS": ("*.py", "DeSAMSegmentLib/**/*.py"),
    "MODULE_PYTHON_RESOURCES": ("Resources/**/*",),
}


def present(module: Path, variable: str) -> list[str]:
    """The files of a list, relative to the module's folder; without caches and hidden files."""
    paths = {path.relative_to(module) for pattern in LISTS[variable] for path in module.glob(pattern) if path.is_file()}
    kept = (path for path in paths if not any(part.startswith((".", "__pycache__")) for part in path.parts))
    return sorted(path.as_posix() for path in kept)


def listed(text: str, variable: str) -> list[str]:
    """The files that a CMakeLists.txt names."""
    return _list_of(text, variable)[1].split()


def updated(text: str, module: Path) -> str:
    """A CMakeLists.txt with both lists as the folder is."""
    for variable in LISTS:
        head, _, tail = _list_of(text, variable)
        lines = "".join(f"\n  {name}" for name in present(module, variable))
        text = f"{head}{lines}\n  {tail}"
    return text


def _list_of(text: str, variable: str) -> tuple[str, str, str]:
    """What stands before the names of a list, the names, and the rest of the file."""
    found = re.search(rf"set\({variable}\b([^)]*)\)", text)
    if found is None:
        raise SystemExit(f"CMakeLists.txt has no list {variable}.")
    return text[: found.start(1)], found.group(1), text[found.end(1) :]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--module", type=Path, default=MODULE, help="folder of the module")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when the lists differ")
    arguments = parser.parse_args()
    path: Path = arguments.module / "CMakeLists.txt"
    old = path.read_text(encoding="utf-8")
    new = updated(old, arguments.module)
    if old == new:
        return 0
    for variable in LISTS:
        before, after = set(listed(old, variable)), set(listed(new, variable))
        for name in sorted(before ^ after):
            print(f"{variable}: {'-' if name in before else '+'} {name}")
    if arguments.check:
        print(f"{path} does not list the module's files: run {Path(__file__).name}.", file=sys.stderr)
        return 1
    path.write_text(new, encoding="utf-8", newline="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
