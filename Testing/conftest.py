"""What all tests share: a home folder of their own, an untrained model, a small data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the models, weights and cache of the person who runs it, or sees the shipped models."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("DESAM_HOME", str(home))
    monkeypatch.setattr("DeSAMSegmentLib.store.library.shipped_folder", lambda: home / "shipped")
    return home


@pytest.fixture(scope="session")
def untrained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .desam file for the embedded backbone with one label and random mask decoder."""
    import torch
    from DeSAMSegmentLib.engine.runtime.loading import DeSAM
    from DeSAMSegmentLib.engine.runtime.session import sam_tensors
    from DeSAMSegmentLib.model.config import DeSAMConfig
    from DeSAMSegmentLib.model.registry import BACKBONES
    from DeSAMSegmentLib.store.card import LabelInfo, ModelCard

    torch.manual_seed(0)
    spec = BACKBONES["lite_medsam"]
    config = DeSAMConfig(
        backbone=spec.id,
        input_size=spec.input_size,
        level_widths=spec.level_widths,
        width="lite",
        variant="full",
        squeeze_excitation="effective",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DESAM_HOME", str(tmp_path_factory.mktemp("home")))
        model = DeSAM.from_sam(config, sam_tensors(spec.id))
    card = ModelCard(
        name="untrained",
        title="Untrained",
        labels=(LabelInfo(1, "blob", (200, 80, 60)),),
        backbone=spec.id,
        architecture=config.to_dict(),
        slices={"axis": "axial", "intensity": "percentile"},
        inference={"mode": "box"},
    )
    path = tmp_path_factory.mktemp("models") / "untrained.desam"
    model.save(path, card)
    return path


@pytest.fixture
def quick_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A millisecond's stand-in for the embedded backbone, for tests that are not about features."""
    from DeSAMSegmentLib.engine.runtime.session import Session
    from standin import stand_in_encoder

    def begin(session: Session, backbone: str) -> object:
        session._encoder = stand_in_encoder()
        return session._encoder

    monkeypatch.setattr(Session, "begin", begin)


def blob(shape: tuple[int, int, int] = (4, 40, 36), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A bright block in noise (K, J, I) int16, and its label map; the last slice holds none of it."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    labels[:-1, 12:28, 10:26] = 1
    return (100 + 100 * labels + rng.normal(0, 10, shape)).astype(np.int16), labels


def write_nifti(path: Path, array: np.ndarray, spacing: tuple[float, float, float] = (0.8, 0.9, 3.0)) -> Path:
    """Writes an array (K, J, I, or with channels last) as it is; spacing along I, J, K in mm."""
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array, isVector=array.ndim == 4)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture
def volume_file(tmp_path: Path) -> Path:
    return write_nifti(tmp_path / "volumes" / "blob.nii.gz", blob()[0])


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """An nnU-Net raw folder of two sites with a case each."""
    folder = tmp_path / "Dataset001_Blob"
    for seed, name in enumerate(("north_1", "south_1")):
        image, labels = blob(seed=seed)
        write_nifti(folder / "imagesTr" / f"{name}_0000.nii.gz", image)
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", labels)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "blob": 1}, "file_ending": ".nii.gz"}))
    (folder / "domains.csv").write_text("case,domain\nnorth_1,north\nsouth_1,south\n")
    return folder
