"""Model files of format 2: what the backbone's weights hold is named and not carried; trained weights are halved."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from DeSAMSegmentLib.engine.runtime import loading
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.errors import BadModelFile, WeightsMissing
from DeSAMSegmentLib.model.types import Prompts
from DeSAMSegmentLib.store.library import Library
from DeSAMSegmentLib.store.model_file import read_card, read_model
from safetensors.torch import save_file
from small_model import small_features

GRID = Prompts.grid(3, 256)


def test_a_small_file_decodes_as_the_exact_one_to_the_bound_that_save_states(
    untrained_model: Path, tmp_path: Path
) -> None:
    exact = DeSAM.load(untrained_model)
    whole = sum(tensor.nbytes for tensor in exact.tensors().values())
    exact.save(tmp_path / "half.desam", half=True)
    small = DeSAM.load(tmp_path / "half.desam")
    features = small_features(widths=exact.config.level_widths)
    for prompts in (GRID, Prompts.box()):
        one, other = exact.decode(features, prompts), small.decode(features, prompts)
        assert (one.logits - other.logits).abs().max() < 0.02
        assert torch.equal(one.iou, other.iou), "PRIM is SAM's, to the last bit"
    assert one.logits.std() > 0.1
    assert (tmp_path / "half.desam").stat().st_size < untrained_model.stat().st_size < whole / 2


def test_what_is_left_out_is_that_of_the_weights_file_and_no_other(
    untrained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried, card = read_model(untrained_model)
    assert card.prim_sha256
    assert not any(name.startswith("prim") for name in carried)
    original = loading._sam_tensors
    monkeypatch.setattr(
        loading, "_sam_tensors", lambda *given: {name: tensor + 1 for name, tensor in original(*given).items()}
    )
    with pytest.raises(BadModelFile, match="another PRIM") as refused:
        DeSAM.load(untrained_model)
    assert refused.value.kind == "weights-differ"

    def missing(*_: object) -> None:
        raise WeightsMissing("They are not there.", kind="weights-url")

    monkeypatch.setattr(loading, "_sam_tensors", missing)
    with pytest.raises(WeightsMissing):
        DeSAM.load(untrained_model)


def test_a_trained_prim_is_carried(untrained_model: Path, tmp_path: Path) -> None:
    model = DeSAM.load(untrained_model)
    name = next(name for name in model.tensors() if name.startswith("prim"))
    with torch.no_grad():
        model.tensors()[name].add_(0.25)
    model.save(tmp_path / "trained.desam", half=True)
    assert torch.equal(DeSAM.load(tmp_path / "trained.desam").tensors()[name], model.tensors()[name])


def test_a_file_of_format_1_is_read_as_before(untrained_model: Path, tmp_path: Path) -> None:
    """It carries everything, and has no digest."""
    model = DeSAM.load(untrained_model)
    card = json.loads(model.card.to_json()) | {"format_version": 1}
    del card["prim_sha256"]
    tensors = {name: tensor.clone() for name, tensor in model.tensors().items()}
    save_file(tensors, tmp_path / "old.desam", metadata={"format": "pt", "desam": json.dumps(card)})
    old = DeSAM.load(tmp_path / "old.desam")
    assert all(torch.equal(old.tensors()[name], tensor) for name, tensor in tensors.items())
    assert read_card(tmp_path / "old.desam").format_version == 1


def test_no_file_in_the_folder_keeps_the_library_from_being_listed(untrained_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(untrained_model, folder / "good.desam")
    (folder / "deep.desam").write_bytes((200_000).to_bytes(8, "little") + b"[" * 200_000)
    (folder / "empty.desam").touch()
    (folder / "folder.desam").mkdir()
    (folder / "._good.desam").write_bytes(b"a Mac's notes")
    if sys.platform != "win32":
        os.mkfifo(folder / "pipe.desam")  # opening it would wait for ever
    entries = {entry.name: entry for entry in Library(folder, shipped=tmp_path / "none").list()}
    assert set(entries) - {"pipe"} == {"deep", "empty", "folder", "good"}
    assert [name for name, entry in entries.items() if entry.card] == ["good"]
    assert all(entry.problem and "\n" not in entry.problem for entry in entries.values() if not entry.card)
