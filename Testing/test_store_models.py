"""Model files, cards and the library: one file, nothing unpickled, nothing overwritten unasked."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from DeSAMSegmentLib.errors import BadInput, BadModelFile
from DeSAMSegmentLib.store.card import FORMAT_VERSION, LabelInfo, ModelCard
from DeSAMSegmentLib.store.library import Library
from DeSAMSegmentLib.store.model_file import read_card, read_checkpoint, read_model, write_model
from DeSAMSegmentLib.store.terminology import default_label, default_labels

torch = pytest.importorskip("torch")

CARD = ModelCard(
    name="heart",
    title="Left ventricle, Größe klein",
    labels=(default_label(3, "left ventricle"), LabelInfo(2, "myocardium", (1, 2, 3), "a~b|c")),
    backbone="lite_medsam",
    backbone_sha256="79d8",
    architecture={"width": "lite", "level_widths": [160, 160, 320]},
    slices={"axis": "axial", "window": None},
    training={"dice": 0.91, "cases": ["a", "b"], "per_case": {"a": np.float32(0.5)}},
    created="2026-01-01T00:00:00Z",
)


def tensors() -> dict:
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(4, 6, generator=generator)
    return {
        "pdmm.a": wide,
        "pdmm.transposed": wide.T,
        "pdmm.shared": wide[1:3],
        "prim.half": wide.half(),
        "prim.count": torch.tensor(3),
    }


@pytest.fixture
def model(tmp_path) -> Path:
    path = tmp_path / "heart.desam"
    write_model(path, tensors(), CARD)
    return path


def refused(path: Path, words: str = "") -> None:
    """Every reader refuses with one line that has a remedy."""
    for read in (read_model, read_card):
        with pytest.raises(BadModelFile) as error:
            read(path)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert error.value.do


def test_a_model_comes_back_with_every_tensor_and_its_card(model):
    loaded, card = read_model(model)
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {
        name: tensor.tolist() for name, tensor in tensors().items()
    }
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32, torch.float16, torch.int64}
    assert card == read_card(model)
    assert card.labels == CARD.labels
    assert card.title == CARD.title
    assert card.training["per_case"] == {"a": 0.5}


def test_a_model_is_one_file_of_the_size_of_its_tensors(tmp_path, model):
    assert [p.name for p in tmp_path.iterdir()] == ["heart.desam"]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors().values())
    assert model.stat().st_size < size + 4000


def test_a_file_cut_anywhere_is_refused(model):
    data = model.read_bytes()
    for share in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        model.write_bytes(data[:share])
        refused(model)


def test_a_pickle_named_desam_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "evil.desam"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path)
    torch.save({"model": Bomb()}, path)
    refused(path, "pickle")
    with pytest.raises(BadModelFile, match="more than tensors"):
        read_checkpoint(path)
    assert not (tmp_path / "exploded").exists()


def test_files_that_are_no_models_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.desam")
    refused(tmp_path / "foreign.desam", "not a DeSAM model")
    for number, data in enumerate(
        (b"", b"text", b"\0" * 100, b"\xff" * 100, b"\x10" + b"\0" * 7 + b"[1, 2, 3, 4, 5] ")
    ):
        (tmp_path / f"{number}.desam").write_bytes(data)
        refused(tmp_path / f"{number}.desam")
    refused(tmp_path / "missing.desam", "no model file")
    refused(tmp_path, "folder")


def with_card(path: Path, text: str) -> Path:
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, path, metadata={"desam": text})
    return path


def test_cards_that_make_no_sense_are_refused(tmp_path):
    good = json.loads(CARD.to_json())
    changes = [
        {"labels": []}, {"labels": [{"name": "x"}]}, {"labels": 3}, {"labels": [{"value": 0, "name": "x"}]},
        {"labels": [{"value": 1, "name": "x"}, {"value": 1, "name": "y"}]}, {"backbone": ""}, {"backbone": None},
        {"name": " "}, {"slices": []}, {"training": "long"}, {"format_version": "new"},
    ]  # fmt: skip
    for change in changes:
        refused(with_card(tmp_path / "a.desam", json.dumps(good | change)))
    for text in ("", "{", "[]", "null", "3", json.dumps({"name": "x"})):
        refused(with_card(tmp_path / "a.desam", text))
    refused(with_card(tmp_path / "a.desam", json.dumps(good | {"format_version": FORMAT_VERSION + 1})), "Update")


def test_a_card_holds_what_training_produces(tmp_path):
    record = {"dice": float("nan"), "best": np.float64(0.5), "seen": np.arange(2), "from": tmp_path, 3: {"b", "a"}}
    write_model(tmp_path / "a.desam", tensors(), replace(CARD, training=record))
    assert read_card(tmp_path / "a.desam").training == {
        "dice": None, "best": 0.5, "seen": [0, 1], "from": str(tmp_path), "3": ["a", "b"],
    }  # fmt: skip


def test_a_card_of_a_later_minor_version_is_read_without_what_is_unknown(tmp_path):
    text = json.dumps(json.loads(CARD.to_json()) | {"from_the_future": {"a": 1}, "format_version": 1})
    assert read_card(with_card(tmp_path / "a.desam", text)).name == "heart"


def test_a_nonsense_card_is_not_written(tmp_path):
    with pytest.raises(BadModelFile):
        write_model(tmp_path / "a.desam", tensors(), replace(CARD, labels=()))
    assert list(tmp_path.iterdir()) == []


# Published checkpoints


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"model": t, "epoch": 3}, lambda t: {"state_dict": t}])
@pytest.mark.parametrize("old_format", [False, True])
def test_checkpoints_are_read_bare_or_wrapped_in_either_format(tmp_path, wrap, old_format):
    given = {"module.a": torch.arange(3.0), "b": torch.ones(2, 2)}
    torch.save(wrap(given), tmp_path / "c.pth", _use_new_zipfile_serialization=not old_format)
    loaded = read_checkpoint(tmp_path / "c.pth")
    assert {name: tensor.tolist() for name, tensor in loaded.items()} == {"a": [0, 1, 2], "b": [[1, 1], [1, 1]]}


def test_checkpoints_that_hold_no_tensors_are_refused(tmp_path):
    path = tmp_path / "c.pth"
    torch.save({"a": torch.zeros(100)}, path)
    whole = path.read_bytes()
    bad = [b"", b"text", whole[: len(whole) // 2], pickle.dumps([1, 2])]
    for data in bad:
        path.write_bytes(data)
        with pytest.raises(BadModelFile):
            read_checkpoint(path)
    for value in ([1, 2], {"a": 1}, {}, torch.zeros(3)):
        torch.save(value, path)
        with pytest.raises(BadModelFile, match="no tensors"):
            read_checkpoint(path)
    with pytest.raises(BadModelFile, match="no checkpoint"):
        read_checkpoint(tmp_path / "missing.pth")


# Names and codes


@pytest.mark.parametrize(("name", "code"), [
    ("prostate", "41216001^Prostate~^^"), ("kidney_left", "64033007^Kidney~SCT^7771000^Left"),
    ("Right Kidney", "64033007^Kidney~SCT^24028007^Right"), ("LV", "87878005"), ("left_ventricle", "87878005"),
    ("right_ventricle", "53085002"), ("myocardium", "74281007"), ("white_matter", "68523003"),
    ("grey_matter", "389080008"), ("gray matter", "389080008"), ("cord", "2748008"), ("brain", "12738006"),
    ("brain tumour", "4147007^Mass"), ("liver lesion", "52988006^Lesion"), ("spleen", "78961009"),
    ("liver", "10200004"), ("something", "85756007^Tissue"),
])  # fmt: skip
def test_common_labels_have_their_code_in_slicers_terminology(name, code):
    label = default_label(5, name)
    parts = label.terminology.split("~")
    assert code in label.terminology
    assert len(parts) == 7
    assert parts[0] == "Segmentation category and type - 3D Slicer General Anatomy list"
    assert all(part.count("^") == 2 for part in parts if part not in (parts[0], parts[4]))
    assert (label.value, label.name) == (5, name)
    assert all(0 <= channel <= 255 for channel in label.color)


def test_labels_without_a_code_differ_in_colour():
    assert len({default_label(value, "thing").color for value in range(1, 9)}) == 8


def test_no_two_labels_of_a_model_look_alike_but_the_sides_of_an_organ():
    names = {
        0: "background",
        1: "brain",
        2: "white matter",
        3: "kidney_left",
        4: "kidney_right",
        5: "tumor",
        6: "tumor rim",
    }
    labels = default_labels(names)
    assert [label.name for label in labels] == list(names.values())[1:]
    colours = {label.name: label.color for label in labels}
    assert colours["brain"] == default_label(1, "brain").color
    assert colours["kidney_left"] == colours["kidney_right"]
    assert len(set(colours.values())) == 5
    assert len({label.color for label in default_labels(dict.fromkeys(range(1, 101), "white matter"))}) == 100


# The library


def test_models_are_kept_listed_renamed_and_deleted(tmp_path, model):
    library = Library(tmp_path / "models")
    assert library.list() == []
    added = library.add(model)
    assert added == library.folder / "heart.desam" == library.resolve("heart") == library.resolve("heart.desam")
    assert library.resolve(str(model)) == model
    assert [(e.name, e.card.title, e.problem) for e in library.list()] == [("heart", CARD.title, "")]
    assert library.rename("heart", "cœur 2") == library.resolve("cœur 2")
    exported = library.export("cœur 2", tmp_path / "out")
    assert exported == tmp_path / "out.desam"
    assert exported.read_bytes() == model.read_bytes()
    library.delete("cœur 2")
    assert library.list() == []


def test_nothing_is_overwritten(tmp_path, model):
    library = Library(tmp_path / "models")
    library.add(model)
    with pytest.raises(BadInput, match="already"):
        library.add(model)
    library.add(model, "other")
    with pytest.raises(BadInput, match="already"):
        library.rename("other", "heart")
    with pytest.raises(BadInput, match="exists"):
        library.export("other", model)
    assert library.free_name("heart") == "heart 2"
    assert library.free_name("a/b:*?") == "a_b"


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", "", ".", "..", ".hidden", "con", "NUL", "a.", "a ", "a:b",
                                  "x" * 200, "line\nbreak", "/etc/x"])  # fmt: skip
def test_a_name_cannot_lead_out_of_the_folder(tmp_path, model, name):
    library = Library(tmp_path / "models")
    library.add(model)
    for attempt in (lambda: library.rename("heart", name), lambda: library.add(model, name or ".")):
        with pytest.raises(BadInput):
            attempt()
    assert [p.name for p in library.folder.iterdir()] == ["heart.desam"]


def test_only_models_of_the_library_can_be_deleted(tmp_path, model):
    library = Library(tmp_path / "models")
    with pytest.raises(BadModelFile, match="not in the library"):
        library.delete(str(model))
    assert model.exists()
    with pytest.raises(BadModelFile, match="none yet"):
        library.delete("nobody")


def test_a_damaged_model_is_listed_with_its_problem_and_not_added(tmp_path, model):
    library = Library(tmp_path / "models")
    library.add(model)
    (library.folder / "cut.desam").write_bytes(model.read_bytes()[:300])
    assert [(e.name, bool(e.problem)) for e in library.list()] == [("cut", True), ("heart", False)]
    with pytest.raises(BadModelFile):
        library.add(library.folder / "cut.desam", "again")
    with pytest.raises(BadModelFile, match="cut, heart"):
        library.resolve("nobody")


def test_shipped_models_stand_first_and_are_only_read(tmp_path, model):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "organ.desam").write_bytes(model.read_bytes())
    library = Library(tmp_path / "models", shipped)
    library.add(model, "another")
    assert [(e.name, e.shipped) for e in library.list()] == [("organ", True), ("another", False)]
    assert library.resolve("organ") == shipped / "organ.desam"
    for attempt in (lambda: library.delete("organ"), lambda: library.rename("organ", "mine")):
        with pytest.raises(BadModelFile, match="comes with DeSAM"):
            attempt()
    with pytest.raises(BadInput, match="already"):
        library.rename("another", "organ")
    assert library.free_name("organ") == "organ 2"
    assert library.export("organ", tmp_path / "copy").read_bytes() == model.read_bytes()


def test_a_model_of_ones_own_goes_before_a_shipped_one_of_its_name(tmp_path, model):
    shipped = tmp_path / "shipped"
    library = Library(tmp_path / "models", shipped)
    library.add(model, "organ")
    shipped.mkdir()
    (shipped / "organ.desam").write_bytes(model.read_bytes())
    assert [(e.name, e.shipped) for e in library.list()] == [("organ", False)]
    library.delete("organ")
    assert [(e.name, e.shipped) for e in library.list()] == [("organ", True)]


def test_shipped_models_lie_beside_the_module_or_in_pythons_data_folder(tmp_path, monkeypatch):
    monkeypatch.undo()  # the stand-in that all tests have
    from DeSAMSegmentLib.store import library

    root = Path(__file__).resolve().parents[1]
    module = tmp_path / "DeSAMSegmentLib" / "store" / "library.py"
    monkeypatch.setattr(library, "__file__", str(module))
    assert library.shipped_folder().parts[-3:] == ("share", "desam-segment", "models")
    (tmp_path / "Resources" / "Models").mkdir(parents=True)
    assert library.shipped_folder() == tmp_path / "Resources" / "Models"
    assert '"share/desam-segment/models" = ["DeSAMSegment/Resources/Models/*.desam"]' in (
        root / "pyproject.toml"
    ).read_text(encoding="utf-8")


def test_reading_a_card_loads_no_torch(model):
    code = (
        "import sys; from DeSAMSegmentLib.store.library import Library; from pathlib import Path;"
        "print(Library(Path(sys.argv[1]).parent, 'none').list()[0].card.name); assert 'torch' not in sys.modules"
    )
    root = Path(__file__).resolve().parents[1] / "DeSAMSegment"
    run = subprocess.run([sys.executable, "-c", code, str(model)], cwd=root, capture_output=True, text=True)
    assert run.stdout.strip() == "heart", run.stderr
