"""Evaluating a trial list, from audio files to EER and minDCF: ours against ESPnet's own validation, same model.

6,000 trials over 400 utterances of 2 to 8 s (FLAC); a small ECAPA-TDNN that ESPnet made. ESPnet cuts every utterance
into 10 crops of 3 s, and that is compared like for like; our default is whole utterances. Imports and loading of the
model are not counted. Both compute with one thread, so that other load on the machine decides less (two threads that
wait for each other suffer from it several times over); ESPnet reads in a second process and we in a second thread.
Memory is the peak of the main process; ESPnet's reading process is not counted.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from common import Row, measure

NUM_SPEAKERS, PER_SPEAKER, NUM_TRIALS = 40, 10, 6000
NUM_CROPS, CROP_S = 10, 3.0
CONFIG = """
frontend: melspec_torch
frontend_conf: {log: true, n_mels: 40, normalize: mn}
encoder: ecapa_tdnn
encoder_conf: {ndim: 128, output_size: 384, model_scale: 4}
projector_conf: {output_size: 64}
preprocessor_conf: {target_duration: 3.0, num_eval: 10, noise_apply_prob: 0.0, rir_apply_prob: 0.0}
"""


def make(folder: Path) -> None:
    """Write the audio, the trials in both formats, and a model with ESPnet's config and random weights."""
    import soundfile

    rng = np.random.default_rng(0)
    speakers, names = [], []
    for speaker in range(NUM_SPEAKERS):
        pitch_hz = rng.uniform(80, 250)
        for take in range(PER_SPEAKER):
            time_s = np.arange(round(16000 * rng.uniform(2, 8))) / 16000
            phase = (
                2 * np.pi * np.cumsum(pitch_hz * (1 + 0.1 * np.sin(2 * np.pi * rng.uniform(0.3, 1) * time_s))) / 16000
            )
            wav = sum(np.sin(k * phase) / k for k in range(1, 12)) * 0.05 + 0.003 * rng.standard_normal(len(time_s))
            names.append(f"s{speaker:02d}-{take}")
            speakers.append(speaker)
            soundfile.write(folder / f"{names[-1]}.flac", wav, 16000)
    pairs = rng.choice(len(names) ** 2, size=20 * NUM_TRIALS, replace=False)
    enroll, test = pairs // len(names), pairs % len(names)
    same = np.array(speakers)[enroll] == np.array(speakers)[test]
    target = np.flatnonzero(same & (enroll != test))[: NUM_TRIALS // 3]
    chosen = np.sort(np.r_[target, np.flatnonzero(~same)[: NUM_TRIALS - len(target)]])
    with open(folder / "trial.scp", "w") as a, open(folder / "trial2.scp", "w") as b, open(folder / "labels", "w") as c:
        for i, j, label in zip(enroll[chosen], test[chosen], same[chosen].astype(int), strict=True):
            key = f"{names[i]}*{names[j]}"
            print(key, folder / f"{names[i]}.flac", file=a)
            print(key, folder / f"{names[j]}.flac", file=b)
            print(key, label, file=c)
    (folder / "train.yaml").write_text(CONFIG)
    args = espnet_args(folder, [])
    make_weights(args, folder)


def espnet_args(folder: Path, options: list[str]):
    """ESPnet's parsed options for this folder."""
    from espnet_ext import compat

    compat.prepare()
    from espnet2.tasks.spk import SpeakerTask

    command = ["--config", str(folder / "train.yaml"), "--spk_num", "40", "--output_dir", str(folder / "out"), *options]
    args = SpeakerTask.get_parser().parse_args(command)
    args.version = "202511"
    return args


def make_weights(args, folder: Path) -> None:
    """Build ESPnet's model once, so that both sides load the same file."""
    import torch
    from espnet2.tasks.spk import SpeakerTask
    from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

    torch.manual_seed(0)
    torch.save(SpeakerTask.build_model(args).state_dict(), folder / "model.pth")
    with open(folder / "config.yaml", "w") as file:
        yaml_no_alias_safe_dump(vars(args), file)


def peer(folder: str) -> dict:
    """ESPnet 202511: its trial iterator, then SpkTrainer.validate_one_epoch."""
    root = Path(folder)
    options = []
    for name, kind in (("trial.scp", "speech,sound"), ("trial2.scp", "speech2,sound"), ("labels", "spk_labels,text")):
        options += ["--valid_data_path_and_name_and_type", f"{root / name},{kind}"]
    options += [
        "--valid_shape_file",
        str(root / "labels"),
        "--valid_batch_type",
        "unsorted",
        "--valid_batch_size",
        "20",
    ]
    args = espnet_args(root, options)
    import torch
    from espnet2.tasks.spk import SpeakerTask
    from espnet2.train.distributed_utils import DistributedOption
    from espnet2.train.reporter import Reporter

    torch.set_num_threads(1)
    model, _ = SpeakerTask.build_model_from_file(root / "config.yaml", root / "model.pth", "cpu")
    alone = DistributedOption()
    start = time.perf_counter()
    loader = SpeakerTask.build_iter_factory(args=args, distributed_option=alone, mode="valid").build_iter(0)
    trainer = SpeakerTask.trainer
    reporter = Reporter()
    reporter.set_epoch(1)
    with reporter.observe("valid") as observed:
        trainer.validate_one_epoch(model, loader, observed, trainer.build_options(args), alone)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "eer": reporter.get_value("valid", "eer", 1) / 100}


