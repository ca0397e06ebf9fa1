"""One run: a method trained on a site with a seed, tested on all others, and left in a folder of its own."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...data.cases import Case, load, load_labelled
from ...data.features import FeatureCache
from ...data.slices import Slices
from ...data.volume import Volume, write_labelmap
from ...errors import BadInput, BadModelFile
from ...files import write_text
from ...store.card import LabelInfo, ModelCard
from ..events import EpochDone, Event, Finished, Log, Progress
from ..loading import DeSAM, Encoder, load_backbone, load_model, sam_tensors
from ..metrics import score_label
from ..options import SegmentOptions, TrainOptions
from ..provenance import software, utc_now
from ..segment import Segmentation, slice_spec
from ..train import architecture_of, train
from ..training_set import common_spec, restricted
from .methods import Method
from .plan import Split, TestCase
from .scores import Score, read_scores, write_scores

KEPT_BYTES = 500e6  # simulated volumes kept in memory between runs


@dataclass(frozen=True)
class Run:
    """A method, a site and a seed; the folder it lives in."""

    method: Method
    split: Split
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.split.source}/{self.method.id}/seed {self.seed}"

    def scores_path(self, points: int) -> Path:
        return self.folder / f"scores-{points}.csv"


def run_folder(folder: Path, source: str, method: Method, seed: int) -> Path:
    """Where a run lives."""
    safe = re.sub(r"[^\w.-]+", "_", source)
    return folder / "runs" / safe / method.id / f"seed{seed}"


class Bench:
    """What all runs share: labels, options, cache, warm encoders.

    Arguments:
      points: grids to test, per side; the first is the one of the tables. Methods that use the box ignore them.
    """

    def __init__(
        self,
        labels: Sequence[LabelInfo],
        common: TrainOptions,
        segmenting: SegmentOptions,
        points: Sequence[int],
        cache: FeatureCache,
        device: str,
    ) -> None:
        self.labels, self.common, self.segmenting = list(labels), common, segmenting
        self.points, self.cache, self.device = list(points), cache, device
        self.encoders: dict[str, Encoder] = {}
        self.kept: dict[str, Case] = {}
        self.kept_bytes = 0

    def encoder(self, backbone: str) -> Encoder:
        if backbone not in self.encoders:
            self.encoders[backbone] = load_backbone(backbone, self.device)
        return self.encoders[backbone]

    def grids(self, method: Method) -> list[int]:
        """The numbers of points a method is tested with; 0 stands for the box."""
        return self.points if method.changes["mode"] == "grid" else [0]

    def finished(self, run: Run) -> bool:
        """Whether nothing is left to do.

        Raises:
          BadInput: when the folder was made with other options or other cases.
        """
        path = run.folder / "run.json"
        if path.is_file() and _read_plan(path) != json.loads(json.dumps(self._plan(run))):
            raise BadInput(
                f"{run.folder} was made with other options or other cases.", "Give another folder, or delete this one."
            )
        return all(run.scores_path(points).is_file() for points in self.grids(run.method))

    def execute(self, run: Run) -> Iterator[Event | list[Score]]:
        """Trains and tests what is not there yet; ends with the run's scores at the table's grid."""
        if not self.finished(run):
            write_text(run.folder / "run.json", json.dumps(self._plan(run), indent=1))
            options = run.method.options(self.common, run.seed)
            model = yield from (self._trained(run, options) if run.method.trained else self._untouched(run, options))
            for points in self.grids(run.method):
                if not run.scores_path(points).is_file():
                    yield from self._test(run, model, options, points)
        yield read_scores(run.scores_path(self.grids(run.method)[0]))

    def _plan(self, run: Run) -> dict[str, Any]:
        return {
            "options": run.method.options(self.common, run.seed).to_dict(),
            "labels": [label.name for label in self.labels],
            "train": [case.name for case in run.split.train],
            "test": [test.name for test in run.split.test],
            "segment": asdict(self.segmenting),
        }

    # ---- training -------------------------------------------------------------------------------------------------

    def _trained(self, run: Run, options: TrainOptions) -> Generator[Event, None, DeSAM]:
        folder = run.folder / "model"
        encoder = self.encoder(options.backbone)
        resume = (folder / "state.pt").is_file()
        begun = time.perf_counter()
        for event in train(
            run.split.train, self.labels, folder, options, cache=self.cache, encoder=encoder, resume=resume
        ):
            if isinstance(event, EpochDone):
                yield Progress(f"{run.name}: epochs", event.epoch, event.epochs)
            elif isinstance(event, Progress | Log):
                yield replace(event, text=f"{run.name}: {event.text}")
        write_text(run.folder / "seconds.json", json.dumps({"train": round(time.perf_counter() - begun, 1)}))
        try:
            return load_model(folder / "best.desam")
        except BadModelFile as error:
            raise BadInput(
                f"{run.name}: {error.what}", f"Delete the folder {run.folder}: its run is then made again."
            ) from error

    def _untouched(self, run: Run, options: TrainOptions) -> Generator[Event, None, DeSAM]:
        """SAM's own decoder as it comes, in the shape of a model."""
        encoder = self.encoder(options.backbone)
        config = architecture_of(options, len(self.labels))
        model = DeSAM.from_sam(config, sam_tensors(options.backbone))
        assert isinstance(model, DeSAM)
        volumes = [load(case)[0] for case in run.split.train[:3]]
        model.card = ModelCard(
            name=options.name,
            labels=tuple(self.labels),
            backbone=options.backbone,
            backbone_sha256=encoder.sha256,
            architecture=config.to_dict(),
            slices=common_spec(volumes, options).to_dict(),
            inference={"mode": options.mode},
            software=software(),
            created=utc_now(),
        )
        yield Log(f"{run.name}: SAM's decoder as it is, nothing is trained.")
        return model.eval()

    # ---- testing --------------------------------------------------------------------------------------------------

    def _test(self, run: Run, model: DeSAM, options: TrainOptions, points: int) -> Iterator[Event]:
        encoder = self.encoder(options.backbone)
        segmenting = replace(self.segmenting, mode=options.mode, points=points or self.segmenting.points)
        scores: list[Score] = []
        for done, test in enumerate(run.split.test, 1):
            case = self._loaded(test)
            volume, truth = load_labelled(case)
            truth = restricted(truth, [label.value for label in self.labels])
            prediction: np.ndarray | None = None
            for event in Segmentation(volume, model, segmenting, encoder).events(self.cache):
                if isinstance(event, Finished):
                    prediction = event.result.labels
                elif isinstance(event, Log):
                    yield replace(event, text=f"{run.name}: {event.text}")
            assert prediction is not None
            slices = Slices(volume, slice_spec(volume, model.card, segmenting))
            for label in self.labels:
                for protocol, metrics in score_label(prediction, truth, label.value, slices).items():
                    where = {"case": test.name, "domain": test.domain, "label": label.name, "protocol": protocol}
                    who = {"source": run.split.source, "method": run.method.id, "seed": run.seed}
                    scores.append(Score.of(metrics, points=points, **who, **where))
            if points == self.grids(run.method)[0]:
                write_labelmap(run.folder / "predictions" / f"{test.name}.nii.gz", prediction, volume)
            yield Progress(
                f"{run.name}: testing" + (f" {points} x {points} points" if points else ""), done, len(run.split.test)
            )
        write_scores(run.scores_path(points), scores)

    def _loaded(self, test: TestCase) -> Case:
        """A simulated volume is made once and kept for the next run, as far as memory is given."""
        if not test.effect:
            return test.case
        if test.name in self.kept:
            return self.kept[test.name]
        case = test.load()
        assert isinstance(case.image, Volume)
        if self.kept_bytes + case.image.array.nbytes <= KEPT_BYTES:
            self.kept[test.name] = case
            self.kept_bytes += case.image.array.nbytes
        return case


def _read_plan(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise BadInput(f"{path} is damaged.", f"Delete the folder {path.parent}: its run is then made again.") from None
