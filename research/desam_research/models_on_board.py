"""How the models that come with the extension were made and measured; every step can be repeated.

    python -m desam_research.models_on_board heads LABELMAPS FOLDER        label maps for "brain-mr" (or --parts)
    python -m desam_research.models_on_board brain DATA SCORES.csv NAME=MODEL ...
    python -m desam_research.models_on_board cord DATA SCORES.csv NAME=MODEL ... --cases REGEX
    python -m desam_research.models_on_board card brain-mr MODEL SCORES.csv FILE

``brain`` and ``cord`` score models on real images, which those to be shipped never saw, and ``card`` writes the final
file. The trainings in between are commands of the program: benchmarks/models_on_board.md has all of them.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from DeSAMSegmentLib.data.cases import Case, load_labelled, read_dataset
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.grid import resample_labels
from DeSAMSegmentLib.data.reading import read_labels
from DeSAMSegmentLib.data.slices import Slices
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine.evaluate.metrics import score_label
from DeSAMSegmentLib.engine.events import Finished
from DeSAMSegmentLib.engine.options import SegmentOptions, resolve
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.segment.segment import segment
from DeSAMSegmentLib.model.postprocess import largest_component
from DeSAMSegmentLib.store.card import ModelCard
from scipy import ndimage

# ---- training data --------------------------------------------------------------------------------------------------

CSF, TISSUE = 24, 1000  # FreeSurfer's value; values equal modulo 1000 share a grey (engine/train/from_labels.py)
LEFT_OF = {41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 57: 25, 58: 26,
           60: 28, 62: 30, 163: 136, 164: 137}  # fmt: skip
PARTS = {
    "cerebrum": (2, 3, 10, 11, 12, 13, 17, 18, 25, 26, 28, 30, 85, TISSUE + CSF),
    "ventricles": (4, 5, 14, 15, 72, 136, 137),
    "cerebellum": (7, 8, 2 * TISSUE + CSF),
    "brain_stem": (16,),
}
SULCI = 5.0  # mm: fluid between folds that are less than twice this apart belongs to the brain, as in a brain mask


def head_label_maps(source: Path, target: Path, parts: bool = False) -> None:
    """Label maps of whole heads as a data set without images: left and right as one, sulci as part of the brain.

    Arguments:
      parts: whether cerebrum, ventricles, cerebellum and brain stem are to be told apart; else all is "brain".
    """
    for path in sorted((source / "labels").glob("*.nii.gz")):
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image).astype(np.uint16)
        for right, left in LEFT_OF.items():
            array[array == right] = left
        part = np.zeros(array.shape, np.uint8)
        for number, values in enumerate(PARTS.values(), 1):
            part[np.isin(array, values)] = number
        nearest = part[tuple(ndimage.distance_transform_edt(part == 0, return_distances=False, return_indices=True))]
        sulci = _closed(part > 0, SULCI) & (array == CSF)
        array[sulci & np.isin(nearest, (1, 2))] = TISSUE + CSF
        array[sulci & (nearest == 3)] = 2 * TISSUE + CSF
        _write(array, image, target / "labelsTr" / path.name)
    labels = {name: list(values) for name, values in PARTS.items()}
    _describe(target, labels if parts else {"brain": [value for values in PARTS.values() for value in values]})


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    """Morphological closing with a ball, voxels of a millimetre."""
    room = int(radius) + 3
    grown = ndimage.distance_transform_edt(~np.pad(mask, room)) <= radius
    return np.asarray(ndimage.distance_transform_edt(grown) > radius)[(slice(room, -room),) * 3]


def _write(array: np.ndarray, like: sitk.Image, path: Path) -> None:
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(like)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), True)


def _describe(folder: Path, labels: dict[str, list[int]]) -> None:
    described = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **labels},
        "regions_class_order": list(range(1, len(labels) + 1)),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(described, indent=2), encoding="utf-8")


# ---- real images that no model saw ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unseen:
    """A real image and the structures that somebody drew in it: name -> bool (K, J, I)."""

    name: str
    volume: Volume
    truth: dict[str, np.ndarray]


AAL_CEREBELLUM = range(91, 117)
JHU_CEREBELLUM, JHU_BRAIN_STEM = (95, 96), (*range(97, 105), *range(107, 117))  # told by where they lie


def brain_images(data: Path, atlases: Path | None) -> Iterator[Unseen]:
    """Colin27 with and without skull, MNI152, IBSR, and two patients of whom only a tumour is drawn.

    Arguments:
      atlases: the templates of Debian's mricron-data, for cerebellum and brain stem: aal.nii.gz was drawn on Colin27;
        jhu189.nii.gz on another head in the same space, so that it fits MNI152 to a few millimetres.
    """
    (case,) = read_dataset(data / "Dataset107_Brain").cases
    volume, labels = load_labelled(case)
    truth = {"brain": labels.array > 0}
    if atlases is not None:
        truth["cerebellum"] = np.isin(read_labels(atlases / "aal.nii.gz").array, AAL_CEREBELLUM)
    head = every(Unseen("Colin27", volume, truth), 4)
    yield head
    stripped = replace(head.volume, array=np.where(head.truth["brain"], head.volume.array, 0))
    yield Unseen("Colin27, stripped", stripped, head.truth)
    (case,) = read_dataset(data / "Dataset108_BrainTissue").cases
    volume, _ = load_labelled(case)
    truth = {"brain": volume.array > 0}
    if atlases is not None:
        regions = resample_labels(read_labels(atlases / "jhu189.nii.gz"), volume).array
        truth |= {"cerebellum": np.isin(regions, JHU_CEREBELLUM), "brain_stem": np.isin(regions, JHU_BRAIN_STEM)}
    yield every(Unseen("MNI152, stripped", volume, truth), 5)
    for case in read_dataset(data / "Dataset113_BrainTissueIBSR").cases:
        volume, labels = load_labelled(case)
        yield every(Unseen(case.name, volume, {"brain": labels.array > 0, "ventricles": labels.array == 1}), 4, axis=1)
    for case in read_dataset(data / "Dataset105_BrainTumour").cases:
        volume, labels = load_labelled(case)
        yield Unseen(f"Tumour {case.name}", volume, {"tumour": labels.array > 0})


def every(image: Unseen, step: int, axis: int = 0) -> Unseen:
    """Each ``step``-th slice along a RAS-aligned array axis: what thick slices with gaps would have shown."""
    keep = (slice(None),) * axis + (slice(step // 2, None, step),)
    matrix = image.volume.ijk_to_ras.copy()
    matrix[:3, 3] += matrix[:3, 2 - axis] * (step // 2)
    matrix[:3, 2 - axis] *= step
    volume = replace(image.volume, array=np.ascontiguousarray(image.volume.array[keep]), ijk_to_ras=matrix)
    return Unseen(image.name, volume, {name: np.ascontiguousarray(mask[keep]) for name, mask in image.truth.items()})


def cord_images(cases: Iterable[Case]) -> Iterator[Unseen]:
    """Spinal cords, the whole cord being white and grey matter."""
    for case in cases:
        volume, labels = load_labelled(case)
        yield Unseen(case.name, volume, {"cord": labels.array > 0, "gray_matter": labels.array == 2})


# ---- scores ---------------------------------------------------------------------------------------------------------

COLUMNS = ("image", "structure", "method", "dice", "hd95_mm")
Row = tuple[str, str, str, float | None, float | None]
PARTS_OF = {  # a model that calls the whole "brain" beside its ventricles means the rest of it
    "brain": ("cerebrum", "ventricles", "cerebellum", "brain_stem", "brain"),
    "cord": ("white_matter", "gray_matter"),
}


def found_by(model: DeSAM, image: Unseen, session: Session) -> dict[str, np.ndarray]:
    """What a model finds: structure -> bool (K, J, I), wholes as the union of their parts."""
    labels = np.zeros(0)
    for event in segment(image.volume, model, SegmentOptions(), session):
        if isinstance(event, Finished):
            labels = event.result.labels
    found = {label.name: labels == label.value for label in model.card.labels}
    for whole, parts in PARTS_OF.items():
        there = [found[part] for part in parts if part in found]
        if there:
            found[whole] = np.logical_or.reduce(there)
    return found


def found_by_threshold(image: Unseen) -> dict[str, np.ndarray]:
    """What intensity alone finds: brighter than Otsu's threshold, holes filled, largest part; ventricles are the
    darkest of three classes within the brain, which is given."""
    bright = sitk.GetArrayFromImage(sitk.OtsuThreshold(sitk.GetImageFromArray(image.volume.array), 0, 1)) > 0
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in largest_component(bright.astype(np.uint8), [1])])
    found = {"brain": filled}
    if "ventricles" in image.truth:
        inside = image.volume.array[image.truth["brain"]]
        classes = sitk.OtsuMultipleThresholds(sitk.GetImageFromArray(inside[None]), 2)
        dark = np.zeros(image.volume.array.shape, np.uint8)
        dark[image.truth["brain"]] = sitk.GetArrayFromImage(classes)[0] == 0
        found["ventricles"] = largest_component(dark, [1]) > 0
    return found


def scores(image: Unseen, method: str, found: dict[str, np.ndarray], slices: Slices) -> Iterator[Row]:
    """Dice and HD95 of every structure that was drawn; of a tumour, the share that lies in the brain."""
    for name, truth in image.truth.items():
        if name == "tumour" and "brain" in found:
            yield image.name, "tumour, share within the brain", method, float(found["brain"][truth].mean()), None
        elif name in found:
            score = score_label(found[name], truth, slices)["all"]
            yield image.name, name, method, score.dice, score.hd95_mm


def test(models: dict[str, DeSAM], images: Iterable[Unseen], file: Path) -> None:
    """Scores of models and of a threshold on images, as CSV."""
    session = Session(cache=FeatureCache())
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for image in images:
            for name, model in models.items():
                slices = Slices(image.volume, resolve(model.card, SegmentOptions())[1])
                rows = list(scores(image, name, found_by(model, image, session), slices))
                writer.writerows(rows)
                print(*rows, sep="\n", flush=True)
            writer.writerows(scores(image, "threshold", found_by_threshold(image), slices))
            stream.flush()


# ---- the file that is shipped ---------------------------------------------------------------------------------------

CARDS = {
    "brain-mr": (
        "Brain in MR of any contrast",
        "The brain (cerebrum, cerebellum, brain stem and the fluid within) in MR of any contrast, with or without the "
        "skull, slices of any plane. Trained without a single image: on greys made from the 20 label maps of whole "
        "heads that come with SynthSeg (Apache-2.0). On images with the skull it also paints slices of face and neck "
        "below the brain and of scalp above it.",
    ),
    "cord-t2s": (
        "Spinal cord in T2*-weighted MR",
        "White and grey matter of the cervical cord in axial T2*-weighted MR. Trained on six scans of four sites of "
        "the grey-matter challenge (CC0).",
    ),
}
WARNING = "Not for clinical use: check every result."


def final_card(name: str, model: DeSAM, table: list[dict[str, str]]) -> ModelCard:
    """The card of a shipped model: what it is, what it learnt from, its Dice on images that it never saw."""
    title, text = CARDS[name]
    unseen: dict[str, dict[str, float]] = {}
    for row in table:
        if row["method"] == name and row["dice"]:
            unseen.setdefault(row["structure"], {})[row["image"]] = round(float(row["dice"]), 3)
    means = ", ".join(f"{each.replace('_', ' ')} {np.mean(list(dice.values())):.2f}" for each, dice in unseen.items())
    return replace(
        model.card,
        name=name,
        title=title,
        description=f"{text} Mean Dice on real images that it never saw: {means}. {WARNING}",
        licence="Apache-2.0",
        training=model.card.training | {"unseen_dice": unseen},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    heads = steps.add_parser("heads")
    heads.add_argument("source", type=Path)
    heads.add_argument("target", type=Path)
    heads.add_argument("--parts", action="store_true", help="tell cerebrum, ventricles, cerebellum, brain stem apart")
    for name in ("brain", "cord"):
        scored = steps.add_parser(name)
        scored.add_argument("data", type=Path, help="folder of the data sets")
        scored.add_argument("file", type=Path, help="scores, CSV")
        scored.add_argument("models", nargs="+", help="NAME=FILE.desam")
        scored.add_argument("--cases", default="", help="regular expression, of the cord's cases")
        scored.add_argument("--atlases", type=Path)
    card = steps.add_parser("card")
    card.add_argument("name", choices=CARDS)
    card.add_argument("model", type=Path)
    card.add_argument("scores", type=Path)
    card.add_argument("file", type=Path)
    given = parser.parse_args()
    if given.step == "heads":
        head_label_maps(given.source, given.target, given.parts)
    elif given.step == "card":
        model = DeSAM.load(given.model)
        with given.scores.open(encoding="utf-8", newline="") as stream:
            model.save(given.file, final_card(given.name, model, list(csv.DictReader(stream))), half=True)
    else:
        models = {name: DeSAM.load(path) for name, path in (each.split("=", 1) for each in given.models)}
        cords = read_dataset(given.data / "Dataset112_SpinalCordGM").cases if given.step == "cord" else []
        chosen = [case for case in cords if re.search(given.cases, case.name)]
        test(models, cord_images(chosen) if chosen else brain_images(given.data, given.atlases), given.file)


if __name__ == "__main__":
    main()
