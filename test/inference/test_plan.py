"""Plans of work: batches by length within a bound, windows and crops where they are said to lie."""

import numpy as np
import pytest

from espnet_ext.audio.io import AudioError
from espnet_ext.inference.clips import ArrayClip, FileClip, as_clip
from espnet_ext.inference.plan import crops, plan_batches, repeat_to, windows


def test_batches_are_bounded_whole_and_of_similar_length():
    lengths = np.random.default_rng(0).integers(1, 500, size=300).tolist()
    plan = plan_batches(lengths, 1000)
    assert sorted(sum(plan, [])) == list(range(300))
    assert all(len(batch) * max(lengths[i] for i in batch) <= 1000 for batch in plan)
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in plan)
    assert padded < 1.1 * sum(lengths)
    assert plan_batches([5000, 10], 1000) == [[0], [1]] and plan_batches([], 10) == []
    assert plan_batches([3, 3, 3], 6) == [[0, 1], [2]]


@pytest.mark.parametrize("samples, limit", [(10, 4), (4, 4), (1, 4), (115_200_001, 960_000)])
def test_windows_cover_everything_and_are_equal(samples, limit):
    spans = windows(samples, limit)
    assert spans[0][0] == 0 and spans[-1][1] == samples and len(spans) == -(-samples // limit)
    assert all(a[1] == b[0] for a, b in zip(spans[:-1], spans[1:], strict=True))
    sizes = [stop - start for start, stop in spans]
    assert max(sizes) <= limit and max(sizes) - min(sizes) <= 1


def test_crops_are_evenly_spaced():
    assert crops(100, 4, 40) == [(0, 40), (20, 60), (40, 80), (60, 100)]
    assert crops(41, 3, 40) == [(0, 40), (0, 40), (1, 41)] and crops(50, 1, 40) == [(0, 40)]
    assert repeat_to(np.arange(3), 7).tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.int8])
def test_integers_are_scaled_to_one(dtype):
    info = np.iinfo(dtype)
    wav = np.array([info.min, info.max, (int(info.min) + int(info.max) + 1) // 2], dtype=dtype)
    clip = ArrayClip(wav, 16000, 16000)
    assert clip.read()[0] == -1 and 0.99 < clip.read()[1] <= 1 and clip.read()[2] == 0


def test_a_part_of_a_clip_is_what_lies_there(tmp_path):
    import soundfile

    wav = np.random.default_rng(0).uniform(-0.5, 0.5, 32000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wav, 16000, subtype="FLOAT")
    clip = FileClip(tmp_path / "a.wav", 16000)
    assert clip.num_samples == 32000 and np.array_equal(clip.read(100, 5000), wav[100:5000])
    part = FileClip(tmp_path / "a.wav", 16000, 0.5, 1.5)
    assert part.num_samples == 16000 and np.array_equal(part.read(), wav[8000:24000])
    assert np.array_equal(part.read(10, 20), wav[8010:8020]) and np.array_equal(part.read(15990), wav[23990:24000])
    assert np.array_equal(as_clip(wav, None, 16000).read(5, 9), wav[5:9])
    with pytest.raises(AudioError):
        FileClip(tmp_path / "a.wav", 16000, 3.0, 4.0)
