"""A model trained and published with ESPnet-SPK loads by its configuration, and gives the embeddings it gave there."""

import pytest
import torch
import yaml
from espnet2.asr.frontend.melspec_torch import MelSpectrogramTorch
from espnet2.spk.encoder.ecapa_tdnn_encoder import EcapaTdnnEncoder
from espnet2.spk.encoder.xvector_encoder import XvectorEncoder
from espnet2.spk.espnet_model import ESPnetSpeakerModel
from espnet2.spk.loss.aamsoftmax import AAMSoftmax
from espnet2.spk.loss.aamsoftmax_subcenter_intertopk import ArcMarginProduct_intertopk_subcenter
from espnet2.spk.pooling.chn_attn_stat_pooling import ChnAttnStatPooling
from espnet2.spk.pooling.stat_pooling import StatsPooling
from espnet2.spk.projector.rawnet3_projector import RawNet3Projector
from espnet2.spk.projector.xvector_projector import XvectorProjector

from espnet_ext.tasks.spk import SpeakerTask

FRONTEND = {"preemp": True, "n_fft": 512, "log": True, "win_length": 400, "hop_length": 160, "n_mels": 40}
# What a published config.yaml holds besides the parts: more keys than the model needs, and the recipe's paths.
REST = {
    "frontend": "melspec_torch",
    "frontend_conf": {**FRONTEND, "normalize": "mn"},
    "specaug": None,
    "specaug_conf": {},
    "normalize": None,
    "normalize_conf": {},
    "input_size": None,
    "init": None,
    "spk_num": 9,
    "spk2utt": "dump/raw/voxceleb12_devs_sp/spk2utt",
    "preprocessor": "spk",
    "preprocessor_conf": {"target_duration": 3.0, "noise_info": [[1.0, "dump/raw/musan_music.scp", [1, 1], [5, 15]]]},
    "model_conf": {},
    "iterator_type": "category",
    "version": "202402",
}
ECAPA = {"ndim": 32, "output_size": 48, "model_scale": 4}


def ecapa():
    loss = ArcMarginProduct_intertopk_subcenter(12, 9, scale=30, margin=0.3, K=3, mp=0.06, k_top=5)
    parts = [EcapaTdnnEncoder(40, **ECAPA), ChnAttnStatPooling(48), RawNet3Projector(96, 12), loss]
    config = {"encoder": "ecapa_tdnn", "encoder_conf": ECAPA, "pooling": "chn_attn_stat", "pooling_conf": {}}
    config |= {"projector": "rawnet3", "projector_conf": {"output_size": 12}, "loss": "aamsoftmax_sc_topk"}
    return parts, config | {"loss_conf": {"margin": 0.3, "scale": 30, "K": 3, "mp": 0.06, "k_top": 5}}


def xvector():
    sizes = {"ndim": 16, "output_size": 20}
    parts = [XvectorEncoder(40, **sizes), StatsPooling(20), XvectorProjector(40, 12), AAMSoftmax(12, 9)]
    config = {"encoder": "xvector", "encoder_conf": sizes, "pooling": "stats", "pooling_conf": {}}
    config |= {"projector": "xvector", "projector_conf": {"output_size": 12}, "loss": "aamsoftmax"}
    return parts, config | {"loss_conf": {"margin": 0.3, "scale": 15}}


@pytest.mark.parametrize("made", [ecapa, xvector])
def test_published_model_loads(made, tmp_path):
    torch.manual_seed(0)
    parts, config = made()
    theirs = ESPnetSpeakerModel(MelSpectrogramTorch(**FRONTEND, normalize="mn"), None, None, *parts).eval()
    torch.save(theirs.state_dict(), tmp_path / "valid.eer.best.pth")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**REST, **config}))
    ours, args = SpeakerTask.build_model_from_file(tmp_path / "config.yaml", tmp_path / "valid.eer.best.pth")
    assert args.spk_num == 9 and ours.state_dict().keys() == theirs.state_dict().keys()
    speech = torch.randn(2, 24000) * 0.1
    with torch.no_grad():
        # Their parts one by one: their model hands the pooling the frontend's 151 frames where x-vector leaves 145.
        feats, _ = theirs.extract_feats(speech)
        expected = theirs.projector(theirs.pooling(theirs.encoder(feats)))
        assert torch.allclose(ours.eval().embed(speech), expected, atol=1e-5)
