"""What the jobs of one process share: one device, one encoder, the last model, the feature cache, the log, and the way
back when memory runs out. Segmenting, training and evaluating take a session; nothing else loads or moves a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import numpy as np
import torch

from ...data.feature_cache import FeatureCache
from ...errors import BadInput, OutOfMemory
from ...files import sweep
from ...model.backbones import Backbone, build_backbone
from ...model.prediction import DecodeSettings, LabelPrediction, predict_slice
from ...model.registry import BACKBONES
from ...model.token_cache import TokenCache
from ...model.types import Features, send
from ...store import weights
from ...store.card import ModelCard
from ...store.library import Library
from ..events import Log
from . import device as devices
from . import memory
from .loading import DeSAM


class Encoder:
    """A frozen backbone on its device.

    Arguments:
      backbone: the network of ``model.backbones``.
      sha256: hash of the weight file, part of the feature cache's keys.
      device: where to compute.

    Attributes:
      batch: slices to show it at once; it shrinks when memory runs out.
    """

    def __init__(self, backbone: Backbone, sha256: str, device: torch.device) -> None:
        self.backbone = backbone.to(device).eval()
        self.sha256 = sha256
        self.device = device
        self.batch = memory.encoder_batch(backbone.spec.input_size, device)

    @property
    def id(self) -> str:
        return self.backbone.spec.id

    @property
    def key(self) -> str:
        """Part of the cache key: weights, taps and arithmetic that made the features."""
        taps = "-".join(str(tap) for tap in self.backbone.spec.taps)
        is_half = self.device.type == "cuda"
        arithmetic = str(devices.half_type(self.device)).removeprefix("torch.") if is_half else "f32"
        return f"{self.sha256[:16]}.{taps}.{arithmetic}"

    @torch.inference_mode()
    def encode(self, images: np.ndarray) -> Features:
        """Features of images (B, 256, 256) uint8."""
        tensor = send(torch.from_numpy(np.ascontiguousarray(images)), self.device)
        with torch.autocast("cuda", dtype=devices.half_type(self.device), enabled=self.device.type == "cuda"):
            return self.backbone(tensor)

    def move(self, device: torch.device) -> None:
        """Continues on another device and gives the memory of the old one back."""
        self.device = device
        self.backbone.to(device)
        self.batch = memory.encoder_batch(self.backbone.spec.input_size, device)
        memory.release()


class Session:
    """One at a time: a job begins with ``begin``, and what the session has to say meanwhile is in ``logged``.

    Arguments:
      device: "auto", "cpu", "cuda", "cuda:1", "mps".
      cache: features of slices seen before are read from it, new ones written to it; None keeps none.
      encoder: one that is loaded already; its device is then the session's.
    """

    def __init__(self, device: str = "auto", cache: FeatureCache | None = None, encoder: Encoder | None = None) -> None:
        sweep()
        self.cache = cache
        self.writing = Lock()  # slices may be in work side by side; a cache counts what it holds
        self.tokens = TokenCache()  # what a frozen PRIM made of grids
        self.prompt_batch: int | None = None  # prompts decoded at once; set when memory ran out
        self._name = device
        self._chosen: torch.device | None = encoder.device if encoder else None
        self._encoder = encoder
        self._model: tuple[tuple[Path, int, int], DeSAM] | None = None
        self._said: list[str] = []

    # ---- device, encoder, model ----

    @property
    def chosen_device(self) -> torch.device:
        """The device asked for. Raises BadInput when it is not there."""
        if self._chosen is None:
            self._chosen = devices.choose(self._name)
        return self._chosen

    @property
    def device(self) -> torch.device:
        """Where the work is done now: the CPU, once the device's memory was not enough for the running job."""
        return self._encoder.device if self._encoder else self.chosen_device

    @property
    def encoder(self) -> Encoder:
        """The encoder of the running job."""
        assert self._encoder is not None, "a job begins with begin()"
        return self._encoder

    def begin(self, backbone: str) -> Encoder:
        """Starts a job: its encoder on the device that was asked for. There is never a second one in memory.

        Raises:
          WeightsMissing: when the backbone's weight file is not installed. BadInput: no such device or backbone.
        """
        device = self.chosen_device
        if self._encoder is None or self._encoder.id != backbone:
            self._encoder = None  # its memory goes first: a second ViT-H would not fit on most cards
            memory.release()
            tensors, sha256 = _backbone_tensors(backbone)
            # no random number is taken: what a training draws depends on its seed and not on what was loaded before
            with torch.random.fork_rng(devices=[]):
                built = build_backbone(backbone, tensors)
            self._encoder = Encoder(built, sha256, device)
        elif self._encoder.device != device:
            self._encoder.move(device)  # an earlier job had to leave it
        self.prompt_batch = None
        self._said.clear()  # of a job that was cancelled
        return self._encoder

    def begin_with(self, card: ModelCard) -> Encoder:
        """``begin`` with the encoder that a model was trained on.

        Raises:
          BadInput: also when the weights here are others than those it was trained on.
        """
        encoder = self.begin(card.backbone)
        if card.backbone_sha256 and card.backbone_sha256 != encoder.sha256:
            raise BadInput(
                f"The model {card.name} was trained on other weights of {card.backbone} than the ones installed, "
                f"those with the SHA-256 {card.backbone_sha256[:12]}...",
                "Add that weight file.",
                kind="weights-differ",
                backbone=card.backbone,
            )
        return encoder

    def model(self, model: DeSAM | str | Path) -> DeSAM:
        """A loaded model as it is; a path or the name of one in the library is read from disk, once while unchanged."""
        if isinstance(model, DeSAM):
            return model
        path = Library().resolve(model)
        stat = path.stat()
        key = (path, stat.st_mtime_ns, stat.st_size)
        if self._model is None or self._model[0] != key:
            self._model = key, DeSAM.load(path)
        return self._model[1]

    def fresh_model(self, model: str | Path) -> DeSAM:
        """A model from disk that is the caller's alone, to be changed."""
        return DeSAM.load(Library().resolve(model))

    # ---- the log ----

    def log(self, text: str) -> None:
        """Notes a sentence that the running job hands out with its next event."""
        self._said.append(text)

    def logged(self) -> Iterator[Log]:
        """What was noted since the last time."""
        while self._said:
            yield Log(self._said.pop(0), "warning")

    # ---- work that may not fit ----

    def encode(self, images: np.ndarray) -> Features:
        """Features of images (B, 256, 256) uint8; falls back to smaller batches, then to the CPU."""
        encoder = self.encoder

        def work(batch: int) -> Features:
            return Features.cat([encoder.encode(images[i : i + batch]) for i in range(0, len(images), batch)])

        size = min(encoder.batch, len(images))
        try:
            features, fitted = memory.with_backoff(work, size, self.log, "computing features")
        except OutOfMemory:
            if self.device.type == "cpu":
                raise
            self._fall_back("image encoder")
            return work(1)
        if fitted < size:  # memory ran out; a short last batch is no reason to stay small
            encoder.batch = fitted
        return features

    def predict(
        self, model: DeSAM, features: Features, settings: DecodeSettings, known: str | None = None
    ) -> list[LabelPrediction]:
        """Every label's prediction for one slice; falls back to fewer prompts at once, then to the CPU.

        Arguments:
          known: the slice's name in the token cache, where PRIM's answers may be kept.
        """
        # after a fall-back also what the GPU had computed ahead
        features = features.to(device=self.device)
        if model.device.type != self.device.type:
            model.to(self.device)
        tokens = (self.tokens, known) if known else None
        planned = self.prompt_batch or memory.prompts_at_once(model.config, self.device)

        def work(batch: int) -> list[LabelPrediction]:
            # while memory is plenty the model picks the batch that suits its device
            return predict_slice(model, features, settings, tokens, None if batch == memory.MOST_PROMPTS else batch)

        try:
            predictions, fitted = memory.with_backoff(work, planned, self.log, "decoding masks")
        except OutOfMemory:
            if self.device.type == "cpu":
                raise
            self._fall_back("decoder")
            model.to(self.device)
            return predict_slice(model, features.to(device=self.device), settings, tokens)
        if fitted < planned:
            self.prompt_batch = fitted
        return predictions

    def _fall_back(self, what: str) -> None:
        """Continues on the CPU until the job ends."""
        self.log(f"The GPU's memory is not enough for the {what}: continuing on the CPU.")
        self.encoder.move(torch.device("cpu"))


def weights_of(backbone: str) -> str:
    """The id of the weight file that a backbone needs; unknown ids are left to ``store.weights`` to refuse."""
    return BACKBONES[backbone].weights if backbone in BACKBONES else backbone


def _backbone_tensors(backbone: str) -> tuple[dict[str, torch.Tensor] | None, str]:
    """The tensors of a backbone's weight file and its SHA-256; nothing, and its name, for one without weights."""
    file = weights_of(backbone)
    return weights.load(file) if file else (None, backbone)


def sam_tensors(backbone: str) -> dict[str, torch.Tensor]:
    """SAM's own prompt encoder and mask decoder tensors, the start of every training from scratch."""
    return _backbone_tensors(backbone)[0] or {}
