"""The feature cache: small, fast, bounded, and never wrong after a crash."""

from __future__ import annotations

import multiprocessing
import os
import time

import numpy as np
import pytest
from DeSAMSegmentLib.data.feature_cache import DEFAULT_LIMIT, FeatureCache, StoredFeatures, store_limit
from quantised import as_stored, dense

SMALL = {"level0": (6, 8, 8), "level1": (6, 8, 8), "level2": (12, 8, 8), "neck": (4, 8, 8)}
VIT_H = {"level0": (1280, 64, 64), "level1": (1280, 64, 64), "level2": (1280, 64, 64), "neck": (256, 64, 64)}


def features(shapes=SMALL, seed=0, scale=1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, dtype=np.float32) * scale for name, shape in shapes.items()}


def put(cache: FeatureCache, key: str, given: dict[str, np.ndarray]) -> bool:
    """Quantised in plain numpy: these tests are about the files."""
    return cache.put(key, as_stored(given, cache.codec))


def through_file(cache: FeatureCache, given: dict[str, np.ndarray]) -> StoredFeatures:
    """Quantised as the product does it, kept under "a", and read again."""
    import torch  # not at the top: the processes below do without
    from DeSAMSegmentLib.engine.runtime.features import LEVELS, quantise, to_stored
    from DeSAMSegmentLib.model.types import Features

    levels, neck = [torch.from_numpy(given[name])[None] for name in LEVELS], torch.from_numpy(given["neck"])[None]
    assert cache.put("a", to_stored(quantise(Features(levels, neck), cache.codec)))
    stored = cache.get("a")
    assert stored is not None
    return stored


def the_file(cache: FeatureCache):
    (path,) = cache.root.rglob("*.features")
    return path


def test_float16_features_come_back_to_the_last_bit(tmp_path):
    cache, given = FeatureCache(tmp_path, codec="float16"), features()
    assert cache.get("a") is None
    found = dense(through_file(cache, given), np.float16)
    assert list(found) == list(given)
    for name in given:
        assert np.array_equal(found[name], given[name].astype(np.float16))
    assert cache.get("b") is None


def test_int8_features_are_within_half_a_step_of_each_channel(tmp_path):
    cache, given = FeatureCache(tmp_path, codec="int8"), features()
    given["level0"][3] *= 1000  # a loud channel must not drown the others
    given["level1"][2] = 0
    stored = through_file(cache, given)
    assert stored.arrays["level0"].dtype == np.int8
    for name, array in dense(stored, np.float32).items():
        step = np.abs(given[name]).max(axis=(1, 2), keepdims=True) / 127
        assert (np.abs(array - given[name]) <= step * 0.5001).all()
    assert stored.scales["level0"].shape == (6, 1, 1)


def test_values_beyond_float16_are_kept_exactly_instead_of_becoming_infinite(tmp_path):
    cache, given = FeatureCache(tmp_path, codec="float16"), features()
    given["level2"][0, 0, 0] = 1e6
    stored = through_file(cache, given)
    assert np.array_equal(dense(stored)["level2"], given["level2"])
    assert stored.arrays["level0"].dtype == np.float16


def test_what_is_read_is_mapped_without_a_copy_and_changing_it_leaves_the_file_alone(tmp_path):
    cache = FeatureCache(tmp_path, codec="float16")
    put(cache, "a", features())
    stored = cache.get("a")
    assert np.shares_memory(dense(stored, np.float16)["neck"], stored.arrays["neck"])
    stored.arrays["neck"][:] = 0  # writable for torch.from_numpy, yet the file stays as it is
    assert cache.get("a").arrays["neck"].any()


def test_a_file_cut_at_any_byte_counts_as_missing_and_is_removed(tmp_path):
    cache = FeatureCache(tmp_path)
    put(cache, "a", features())
    path = the_file(cache)
    data = path.read_bytes()
    for length in [*range(0, 1100, 7), *range(1100, len(data), 211), len(data) - 1]:
        path.write_bytes(data[:length])
        assert cache.get("a") is None, length
        assert not path.exists()
    path.write_bytes(data + b"more")
    assert cache.get("a") is None
    path.write_bytes(data)
    assert cache.get("a") is not None


@pytest.mark.parametrize("codec", ["float16", "int8"])
def test_a_changed_byte_anywhere_is_noticed(tmp_path, codec):
    cache = FeatureCache(tmp_path, codec=codec)
    put(cache, "a", features())
    path = the_file(cache)
    data = path.read_bytes()
    stored = cache.get("a")
    padding = 0
    for at in [*range(0, 1100, 3), *range(1100, len(data), 13)]:
        changed = bytearray(data)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(changed)
        again = cache.get("a")
        if again is None:
            assert not path.exists()
            continue
        padding += 1  # between two arrays: nothing was changed
        assert all(np.array_equal(again.arrays[name], stored.arrays[name]) for name in stored.arrays)
    assert padding < 20


def test_a_page_of_zeros_from_a_crash_is_noticed(tmp_path):
    cache = FeatureCache(tmp_path)
    put(cache, "a", features({"level0": (40, 64, 64)}))
    path = the_file(cache)
    data = bytearray(path.read_bytes())
    data[-8192:-4096] = bytes(4096)
    path.write_bytes(data)
    assert cache.get("a") is None


def test_a_file_that_answers_another_key_is_not_believed(tmp_path):
    cache = FeatureCache(tmp_path)
    put(cache, "a", features())
    target = cache.path("b")
    target.parent.mkdir(exist_ok=True)
    os.rename(the_file(cache), target)
    assert cache.get("b") is None


