"""The whole job on one real image, in the order a user does it: draw a few slices, train, segment, measure.

The image is the MNI152 T1 template that the nilearn package carries (a brain without its skull, 1 mm voxels);
its white-matter map from the same package is the ground truth. Cut into 37 axial slices of 5 mm, of which only 10
are "drawn", that is, handed to the training. Everything goes to demo-output/. No network, no GPU; about five
minutes on two cores.

    python scripts/demo.py [--epochs 12] [--styles 0] [--output demo-output]
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from desam_cli.view import TextView
from DeSAMSegmentLib.data.cases import Case
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.reading import read_volume
from DeSAMSegmentLib.data.slices import Slices, SliceSpec
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.data.writing import write_labelmap, write_segmentation
from DeSAMSegmentLib.engine.evaluate.evaluate import evaluate
from DeSAMSegmentLib.engine.evaluate.metrics import score_label
from DeSAMSegmentLib.engine.events import Event, Finished, Log, Progress, Saved
from DeSAMSegmentLib.engine.options import SegmentOptions, TrainOptions
from DeSAMSegmentLib.engine.runtime.session import Session
from DeSAMSegmentLib.engine.segment.segment import segment
from DeSAMSegmentLib.engine.train.train import train
from DeSAMSegmentLib.store.library import Library

# A label map has one value per voxel: "brain" is what of the brain is not white matter.
LABELS = {1: "brain", 2: "white_matter"}
DRAWN = 10  # slices
BRAIN = "brain-mr"
THICK = 5  # mm, like many a clinical scan: the mean of so many 1 mm slices


def mni152() -> tuple[Volume, np.ndarray]:
    """The T1 image in slices of 5 mm and its labels (K, J, I), from the nilearn package's own files."""
    t1, white = template("t1"), template("wm")
    ijk_to_ras = t1.ijk_to_ras @ np.diag([1.0, 1.0, THICK, 1.0])
    ijk_to_ras[:3, 3] += t1.ijk_to_ras[:3, 2] * (THICK - 1) / 2  # the centre of the first thick slice
    image, white_share = thick(t1.array), thick(white.array) / 255  # a probability map, 255 is certain
    labels = (image > 0).astype(np.uint8)
    labels[white_share > 0.5] = 2
    return Volume(image.round().astype(np.int16), ijk_to_ras, name="mni152"), labels


def template(tissue: str) -> Volume:
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise SystemExit("The demo's image comes with the nilearn package: run 'make env' first.")
    folder = Path(spec.origin).parent / "datasets" / "data"
    return read_volume(folder / f"mni_icbm152_{tissue}_tal_nlin_sym_09a_converted.nii.gz")


