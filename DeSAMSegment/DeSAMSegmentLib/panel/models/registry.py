"""The models and weights that are installed, as the panel lists them; quiet while packages are still missing."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.train.run_folder import STATE
from ...errors import DeSAMError
from ..kit import words
from ..kit.signal import Signal

BACKBONE = "backbone:"  # prefix of a training base that is no model but a frozen encoder's own decoder


@dataclass(frozen=True)
class RegisteredModel:
    """One model of the library; ``card`` is None when the file is damaged; a ``shipped`` one can only be read."""

    name: str
    path: Path
    card: Any
    problem: str = ""
    shipped: bool = False

    def matches(self, text: str) -> bool:
        """Whether every word of a search occurs in name, labels or backbone."""
        card = self.card
        where = f"{self.name} {card.title} {words.modelFinds(card)} {card.backbone}" if card else self.name
        return all(word in where.lower() for word in text.lower().split())


class Registry:
    """Library and weights through the store.

    Read from disk once and again after ``changed``, which is emitted after every change made here, and by whoever
    has reason to think that the disk has changed.
    """

    def __init__(self) -> None:
        self._models: list[RegisteredModel] | None = None
        self._weights: list[Any] | None = None
        self.changed = Signal()
        self.changed.connect(self._forget)  # first of all, so that the other slots see what is new

    def _forget(self) -> None:
        self._models = self._weights = None

    def models(self) -> list[RegisteredModel]:
        """Every model file; while packages are missing, those that come with DeSAM."""
        if self._models is None:
            from ...store.library import shipped_models

            try:
                entries = self._library().list()
            except ImportError:
                entries = shipped_models()
            self._models = [RegisteredModel(e.name, e.path, e.card, e.problem, e.shipped) for e in entries]
        return self._models

    def find(self, name: str) -> RegisteredModel | None:
        return next((model for model in self.models() if model.name == name), None)

    def weights(self) -> list[Any]:
        """WeightStatus of every backbone; none while packages are missing."""
        if self._weights is None:
            try:
                from ...store import weights

                self._weights = weights.status()
            except ImportError:
                return []
        return self._weights

    def folder(self) -> Path:
        folder = Path(self._library().folder)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def add(self, path: Path, name: str = "") -> str:
        """Takes a ``.desam`` file in, under a name that is free; the name."""
        library = self._library()
        added = library.add(path, library.free_name(name or path.stem))
        self.changed.emit()
        return str(added.stem)

    def addTrained(self, run: Any, isOver: bool) -> str:
        """Takes the best model of a ``TrainRun`` in; its name. A run that is over has nothing left to resume."""
        name = self.add(run.best, run.options.name)
        if isOver:
            (run.folder / STATE).unlink(missing_ok=True)
        return name

    def nextVersion(self, name: str) -> str:
        """ "prostate (v2)" for "prostate", and so on; a version that is taken is passed over."""
        stem = re.sub(r" \(v\d+\)$", "", name)
        pattern = re.compile(re.escape(stem) + r"(?: \(v(\d+)\))?")
        taken = [int(found[1] or 1) for model in self.models() if (found := pattern.fullmatch(model.name))]
        return f"{stem} (v{max(taken, default=1) + 1})"

    def pathForNew(self, name: str) -> Path:
        """A path in the library that no model has yet."""
        return self.folder() / f"{self._library().free_name(name)}.desam"

    def export(self, name: str, path: Path) -> None:
        self._library().export(name, path)

    def rename(self, name: str, new: str) -> str:
        renamed = self._library().rename(name, new)
        self.changed.emit()
        return str(renamed.stem)

    def delete(self, name: str) -> None:
        self._library().delete(name)
        self.changed.emit()

    def addWeights(self, path: Path, identifier: str) -> None:
        """Takes a local file as the weights of a backbone."""
        from ...store import weights

        weights.add(path, identifier)
        self.changed.emit()

    def cacheBytes(self) -> int:
        try:
            from ...data.feature_cache import FeatureCache

            return int(FeatureCache().size_bytes())
        except (ImportError, OSError, DeSAMError):
            return 0

    @staticmethod
    def cacheLimit() -> float:
        """Bytes that the feature cache may take; stored for console and command line alike."""
        from ...data.feature_cache import stored_limit

        return stored_limit()

    @staticmethod
    def setCacheLimit(limitBytes: float) -> None:
        from ...data.feature_cache import store_limit

        store_limit(limitBytes)

    def clearCache(self) -> None:
        from ...data.feature_cache import FeatureCache

        FeatureCache().clear()
        self.changed.emit()

    def runFolder(self, name: str, kind: str = "runs") -> Path:
        """Where a training run of this name keeps its files; of the kind "reports", an evaluation."""
        from ...files import home

        safe = "".join(letter if letter.isalnum() or letter in " -_." else "_" for letter in name).strip(" .")
        return Path(home()) / kind / (safe or "model")

    def hasInterruptedRun(self, name: str) -> bool:
        try:
            return os.path.exists(self.runFolder(name) / STATE)
        except ImportError:
            return False

    @staticmethod
    def _library() -> Any:
        from ...store.library import Library

        return Library()