def test_the_two_codecs_do_not_answer_for_each_other(tmp_path):
    put(FeatureCache(tmp_path, codec="int8"), "a", features())
    assert FeatureCache(tmp_path, codec="float16").get("a") is None
    with pytest.raises(ValueError, match="codec"):
        FeatureCache(tmp_path, codec="zip")


def test_the_least_recently_used_goes_first(tmp_path):
    one = FeatureCache(tmp_path)
    put(one, "size", features())
    size = one.size_bytes()
    one.clear()
    cache = FeatureCache(tmp_path, limit_bytes=10.3 * size)  # a header may be a line longer
    for number in range(10):
        put(cache, str(number), features(seed=number))
        os.utime(cache.path(str(number)), (1000 + number, 1000 + number))
    assert all(cache.path(str(number)).exists() for number in range(10))
    cache.get("0")  # used again: now the youngest
    put(cache, "10", features(seed=10))
    assert cache.size_bytes() <= 10.3 * size
    assert cache.get("1") is None
    assert cache.get("0") is not None
    assert cache.get("10") is not None


def test_the_bound_holds_when_another_process_fills_the_same_folder(tmp_path):
    a = FeatureCache(tmp_path)
    put(a, "size", features())
    limit = 100 * a.size_bytes()
    a, b = FeatureCache(tmp_path, limit), FeatureCache(tmp_path, limit)
    for number in range(200):
        put(a if number % 2 else b, str(number), features(seed=number % 3))
    assert a.size_bytes() <= limit * 1.7  # each looks at the folder every 64 files at the latest
    for number in range(64):
        put(a, f"more{number}", features())
    assert a.size_bytes() <= limit


def test_the_limit_is_stored_for_every_face_and_a_damaged_file_stores_none(own_home):
    assert FeatureCache().limit_bytes == DEFAULT_LIMIT
    store_limit(3e9)
    assert FeatureCache().limit_bytes == 3e9
    assert FeatureCache(limit_bytes=100).limit_bytes == 100
    for text in ("{", "[]", "{}", '{"cache_gb": -1}', '{"cache_gb": "20"}', '{"cache_gb": null}', '{"cache_gb": NaN}'):
        (own_home / "settings.json").write_text(text)
        assert FeatureCache().limit_bytes == DEFAULT_LIMIT, text


def test_features_larger_than_the_cache_are_not_kept(tmp_path):
    cache = FeatureCache(tmp_path, limit_bytes=100)
    assert not put(cache, "a", features())
    assert cache.size_bytes() == 0


def test_a_full_disk_or_a_folder_that_cannot_be_written_costs_only_the_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    assert not put(FeatureCache(tmp_path / "file"), "a", features())
    assert FeatureCache(tmp_path / "file").get("a") is None
    cache = FeatureCache(tmp_path / "cache")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert not put(cache, "a", features())
    assert not list(cache.root.rglob("*.tmp"))
    assert put(cache, "a", features())


def test_clear_removes_the_caches_own_files_and_no_others(tmp_path):
    cache = FeatureCache(tmp_path)
    put(cache, "a", features())
    (tmp_path / "mine.txt").write_text("keep")
    (cache.path("a").parent / "notes.txt").write_text("keep")
    cache.clear()
    assert cache.size_bytes() == 0
    assert cache.get("a") is None
    assert len(list(tmp_path.rglob("*.txt"))) == 2


def test_what_a_killed_writer_left_is_swept_away(tmp_path):
    cache = FeatureCache(tmp_path)
    put(cache, "a", features())
    left = the_file(cache).with_name(the_file(cache).name + ".12345678.tmp")
    left.write_bytes(b"half")
    busy = left.with_name(left.name.replace("12345678", "87654321"))
    busy.write_bytes(b"half")
    os.utime(left, (1000, 1000))
    put(FeatureCache(tmp_path), "b", features())
    assert not left.exists()
    assert busy.exists()  # its writer may still be at it


def _hammer(root, seed: int, seconds: float) -> int:
    cache, rng, wrong = FeatureCache(root, limit_bytes=60_000, codec="float16"), np.random.default_rng(seed), 0
    end = time.time() + seconds
    while time.time() < end:
        number = int(rng.integers(12))
        if rng.random() < 0.5:
            put(cache, str(number), features(seed=number))
        elif (stored := cache.get(str(number))) is not None:
            expected = features(seed=number)["level2"].astype(np.float16)
            wrong += not np.array_equal(stored.arrays["level2"], expected)
    return wrong


def test_processes_that_write_read_and_evict_at_once_never_see_a_wrong_value(tmp_path):
    context = multiprocessing.get_context("spawn")
    with context.Pool(3) as pool:
        assert pool.starmap(_hammer, [(tmp_path, seed, 1.0) for seed in range(3)]) == [0, 0, 0]
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_slice_of_vit_h_takes_half_or_a_quarter_of_its_size(tmp_path):
    given = features(VIT_H)
    for codec, megabytes in (("float16", 33.6), ("int8", 16.9)):
        cache = FeatureCache(tmp_path / codec, codec=codec)
        through_file(cache, given)
        assert cache.size_bytes() < megabytes * 1e6


def test_a_single_map_such_as_an_image_is_not_rounded_to_seven_bits(tmp_path):
    cache = FeatureCache(tmp_path)
    assert cache.codec == "int8"
    image = np.arange(256, dtype=np.float32).reshape(1, 16, 16) / 255
    stored = through_file(cache, features() | {"level0": image})
    assert stored.arrays["level0"].dtype == np.float16
    assert stored.arrays["neck"].dtype == np.int8
    assert (np.rint(dense(stored)["level0"] * 255) == np.arange(256).reshape(1, 16, 16)).all()
