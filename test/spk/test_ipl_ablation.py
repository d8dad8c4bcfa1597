"""Ablations of Speaker-IPL: the files are read and their options known; the driver runs, goes on and makes a table."""

import shlex
from pathlib import Path

import numpy as np
import pytest
from stand_in import assert_recipe_knows, cells, varied, write_recipe

from espnet_ext.bin.ipl_ablation import main
from espnet_ext.errors import UserError
from espnet_ext.spk.ipl_ablation import ablation_table, read_ablation

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("egs2/*/ipl1/conf/ablation.yaml"))
# A stand-in for the recipe: it notes its options, fails where it is told to, and writes what a report writes.
RECIPE = """import json, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open("calls", "a") as file:
    print(options["--ipl_tag"], file=file)
if options.get("--min_utterances") == "1000":
    sys.exit(2)
k, seed = int(options.get("--num_clusters", 40)), int(options["--seed"])
rows = [{"metric": "eer", "value": v, "where": {"set": "t", "condition": "all", "round": r}}
        for r, v in (("MFCC statistics", 0.4), ("0", 0.2), ("1", 0.15), ("2", 0.1 + seed / 100), ("fine-tuned", 0.09))]
for name, value in (("clusters", k), ("agreement", 0.9), ("oracle_nmi", 0.8), ("oracle_purity", 0.7)):
    rows += [{"metric": name, "value": value, "where": {"round": r}} for r in "12"]
folder = pathlib.Path("exp/ipl_" + options["--ipl_tag"])
folder.mkdir(parents=True, exist_ok=True)
(folder / "results.json").write_text(json.dumps({"results": rows}))
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parents[2].name)
def test_every_experiment_is_one_that_the_recipe_knows(path):
    experiments = read_ablation(path)
    assert {one.group for one in experiments} >= {"reference", "start", "encoder", "augmentation", "clusters", "method"}
    assert len({one.tag for one in experiments}) == len(experiments)
    assert_recipe_knows(path.parents[1], experiments, "5 loop")


def test_there_are_files():
    assert len(FILES) >= 2


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path, RECIPE)
    Path("a.yaml").write_text('clusters:\n    "20": {num_clusters: 20}\nmin:\n    none: {min_utterances: 1000}\n')
    return tmp_path


def test_the_driver_runs_everything_and_says_what_failed(here, capsys):
    assert main(["--config", "a.yaml", "--seeds", "0", "2", "--options", "--nj 4"]) == 2
    told = capsys.readouterr()
    assert "2 of 6 experiments failed: min none (seed 0), min none (seed 2)" in told.err
    table = {row[0]: row for row in cells(told.out)}
    eers = [10, 12]
    last = f"{np.mean(eers):.2f} ± {np.std(eers, ddof=1):.2f}"
    assert table["reference"][1:7] == ["–", "2", "20.00 ± 0.00", last, "40 ± 0.0", "0.900 ± 0.000"]
    assert table["clusters"][:2] == ["clusters", "20"] and table["clusters"][5] == "20 ± 0.0" and "min" not in table
    assert last in Path("exp/ablation.md").read_text()
    assert varied("exp/ablation.json") == {(what, seed) for what in ("reference", "clusters") for seed in "02"}


def test_parts_and_a_dry_run(here, capsys):
    assert main(["--config", "a.yaml", "--only", "clusters", "--dry_run", "true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line)[0] for line in lines] == ["./run.sh"] * 2 and not Path("calls").exists()
    assert "--ipl_tag ablation_clusters_20_s0 --seed 0 --num_clusters 20" in lines[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "should be {what is varied"),
        ("start: 3", "see 'start'"),
        ("start: {x: {seed: 3}}", "seed is set by the driver"),
        ("start: {x", "no YAML"),
    ],
)
def test_a_file_that_is_none(tmp_path, content, message):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_ablation(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="no such file"):
        read_ablation(tmp_path / "b.yaml")


def test_unknown_part(here):
    with pytest.raises(UserError, match="nothing is varied under 'encoder'; there are clusters, min"):
        read_ablation(Path("a.yaml"), groups=["encoder"])


def test_a_row_without_true_speakers():
    one = read_ablation(FILES[0])[0]
    outcome = {"eer": {"0": 0.2, "1": 0.1}, "clusters": {"1": 9.0}}
    assert ablation_table([one], [outcome]).splitlines()[-1].count("–") == 4
