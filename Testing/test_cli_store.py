"""desam models, weights and info: the library and the weight files from a shell."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from desam_cli import main
from DeSAMSegmentLib.store.model_file import read_card
from formula import published_shapes, weights


def test_a_model_is_added_listed_renamed_exported_and_deleted(
    untrained_model: Path, own_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "add", str(untrained_model)]) == 0
    assert main(["models", "rename", "untrained", "fresh"]) == 0
    assert main(["models", "export", "fresh", str(tmp_path / "copy.desam")]) == 0
    capsys.readouterr()
    assert main(["models", "list", "--json"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["name"], each["labels"], each["problem"]) for each in listed] == [("fresh", "blob", "")]
    assert main(["models", "delete", "fresh", "--yes"]) == 0
    assert list((own_home / "models").glob("*.desam")) == []
    assert read_card(tmp_path / "copy.desam").labels[0].name == "blob"


def test_a_damaged_model_is_listed_with_its_problem(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_home / "models").mkdir()
    (own_home / "models" / "bad.desam").write_bytes(b"nothing")
    assert main(["models", "list"]) == 0
    assert "bad" in capsys.readouterr().out


def test_an_empty_library_says_how_to_fill_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list"]) == 0
    assert "desam models add FILE" in capsys.readouterr().out


def test_a_card_is_shown_for_people_and_for_scripts(untrained_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", str(untrained_model)]) == 0
    shown = capsys.readouterr().out
    assert "backbone: lite_medsam" in shown
    assert "value 1, name blob" in shown
    assert main(["models", "show", str(untrained_model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["labels"][0]["color"] == [200, 80, 60]


def test_deleting_a_model_without_confirmation_needs_yes(untrained_model: Path, own_home: Path, capsys) -> None:
    main(["models", "add", str(untrained_model)])
    assert main(["models", "delete", "untrained"]) != 0  # nobody answers the question
    assert (own_home / "models" / "untrained.desam").is_file()


STEERING = "\x1b[31mred\x07\u202e"  # what a file may be called


@pytest.mark.skipif(os.name == "nt", reason="no file of Windows can be called so")
@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "list"],
        ["models", "show", "FILE"],
        ["models", "export", "FILE", "COPY"],
        ["models", "rename", "FILE", "fine"],
        ["models", "delete", "FILE"],
        ["models", "delete", "FILE", "--yes"],
        ["models", "show", f"no{STEERING}"],
        ["info"],
        ["info", "COPY"],
        ["segment", "COPY", "o.nii.gz", "-m", "FILE"],
        ["segment", "a", "b", "-m", "x", "--points", STEERING],
    ],
)
def test_names_do_not_steer_the_terminal(
    arguments: list[str], untrained_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    home = tmp_path / f"home{STEERING}"
    (home / "models").mkdir(parents=True)
    monkeypatch.setenv("DESAM_HOME", str(home))
    names = {"FILE": home / "models" / f"{STEERING}.desam", "COPY": tmp_path / f"copy{STEERING}.desam"}
    shutil.copy(untrained_model, names["FILE"])
    main([str(names.get(each, each)) for each in arguments])
    captured = capsys.readouterr()
    assert captured.out + captured.err
    assert not set("\x1b\x07\u202e") & set(captured.out + captured.err)


def test_a_published_checkpoint_becomes_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    torch.save(weights(published_shapes([768] * 3)), tmp_path / "desam_model_best.pth")
    output = tmp_path / "imported.desam"
    arguments = ["--label", "prostate", "--name", "published", "--output", str(output)]
    assert main(["models", "import-reference", str(tmp_path / "desam_model_best.pth"), *arguments]) == 0
    card = read_card(output)
    assert (card.name, card.labels[0].name, card.backbone) == ("published", "prostate", "vit_b")
    assert card.architecture["squeeze_excitation"] == "inert"


def test_weights_are_listed_with_size_licence_and_where_to_get_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    text = capsys.readouterr().out
    assert "39.4 MB" in text
    assert "Apache-2.0" in text
    assert "desam weights get vit_h" in text
    assert main(["weights", "list", "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first["path"].endswith("lite_medsam.pth")


def test_a_wrong_weight_file_is_refused(tmp_path: Path, own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sam_vit_b_01ec64.pth").write_bytes(b"not these")
    assert main(["weights", "add", str(tmp_path / "sam_vit_b_01ec64.pth")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (own_home / "weights" / "sam_vit_b_01ec64.pth").exists()


def test_info_names_versions_device_and_folders(own_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--json", "--device", "cpu"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["home"] == str(own_home)
    assert facts["device"].startswith("CPU")
    assert "lite_medsam" in facts["weights"]
    assert {"desam-segment", "torch", "monai", "cache"} <= set(facts)