def thick(array: np.ndarray) -> np.ndarray:
    """Mean of every five axial slices, (K / 5, J, I) float; the last few, without brain, are left out."""
    return array[: len(array) // THICK * THICK].reshape(-1, THICK, *array.shape[1:]).mean(axis=1)


def draw(labels: np.ndarray) -> np.ndarray:
    """The labels of DRAWN axial slices, evenly over the brain; all other slices are left empty, as a user would."""
    brain = np.flatnonzero(labels.any(axis=(1, 2)))
    chosen = brain[np.linspace(1, len(brain) - 2, DRAWN).round().astype(int)]
    drawn = np.zeros_like(labels)
    drawn[chosen] = labels[chosen]
    return drawn


def follow(events: Iterable[Event], view: TextView, quiet: tuple[type, ...] = ()) -> Any:
    """Shows the events of an engine and returns the result of its last one."""
    result = None
    for event in events:
        if not isinstance(event, quiet):
            view.show(event)
        if isinstance(event, Finished):
            result = event.result
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12, help="of the training; about ten seconds each")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    # 0: the rest of this very volume is to be segmented, no other scanner is in sight
    parser.add_argument("--styles", type=int, default=0, help="of other scanners, per slice")
    parser.add_argument("--output", type=Path, default=Path("demo-output"))
    arguments = parser.parse_args()
    out: Path = arguments.output
    shutil.rmtree(out, ignore_errors=True)
    begun = time.monotonic()
    view = TextView()
    session = Session(cache=FeatureCache(out / "cache"))  # all jobs share the image encoder and its features

    # 1. A user opens a volume and draws on a few slices.
    volume, target = mni152()
    drawn = draw(target)
    slices = sorted(set(np.flatnonzero(drawn.any(axis=(1, 2))).tolist()))
    view.show(Log(f"MNI152 T1, {target.shape[0]} axial slices; drawn are {', '.join(map(str, slices))}."))
    write_labelmap(out / "drawn.nii.gz", drawn, volume)
    shipped(volume, target, out, session, view)

    # 2. The decoder is fine-tuned on exactly those.
    case = Case("mni152", volume, drawn, slices="labelled")
    options = TrainOptions.new_site(
        name="brain",
        slices="labelled",
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        batch_size=arguments.batch_size,
        patience=None,
        styles=arguments.styles,
    )
    trained = follow(train([case], LABELS, out / "run", options, session), view, quiet=(Saved,))

    # 3. It segments every slice of the volume, without a click, in both modes. 4. Each result is measured.
    model = session.model(trained.best)
    figures = {}
    for mode in ("grid", "box"):
        # Slices above the head are black and stay empty by themselves; keeping each label's largest part takes
        # away the specks that a model of ten slices still paints beside the brain.
        choice = SegmentOptions(mode=mode, largest_component=True)
        result = follow(segment(volume, model, choice, session), view)
        write_segmentation(out / f"brain-{mode}.seg.nrrd", result.labels, volume, model.card.labels)
        write_labelmap(out / mode / "mni152.nii.gz", result.labels, volume)
        full = Case("mni152", volume, target)
        follow(evaluate([full], LABELS, out / f"report-{mode}", predictions=out / mode), view, (Saved, Progress))
        figures[mode] = never_drawn(result.labels, target, volume, slices)
        dices = ", ".join(f"{name} {dice:.3f}" for name, dice in figures[mode].items())
        view.show(Log(f"{mode}: on the {target.shape[0] - len(slices)} slices that were never drawn, Dice {dices}"))
    view.close()
    shutil.rmtree(out / "cache")
    tell(out, figures, time.monotonic() - begun)


def shipped(volume: Volume, target: np.ndarray, out: Path, session: Session, view: TextView) -> None:
    """What the shipped brain model, where there is one, finds without any training."""
    if not any(entry.shipped and entry.name == BRAIN for entry in Library().list()):
        return
    model = session.model(BRAIN)
    result = follow(segment(volume, model, None, session), view)
    write_segmentation(out / f"{BRAIN}.seg.nrrd", result.labels, volume, model.card.labels)
    score = score_label(result.labels > 0, target > 0, Slices(volume, SliceSpec.for_volume(volume, axis="axial")))
    view.show(Log(f"The shipped model {BRAIN}: Dice of the brain {score['all'].dice:.3f}"))


def never_drawn(found: np.ndarray, target: np.ndarray, volume: Volume, drawn: list[int]) -> dict[str, float | None]:
    """Dice over the slices the training never saw, per label and for the whole brain: the honest figure."""
    slices = Slices(volume, SliceSpec.for_volume(volume, axis="axial"))
    unseen = np.ones(target.shape[slices.axis], bool)
    unseen[drawn] = False
    scores = {
        name: score_label(found == value, target == value, slices, unseen)["all"].dice for value, name in LABELS.items()
    }
    whole = score_label(found > 0, target > 0, slices, unseen)
    return {**scores, "brain with white matter": whole["all"].dice}


def tell(out: Path, figures: dict[str, dict[str, float | None]], seconds: float) -> None:
    """What there is now, and what it is worth."""
    print(f"\nDone in {seconds / 60:.1f} minutes. Dice on slices that were never drawn:")
    for mode, scores in figures.items():
        print(f"  {mode:5}" + "".join(f"  {name} {dice:.3f}" for name, dice in scores.items() if dice is not None))
    print("Files:")
    for path in sorted(path for path in out.rglob("*") if path.is_file() and path.suffix != ".pt"):
        print(f"  {path}  ({path.stat().st_size / 1000:,.0f} kB)")
    print(f"Open {out}/report-grid/report.md, or the .seg.nrrd files in 3D Slicer.")


if __name__ == "__main__":
    main()
