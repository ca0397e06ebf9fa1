"""One slice: its features in, one map of logits per label out. How a mask is picked is told here from top to bottom.

``predict_slice`` asks every label's decoder (``slice_decoder.py``), on a grid of points (DeSAM-P) or on the whole box
(DeSAM-B). ``pick`` is the published rule for a grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .postprocess import clean_small_regions, smooth_like_reference
from .registry import MASK_SIZE
from .slice_decoder import SliceDecoder
from .token_cache import TokenCache
from .types import Features, Prompts

if TYPE_CHECKING:
    from .desam import DeSAM

ABSENT = -4.0  # logit of every pixel of a contrast in which no prompt was accepted
BOX_OVERLAP = 0.7  # published box suppression threshold, used before and after the clean-up
REFERENCE_MIN_AREA = 1000  # pixels of the 256 x 256 grid, published


@dataclass(frozen=True)
class DecodeSettings:
    """How a slice is decoded; ``engine.options`` explains the fields."""

    mode: str
    points: int
    iou_threshold: float
    mask_threshold: float
    min_area_px: int  # pixels of the 256 x 256 grid
    reference_rule: bool = False
    fill_gaps: bool = False

    @property
    def mask_logit(self) -> float:
        """The logit whose sigmoid is ``mask_threshold``."""
        return float(np.log(self.mask_threshold / (1 - self.mask_threshold)))


@dataclass(frozen=True)
class LabelPrediction:
    """What one label's decoder says about one slice.

    ``logits`` is (256, 256) float32, or None when no prompt was accepted; ``certainty`` the mean probability of the
    mask's pixels, or without a mask how sure that is; ``agreement`` is 0..1; ``iou`` is (P,) and ``chosen`` the
    accepted prompt's number (-1: none). ``unsure``: the best prompt's logits where none was accepted, if the settings
    ask for them.
    """

    logits: np.ndarray | None
    certainty: float
    agreement: float
    iou: np.ndarray
    chosen: int = -1
    unsure: np.ndarray | None = None

    @property
    def found(self) -> bool:
        """Whether there is a mask with a pixel in it."""
        return self.logits is not None and bool((self.logits > 0).any())


def predict_slice(
    model: DeSAM,
    features: Features,
    settings: DecodeSettings,
    known: tuple[TokenCache, str] | None = None,
    prompt_batch: int | None = None,
) -> list[LabelPrediction]:
    """Every label's prediction for one slice (``known``, ``prompt_batch``: as ``SliceDecoder``)."""
    with torch.inference_mode():
        decoder = SliceDecoder(model, features, known, prompt_batch)
        by_box = settings.mode == "box" or not model.config.mask_module.has_prim
        one = _predict_box if by_box else _predict_grid
        return [one(decoder, settings, label) for label in range(model.config.labels)]


def averaged(contrasts: Sequence[list[LabelPrediction]]) -> list[LabelPrediction]:
    """Every label's prediction from those of the same slice in several contrasts: the mean of their logits.

    Where a contrast found nothing it counts as ``ABSENT``; what is not a mask is that of the first.
    """
    if len(contrasts) == 1:
        return contrasts[0]
    return [_averaged(label) for label in zip(*contrasts, strict=True)]


def _averaged(predictions: Sequence[LabelPrediction]) -> LabelPrediction:
    first = predictions[0]
    found = [each.logits for each in predictions if each.logits is not None]
    if not found:
        return first
    missing = [np.full_like(found[0], ABSENT)] * (len(predictions) - len(found))
    logits = np.asarray(np.mean([*found, *missing], axis=0, dtype=np.float32))
    return replace(first, logits=logits, certainty=mean_probability(logits))


def _predict_box(decoder: SliceDecoder, settings: DecodeSettings, label: int) -> LabelPrediction:
    """One decode of the whole box; the IoU is not used, so the mask alone decides."""
    decoder.score(Prompts.box(), label)
    logits = _logits(decoder, [0], label, settings)[0]
    return LabelPrediction(logits, mean_probability(logits), 1.0, np.ones(1, np.float32), 0)


def _predict_grid(decoder: SliceDecoder, settings: DecodeSettings, label: int) -> LabelPrediction:
    config = decoder.model.config
    iou = decoder.score(Prompts.grid(settings.points, config.input_size), label).float().cpu().numpy()
    if not config.mask_module.ranks_prompts and config.mask_module.reads:
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
        unsure = decode(int(iou.argmax())) if settings.fill_gaps else None
        return LabelPrediction(None, float(np.clip(1 - iou.max(), 0, 1)), 1.0, iou, unsure=unsure)
    agreement = _agreement(best, iou, decode, settings)
    return LabelPrediction(_with_mask(best, settings), mean_probability(best.logits), agreement, iou, best.prompt)


def _logits(decoder: SliceDecoder, prompts: list[int], label: int, settings: DecodeSettings) -> np.ndarray:
    """Logits (k, 256, 256) float32 of the prompts just scored."""
    logits = decoder.masks(prompts, label)[:, 0].float().cpu().numpy()
    return smooth_like_reference(logits) if settings.reference_rule else logits


