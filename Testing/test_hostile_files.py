"""One changed byte in any file that is read: a clear error or the right result, and no silent change past a checksum.

``benchmarks/damage.py`` does the same 200 times and keeps its table in ``benchmarks/results/damage.md``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from damage import Target, outcomes, targets
from data_samples import noise, saved
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.errors import BadVolume
from standin import stand_in_encoder

# voxels or text without a checksum: nothing can notice a change that still makes sense
UNGUARDED = (".nii", ".nrrd", ".mha", "dataset.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    folder = tmp_path_factory.mktemp("damage")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DESAM_HOME", str(folder / "home"))
        session = Session(cache=FeatureCache(folder / "cache"), encoder=stand_in_encoder())
        return {target.name: target for target in targets(folder, session)}


@pytest.mark.parametrize(
    "name",
    [".desam, tensors", ".desam, header and card", "state.pt", "dataset.json", ".nii.gz", ".nii", ".nrrd", ".mha"],
)
def test_a_changed_byte_is_noticed_or_harmless(made: dict[str, Target], name: str) -> None:
    found = list(outcomes(made[name], 20, seed=1))
    assert not [what for outcome, what in found if outcome in ("traceback", "hang")]
    if name not in UNGUARDED:
        assert not [what for outcome, what in found if outcome == "silent"]


@pytest.mark.parametrize("line", [b"space origin: (1,2)", b"space directions: (1,0) (0,1) (0,2)"])
def test_directions_and_origin_of_another_dimension_are_a_damaged_header(tmp_path: Path, line: bytes) -> None:
    path = saved(tmp_path / "a.nrrd", noise(), compress=False)
    head, voxels = path.read_bytes().split(b"\n\n", 1)
    name = line.split(b":")[0]
    lines = [line if each.startswith(name) else each for each in head.split(b"\n")]
    path.write_bytes(b"\n".join(lines) + b"\n\n" + voxels)
    with pytest.raises(BadVolume, match=r"a\.nrrd .*damaged header"):
        read_volume(path)


def test_a_name_of_a_field_that_is_damaged_is_not_the_end_of_the_program(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.mha", noise())
    path.write_bytes(path.read_bytes().replace(b"ElementDataFile =", b"ElementDataFile ;"))
    with pytest.raises(BadVolume, match=r"a\.mha is not a MetaImage file, or is cut short"):
        read_volume(path)


def test_a_type_of_voxels_that_there_is_not_is_a_damaged_header(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", noise())
    content = bytearray(path.read_bytes())
    content[70:72] = np.int16(16204).tobytes()
    path.write_bytes(content)
    with pytest.raises(BadVolume, match=r"a\.nii has a damaged header"):
        read_volume(path)
