"""Units as an encoder: frames replaced by their centroids, against a brute-force search."""

import numpy as np
import pytest
import torch
from toy_ssl import write_ssl_corpus

from espnet_ext.audio.io import read_audio
from espnet_ext.bin.fit_units import main as fit_units
from espnet_ext.datadir import DataDir
from espnet_ext.errors import UserError
from espnet_ext.inference.speaker_frames import open_upstream
from espnet_ext.inference.zero_shot import open_zero_shot
from espnet_ext.ssl.encoder import HubertEncoder
from espnet_ext.ssl.features import LogMel, identity_of
from espnet_ext.ssl.hugging_face import write_folder
from espnet_ext.ssl.unit_frontend import UnitFrontend
from espnet_ext.upstream.load import load_upstream

SIZES = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "conv_dim": [8, 12, 12], "conv_kernel": [10, 8, 5], "conv_stride": [5, 8, 8], "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = write_ssl_corpus(tmp_path_factory.mktemp("toy units ä"))
    torch.manual_seed(0)
    write_folder(HubertEncoder(**SIZES), SIZES, folder / "hf")
    for name, options in (
        ("mel", ("--features", "logmel", "--num_units", "6", "--levels", "3")),
        ("layers", ("--features", f"hf:{folder / 'hf'}", "--layers", "0", "2", "--num_units", "5", "--levels", "2")),
        ("random", ("--features", "logmel", "--num_units", "6", "--quantizer", "random_projection")),
    ):
        assert fit_units(["--data", str(folder / "train"), *options, "--out", str(folder / name)]) == 0
    return folder


def waveforms(corpus, count=3):
    data = DataDir(corpus / "test")
    return [read_audio(data.wav_scp[utt], 16000)[: 9000 + 700 * place] for place, utt in enumerate(data.utterances)][
        :count
    ]


def batch_of(wavs):
    lengths = torch.tensor([len(wav) for wav in wavs])
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(wav) for wav in wavs], batch_first=True), lengths


def brute_force(frames, levels):
    """Sums of the nearest centroids of 1, 2, … levels, each searched for in what the levels before leave."""
    done, answers = np.zeros_like(frames), []
    for book in levels:
        distances = ((frames - done)[:, None] - book[None]) ** 2
        done = done + book[distances.sum(-1).argmin(1)]
        answers.append(done)
    return answers


def centroids(path):
    with np.load(path) as content:
        return [content["cluster_centers_"], *content["residual_centers"]]


def test_layers_are_sums_of_the_nearest_centroids(corpus):
    encoder, wavs = open_upstream(f"units:{corpus / 'mel'}"), waveforms(corpus)
    states, frames = encoder.hidden_states(*batch_of(wavs))
    assert states.shape == (3, 3, int(frames.max()), 80) and encoder.num_layers == 3 and encoder.output_size() == 80
    for row, wav in enumerate(wavs):
        ((features,),) = LogMel()([wav])
        assert len(features) == frames[row] and encoder.samples_for(len(features)) <= len(wav)
        expected = brute_force(features.astype(np.float64), centroids(corpus / "mel" / "logmel.npz"))
        for level, vectors in enumerate(expected):
            np.testing.assert_allclose(states[level, row, : frames[row]], vectors, atol=1e-5)
    # The more levels, the nearer to the frames themselves.
    left = [float((features - states[level, 2, : frames[2]].numpy()).__pow__(2).mean()) for level in range(3)]
    assert left[0] > left[1] > left[2] > 0


def test_streams_of_several_layers(corpus):
    encoder, wavs = open_upstream(f"units:{corpus / 'layers'}"), waveforms(corpus, 2)
    behind = load_upstream(f"hf:{corpus / 'hf'}")
    states, frames = encoder.hidden_states(*batch_of(wavs))
    hidden, same = behind.hidden_states(*batch_of(wavs))
    assert torch.equal(frames, same) and encoder.num_layers == 4
    for row in range(2):
        for place, layer in enumerate((0, 2)):
            vectors = hidden[layer, row, : frames[row]].double().numpy()
            expected = brute_force(vectors, centroids(corpus / "layers" / f"layer{layer}.npz"))
            for level in range(2):
                got = states[2 * place + level, row, : frames[row]]
                # A frame between two centroids may fall to either side of another implementation's rounding.
                agree = np.isclose(got, expected[level], atol=1e-4).all(axis=1)
                assert agree.mean() > 0.95


def test_padding_and_batch_size_change_nothing(corpus):
    encoder, wavs = open_upstream(f"units:{corpus / 'layers'}"), waveforms(corpus)
    together, frames = encoder.hidden_states(*batch_of(wavs))
    for row, wav in enumerate(wavs):
        alone, _ = encoder.hidden_states(*batch_of([wav]))
        torch.testing.assert_close(together[:, row, : frames[row]], alone[:, 0])
        assert not together[:, row, frames[row] :].any()
    # As a frontend of one level, and of the learned sum of all.
    one, _ = UnitFrontend(corpus / "layers", layer=1)(*batch_of(wavs))
    torch.testing.assert_close(one, together[1])
    mixed, _ = encoder(*batch_of(wavs))
    mixed.sum().backward()
    assert encoder.layer_weights.grad.abs().sum() > 0 and encoder.frozen


def test_other_centroids_are_another_encoder(corpus, tmp_path):
    spec = f"units:{corpus / 'mel'}"
    before = identity_of(spec)
    assert before == identity_of(spec) != identity_of(f"units:{corpus / 'layers'}")
    options = [
        "--data",
        str(corpus / "train"),
        "--features",
        "logmel",
        "--num_units",
        "6",
        "--levels",
        "3",
        "--seed",
        "9",
    ]
    assert fit_units([*options, "--out", str(corpus / "mel2")]) == 0
    assert identity_of(f"units:{corpus / 'mel2'}") != before
    # What `layer_probe` keeps of one is not that of the other either.
    known = [open_zero_shot(f"units:{corpus / name}")[0] for name in ("mel", "mel", "mel2")]
    assert known[0] == known[1] != known[2]


def test_an_encoder_that_changed_since_the_fit(corpus, tmp_path):
    """Its frames mean something else than the centroids."""
    write_folder(HubertEncoder(**SIZES), SIZES, tmp_path / "hf")
    fit = ["--data", str(corpus / "train"), "--features", str(tmp_path / "hf"), "--layers", "1", "--num_units", "4"]
    assert fit_units([*fit, "--out", str(tmp_path / "c")]) == 0
    assert UnitFrontend(tmp_path / "c").num_layers == 1
    write_folder(HubertEncoder(**SIZES), SIZES, tmp_path / "hf")
    with pytest.raises(UserError, match="hf is not what .*c was fitted to: it has changed since"):
        UnitFrontend(tmp_path / "c")


def test_mistakes(corpus):
    with pytest.raises(UserError, match="units of a random_projection have no centroids"):
        open_upstream(f"units:{corpus / 'random'}")
    with pytest.raises(UserError, match="no centroids that fit_units made"):
        open_upstream(f"units:{corpus / 'nowhere'}")
    with pytest.raises(UserError, match="layer must be from 0 .* to 2"):
        UnitFrontend(corpus / "mel", layer=3)
