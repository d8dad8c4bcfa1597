"""Every stage of egs2/voxceleb/ipl1 on a tiny tree in VoxCeleb's layout, with tiny sizes."""

import json
import shutil

from corpora import TINY, checkout, dry_run_readme, run, voxceleb

SIZES = (
    '--num_gaussians 4 --ubm_args "--init_iterations 2 --diagonal_iterations 1 --full_iterations 1" --ivector_dim 4 '
    "--ivector_iterations 2 --num_kmeans 12 --num_clusters 5 --min_utterances 3 --num_dev_utterances 8 --max_rounds 1"
)


def test_every_stage(tmp_path):
    tree = voxceleb(tmp_path / "vox celeb", videos=2)
    recipe = checkout(tmp_path / "here", "voxceleb") / "egs2/voxceleb/ipl1"
    shutil.copytree(tree / "meta", recipe / "downloads")  # the official lists, as if downloaded
    for name in ("list_test_all2.txt", "list_test_hard2.txt"):  # E and H try the speakers of the dev part; here: of O
        shutil.copy(tree / "meta/veri_test2.txt", recipe / "downloads" / name)
    told = run(
        f"./run.sh --corpus '{tree}' --ngpu 0 --nj 1 --num_bootstrap 10 {SIZES} --train_args '{TINY}' "
        f"--finetune_args '{TINY}'",
        recipe,
    )
    exp = recipe / "exp/ipl_ivector_train_ecapa"
    assert {line.split()[0][:4] for line in (recipe / "dump/train_unlabelled/wav.scp").open()} == {"id00"}
    rows = json.loads((exp / "results.json").read_text())["results"]
    eers = [row for row in rows if row["metric"] == "eer"]
    assert {row["where"]["round"] for row in eers} == {"MFCC statistics", "0", "1", "fine-tuned"}
    assert {row["where"]["condition"] for row in eers} == {"o_cleaned", "e_cleaned", "h_cleaned"}
    assert all(0 <= row["value"] <= 1 for row in eers)
    assert (exp / "rounds.png").is_file() and "sessions per cluster" in told
    assert (recipe / "exp/ipl_ivector_train_ecapa.zip").is_file()


def test_commands_of_the_readme(tmp_path):
    told = dry_run_readme(checkout(tmp_path, "voxceleb/ipl1") / "egs2/voxceleb/ipl1")
    assert len(told) == 7
    assert all("would run stage 5 loop" in text or "--ipl_tag ablation_" in text for text in told.values())
