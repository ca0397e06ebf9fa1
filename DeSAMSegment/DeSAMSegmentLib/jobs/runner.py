"""Carries requests out, keeping model and encoder warm from one to the next."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np

from ..engine.events import Event, Finished, Started
from ..errors import BadInput
from .requests import (
    CaseSource,
    DownloadRequest,
    EvaluateRequest,
    ImportRequest,
    Request,
    SegmentRequest,
    TrainRequest,
    VolumeSource,
)


class Runner:
    """One at a time; ``run`` is a generator of events, closing it cancels the job.

    Engines and torch are imported with the first request, so that making a Runner costs nothing.
    """

    def __init__(self) -> None:
        self._models: dict[tuple[str, int], Any] = {}
        self._encoders: dict[tuple[str, str], Any] = {}

    def run(self, request: Request) -> Generator[Event, None, None]:
        """Events of the job; raises what the engine raises."""
        if isinstance(request, SegmentRequest):
            return self._segment(request)
        if isinstance(request, TrainRequest):
            return self._train(request)
        if isinstance(request, EvaluateRequest):
            return self._evaluate(request)
        if isinstance(request, DownloadRequest):
            return self._download(request)
        if isinstance(request, ImportRequest):
            return self._import(request)
        raise BadInput(f"There is no job of the kind {type(request).__name__}.")

    def _segment(self, request: SegmentRequest) -> Generator[Event, None, None]:
        from ..engine.segment import segment

        model = self._model(request.model)
        yield from segment(
            volume_of(request.volume), model, request.options, device=request.device,
            cache=_cache(request.cache_bytes), encoder=self._encoder(model.card.backbone, request.device),
        )  # fmt: skip

    def _train(self, request: TrainRequest) -> Generator[Event, None, None]:
        from ..engine.train import train

        yield from train(
            [case_of(case) for case in request.cases], request.labels, request.folder, request.options,
            device=request.device, cache=_cache(request.cache_bytes), resume=request.resume,
        )  # fmt: skip

    def _evaluate(self, request: EvaluateRequest) -> Generator[Event, None, None]:
        from ..engine.evaluate import evaluate

        yield from evaluate(
            [case_of(case) for case in request.cases], request.labels, request.folder, model=request.model,
            options=request.options, device=request.device, cache=_cache(request.cache_bytes),
        )  # fmt: skip

    def _download(self, request: DownloadRequest) -> Generator[Event, None, None]:
        """The store reports through a callback; a thread turns that into events that can be cancelled."""
        from .download import download_events

        yield Started("download", f"Downloading {request.weights}", 100, "percent", "")
        path = yield from download_events(request.weights)
        yield Finished("download", 0.0, path)

    def _import(self, request: ImportRequest) -> Generator[Event, None, None]:
        from ..engine.loading import DeSAM

        yield Started("import", request.checkpoint.name, 1, "file", "")
        DeSAM.from_reference(request.checkpoint).save(request.model)
        yield Finished("import", 0.0, request.model)

    def _model(self, name: str) -> Any:
        """The loaded model, kept while its file does not change."""
        from ..engine.loading import load_model
        from ..store.library import Library

        path = Path(Library().resolve(name))
        key = (str(path), path.stat().st_mtime_ns)
        if key not in self._models:
            self._models = {key: load_model(path)}
        return self._models[key]

    def _encoder(self, backbone: str, device: str) -> Any:
        from ..engine.loading import load_backbone

        key = (backbone, device)
        if key not in self._encoders:
            self._encoders.clear()  # one at a time: a second ViT-H would not fit on most cards
            self._encoders[key] = load_backbone(backbone, device)
        return self._encoders[key]


def volume_of(source: VolumeSource) -> Any:
    """The engine's Volume; voxels in a file are mapped, not read."""
    from ..data.volume import Volume

    voxels = source.voxels
    array = np.load(voxels, mmap_mode="r") if isinstance(voxels, Path) else voxels
    return Volume.checked(array, np.array(source.ijk_to_ras, float), source.name)


def case_of(source: CaseSource) -> Any:
    """The engine's Case; label maps in ``.npy`` files are mapped."""
    from ..data.cases import Case

    image = volume_of(source.image) if isinstance(source.image, VolumeSource) else source.image
    labels = source.labels
    if isinstance(labels, Path) and labels.suffix == ".npy":
        labels = np.load(labels, mmap_mode="r")
    return Case(source.name, image, labels, domain=source.domain, slices=source.slices)


def _cache(limit: float) -> Any:
    from ..data.features import FeatureCache

    return FeatureCache(limit_bytes=limit)


__all__ = ["Runner", "case_of", "volume_of"]
