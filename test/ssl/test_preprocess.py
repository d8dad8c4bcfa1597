"""Crops of waveform and units stay aligned; what does not fit together is named."""

import numpy as np
import pytest
import soundfile
import torch

from espnet_ext.errors import UserError
from espnet_ext.ssl.geometry import Geometry
from espnet_ext.ssl.preprocess import UnitCollator, UnitPreprocessor
from espnet_ext.ssl.quantizer import Stream
from espnet_ext.ssl.units import UnitFolder, read_units, write_units

GEOMETRY = Geometry()
SAMPLES = 40_000  # 124 frames


def folder(tmp_path, hop, names=("a",), num_units=60_000):
    streams = tuple(Stream(name, num_units) for name in names)
    return UnitFolder(tmp_path, streams, hop, 400, "0")


def ramp(tmp_path):
    """A file whose sample n is n / 2^16, so that every crop tells where it begins."""
    path = tmp_path / "ramp.wav"
    soundfile.write(path, np.arange(SAMPLES) / 2**16, 16000, subtype="FLOAT")
    return str(path)


@pytest.mark.parametrize("from_file", [True, False])
def test_ramp(tmp_path, from_file):
    """Label n of a stream is the number of the first sample it belongs to: at 50 and at 100 Hz it stays so."""
    folders = [folder(tmp_path, 320, ("a", "b")), folder(tmp_path, 160, ("c",))]
    slow = np.stack([np.arange(124) * 320, np.arange(124)], axis=1)
    fast = np.arange(248)[:, None] * 160
    preprocess = UnitPreprocessor(folders, GEOMETRY, max_s=1.0)
    wav = ramp(tmp_path)
    speech = wav if from_file else np.arange(SAMPLES, dtype=np.float32) / 2**16
    starts = set()
    for _ in range(20):
        data = preprocess("utt", {"speech": speech, "units0": slow, "units1": fast})
        first = round(float(data["speech"][0]) * 2**16)
        starts.add(first)
        assert len(data["speech"]) == 16_000 and data["units"].shape == (49, 3) and data["mask"].shape == (49,)
        np.testing.assert_array_equal(data["units"][:, 0], first + 320 * np.arange(49))
        np.testing.assert_array_equal(data["units"][:, 1], first // 320 + np.arange(49))
        np.testing.assert_array_equal(data["units"][:, 2], data["units"][:, 0])
        np.testing.assert_allclose(data["speech"], (first + np.arange(16_000)) / 2**16, atol=1e-7)
    assert len(starts) > 5 and all(start % 320 == 0 for start in starts)


def test_whole_utterances_and_validation(tmp_path):
    """Short utterances stay whole; in validation crops begin at 0 and masks depend on the name alone."""
    units = np.arange(124)[:, None]
    item = {"speech": np.zeros(SAMPLES, dtype=np.float32), "units0": units}
    whole = UnitPreprocessor([folder(tmp_path, 320)], GEOMETRY, max_s=10)("utt", item)
    assert len(whole["units"]) == 124 and len(whole["speech"]) <= SAMPLES
    valid = UnitPreprocessor([folder(tmp_path, 320)], GEOMETRY, train=False, max_s=1)
    one, same, other = valid("u", item), valid("u", item), valid("v", item)
    assert one["units"][0, 0] == 0 and np.array_equal(one["mask"], same["mask"])
    assert not np.array_equal(one["mask"], other["mask"])


def test_labels_that_do_not_fit(tmp_path):
    preprocess = UnitPreprocessor([folder(tmp_path, 320, num_units=200)], GEOMETRY)
    speech = np.zeros(SAMPLES, dtype=np.float32)

    def item(labels, wav=speech):
        return {"speech": wav, "units0": np.asarray(labels).reshape(len(labels), -1)}

    for count in (123, 125):  # one frame at the end may be missing or too many
        data = preprocess("utt", item(np.zeros(count, int)))
        assert len(data["units"]) == len(data["mask"]) == min(count, 124)
        assert GEOMETRY.frames(len(data["speech"])) == len(data["units"])
    for count in (100, 248):
        with pytest.raises(UserError, match=f"utterance utt has {count} labels at 50 Hz, .* are 124 frames; make"):
            preprocess("utt", item(np.zeros(count, int)))
    with pytest.raises(UserError, match="has unit 200 in stream a, which has 200 units"):
        preprocess("utt", item(np.full(124, 200)))
    with pytest.raises(UserError, match="has 2 streams, not 1"):
        preprocess("utt", item(np.zeros((124, 2), int)))
    with pytest.raises(UserError, match="utterance utt: 399 samples are shorter than one frame"):
        preprocess("utt", item(np.zeros(1, int), speech[:399]))
    soundfile.write(tmp_path / "slow.wav", np.zeros(20_000), 8000)
    with pytest.raises(UserError, match="utterance utt: .*slow.wav has 8000 Hz, not 16000; run the format stage"):
        preprocess("utt", {"speech": str(tmp_path / "slow.wav"), "units0": np.zeros((124, 1), int)})
    for wrong in ({"max_s": 0.01}, {"mask_prob": 0.0}, {"mask_length": 0}):
        with pytest.raises(UserError, match="preprocessor_conf"):
            UnitPreprocessor([folder(tmp_path, 320)], GEOMETRY, **wrong)
    with pytest.raises(UserError, match="make labels at 50 Hz or a multiple"):
        UnitPreprocessor([folder(tmp_path, 480)], GEOMETRY)


def test_batches_are_padded(tmp_path):
    preprocess = UnitPreprocessor([folder(tmp_path, 320)], GEOMETRY)
    items = [(utt, preprocess(utt, {"speech": np.ones(n, np.float32), "units0": np.ones((f, 1), int)}))
             for utt, n, f in (("a", 16_000, 49), ("b", 8000, 24))]  # fmt: skip
    collate = UnitCollator(GEOMETRY)
    names, batch = collate(items)
    assert names == ["a", "b"] and batch["mask"].dtype == torch.bool and batch["units"].dtype == torch.int64
    assert batch["units"][1, 24:].eq(-1).all() and batch["units"][1, :24].eq(1).all()
    assert not batch["mask"][1, 24:].any() and batch["speech"][1, 8000:].eq(0).all()
    assert batch["speech_lengths"].tolist() == [len(item["speech"]) for _, item in items]
    assert "speech_lengths" not in collate(items[:1] * 2)[1]


def test_batches_without_padding(tmp_path):
    """Every item is as long as the shortest, waveform, units and mask begin at the same place, anywhere."""
    preprocess = UnitPreprocessor([folder(tmp_path, 320)], GEOMETRY)
    items = []
    for utt, samples in (("a", SAMPLES), ("b", 8000), ("c", SAMPLES)):
        wav, frames = np.arange(samples, dtype=np.float32), GEOMETRY.frames(samples)
        item = preprocess(utt, {"speech": wav, "units0": 320 * np.arange(frames)[:, None]})
        # Which frames are masked is known from the frame: even ones in a, all of them in c.
        items.append((utt, item | {"mask": np.arange(frames) % 2 == 0 if utt == "a" else np.ones(frames, dtype=bool)}))
    collate, starts = UnitCollator(GEOMETRY, drop_padding=True), set()
    for _ in range(20):
        names, batch = collate(items)
        frames = GEOMETRY.frames(8000)
        assert names == ["a", "b", "c"] and "speech_lengths" not in batch and batch["units"].shape == (3, frames, 1)
        assert GEOMETRY.frames(batch["speech"].shape[1]) == frames
        first = batch["speech"][:, 0].long()
        assert torch.equal(batch["units"][..., 0], first[:, None] + 320 * torch.arange(frames))
        assert torch.equal(batch["speech"], first[:, None] + torch.arange(batch["speech"].shape[1]).float())
        assert torch.equal(batch["mask"][0, :-1], (batch["units"][0, :-1, 0] // 320) % 2 == 0)
        assert not batch["mask"][2].all() and batch["mask"][2, :-1].all()  # an utterance is never wholly hidden
        starts.add(int(first[0]))
    assert len(starts) > 5 and items[2][1]["mask"].all()  # the items stay as they are
    same = collate(items[::2])[1]["speech"]
    assert same.shape == (2, len(items[0][1]["speech"]))  # nothing is cut where nothing would be padded


def test_units_in_an_ark(tmp_path):
    """Written beside each other, read one by one, by kaldiio too."""
    import kaldiio

    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 2**16, (n, 3)).astype(np.uint16) for n in (1, 1000, 57)]
    places = []
    with open(tmp_path / "u.ark", "wb") as file:
        for place, units in enumerate(arrays):
            file.write(f"utt{place} ".encode())
            places.append(f"{tmp_path / 'u.ark'}:{file.tell()}")
            write_units(file, units)
    for place, units in zip(places, arrays, strict=True):
        assert np.array_equal(read_units(place), units) and read_units(place).dtype == np.uint16
        assert np.array_equal(kaldiio.load_mat(place), units)
    assert [key for key, _ in kaldiio.load_ark(str(tmp_path / "u.ark"))] == ["utt0", "utt1", "utt2"]
    with pytest.raises(UserError, match="no units there"):
        read_units(f"{tmp_path / 'gone.ark'}:5")
    # Cut anywhere, or something else: one line. A command is not run.
    content, first = (tmp_path / "u.ark").read_bytes(), int(places[0].rpartition(":")[2])
    for kept in (0, *range(first, first + 20), first + 130):
        (tmp_path / "cut.ark").write_bytes(content[:kept])
        with pytest.raises(UserError, match="^[^\n]*no units there[^\n]*make_units$"):
            read_units(f"{tmp_path / 'cut.ark'}:{first}")
    with pytest.raises(UserError, match="commands are not run"):
        read_units(f"touch {tmp_path / 'run'} |")
    assert not (tmp_path / "run").exists()