def ours(folder: str, num_crops: int) -> dict:
    """SpeakerEmbedder over the unique files, then scores, EER and minDCF."""
    root = Path(folder)
    import torch

    from espnet_ext.inference.spk import SpeakerEmbedder
    from espnet_ext.metrics.detection import eer, min_dcf
    from espnet_ext.spk.scoring import cosine_scores, multi_crop_distance, unit_crops

    torch.set_num_threads(1)
    embedder = SpeakerEmbedder.from_files(root / "config.yaml", root / "model.pth")
    start = time.perf_counter()
    lines = [line.split() for line in (root / "labels").read_text().splitlines()]
    names = sorted({name for key, _ in lines for name in key.split("*")})
    row = {name: number for number, name in enumerate(names)}
    enroll, test = (np.array([row[key.split("*")[side]] for key, _ in lines]) for side in (0, 1))
    labels = np.array([int(label) for _, label in lines])
    paths = [root / f"{name}.flac" for name in names]
    if num_crops:
        units = unit_crops(embedder.embed_crops(paths, num_crops, CROP_S))
        scores = multi_crop_distance(units, enroll, test)
    else:
        scores = cosine_scores(unit_crops(embedder.embed(paths)), enroll, test)
    result = {"eer": float(eer(scores, labels)), "min_dcf": float(min_dcf(scores, labels, 0.05))}
    return result | {"seconds": time.perf_counter() - start}


def main() -> list[Row]:
    """Measure the three in fresh processes; the EERs of the like-for-like pair have to agree."""
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        theirs = measure(f"{__file__}:peer", folder=folder)
        crops = measure(f"{__file__}:ours", folder=folder, num_crops=NUM_CROPS)
        whole = measure(f"{__file__}:ours", folder=folder, num_crops=0)
    if abs(crops.result["eer"] - theirs.result["eer"]) > 0.002:
        raise RuntimeError(f"the EERs differ: {json.dumps([crops.result, theirs.result])}")
    what = "evaluate 6,000 trials of 400 utterances"
    espnet = theirs.result["seconds"]
    memory = "peak of the main process"
    return [
        Row(f"{what}, 10 crops of 3 s", crops.result["seconds"], espnet, note=f"EER {crops.result['eer']:.1%} both"),
        Row(f"{what}, whole (our default)", whole.result["seconds"], espnet, note="ESPnet: 10 crops of 3 s"),
        Row(f"{what}, 10 crops of 3 s", crops.peak_mb, theirs.peak_mb, unit="MB", note=memory),
        Row(f"{what}, whole (our default)", whole.peak_mb, theirs.peak_mb, unit="MB", note=memory),
    ]
