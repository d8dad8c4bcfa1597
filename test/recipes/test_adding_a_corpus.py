"""doc/adding_a_corpus.md, followed word by word: its shell blocks, in order, on a folder of wavs."""

import re

import corpora
import numpy as np
import pytest
import yaml
from corpora import ROOT, run, voice, write

PAGE = (ROOT / "doc" / "adding_a_corpus.md").read_text(encoding="utf-8")


@pytest.fixture
def checkout(tmp_path):
    """A checkout with the files of ours that the page uses, and a configuration small enough for a test."""
    folder = corpora.checkout(tmp_path / "check out", "mini_librispeech/spk1", "mini_librispeech/ssl1")
    path = folder / "egs2/mini_librispeech/spk1/conf/train_ecapa_small.yaml"
    config = yaml.safe_load(path.read_text())
    config["encoder_conf"] |= {"ndim": 32, "output_size": 48, "model_scale": 4}
    config["batch_size"] = 16
    path.write_text(yaml.safe_dump(config))
    path = folder / "egs2/mini_librispeech/ssl1/conf/train_hubert.yaml"
    config = yaml.safe_load(path.read_text())
    config["encoder_conf"] |= {"hidden_size": 16, "intermediate_size": 16, "conv_dim": [8, 8, 12]}
    config["num_workers"] = 0
    path.write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def wavs(tmp_path):
    """Twelve speakers with blanks and Unicode in their names, files of two rates, one or two channels."""
    for s in range(12):
        for u in range(6):
            wav = voice(10 * s + u, s, 1.2, rate_hz=(16000, 22050)[u % 2])
            if u == 2:
                wav = np.stack([wav, 0.5 * wav], axis=1)
            kind = ".wav" if u < 4 else (".flac", ".WAV")[u % 2]
            write(tmp_path / "my wavs" / f"Zoë {s:02d}" / f"take {u}{kind}", wav, (16000, 22050)[u % 2])
    return tmp_path / "my wavs"


def test_every_block_runs_and_ends_with_a_result(checkout, wavs):
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert "/path/to/wavs" in blocks[0]
    script = "set -euo pipefail\n" + "".join(blocks).replace("/path/to/wavs", f"'{wavs}'")
    run(script, checkout)
    recipe = checkout / "egs2/my_corpus/spk1"
    counts = {name: (recipe / "dump" / name / "spk2utt").read_text().count("\n") for name in ("train", "test")}
    assert counts == {"train": 9, "test": 3}
    assert (recipe / "dump/train/utt2spk").read_text().count("\n") == 9 * 6
    assert "EER" in (recipe / "exp/spk_first_try/RESULTS.md").read_text()
    exp = checkout / "egs2/my_corpus/ssl1/exp/ssl_first_try"
    assert "speaker accuracy" in (exp / "it2/probe_test/RESULTS.md").read_text()
    assert (exp / "hf/model.safetensors").is_file()


def test_files_and_options_that_the_page_names_exist():
    for path in re.findall(r"`((?:egs2|doc|utils)/[\w./]+)`", PAGE):
        assert (ROOT / path).exists(), path
    sources = ("egs2/TEMPLATE/spk1/spk.sh", "egs2/TEMPLATE/ssl1/ssl.sh", "utils/recipe.sh")
    sources += ("espnet_ext/bin/make_trials.py",)
    known = "".join((ROOT / source).read_text() for source in sources)
    for option in set(re.findall(r"--(\w+)", re.sub(r"cat > (local|conf).*?^EOF_\w+$", "", PAGE, flags=re.S | re.M))):
        assert option in ("help", "max_epoch") or f"\n{option}=" in known or f'"--{option}"' in known, option
