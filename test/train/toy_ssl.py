"""A toy corpus with units and "phones", and a HuBERT that trains on it in a second or two."""

from pathlib import Path

from toy_speakers import RATE_HZ, write_corpus

from espnet_ext.bin.fit_units import main as fit_units
from espnet_ext.bin.make_units import main as make_units
from espnet_ext.datadir import DataDir, write_scp
from espnet_ext.datadir.alignment import Interval, format_intervals

ENCODER = (
    "{hidden_size: 24, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 32, conv_dim: [8, 12, 12], "
    "conv_kernel: [10, 8, 5], conv_stride: [5, 8, 8], num_conv_pos_embeddings: 16, num_conv_pos_embedding_groups: 4}"
)


def add_phones(data: DataDir) -> None:
    """Write ``utt2phones``: one vowel, by the formant of ``toy_speakers.voice``, and nothing at either end."""
    table = {}
    for utt in data.utterances:
        end = data.num_samples(utt) / RATE_HZ
        vowel = "uai"[int(data.utt2spk[utt][1:]) * 7 % 11 // 4]
        table[utt] = format_intervals([Interval(vowel, 0.1, end - 0.1)])
    write_scp(data.path / "utt2phones", table)


def write_ssl_corpus(folder: Path) -> Path:
    """Write ``train``, ``dev`` and ``test`` with phones, and units of log-mel energies of the first two."""
    for name, speakers in (("train", range(8)), ("dev", range(8, 12)), ("test", range(12, 16))):
        add_phones(write_corpus(folder / name, speakers, utterances=4, duration_s=0.7))
    options = ["--data", str(folder / "train"), "--features", "logmel", "--num_units", "8"]
    assert fit_units([*options, "--out", str(folder / "centroids")]) == 0
    for name in ("train", "dev"):
        options = ["--data", str(folder / name), "--centroids", str(folder / "centroids")]
        assert make_units([*options, "--out", str(folder / "units" / name)]) == 0
    return folder


def ssl_options(folder: Path, output: Path, *more: str) -> list[str]:
    """Return a command line that trains for three epochs of a few steps."""
    return [
        "ssl",
        *("--train_dir", str(folder / "train"), "--train_units", str(folder / "units" / "train")),
        *("--dev_dir", str(folder / "dev"), "--dev_units", str(folder / "units" / "dev")),
        *("--output_dir", str(output), "--encoder_conf", ENCODER, "--model_conf", "final_size=8"),
        *("--batch_bins", "110000", "--max_epoch", "3", "--num_workers", "0", "--optim_conf", "lr=0.003", *more),
    ]
