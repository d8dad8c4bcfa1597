"""The WavLM configurations of egs2/voxceleb build their models, with a tiny WavLM in the place of WavLM-Large."""

import pytest
import yaml
from corpora import ROOT

from espnet_ext.bin.train import main

CONFIGS = sorted((ROOT / "egs2/voxceleb/spk1/conf").glob("*wavlm*.yaml"))


@pytest.fixture(scope="module")
def tiny_wavlm(tmp_path_factory):
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

    folder = tmp_path_factory.mktemp("wavlm")
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    conv = {"conv_dim": [16] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
    WavLMModel(WavLMConfig(**small, **conv)).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_dry_run(path, tiny_wavlm, tmp_path):
    config = yaml.safe_load(path.read_text())
    assert config["frontend_conf"]["model"] == "microsoft/wavlm-large"
    config["frontend_conf"]["model"] = str(tiny_wavlm)
    config["preprocessor_conf"].pop("noise_info", None)
    config["encoder_conf"] |= {"ndim": 16, "output_size": 24}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["spk", "--config", str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path / "exp")]
    assert main([*arguments, "--dry_run", "true", "--ngpu", "0"]) == 0


def test_there_are_five():
    assert len(CONFIGS) == 5
