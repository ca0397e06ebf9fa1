"""The folder where models are kept, one .desam file each; the file's name is the model's name.

The models that come with the program stand first and can only be read.
"""

from __future__ import annotations

import re
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadInput, BadModelFile, DeSAMError
from ..files import atomic_path, home
from .card import ModelCard
from .model_file import read_card

SUFFIX = ".desam"
# Names that are files on Windows, Linux and macOS alike.
GOOD_NAME = re.compile(r"[^\W_][\w .()+-]{0,99}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


def shipped_folder() -> Path:
    """Where the models that come with the program are: beside the module in Slicer, in Python's data folder else."""
    beside = Path(__file__).resolve().parents[2] / "Resources" / "Models"
    return beside if beside.is_dir() else Path(sysconfig.get_path("data"), "share", "desam-segment", "models")


@dataclass(frozen=True)
class Entry:
    """A file of the library; ``card`` is None and ``problem`` says why when it cannot be used.

    ``shipped``: it came with the program and can be neither renamed nor deleted.
    """

    path: Path
    card: ModelCard | None
    problem: str = ""
    shipped: bool = False

    @property
    def name(self) -> str:
        return self.path.stem


class Library:
    """Models by name.

    Arguments:
      folder: default: "models" under the program's home. It need not exist.
      shipped: read-only; default: that of the program. It need not exist either.
    """

    def __init__(self, folder: str | Path | None = None, shipped: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder is not None else home() / "models"
        self.shipped = Path(shipped) if shipped is not None else shipped_folder()

    def list(self) -> list[Entry]:
        """Every model file, shipped ones first, by name; damaged ones too, with their problem. Never raises.

        A shipped model gives way to one of the user's own with its name.
        """
        own = _entries(self.folder, shipped=False)
        taken = {entry.name for entry in own}
        return [entry for entry in shipped_models(self.shipped) if entry.name not in taken] + own

    def resolve(self, name_or_path: str | Path) -> Path:
        """The file that a user means: a path to one, or the name of a model in the library.

        Raises:
          BadModelFile: neither; the text lists the names there are.
        """
        given = Path(name_or_path).expanduser()
        if given.is_file():
            return given
        name = str(name_or_path)
        kept = self._path(name.removesuffix(SUFFIX), must_be_good=False)
        for path in (kept, self.shipped / kept.name) if kept is not None else ():
            if path.is_file():
                return path
        names = ", ".join(entry.name for entry in self.list()) or "none yet"
        raise BadModelFile(f"There is no model file or model named {name!r}.", f"Models in the library: {names}.")

    def add(self, path: str | Path, name: str = "") -> Path:
        """Copies a .desam file into the library after checking it.

        Arguments:
          name: in the library; default: the file's.

        Raises:
          BadModelFile: not a model. BadInput: a bad name, or one that is taken.
        """
        source = Path(path).expanduser()
        read_card(source)
        target = self._free(name or source.stem)
        _copy(source, target)
        return target

    def export(self, name: str, path: str | Path) -> Path:
        """Copies a model to a file, or into a folder under its own name.

        Raises:
          BadModelFile: no such model. BadInput: the file exists already.
        """
        source = self.resolve(name)
        target = Path(path).expanduser()
        if target.is_dir():
            target /= source.name
        elif target.suffix != SUFFIX:
            target = target.with_name(target.name + SUFFIX)
        if target.exists():
            raise BadInput(f"{target} exists already.", "Choose another name or delete it first.")
        _copy(source, target)
        return target

    def rename(self, name: str, new: str) -> Path:
        """Gives a model another name. Raises BadModelFile, or BadInput when the new name is bad or taken."""
        source = self._own(name)
        only_case = source.stem.lower() == new.removesuffix(SUFFIX).lower()  # one file where case is ignored
        target = self._path(new.removesuffix(SUFFIX)) if only_case else self._free(new)
        assert target is not None
        source.rename(target)
        return target

    def delete(self, name: str) -> None:
        """Deletes a model of the library, and nothing outside it. Raises BadModelFile when it is not there."""
        self._own(name).unlink()

    def free_name(self, wish: str) -> str:
        """``wish`` as a good name that is not taken: with odd characters replaced, numbered if need be."""
        base = re.sub(r"[^\w .()+-]", "_", wish).lstrip(" ._-+()").rstrip(" ._-+(")[:90] or "model"
        base = f"{base} model" if base.lower() in RESERVED else base
        name, number = base, 2
        while self._is_taken(f"{name}{SUFFIX}"):
            name, number = f"{base} {number}", number + 1
        return name

    def _own(self, name: str) -> Path:
        path = self.resolve(name)
        if path.resolve().parent == self.shipped.resolve():
            raise BadModelFile(
                f"The model {path.stem} comes with DeSAM: it can be neither renamed nor deleted.",
                "Export it, and add the copy under a name of your own.",
            )
        if path.resolve().parent != self.folder.resolve():
            raise BadModelFile(f"{path} is not in the library.", "Give the name of a model of the library.")
        return path

    def _free(self, name: str) -> Path:
        path = self._path(name.removesuffix(SUFFIX))
        assert path is not None
        if self._is_taken(path.name):
            raise BadInput(f"There is a model named {path.stem} already.", "Choose another name or delete it first.")
        return path

    def _is_taken(self, file: str) -> bool:
        return (self.folder / file).exists() or (self.shipped / file).exists()

    def _path(self, name: str, must_be_good: bool = True) -> Path | None:
        """The file for a name; a name can never lead out of the folder."""
        good = GOOD_NAME.fullmatch(name) and name == name.rstrip(" .") and name.lower() not in RESERVED
        if good:
            return self.folder / f"{name}{SUFFIX}"
        if must_be_good:
            raise BadInput(
                f"{name!r} cannot be the name of a model.",
                "Use letters, digits, spaces and - _ . ( ) +, starting with a letter or digit.",
            )
        return None


def shipped_models(folder: Path | None = None) -> list[Entry]:
    """The models that come with the program; needs none of the packages that are installed later."""
    return _entries(folder or shipped_folder(), shipped=True)


def _entries(folder: Path, shipped: bool) -> list[Entry]:
    try:
        names = [path.name for path in folder.iterdir() if path.suffix == SUFFIX]
    except OSError:  # no such folder yet, or one that cannot be read
        names = []
    # hidden ones are being written, or a Mac's notes on a file
    visible = sorted((name for name in names if not name.startswith(".")), key=str.lower)
    return [_entry(folder / name, shipped) for name in visible]


def _entry(path: Path, shipped: bool) -> Entry:
    try:
        return Entry(path, read_card(path), shipped=shipped)
    except DeSAMError as problem:
        return Entry(path, None, str(problem), shipped)
    except Exception as problem:  # a folder with one bad file must not keep a panel from opening
        return Entry(path, None, f"{path.name} cannot be read ({type(problem).__name__}).", shipped)


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
