"""What a release must agree on: one version, a changelog that knows it, the same names in all descriptions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import DeSAMSegmentLib

ROOT = Path(__file__).resolve().parents[1]
VERSION = DeSAMSegmentLib.__version__


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_is_a_semantic_one() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)


def test_the_package_takes_its_version_from_the_library() -> None:
    project = text_of("pyproject.toml")
    assert 'dynamic = ["version"]' in project
    assert 'version = { attr = "DeSAMSegmentLib.__version__" }' in project
    assert not re.search(r"^version = \"", project, re.MULTILINE)


def test_the_version_can_be_read_without_any_package() -> None:
    """A build reads it in an environment that has nothing but setuptools."""
    code = "import DeSAMSegmentLib; print(DeSAMSegmentLib.__version__)"
    isolated = [sys.executable, "-S", "-c", code]  # -S: without site-packages
    done = subprocess.run(isolated, cwd=ROOT / "DeSAMSegment", capture_output=True, text=True, check=True)
    assert done.stdout.strip() == VERSION


def test_the_citation_is_of_this_version() -> None:
    assert re.findall(r"^version: (.+)$", text_of("CITATION.cff"), re.MULTILINE) == [VERSION]


def test_the_changelog_knows_this_version() -> None:
    """What is not released yet stands under "Unreleased"; a released version has a section with its date."""
    sections = re.findall(r"^## \[(.+?)\](.*)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert sections
    names = [name for name, _ in sections]
    assert len(set(names)) == len(names)
    assert VERSION in names or names[0] == "Unreleased"
    for name, rest in sections:
        assert name == "Unreleased" or re.fullmatch(r" - \d{4}-\d{2}-\d{2}", rest), name


def test_every_section_of_the_changelog_is_linked() -> None:
    changelog = text_of("CHANGELOG.md")
    linked = re.findall(r"^\[(.+?)\]: https://", changelog, re.MULTILINE)
    assert linked == re.findall(r"^## \[(.+?)\]", changelog, re.MULTILINE)


def test_the_licence_has_the_same_name_everywhere() -> None:
    assert 'license = "Apache-2.0"' in text_of("pyproject.toml")
    assert "license: Apache-2.0" in text_of("CITATION.cff")
    assert "Apache License" in text_of("LICENSE")
