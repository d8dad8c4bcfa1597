"""The file for s3prl: its HuBERT gives the same layers."""

import pytest
import torch
from tiny_hubert import LARGE, TINY

from espnet_ext import compat
from espnet_ext.errors import UserError
from espnet_ext.ssl.encoder import HubertEncoder
from espnet_ext.ssl.model import HubertPretraining
from espnet_ext.ssl.s3prl_format import write_s3prl


@pytest.mark.parametrize("conf", [TINY, LARGE], ids=["base", "large"])
def test_s3prl_reads_it(conf, tmp_path):
    torch.manual_seed(0)
    model = HubertPretraining(HubertEncoder(**conf), [5, 7], final_size=6).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    write_s3prl(model, conf, 50, tmp_path / "hubert.pt")
    compat.prepare_s3prl()
    from s3prl.upstream.hubert.convert import load_converted_model

    theirs, task = load_converted_model(str(tmp_path / "hubert.pt"))
    assert task.sample_rate == 16000 and theirs.num_classes == [5, 7]
    wav = 0.1 * torch.randn(2, 4000)
    theirs.eval()
    states = []
    for layer in theirs.encoder.layers:
        layer.register_forward_hook(lambda module, inputs, output: states.append(output[0].transpose(0, 1)))
    with torch.no_grad():
        last, _ = theirs.extract_features(wav, mask=False)
        ours, _ = model.encoder.hidden_states(wav, torch.tensor([4000, 4000]))
    torch.testing.assert_close(ours[-1], last, atol=1e-5, rtol=0)
    for one, other in zip(ours[1:-1], states[:-1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_what_fairseq_cannot_say(tmp_path):
    conf = {**TINY, "conv_dim": [8, 12, 24]}
    with pytest.raises(UserError, match="has no projection"):
        write_s3prl(HubertPretraining(HubertEncoder(**conf), [5]), conf, 50, tmp_path / "x.pt")
    conf = {**TINY, "layer_norm_eps": 1e-6}
    with pytest.raises(UserError, match="layer_norm_eps 1e-5"):
        write_s3prl(HubertPretraining(HubertEncoder(**conf), [5]), conf, 50, tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()
