"""A segmentation lands on the voxels it was computed from, whatever the volume's orientation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from desam_cli.remedies import REMEDIES
from DeSAMSegmentLib.data.feature_cache import FeatureCache
from DeSAMSegmentLib.data.volume import Volume
from DeSAMSegmentLib.engine.events import Finished, Log, SliceDone, Started
from DeSAMSegmentLib.engine.options import SegmentOptions
from DeSAMSegmentLib.engine.runtime.loading import DeSAM
from DeSAMSegmentLib.engine.runtime.session import Session, sam_tensors
from DeSAMSegmentLib.engine.segment.segment import SegmentResult, fill_gaps, segment
from DeSAMSegmentLib.errors import BadInput
from DeSAMSegmentLib.model.config import DeSAMConfig
from DeSAMSegmentLib.model.slice_decoder import SliceDecoder
from DeSAMSegmentLib.store.card import ModelCard
from DeSAMSegmentLib.store.terminology import default_label
from standin import ball_volume, stand_in_encoder


def untrained(labels: int = 1, variant: str = "full") -> DeSAM:
    """SAM's PRIM and a random PDMM: masks mean nothing, but they depend on every pixel of the slice."""
    torch.manual_seed(1)
    config = DeSAMConfig(labels=labels, variant=variant, shared_prim=True)
    model = DeSAM.from_sam(config, sam_tensors("lite_medsam"))
    assert isinstance(model, DeSAM)
    model.card = ModelCard(
        name="untrained",
        labels=tuple(default_label(value, f"label {value}") for value in range(1, labels + 1)),
        backbone="lite_medsam",
        architecture=config.to_dict(),
        slices={"axis": "axial", "intensity": "percentile"},
    )
    return model.eval()


def run(
    volume: Volume, model: DeSAM, options: SegmentOptions | None = None, cache: FeatureCache | None = None
) -> tuple[list, SegmentResult]:
    events = list(segment(volume, model, options, Session(cache=cache, encoder=stand_in_encoder())))
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    return events, events[-1].result


@pytest.fixture(scope="module")
def model() -> DeSAM:
    return untrained()


BOX = SegmentOptions(mode="box")


def test_every_slice_event_is_that_slice_of_the_result(model) -> None:
    volume, _ = ball_volume()
    events, result = run(volume, model, BOX)
    slices = [event for event in events if isinstance(event, SliceDone)]
    assert [event.done for event in slices] == list(range(1, len(slices) + 1))
    assert len(slices) == volume.array.shape[result.axis]
    assert result.labels.any()
    for event in slices:
        np.testing.assert_array_equal(event.labels, result.labels.take(event.index, event.axis))
        assert 0 <= event.confidence <= 1


@pytest.mark.parametrize("permutation", [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2)])
def test_another_storage_of_the_same_anatomy_gives_the_same_voxels(model, permutation, flips) -> None:
    volume, _ = ball_volume(shape=(3, 48, 40))
    expected = run(volume, model, BOX)[1].labels
    array = np.flip(volume.array.transpose(permutation), flips)
    stored = Volume(np.ascontiguousarray(array), stored_affine(volume, permutation, flips), name="stored")
    found = run(stored, model, BOX)[1].labels
    np.testing.assert_array_equal(found, np.flip(expected.transpose(permutation), flips))


