"""The extension's build files: every file named, catalog entries consistent, configures against Slicer's macros."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULE = ROOT / "DeSAMSegment"
TOP = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")


def listed(variable: str) -> set[str]:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    found = re.search(rf"set\({variable}\s([^)]*)\)", text)
    assert found is not None
    return set(found.group(1).split())


def present(*patterns: str) -> set[str]:
    paths = (path for pattern in patterns for path in MODULE.glob(pattern) if path.is_file())
    return {path.relative_to(MODULE).as_posix() for path in paths if "__pycache__" not in path.parts}


def value(name: str) -> str:
    found = re.search(rf'^set\({name} "?([^"\n)]*)"?\)', TOP, re.MULTILINE)
    assert found is not None, f"{name} must be set on one line: the catalog's checks read it with a regular expression"
    return found.group(1)


def list_module_files(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "list_module_files.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_every_file_of_the_module_is_named() -> None:
    done = list_module_files("--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert listed("MODULE_PYTHON_SCRIPTS") == present("*.py", "DeSAMSegmentLib/**/*.py")
    assert listed("MODULE_PYTHON_RESOURCES") == present("Resources/**/*")


def lists(scripts: list[str], resources: list[str]) -> str:
    names = {"MODULE_PYTHON_SCRIPTS": scripts, "MODULE_PYTHON_RESOURCES": resources}
    parts = ["\n".join([f"set({name}", *(f"  {file}" for file in files), "  )\n"]) for name, files in names.items()]
    return "\n".join(["# before", *parts, "# after\n"])


def test_the_lists_are_brought_up_to_date_and_nothing_else_is_changed(tmp_path: Path) -> None:
    module = tmp_path / "Module"
    for name in ("Module.py", "DeSAMSegmentLib/__init__.py", "DeSAMSegmentLib/data/new.py", "Resources/UI/New.ui"):
        (module / name).parent.mkdir(parents=True, exist_ok=True)
        (module / name).touch()
    for unwanted in ("DeSAMSegmentLib/__pycache__/old.py", "Resources/.DS_Store"):
        (module / unwanted).parent.mkdir(parents=True, exist_ok=True)
        (module / unwanted).touch()
    path = module / "CMakeLists.txt"
    text = lists(["DeSAMSegmentLib/gone.py", "Module.py"], [])
    path.write_text(text, encoding="utf-8", newline="\n")
    checked = list_module_files("--check", "--module", str(module))
    assert checked.returncode == 1
    assert "MODULE_PYTHON_SCRIPTS: + DeSAMSegmentLib/data/new.py" in checked.stdout.splitlines()
    assert "MODULE_PYTHON_SCRIPTS: - DeSAMSegmentLib/gone.py" in checked.stdout.splitlines()
    assert path.read_text(encoding="utf-8") == text
    assert list_module_files("--module", str(module)).returncode == 0
    up_to_date = lists(
        ["DeSAMSegmentLib/__init__.py", "DeSAMSegmentLib/data/new.py", "Module.py"], ["Resources/UI/New.ui"]
    )
    assert path.read_bytes().decode() == up_to_date
    assert list_module_files("--check", "--module", str(module)).returncode == 0


def test_project_catalog_entry_and_old_description_agree() -> None:
    catalog = json.loads((ROOT / "DeSAM.json").read_text(encoding="utf-8"))
    lines = (ROOT / "DeSAM.s4ext").read_text(encoding="utf-8").splitlines()
    old = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
    assert "project(DeSAM)" in TOP
    assert set(catalog) <= {
        "$schema", "build_dependencies", "build_subdirectory", "category", "scm_revision", "scm_type", "scm_url", "tier"
    }  # fmt: skip
    assert catalog["scm_url"] == old["scmurl"]
    assert catalog["category"] == old["category"]
    assert catalog["build_dependencies"] == old["depends"].split() == ["PyTorch"]
    assert old["iconurl"] == value("EXTENSION_ICONURL")
    assert old["screenshoturls"] == value("EXTENSION_SCREENSHOTURLS")


def test_images_that_the_catalog_shows_are_in_the_repository() -> None:
    for name in ("EXTENSION_ICONURL", "EXTENSION_SCREENSHOTURLS"):
        inside = value(name).split("/main/")[1]
        assert (ROOT / inside).is_file(), inside


def test_the_icon_is_128_pixels_wide() -> None:
    header = (ROOT / "DeSAM.png").read_bytes()[:24]
    assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (128, 128)


def test_text_files_of_the_build_end_lines_as_the_catalog_wants() -> None:
    for path in (ROOT / "CMakeLists.txt", ROOT / "DeSAM.json", ROOT / "DeSAM.s4ext", MODULE / "CMakeLists.txt"):
        assert b"\r" not in path.read_bytes()


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")
def test_the_extension_configures_and_copies_all_files(tmp_path: Path) -> None:
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), f"-DSlicer_DIR={ROOT / 'Testing' / 'host' / 'cmake'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    copied = {path.relative_to(tmp_path / "qt-scripted-modules").as_posix()
              for path in (tmp_path / "qt-scripted-modules").rglob("*") if path.is_file()}  # fmt: skip
    assert copied == listed("MODULE_PYTHON_SCRIPTS") | listed("MODULE_PYTHON_RESOURCES")
    tests = subprocess.run(["ctest", "-N"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "py_DeSAMSegment" in tests
    assert "py_DeSAMSegmentLoadTest" in tests
