"""One slice: features in, one map of logits per label out (DeSAM-P on a grid of points, DeSAM-B on the whole box)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..model.desam import DeSAM
from ..model.token_memory import TokenMemory
from ..model.types import Features, Prompts
from .picking import REFERENCE_MIN_AREA, Candidate, accepted_order, pick
from .postprocess import smooth_like_reference


@dataclass(frozen=True)
class Settings:
    """Options and card recommendations, resolved: nothing here is None."""

    mode: str
    points: int
    iou_threshold: float
    mask_threshold: float
    min_area_px: int  # pixels of the 256 x 256 grid
    reference_rule: bool = False
    keep_points: bool = False

    @property
    def mask_logit(self) -> float:
        """The logit whose sigmoid is ``mask_threshold``."""
        return float(np.log(self.mask_threshold / (1 - self.mask_threshold)))


@dataclass(frozen=True)
class LabelPrediction:
    """What one label's decoder says about one slice.

    ``logits`` is (256, 256) float32, or None when no prompt was accepted; ``confidence`` and ``agreement`` are 0..1;
    ``iou`` is (P,) and ``chosen`` the accepted prompt's number (-1: none).
    """

    logits: np.ndarray | None
    confidence: float
    agreement: float
    iou: np.ndarray
    chosen: int = -1


def predict_slice(
    model: DeSAM, features: Features, settings: Settings, memory: tuple[TokenMemory, str] | None = None
) -> list[LabelPrediction]:
    """Every label's prediction for one slice; the shared features are used as they are (``memory``: DeSAM.begin)."""
    with torch.inference_mode():
        decoder = model.begin(features, memory)
        one = _predict_box if settings.mode == "box" or model.config.variant in ("pdmm_only", "unet") else _predict_grid
        return [one(model, decoder, settings, label) for label in range(model.config.labels)]


def _predict_box(model: DeSAM, decoder, settings: Settings, label: int) -> LabelPrediction:
    """One decode of the whole box; the IoU is not used, so the mask alone decides (E-21)."""
    decoder.score(Prompts.box(), label)
    logits = _logits(decoder, [0], label, settings)[0]
    return LabelPrediction(logits, expected_dice(logits), 1.0, np.ones(1, np.float32), 0)


def _predict_grid(model: DeSAM, decoder, settings: Settings, label: int) -> LabelPrediction:
    prompts = Prompts.grid(settings.points, model.config.input_size)
    iou = decoder.score(prompts, label).float().cpu().numpy()
    if model.config.variant == "no_iou_head":
        return _mean_of_points(decoder, settings, label, iou)
    decoded: dict[int, np.ndarray] = {}

    def decode(prompt: int) -> np.ndarray:
        if prompt not in decoded:
            decoded[prompt] = _logits(decoder, [prompt], label, settings)[0]
        return decoded[prompt]

    best = pick(
        iou,
        decode,
        threshold=settings.iou_threshold,
        mask_logit=settings.mask_logit,
        min_area=REFERENCE_MIN_AREA if settings.reference_rule else settings.min_area_px,
    )
    if best is None:
        return LabelPrediction(None, float(np.clip(1 - iou.max(), 0, 1)), 1.0, iou)
    agreement = _agreement(best, iou, decode, settings)
    return LabelPrediction(_with_mask(best, settings), expected_dice(best.logits), agreement, iou, best.prompt)


def _logits(decoder, prompts: list[int], label: int, settings: Settings) -> np.ndarray:
    """Logits (k, 256, 256) float32 of the prompts just scored."""
    logits = decoder.masks(prompts, label)[:, 0].float().cpu().numpy()
    return smooth_like_reference(logits) if settings.reference_rule else logits


def _mean_of_points(decoder, settings: Settings, label: int, iou: np.ndarray) -> LabelPrediction:
    """Without an IoU head nothing ranks the points: the result is the mean of their logits (E-9, setting 2)."""
    total = np.zeros((256, 256), np.float64)
    for prompt in range(len(iou)):
        total += _logits(decoder, [prompt], label, settings)[0]
    logits = (total / len(iou)).astype(np.float32)
    return LabelPrediction(logits, expected_dice(logits), 1.0, iou, 0)


def _with_mask(best: Candidate, settings: Settings) -> np.ndarray:
    """The chosen logits, pushed to the other side of the threshold where the clean-up changed the mask."""
    raw = best.logits > settings.mask_logit
    if np.array_equal(raw, best.mask):
        return best.logits
    # a pixel that was filled or dropped keeps its distance to the threshold, so the outline stays where it was
    mirrored = 2 * settings.mask_logit - best.logits
    return np.where(raw == best.mask, best.logits, mirrored).astype(np.float32)


def _agreement(best: Candidate, iou: np.ndarray, decode, settings: Settings) -> float:
    """Dice between the chosen mask and the next accepted prompt's; 1 when it is the only one."""
    others = [int(prompt) for prompt in accepted_order(iou, settings.iou_threshold) if prompt != best.prompt]
    if not others:
        return 1.0
    other = decode(others[0]) > settings.mask_logit
    return float(2 * (other & best.mask).sum() / max(1, other.sum() + best.mask.sum()))


def expected_dice(logits: np.ndarray) -> float:
    """How sure a mask is of itself: the Dice that its own probabilities expect of it, 0..1.

    ``2 sum(p m) / (sum p^2 + sum m)`` with m = p > 0.5, the squared form of the training's Dice: a background of small
    probabilities, which short trainings leave, hardly counts. For an empty mask the probability that no pixel is set.
    The predicted IoU takes no part: its training target is whether the point lies in the organ, and it says nothing of
    how good the mask is (``benchmarks/confidence.py``).
    """
    probability = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    mask = probability > 0.5
    if not mask.any():
        return float(1 - probability.max())
    return float(2 * probability[mask].sum() / (np.square(probability).sum() + mask.sum()))
