"""A training run on disk: its configuration, its numbers, its models, and what an exact resume needs.

What a panel asks of a run (``stored_options``, ``stored_cases``) needs no torch.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import BadInput
from ...files import atomic_path, parse_json, write_text
from ...store.card import ModelCard
from ...store.model_file import check_zip
from ..events import EpochDone
from ..options import TrainOptions

if TYPE_CHECKING:
    from .step import Learner

CONFIG, STATE, BEST, LAST = "config.json", "state.pt", "best.desam", "last.desam"
COLUMNS = ("epoch", "loss", "dice", "ce", "iou", "learning_rate", "validation_dice", "best", "seconds")


@dataclass
class TrainingState:
    """Everything the next epoch depends on, apart from the decoder's tensors and the optimizer's."""

    epoch: int = 0  # the last one finished
    step: int = 0
    epochs: int = 0  # as planned; a time limit may have lowered it
    best_dice: float = -1.0  # of the epoch kept as best.desam
    best_epoch: int = 0
    top_values: list[float] = field(default_factory=list)  # Dice per case and label of the highest epoch so far
    top_epoch: int = 0
    seconds: float = 0.0  # features included
    prepared: float = 0.0  # of these, for the features
    planned: bool = False  # whether ``epochs`` fits the time limit
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class TrainResult:
    """What a finished run hands over: its files and its numbers."""

    best: Path
    last: Path
    best_epoch: int
    best_dice: float | None
    history: list[dict[str, Any]]


class RunFolder:
    """The files of one run; each is written to a temporary name and renamed."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.best, self.last = self.path / BEST, self.path / LAST
        self.curves = self.path / "curves.png"
        self.state = self.path / STATE
        self.config = self.path / CONFIG

    def begin(self, config: dict[str, Any], resume: bool) -> None:
        """Writes the configuration of a fresh run; a resumed one, which may have no epoch yet, must have the same.

        Raises:
          BadInput: when a run is already there and not resumed, or resumed with other options.
        """
        if not resume:
            if self.state.exists():
                raise BadInput(
                    f"{self.path} already holds a training run.",
                    "Resume it, or choose another folder.",
                    kind="run-exists",
                )
            write_text(self.config, json.dumps(config, indent=2))
            return
        before = {"replay": []} | read_config(self.path)
        different = [key for key in config if before.get(key) != json.loads(json.dumps(config[key]))]
        if different:
            raise BadInput(
                f"The run in {self.path} was started with other {', '.join(different)}.",
                "Resume with the same data and options, or start a new run in another folder.",
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second training out of the folder: two of them would mix without a word.

        The system releases the lock of a process that dies.

        Raises:
          BadInput: when another training holds it.
        """
        from filelock import FileLock, Timeout  # a panel asks for stored runs before its packages are installed

        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout:
            raise BadInput(
                f"Another training is running in {self.path}.", "Wait for its end, or choose another folder."
            ) from None

    def save(self, learner: Learner, card: ModelCard, state: TrainingState) -> None:
        """The last model and what an exact resume needs."""
        import torch

        learner.model.save(self.last, card, half=True)
        saved = {
            "state": vars(state),
            "tensors": [parameter.detach().cpu() for parameter in learner.parameters],
            "start": [tensor.cpu() for tensor in learner.start],
            "optimizer": learner.optimizer.state_dict(),
            "scaler": learner.scaler.state_dict(),
        }
        content = io.BytesIO()  # torch's own writing hides the reason of a failure, such as a full disk
        torch.save(saved, content)
        with atomic_path(self.state) as temporary:
            temporary.write_bytes(content.getbuffer())

    def restore(self, learner: Learner) -> TrainingState:
        """Puts model and optimizer back to the end of the last finished epoch.

        Raises:
          BadInput: when the state file is damaged. Its checksums are compared, and it is read with ``weights_only``:
            nothing is unpickled.
        """
        import torch

        try:
            check_zip(self.state)
            saved = torch.load(self.state, map_location="cpu", weights_only=True)
            with torch.no_grad():
                kept = [*saved["tensors"], *saved.get("start", [])]
                for parameter, tensor in zip([*learner.parameters, *learner.start], kept, strict=True):
                    if parameter.shape != tensor.shape:  # copying would stretch it
                        raise ValueError("a tensor of another shape")
                    parameter.copy_(tensor)
            learner.optimizer.load_state_dict(saved["optimizer"])
            learner.scaler.load_state_dict(saved["scaler"])
            state = TrainingState(**saved["state"])
            for name, fresh in vars(TrainingState()).items():
                if not isinstance(getattr(state, name), list if isinstance(fresh, list) else int | float):
                    raise ValueError(name)
            return state
        except Exception as error:  # torch raises whatever its unpickler met, with advice that nobody should follow
            raise _damaged(self.state, type(error).__name__) from None

    def write_metrics(self, history: list[dict[str, Any]]) -> None:
        text = io.StringIO()
        # text mode turns \n into the system's line end, csv's own \r\n would become \r\r\n on Windows
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: row.get(key, "") for key in COLUMNS} for row in history)
        write_text(self.path / "metrics.csv", text.getvalue())


def metrics_row(event: EpochDone) -> dict[str, Any]:
    """An epoch as a row of metrics.csv; floats keep all their digits, so that two runs can be compared exactly."""
    dice = event.validation_dice
    return {
        "epoch": event.epoch,
        "loss": event.loss,
        **event.parts,
        "learning_rate": event.learning_rate,
        "validation_dice": "" if dice is None else dice,
        "best": int(event.best),
        "seconds": round(event.seconds, 3),
    }


# ---- what a run was started with ------------------------------------------------------------------------------------


def read_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of the run in a folder.

    Raises:
      BadInput: when there is none, or it is damaged.
    """
    path = Path(folder) / CONFIG
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _no_run(folder) from error
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(config, dict) or not isinstance(config.get("options"), dict):
        raise _damaged(path, "it has no options")
    return config


def stored_options(folder: str | Path) -> TrainOptions:
    """The options of the run in a folder: an exact resume needs the same.

    Raises:
      BadInput: as ``read_config``.
    """
    known = {each.name for each in fields(TrainOptions)}
    stored: dict[str, Any] = {key: value for key, value in read_config(folder)["options"].items() if key in known}
    options = TrainOptions(**stored)
    valid, reason = options.is_valid()
    if not valid:
        raise _damaged(Path(folder) / CONFIG, reason)
    return options


def stored_cases(folder: str | Path) -> list[str]:
    """The names of the cases of the run in a folder, in its order.

    Raises:
      BadInput: as ``read_config``.
    """
    return [str(name) for name in read_config(folder).get("cases", [])]


def _no_run(folder: str | Path) -> BadInput:
    return BadInput(f"{folder} holds no training run to resume.", "Start a new one.", kind="no-run")


def _damaged(path: Path, why: object) -> BadInput:
    return BadInput(
        f"{path} is damaged ({why}).",
        f"The models {BEST} and {LAST} are whole: start a new run from one of them.",
        kind="run-damaged",
        path=path.with_name(BEST),
    )
