"""Images made from label maps alone: any contrast, any plane, with ground truth that is exact.

A network that has seen each structure in every grey learns shape instead of contrast, and so reads sequences it was
never shown (Billot et al., SynthSeg, Medical Image Analysis 2023). Each label map gives a few *stacks*: some slices
across a random plane in a random pose, thickness and field of view, every value in a random grey, then the faults of
a scanner (blur, low resolution, bias field, contrast curve, noise). What comes out are ordinary cases.

Values that are equal modulo 1000 are one tissue and share a grey, as FreeSurfer numbers left and right (2, 1002).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace

import numpy as np
import torch
from monai.transforms import (
    RandAdjustContrast,
    RandBiasField,
    RandGaussianSmooth,
    RandRicianNoise,
    RandSimulateLowResolution,
)
from scipy import ndimage

from ...data.cases import Case, load_labelled
from ...data.labels import IGNORE, LabelMap, plain
from ...data.volume import Volume
from ...errors import BadLabels
from ..events import Event, Progress
from ..options import TrainOptions
from .augmentation import apply_seeded

VERSION = 1  # part of the seeds; to be raised when the images change
SLICES = 4  # of a stack, which share contrast and pose
TISSUE = 1000  # values equal modulo this share a grey
MAP_PATTERN = r"(.+) stack \d+$"  # finds the label map in the name of a stack: they stay together in the split

AXIS_SHARES = (0.25, 0.25, 0.5)  # of slices across right-left, back-front, foot-head
ROTATION = 20.0  # degrees about each axis, either way
SCALE = 0.15  # up to 1.15 times larger or smaller, along each axis
WARP, WARP_GRID = 4.0, 6  # mm at most, standard deviation of a smooth displacement given on so many points a side
MARGIN = (-0.05, 0.25)  # of the extent, added on each side of the image
PIXEL = (0.7, 1.6)  # mm
THICKEST = 6  # mm: each slice is the mean of so many sub-slices at most
CONTRAST = 0.08  # standard deviation within a tissue, of the grey range, at most
AIR = 0.15  # grey of what has no label, at most; half of the images have it black
P_SMOOTH, P_LOW, P_BIAS, P_GAMMA, P_NOISE = 0.8, 0.4, 0.7, 0.7, 0.8
SMOOTH, LOW, BIAS, GAMMA, NOISE = (0.3, 1.5), (0.35, 1.0), (-0.35, 0.35), (0.6, 1.7), 0.08
GROWN = 3  # pixels at most that a cut-out keeps around the labels
GREYS = 1000  # of an image


def stacks(cases: Sequence[Case], options: TrainOptions) -> Generator[Event, None, list[Case]]:
    """``options.stacks`` cases for each label map; the images of ``cases`` are not looked at. Yields Progress.

    Raises:
      BadLabels: a label map that is empty.
    """
    made: list[Case] = []
    for number, case in enumerate(cases):
        _, labels = load_labelled(case)
        names = {name: values for name, values in labels.names.items() if plain(name) != IGNORE}
        table = _declared([value for values in names.values() for value in values], labels.array)
        for stack in range(options.stacks):
            rng = np.random.default_rng([VERSION, options.seed, number, stack])
            volume, truth = make_stack(labels, table, rng, rng.random() < options.cut_out)
            name = f"{case.name} stack {stack}"
            made.append(Case(name, replace(volume, name=name), truth, case.domain, names=labels.names))
        yield Progress("Making images from label maps", number + 1, len(cases))
    return made


def _declared(values: Sequence[int], array: np.ndarray) -> np.ndarray:
    """Whether a value is a label, for every value there may be; all but 0 are where nobody says."""
    table = np.zeros(int(max(array.max(initial=0), *values, 1)) + 1, bool)
    table[list(values) if values else slice(1, None)] = True
    return table


def make_stack(
    labels: LabelMap, declared: np.ndarray, rng: np.random.Generator, cut_out: bool = False
) -> tuple[Volume, np.ndarray]:
    """Slices of a label map as a scanner of no particular kind might show them.

    Arguments:
      declared: for every value whether it is a label to learn; the others only make the image.
      cut_out: whether all that no label covers is black, as around a brain without its skull.

    Returns:
      image and label values (SLICES, J, I), those that are not declared 0. The slices lie far apart.
    """
    tight = cut_out and rng.random() < 0.5
    low, high = _extent(labels, declared if tight else np.arange(len(declared)) > 0)
    axis = int(rng.choice(3, p=AXIS_SHARES))
    columns, rows = (each for each in range(3) if each != axis)
    pixel = rng.uniform(*PIXEL)
    gap = (high[axis] - low[axis]) / SLICES
    start = low - rng.uniform(*MARGIN, 3) * (high - low)
    end = high + rng.uniform(*MARGIN, 3) * (high - low)
    start[axis] = low[axis] + rng.uniform(0, gap)
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, 3] = start
    for column, (direction, step) in enumerate(((columns, pixel), (rows, pixel), (axis, gap))):
        ijk_to_ras[:3, column] = np.eye(3)[direction] * step
    width, height = (int((end[each] - start[each]) / pixel) + 1 for each in (columns, rows))
    subs = np.arange(rng.integers(1, THICKEST + 1))  # a millimetre apart
    values = _sampled(labels, (SLICES, height, width), ijk_to_ras, axis, subs - subs.mean(), rng)
    truth = values[:, len(subs) // 2]
    grey = _scanned(_painted(values, rng), rng)
    truth = np.where(declared[truth], truth, 0)
    if cut_out:
        grow = int(rng.integers(0, GROWN + 1))
        inside = truth > 0
        inside = ndimage.binary_dilation(inside, np.ones((1, 3, 3)), grow) if grow else inside
        grey[~inside] = 0
    return Volume((grey * GREYS).round().astype(np.int16), ijk_to_ras), truth


def _extent(labels: LabelMap, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest corner in RAS millimetres of what ``wanted`` names."""
    there = wanted[labels.array]
    if not there.any():
        raise BadLabels(f"{labels.title} is empty.", "Leave it out, or label something in it.")
    ends = [np.flatnonzero(there.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in (2, 1, 0)]
    corners = np.stack(np.meshgrid(*ends, [1], indexing="ij"), -1).reshape(-1, 4) @ labels.ijk_to_ras.T
    return corners[:, :3].min(axis=0), corners[:, :3].max(axis=0)


def _sampled(
    labels: LabelMap,
    shape: tuple[int, int, int],
    ijk_to_ras: np.ndarray,
    axis: int,
    subs: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Label values (K, sub-slices, J, I), nearest, through a random pose and a smooth warp.

    Arguments:
      subs: offsets of the sub-slices along the RAS ``axis``, millimetres.
    """
    k, j, i = np.meshgrid(*map(np.arange, shape), indexing="ij")
    places = np.stack([i, j, k, np.ones_like(i)], -1).astype(np.float32) @ ijk_to_ras[:3].T.astype(np.float32)
    coarse = rng.normal(0, rng.uniform(0, WARP), (shape[0], WARP_GRID, WARP_GRID, 3))
    places += ndimage.zoom(coarse, (1, shape[1] / WARP_GRID, shape[2] / WARP_GRID, 1), order=1)
    centre = (ijk_to_ras @ [shape[2] / 2, shape[1] / 2, shape[0] / 2, 1])[:3]
    turn = _turn(np.deg2rad(rng.uniform(-ROTATION, ROTATION, 3))) @ np.diag((1 + SCALE) ** rng.uniform(-1, 1, 3))
    to_ijk = np.linalg.inv(labels.ijk_to_ras)
    found = []
    for sub in subs:
        moved = (places - centre + np.eye(3)[axis] * sub) @ turn.T + centre
        index = np.rint(moved @ to_ijk[:3, :3].T + to_ijk[:3, 3]).astype(np.int32)[..., ::-1]
        within = ((index >= 0) & (index < labels.array.shape)).all(axis=-1)
        index[~within] = 0
        found.append(np.where(within, labels.array[tuple(np.moveaxis(index, -1, 0))], 0))
    return np.stack(found, axis=1)


def _turn(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix of three turns about the axes in order."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = (each for each in range(3) if each != axis)
        one = np.eye(3)
        one[[first, second], [first, second]] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        matrix = one @ matrix
    return matrix


def _painted(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Greys 0..1 (K, J, I): one per tissue, with some texture; sub-slices are averaged, which blurs thick slices."""
    mean, spread = rng.uniform(0, 1, TISSUE), rng.uniform(0, CONTRAST, TISSUE)
    mean[0], spread[0] = rng.choice([0.0, rng.uniform(0, AIR)]), spread[0] * rng.integers(0, 2)
    tissues = values % TISSUE
    grey = mean[tissues] + spread[tissues] * rng.standard_normal(values.shape)
    return np.asarray(grey.mean(axis=1).clip(0, 1))


def _scanned(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What a scanner makes of it, greys 0..1; the slices are the channels of one image."""
    image = torch.from_numpy(grey.astype(np.float32))
    steps = (
        RandGaussianSmooth(SMOOTH, SMOOTH, prob=P_SMOOTH),
        RandSimulateLowResolution(P_LOW, "area", "bilinear", LOW),
        RandBiasField(degree=3, coeff_range=BIAS, prob=P_BIAS),
        RandAdjustContrast(P_GAMMA, GAMMA),
        RandRicianNoise(P_NOISE, 0.0, NOISE, sample_std=True),
    )
    for step in steps:
        image = apply_seeded(step, image, rng)
        image = image / image.max().clamp_min(1e-6)
    return np.asarray(image.clamp(0, 1).numpy())