def stored_affine(volume: Volume, permutation: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """The IJK-to-RAS matrix of the transposed and flipped KJI array."""
    kji_to_ras = volume.ijk_to_ras[:, [2, 1, 0, 3]][:, [*permutation, 3]].copy()
    for axis in flips:
        size = volume.array.shape[permutation[axis]]
        kji_to_ras[:, 3] += kji_to_ras[:, axis] * (size - 1)
        kji_to_ras[:, axis] *= -1
    return kji_to_ras[:, [2, 1, 0, 3]]


def test_a_second_run_reads_the_cache_and_gives_the_same_mask(model, tmp_path: Path) -> None:
    volume, _ = ball_volume(shape=(3, 48, 40))
    cache = FeatureCache(tmp_path)
    first = run(volume, model, BOX, cache=cache)[1].labels
    encoder = stand_in_encoder()
    encoder.encode = lambda images: pytest.fail("the encoder ran although the cache holds every slice")
    *_, finished = segment(volume, model, BOX, Session(cache=cache, encoder=encoder))
    np.testing.assert_array_equal(finished.result.labels, first)
    np.testing.assert_array_equal(run(volume, model, BOX)[1].labels, first)


def test_a_slice_range_leaves_the_other_slices_empty(model) -> None:
    volume, _ = ball_volume()
    whole = run(volume, model, BOX)[1].labels
    events, result = run(volume, model, SegmentOptions(mode="box", slice_range=(1, 2)))
    assert sorted(event.index for event in events if isinstance(event, SliceDone)) == [1, 2]
    np.testing.assert_array_equal(result.labels[1:3], whole[1:3])
    assert not result.labels[[0, 3, 4]].any()
    with pytest.raises(BadInput, match="0 to 4"):
        run(volume, model, SegmentOptions(mode="box", slice_range=(7, 9)))


def test_blank_slices_stay_empty_and_are_never_encoded(model) -> None:
    volume, _ = ball_volume()
    blank = [0, 1, len(volume.array) - 1]
    volume.array[blank] = 0
    encoder = stand_in_encoder()
    shown: list[Any] = []
    encode = encoder.encode
    encoder.encode = lambda images: shown.extend(images) or encode(images)
    events = list(segment(volume, model, BOX, Session(encoder=encoder)))
    slices = [event for event in events if isinstance(event, SliceDone)]
    assert [event.done for event in slices] == list(range(1, len(volume.array) + 1))
    assert len(shown) == len(volume.array) - len(blank)
    assert not events[-1].result.labels[blank].any()
    assert events[-1].result.labels[2:-1].any()
    assert all(events[-1].result.confidence[index] == 1.0 for index in blank)


def test_a_volume_of_one_value_has_nothing_in_it(model) -> None:
    volume, _ = ball_volume()
    volume.array[:] = 7
    _, result = run(volume, model)
    assert not result.labels.any()


def test_a_window_is_used_whether_or_not_the_intensity_mode_is_named_too(model) -> None:
    volume, _ = ball_volume()
    window = (90.0, 120.0)
    _, named = run(volume, model, SegmentOptions(mode="box", intensity="window", window=window))
    _, given = run(volume, model, SegmentOptions(mode="box", window=window))
    _, plain = run(volume, model, BOX)
    assert np.array_equal(named.labels, given.labels)
    assert not np.array_equal(plain.labels, given.labels)


def test_the_grid_hands_out_its_points_and_which_one_was_chosen(model) -> None:
    volume, _ = ball_volume(shape=(1, 48, 40))
    options = SegmentOptions(mode="grid", points=3, iou_threshold=0.0, keep_points=True)
    events, _ = run(volume, model, options)
    (points,) = [event.points for event in events if isinstance(event, SliceDone)]
    assert len(points) == 9
    assert sum(point.chosen for point in points) == 1
    assert max(points, key=lambda point: point.iou).chosen
    assert all(0 <= point.row < 48 and 0 <= point.column < 40 for point in points)


def test_no_point_above_the_threshold_means_nothing_here(model) -> None:
    volume, _ = ball_volume(shape=(1, 48, 40))
    _, result = run(volume, model, SegmentOptions(mode="grid", points=3, iou_threshold=1.0))
    assert not result.labels.any()


@pytest.mark.parametrize("stronger", [1, 2])
def test_overlaps_go_to_the_larger_logit(stronger: int) -> None:
    """Two labels with one decoder's weights claim the same pixels; one of them is twice as sure."""
    model = untrained(labels=2)
    model.pdmm[1].load_state_dict(model.pdmm[0].state_dict())
    volume, _ = ball_volume(shape=(1, 48, 40))
    claimed = run(volume, model, BOX)[1].labels > 0
    assert claimed.any(), "the test needs a mask"
    with torch.no_grad():
        model.pdmm[stronger - 1].head.weight *= 2
    labels = run(volume, model, BOX)[1].labels
    np.testing.assert_array_equal(labels, np.where(claimed, stronger, 0))


@pytest.mark.parametrize("variant", ["pdmm_only", "no_iou_head", "no_fusion"])
def test_every_ablation_of_table_1_segments(variant) -> None:
    volume, _ = ball_volume(shape=(1, 48, 40))
    options = SegmentOptions(mode="grid", points=2, iou_threshold=0.0)
    assert run(volume, untrained(variant=variant), options)[1].labels.shape == volume.array.shape


def test_running_out_of_memory_shrinks_the_batch_says_so_and_changes_nothing_else(model, monkeypatch) -> None:
    volume, _ = ball_volume(shape=(1, 48, 40))
    options = SegmentOptions(mode="grid", points=3, iou_threshold=0.0)
    expected = run(volume, model, options)[1].labels
    original = SliceDecoder.score

    def short_of_memory(self, prompts, label=0):
        if self.prompt_batch is None or self.prompt_batch > 4:
            raise RuntimeError("CUDA out of memory (test)")
        return original(self, prompts, label)

    monkeypatch.setattr(SliceDecoder, "score", short_of_memory)
    events, result = run(volume, model, options)
    monkeypatch.undo()
    np.testing.assert_array_equal(result.labels, expected)
    assert any("batches of 4" in event.text for event in events if isinstance(event, Log))


def test_a_model_trained_on_other_weights_of_the_same_backbone_is_refused() -> None:
    model = untrained()
    object.__setattr__(model.card, "backbone_sha256", "0" * 64)
    with pytest.raises(BadInput, match=r"trained on other weights of lite_medsam.*000000000000") as refused:
        run(ball_volume()[0], model, BOX)
    assert "weights add" in refused.value.in_words(REMEDIES)


def test_small_islands_are_removed_by_their_area_in_square_millimetres() -> None:
    model = untrained()
    volume, _ = ball_volume(shape=(1, 48, 40))
    everything = run(volume, model, BOX)[1].labels
    cleaned = run(volume, model, SegmentOptions(mode="box", min_area_mm2=40))[1].labels
    from scipy import ndimage

    def sizes(mask):
        components, _ = ndimage.label(mask[0], structure=np.ones((3, 3)))
        return np.bincount(components.ravel())[1:] * 0.8 * 0.7

    assert sizes(everything).min() < 40 - 0.8 * 0.7, "the test needs a small island"
    assert sizes(cleaned).min() >= 40 - 0.8 * 0.7


def short_axis(shape: tuple[int, int, int] = (6, 48, 40)) -> Volume:
    """Slices of 10 mm that lie obliquely: the array axis nearest to the patient's own is in the slice."""
    turn, tilt = np.deg2rad(40), np.deg2rad(60)
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = about_z @ about_x @ np.diag([1.4, 1.4, 10.0])
    return ball_volume(shape=shape, ijk_to_ras=ijk_to_ras)[0]


def test_a_plane_that_nobody_chose_is_never_cut_across_the_acquired_one(model) -> None:
    """A heart's short axis under an axial card was cut into strips of 6 pixels."""
    volume = short_axis()
    with pytest.raises(BadInput, match=r"Axial slices of ball0 have .* it was not acquired in that plane") as refused:
        run(volume, model, BOX)
    assert "--slice-axis acquired" in refused.value.in_words(REMEDIES)
    for axis, count in (("acquired", 6), ("axial", 48)):  # the user's own choice holds
        events, _ = run(volume, model, SegmentOptions(mode="box", slice_axis=axis))
        assert len(events) == count + 2


def test_a_model_of_acquired_slices_cuts_every_volume_in_its_own_plane() -> None:
    model = untrained()
    model.card.slices["axis"] = "acquired"
    for volume in (short_axis(), ball_volume(shape=(6, 48, 40))[0]):
        events, result = run(volume, model, BOX)
        assert (result.axis, len(events)) == (0, 8)


def test_a_gap_between_slices_with_the_organ_takes_its_best_point(model, monkeypatch) -> None:
    """The middle slice's points all stay below the threshold, and its best one's mask is as good as its neighbours'."""
    volume, _ = ball_volume(shape=(5, 48, 40))
    seen: list[int] = []
    original = SliceDecoder.score

    def doubtful(self, prompts, label=0):
        seen.append(len(seen))
        return original(self, prompts, label) * (0.1 if seen[-1] in (2, 4) else 0.0) + (seen[-1] in (0, 1, 3))

    monkeypatch.setattr(SliceDecoder, "score", doubtful)
    found = {}
    for fill in (False, True):
        seen.clear()
        options = SegmentOptions(mode="grid", points=2, iou_threshold=0.5, fill_gaps=fill)
        found[fill] = run(volume, model, options)[1].labels.any((1, 2)).tolist()
    assert found == {False: [True, True, False, True, False], True: [True, True, True, True, False]}


def test_a_gap_is_filled_only_where_it_is_short_and_fits_its_neighbours() -> None:
    full, apart = np.zeros((2, 9, 9), bool)
    full[2:6, 2:6] = apart[7:, 7:] = True
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[[0, 2, 4, 8]] = np.where(full, 2, 0)
    labels[1, 2, 2] = 1
    unsure = {(2, 1): full, (2, 3): apart} | {(2, k): full for k in (5, 6, 7)}
    filled = fill_gaps(labels.copy(), unsure)
    assert (filled[1] == 2).sum() == 15, "another label keeps its pixel"
    assert filled[1, 2, 2] == 1
    np.testing.assert_array_equal(filled[2:], labels[2:])


def test_slices_are_kept_where_memory_does_not_suffice_for_the_last_step(model, monkeypatch) -> None:
    def short_of_memory(*_):
        raise MemoryError

    monkeypatch.setattr("DeSAMSegmentLib.engine.segment.segment.largest_component", short_of_memory)
    volume, _ = ball_volume(shape=(2, 48, 40))
    events, result = run(volume, model, SegmentOptions(mode="box", largest_component=True))
    assert result.labels.any()
    assert [event.text for event in events if isinstance(event, Log)] == [
        "There is not enough memory to find the largest components: all are kept."
    ]


def test_one_stretch_clears_doubtful_ends_and_nothing_between_sure_slices(model, monkeypatch) -> None:
    """An organ is one stretch of slices: what lies apart from it, or is doubtful at its ends, is no organ."""
    said = {0: 0.66, 1: 0.95, 2: 0.66, 3: 0.95, 4: 0.55, 5: 0.7}  # mean probability of each slice's mask
    asked = iter(said.values())
    monkeypatch.setattr("DeSAMSegmentLib.model.prediction.mean_probability", lambda logits: next(asked))
    volume, _ = ball_volume(shape=(6, 48, 40))
    _, result = run(volume, model, SegmentOptions(mode="box", one_stretch=True))
    filled = result.labels.any(axis=(1, 2)).tolist()
    order = [index for index, _ in sorted(result.confidence.items(), key=lambda each: each[0])]
    assert order == list(range(6))
    assert sum(filled) == 3
    assert filled == [said_by in (0.95, 0.66) and 0 < k < 4 for k, said_by in enumerate(said.values())]


def test_the_card_s_calibration_says_what_a_mean_probability_is_worth(model) -> None:
    from dataclasses import replace

    volume, _ = ball_volume(shape=(3, 48, 40))
    before = model.card
    found = {}
    try:
        for line in ((0.0, 10 - 1e-3), (-9.0, 0.1)):  # hardly any Dice; a full one
            model.card = replace(before, confidence={"1": list(line)})
            found[line] = run(volume, model, BOX)[1].confidence.values()
    finally:
        model.card = before
    low, high = found.values()
    assert max(low) < 0.15
    assert min(high) == 1.0


def test_several_contrasts_are_encoded_apart_and_the_plain_one_is_shared(model, tmp_path: Path) -> None:
    volume, _ = ball_volume(shape=(2, 48, 40))
    cache = FeatureCache(tmp_path)
    plain = run(volume, model, BOX, cache)[1]
    before = cache.size_bytes()
    three = run(volume, model, SegmentOptions(mode="box", contrasts=3), cache)[1]
    assert cache.size_bytes() == pytest.approx(3 * before, rel=0.01)
    assert not np.array_equal(plain.labels, three.labels)
    again = run(volume, model, SegmentOptions(mode="box", contrasts=3), cache)[1]
    np.testing.assert_array_equal(three.labels, again.labels)


def test_a_label_for_which_no_slice_speaks_stays_for_the_review(model, monkeypatch) -> None:
    monkeypatch.setattr("DeSAMSegmentLib.model.prediction.mean_probability", lambda logits: 0.66)
    volume, _ = ball_volume(shape=(3, 48, 40))
    _, result = run(volume, model, SegmentOptions(mode="box", one_stretch=True))
    assert result.labels.any(axis=(1, 2)).all()
    assert max(result.confidence.values()) < 0.1
