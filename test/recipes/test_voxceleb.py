"""Every stage of egs2/voxceleb on a tiny tree in VoxCeleb's layout, with a tiny model."""

import json
import shutil

from corpora import TINY, checkout, run, voxceleb


def test_every_stage(tmp_path):
    tree = voxceleb(tmp_path / "vox celeb")
    recipe = checkout(tmp_path / "here", "voxceleb/spk1") / "egs2/voxceleb/spk1"
    shutil.copytree(tree / "meta", recipe / "downloads")  # the official lists, as if downloaded
    told = run(
        f"./run.sh --corpus '{tree}' --ngpu 0 --nj 1 --num_dev_speakers 3 --cohort_per_speaker 2 --num_bootstrap 20 "
        f"--train_args '{TINY}'",
        recipe,
    )
    exp = recipe / "exp/spk_train_ecapa"
    speakers = {
        name: {line.split()[0] for line in (recipe / "dump" / name / "spk2utt").read_text().splitlines()}
        for name in ("train_fit", "train_dev", "train_fit_cohort2", "vox1")
    }
    assert {name: len(s) for name, s in speakers.items()} == {
        "train_fit": 7,
        "train_dev": 3,
        "train_fit_cohort2": 7,
        "vox1": 3,
    }
    assert not speakers["train_dev"] & speakers["train_fit"] and speakers["train_fit_cohort2"] == speakers["train_fit"]
    rows = json.loads((exp / "results.json").read_text())["results"]
    assert {row["where"]["condition"] for row in rows} == {"o", "o_cleaned"}
    assert all(0 <= row["value"] <= 1 for row in rows if row["metric"] == "eer")
    assert "o_cleaned" in told and (exp / "RESULTS.md").is_file()
