"""Models that ESPnet 202511 made itself: same config, same weights, same embeddings as from its own model."""

import numpy as np
import pytest
import torch
import yaml
from tiny_model import CONFIG, make_model, voice

from espnet_ext import compat
from espnet_ext.errors import UserError
from espnet_ext.inference.published import as_ours, is_from_espnet, model_rate_hz, pools_by_frontend
from espnet_ext.inference.spk import SpeakerEmbedder

MEL = "frontend: melspec_torch\nfrontend_conf: {log: true, n_mels: 24, normalize: mn}\n"
MODELS = {
    "ecapa": MEL + "encoder: ecapa_tdnn\nencoder_conf: {ndim: 16, output_size: 24, swallowed: 1}\n",
    "no logarithm": "frontend: melspec_torch\nencoder: ecapa_tdnn\nencoder_conf: {ndim: 16, output_size: 24}\n",
    "utterance normalisation": MEL + "normalize: utterance_mvn\nencoder: ecapa_tdnn\nencoder_conf: {ndim: 16}\n",
    "xvector": MEL
    + "encoder: xvector\nencoder_conf: {ndim: 16, output_size: 24}\npooling: stats\nprojector: xvector\n"
    + "projector_conf: {output_size: 12}\n",
    "resnet": MEL + "encoder: resnet\nencoder_conf: {resnet_type: resnet18, m_channels: 4}\npooling: mean\n",
    "mfaconformer": MEL
    + "encoder: mfaconformer\nencoder_conf: {output_size: 16, attention_heads: 2, linear_units: 16, num_blocks: 2, "
    + "input_layer: conv2d2, cnn_module_kernel: 3, macaron_style: true, use_cnn_module: true, "
    + "pos_enc_layer_type: rel_pos, selfattention_layer_type: rel_selfattn}\n",
    "ska": MEL
    + "encoder: ska_tdnn\nencoder_conf: {ndim: 16, output_size: 24}\nprojector: ska_tdnn\n"
    + "projector_conf: {output_size: 12}\n",
    "rawnet3": "frontend: asteroid_frontend\n"
    + "frontend_conf: {sinc_stride: 16, sinc_filters: 32, preemph_coef: 0.97, log_term: 1.0e-6}\n"
    + "encoder: rawnet3\nencoder_conf: {model_scale: 8, ndim: 16, output_size: 24}\n",
}


@pytest.fixture(scope="module")
def espnet_task():
    compat.prepare()
    from espnet2.tasks.spk import SpeakerTask

    return SpeakerTask


def espnet_folder(task, text: str, folder, version: str = "202511"):
    """Write what an ESPnet training writes: every option of its parser, ESPnet's stamp, and random weights."""
    from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

    (folder / "train.yaml").write_text(text)
    args = task.get_parser().parse_args(["--config", str(folder / "train.yaml"), "--spk_num", "3"])
    args.version = version
    torch.manual_seed(0)
    model = task.build_model(args)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    with open(folder / "config.yaml", "w") as file:
        yaml_no_alias_safe_dump(vars(args), file, indent=4, sort_keys=False)
    torch.save(model.state_dict(), folder / "valid.eer.best.pth")
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_a_model_of_espnet_gives_its_embeddings(espnet_task, tmp_path, name):
    peer = espnet_folder(espnet_task, MODELS[name], tmp_path)
    embedder = SpeakerEmbedder.from_pretrained(tmp_path)
    wavs = [voice(2.03, 1), voice(1.0, 2), voice(3.0, 3)]
    together = embedder.embed(wavs)
    for wav, ours in zip(wavs, together, strict=True):
        with torch.no_grad():
            theirs = peer(torch.from_numpy(wav)[None], extract_embd=True)[0].numpy()
        assert np.abs(ours - theirs).max() < 1e-4 * max(1, np.abs(theirs).max())


def test_the_lengths_of_its_training_matter(espnet_task, tmp_path, monkeypatch):
    """A ResNet of ESPnet 202511 learned with means that are eight times too small; of 202402 with none of that."""
    peer = espnet_folder(espnet_task, MODELS["resnet"], tmp_path)
    wav = voice(2.0)
    with torch.no_grad():
        theirs = peer(torch.from_numpy(wav)[None], extract_embd=True)[0].numpy()
    monkeypatch.setattr("espnet_ext.inference.spk.pools_by_frontend", lambda config: False)
    assert np.abs(SpeakerEmbedder.from_pretrained(tmp_path)(wav) - theirs).max() > 0.01


def test_who_wrote_a_config_decides_its_defaults(tmp_path):
    ours = CONFIG | {"frontend_conf": {"n_mels": 24}}
    assert not is_from_espnet(ours) and as_ours(ours) is ours
    theirs = {key: value for key, value in ours.items() if key != "train_dir"}
    assert as_ours(theirs)["frontend_conf"] == {"n_mels": 24, "log": False, "normalize": None}
    assert pools_by_frontend(theirs) and not pools_by_frontend(theirs | {"version": "202402"})
    assert not pools_by_frontend(ours) and not is_from_espnet({"encoder": "ecapa_tdnn"})


def test_the_rate_is_that_of_the_training_crops():
    assert model_rate_hz({}) == model_rate_hz({"sample_rate": None, "preprocessor_conf": None}) == 16000
    assert model_rate_hz({"sample_rate": 16000, "preprocessor_conf": {"sample_rate": 8000}}) == 8000
    assert model_rate_hz({"sample_rate": 8000, "preprocessor_conf": {}}) == 8000


def test_a_config_that_lacks_a_part_is_said(tmp_path):
    folder = make_model(tmp_path / "exp")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for change, words in (
        ({"encoder": "nothing_known"}, "nothing_known"),
        ({"encoder": None}, "describes no speaker model"),
    ):
        (folder / "config.yaml").write_text(yaml.safe_dump(config | change))
        with pytest.raises(UserError, match=words):
            SpeakerEmbedder.from_pretrained(folder)
    (folder / "config.yaml").write_text("encoder: ecapa_tdnn\n")
    with pytest.raises(UserError, match="describes no speaker model"):
        SpeakerEmbedder.from_pretrained(folder)
