"""Every head of egs2/voxceleb on every encoder of its run_heads.sh, with a tiny encoder of its type in its place."""

import re
import shutil

import pytest
import yaml
from corpora import ROOT, checkout, run, voxceleb
from random_encoders import make

from espnet_ext.bin.head_parameters import main as head_parameters
from espnet_ext.bin.train import main

RECIPE = ROOT / "egs2/voxceleb/spk1"
CONFIGS = sorted((RECIPE / "conf").glob("train_ssl_*.yaml"))
ENCODERS = re.findall(r"(?:facebook|microsoft)/[\w.-]+", (RECIPE / "run_heads.sh").read_text(encoding="utf-8"))
FAMILIES = ("hubert", "wav2vec2", "wavlm")


def family_of(encoder):
    """``facebook/hubert-large-ll60k`` -> (hubert, True)."""
    return next(name for name in FAMILIES if name in encoder), "large" in encoder


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    for family, large in {family_of(encoder) for encoder in ENCODERS}:
        make(folder / f"{family}_{large}", family, large)
    return folder


def test_all_three_families_in_both_sizes_and_all_heads_are_there():
    assert {family_of(encoder) for encoder in ENCODERS} == {(f, large) for f in FAMILIES for large in (False, True)}
    heads = {"xvector", "light", "ecapa", "ecapa_plain", "attention", "stats", "last_layer", "zero_shot"}
    assert heads <= {path.stem.removeprefix("train_ssl_") for path in CONFIGS}


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_dry_run(path, encoder, stand_ins, tmp_path):
    family, large = family_of(encoder)
    config = yaml.safe_load(path.read_text())
    if "ndim" in config.get("encoder_conf", {}):
        config["encoder_conf"] |= {"ndim": 16, "output_size": 24}
    if config["frontend_conf"].get("layer", -1) > 0:
        config["frontend_conf"]["layer"] = 1  # the stand-ins have few
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["spk", "--config", str(tmp_path / "config.yaml"), "--output_dir", str(tmp_path / "exp")]
    model = f"model={stand_ins / f'{family}_{large}'}"
    assert main([*arguments, "--frontend_conf", model, "--dry_run", "true", "--ngpu", "0"]) == 0


def test_heads_differ_in_nothing_but_the_head():
    """The ablation's configurations share data, loss and optimiser, and so does the baseline."""
    parts = ("frontend_conf", "normalize", "normalize_conf", "encoder", "encoder_conf", "pooling", "projector")
    rest = [
        {key: value for key, value in yaml.safe_load(path.read_text()).items() if key not in (*parts, "projector_conf")}
        for path in CONFIGS
        if "zero_shot" not in path.stem
    ]
    assert all(one == rest[0] for one in rest)


def test_counts_of_the_readme_are_those_of_its_command(capsys):
    assert head_parameters([*map(str, CONFIGS), "--baseline", str(RECIPE / "conf/train_ssl_xvector.yaml")]) == 0
    told = capsys.readouterr().out
    readme = (RECIPE / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `conf/(train_ssl_\w+)\.yaml` \|.*\| ([^|]*) \|$", readme, re.MULTILINE))
    assert set(rows) == {path.stem for path in CONFIGS}
    for name, numbers in rows.items():
        found = re.findall(rf"^\| {name} +\| +\d+ \| +([\d,]+) \| +([\d,]+) \|", told, re.MULTILINE)
        trained, used = zip(*found, strict=True)
        expected = [" / ".join(trained)] if trained == used else [" / ".join(trained), " / ".join(used)]
        assert all(text in numbers or set(trained) == {"0"} and numbers == "0" for text in expected), (name, numbers)


@pytest.mark.timeout(300)
def test_superbs_training_set_is_voxceleb1_alone(tmp_path):
    tree = voxceleb(tmp_path / "vox celeb", speakers1=range(10001, 10007), speakers2=range(12, 14))
    recipe = checkout(tmp_path / "here", "voxceleb/spk1") / "egs2/voxceleb/spk1"
    shutil.copytree(tree / "meta", recipe / "downloads")  # the official lists, as if downloaded
    make(recipe / "tiny", "wavlm")
    run(
        f"./run_heads.sh --corpus '{tree}' --run_opts '--nj 1 --num_dev_speakers 3 --cohort_per_speaker 2' "
        "--upstreams ./tiny --probe_args '--num_bootstrap 0' --stop_stage probe",
        recipe,
    )
    speakers = {line.split()[0] for line in (recipe / "dump/train_vox1_fit/spk2utt").read_text().splitlines()}
    assert len(speakers) == 3 and all(speaker.startswith("id1") for speaker in speakers)
    assert (recipe / "exp/heads/probe_tiny/best_layer").read_text().strip() in "0123"