def _mean_of_points(decoder: SliceDecoder, settings: DecodeSettings, label: int, iou: np.ndarray) -> LabelPrediction:
    """Without an IoU head nothing ranks the points: the result is the mean of their logits (Table 1, setting 2)."""
    total = np.zeros((MASK_SIZE, MASK_SIZE), np.float64)
    for prompt in range(len(iou)):
        total += _logits(decoder, [prompt], label, settings)[0]
    logits = (total / len(iou)).astype(np.float32)
    return LabelPrediction(logits, mean_probability(logits), 1.0, iou, 0)


def _with_mask(best: Candidate, settings: DecodeSettings) -> np.ndarray:
    """The chosen logits, pushed to the other side of the threshold where the clean-up changed the mask."""
    raw = best.logits > settings.mask_logit
    if np.array_equal(raw, best.mask):
        return best.logits
    # a pixel that was filled or dropped keeps its distance to the threshold, so the outline stays where it was
    mirrored = 2 * settings.mask_logit - best.logits
    return np.where(raw == best.mask, best.logits, mirrored).astype(np.float32)


def _agreement(
    best: Candidate, iou: np.ndarray, decode: Callable[[int], np.ndarray], settings: DecodeSettings
) -> float:
    """Dice between the chosen mask and the next accepted prompt's; 1 when it is the only one."""
    others = [int(prompt) for prompt in accepted_order(iou, settings.iou_threshold) if prompt != best.prompt]
    if not others:
        return 1.0
    other = decode(others[0]) > settings.mask_logit
    return float(2 * (other & best.mask).sum() / max(1, other.sum() + best.mask.sum()))


def mean_probability(logits: np.ndarray) -> float:
    """Mean probability of a mask's pixels, 0.5..1; of an empty mask the probability that no pixel is set.

    It ranks slices by their Dice, also where a short training leaves small probabilities all over the slice, which sink
    a Dice expected from all pixels. The predicted IoU takes no part: its training target is whether the point lies in
    the organ, and it says nothing of how good the mask is (``benchmarks/confidence.py``).
    """
    probability = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    mask = probability > 0.5
    return float(probability[mask].mean() if mask.any() else 1 - probability.max())


# ---- which of a grid's masks is the answer --------------------------------------------------------------------------
# The published pipeline decodes every mask, filters by predicted IoU, suppresses boxes twice, cleans small regions in
# between and then reads only the first record (docs/how-it-differs.md). The same record is found lazily: visit the
# accepted points by falling predicted IoU, decode one mask at a time, stop at the first that needs no clean-up.


@dataclass(frozen=True)
class Candidate:
    """One decoded prompt: its number on the grid, predicted IoU, logits (256, 256) and mask (256, 256) bool."""

    prompt: int
    iou: float
    logits: np.ndarray
    mask: np.ndarray


def accepted_order(iou: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the prompts whose predicted IoU is strictly above ``threshold``, best first, ties in grid order."""
    passing = np.flatnonzero(iou > threshold)
    return passing[np.argsort(-iou[passing], kind="stable")]


def pick(
    iou: np.ndarray,
    decode: Callable[[int], np.ndarray],
    *,
    threshold: float = 0.5,
    mask_logit: float = 0.0,
    min_area: int = 0,
) -> Candidate | None:
    """The published rule's mask for one slice, or None when no point passes or every mask is empty.

    Arguments:
      iou: (P,) predicted IoU of every prompt.
      decode: gives the logits (256, 256) of a prompt by its number; called as rarely as possible.
      threshold: a prompt passes if its IoU is strictly larger.
      mask_logit: a pixel belongs to the mask if its logit is strictly larger.
      min_area: pixels below which holes are filled and islands dropped; 0 = no clean-up.
    """
    first: Candidate | None = None
    for candidate in _kept_candidates(iou, decode, threshold, mask_logit):
        cleaned, changed = clean_small_regions(candidate.mask, min_area)
        if not changed:
            return candidate
        if first is None:
            # all kept masks may turn out to need a clean-up: then the best of them, cleaned, wins
            first = Candidate(candidate.prompt, candidate.iou, candidate.logits, cleaned)
    return first


def _kept_candidates(
    iou: np.ndarray, decode: Callable[[int], np.ndarray], threshold: float, mask_logit: float
) -> Iterator[Candidate]:
    """Non-empty masks by falling IoU that survive greedy box suppression, decoded one by one.

    An empty mask has no box and would survive every suppression, so in the published code it wins: dropped here.
    """
    boxes: list[tuple[int, int, int, int]] = []
    for prompt in accepted_order(iou, threshold):
        logits = decode(int(prompt))
        mask = logits > mask_logit
        if not mask.any():
            continue
        box = _bounding_box(mask)
        if any(_box_iou(box, other) > BOX_OVERLAP for other in boxes):
            continue
        boxes.append(box)
        yield Candidate(int(prompt), float(iou[prompt]), logits, mask)


def _bounding_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the set pixels, inclusive, as segment-anything's mask-to-box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def _box_iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    overlap = width * height
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return overlap / (area - overlap)
