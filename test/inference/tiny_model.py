"""A speaker model of a few thousand weights in an experiment folder, and audio to try it on; nothing is trained."""

from pathlib import Path

import numpy as np

RATE_HZ = 16000
CONFIG = {
    "train_dir": "dump/train",  # the mark of a config that our task wrote
    "version": "202511",
    "output_dir": "/somewhere/exp/spk_tiny",
    "train_data_path_and_name_and_type": [["/somewhere/dump/train/wav.scp", "speech", "sound"]],
    "spk2utt": "/somewhere/dump/train/spk2utt",
    "preprocessor": "spk",
    "preprocessor_conf": {"target_duration": 3.0, "noise_scp": "/somewhere/musan.scp"},
    "frontend": "melspec_torch",
    "frontend_conf": {"n_mels": 24},
    "specaug": None,
    "normalize": None,
    "encoder": "ecapa_tdnn",
    "encoder_conf": {"ndim": 16, "output_size": 24},
    "pooling": "chn_attn_stat",
    "pooling_conf": {},
    "projector": "rawnet3",
    "projector_conf": {"output_size": 12},
    "loss": "aamsoftmax",
    "loss_conf": {},
    "spk_num": 5,
    "sample_rate": RATE_HZ,
    "init": None,
}


def make_model(folder: Path, seed: int = 0, **changes) -> Path:
    """Write ``config.yaml`` and ``valid.eer.best.pth`` (random weights, batch norms that are not trivial)."""
    from argparse import Namespace

    import torch
    import yaml

    from espnet_ext.tasks.registry import get_task

    config = CONFIG | changes
    torch.manual_seed(seed)
    model = get_task("spk").build_model(Namespace(**config))
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "valid.eer.best.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def voice(seconds: float, seed: int = 0, rate_hz: int = RATE_HZ) -> np.ndarray:
    """Something like a voice: a gliding harmonic tone with pauses and a little noise, float32 (samples,)."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch_hz = 90 + 10 * (seed % 13) + 8 * np.sin(2 * np.pi * 0.7 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / rate_hz
    tone = sum(np.sin(k * phase) / k for k in range(1, 9)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time_s))
    return (0.1 * tone + 0.005 * rng.standard_normal(len(time_s))).astype(np.float32)
