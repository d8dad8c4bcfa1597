"""A grid over prediction targets: files are read and their options known; the driver runs, goes on, makes a table."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from stand_in import assert_recipe_knows, cells, varied, write_recipe

from espnet_ext.bin.ssl_grid import main
from espnet_ext.errors import UserError
from espnet_ext.ssl.grid import read_grid
from espnet_ext.ssl.grid_report import Outcome, directions, grid_table

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("egs2/*/ssl1/conf/grid.yaml"))
GRID = """
reference: {num_probe_utts: 7}
start:
    iteration: 1
    log-mel: {features: logmel, levels: 2}
then:
    iteration: 2
    log-mel: {from: [start, log-mel]}
layer:
    iteration: 2
    "1, 2": {layers: "1,2", quantizer: random_projection}
    bad: {layers: 99}
"""
# A stand-in for the recipe: it notes its options, fails where it is told to, and writes what stage score writes.
RECIPE = """import json, pathlib, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
tag, last, seed = options["--ssl_tag"], options["--stop_iter"], int(options["--seed"])
with open("calls", "a") as file:
    print(tag, last, file=file)
layers = options.get("--layers", "- 2").split()[-1]
if layers == "99":
    sys.exit(2)
start = options.get("--features", "").split()[-1:]
exp = pathlib.Path("exp/ssl_" + tag)
if start and start[0].startswith("hf:") and not pathlib.Path(start[0][3:]).is_dir():
    sys.exit(f"{start[0]} is missing")
streams = layers.split(",") if "logmel" not in start else ["q0", "q1"]
units, encoder = [], [{"metric": "train_s", "value": 60.0, "where": {}}, {"metric": "bits", "value": 6.5, "where": {}}]
for number, stream in enumerate(streams):
    for before in range(1, int(last) + 1):
        for metric, value in (("pnmi", 0.2 + before / 10 + number / 100), ("phone_purity", 0.3)):
            where = {"set": "t", "system": f"iteration {before}", "stream": stream}
            units.append({"metric": metric, "value": value, "where": where})
    for metric, value in (("acc_m", 0.1 + number / 10), ("commonest", 0.05)):
        encoder.append({"metric": metric, "value": value, "where": {"set": "dev", "stream": stream}})
for system, add in (("log-mel", 0), ("encoder", 1 + seed / 10 + len(streams) - 1)):
    for probe, value in (("phone", 30.0), ("speaker", 50.0), ("eer", 70.0)):
        where = {"set": "t", "system": system, "layer": str(seed)}
        encoder.append({"metric": f"probe_{probe}", "value": 99.0, "where": where})
        encoder.append({"metric": f"chosen_{probe}", "value": value + add, "where": where})
for folder, results in ((exp / "units_t", units), (exp / f"it{last}/probe_t", encoder)):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps({"results": results}))
(exp / f"it{last}/hf").mkdir(exist_ok=True)
"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parents[2].name)
def test_every_row_is_one_that_the_recipe_knows(path):
    rows = read_grid(path)
    groups = {"initial targets", "layer", "number of units", "falling weights", "layers x levels"}
    assert {row.group for row in rows} >= {"reference", *groups}
    assert [(row.name, row.iteration) for row in rows[:2]] == [("iteration 1", 1), ("iteration 2", 2)]
    assert len({(row.exp, row.iteration) for row in rows}) == len(rows)
    assert_recipe_knows(path.parents[1], rows, "7 score")
    for row in rows:
        # As many weights as streams, where they are given.
        weights = row.options.get("train_args", "").partition("stream_weights=")[2]
        if weights:
            assert len(json.loads(weights)) == int(row.options["levels"])
            assert sum(json.loads(weights)) == pytest.approx(1)


def test_there_are_files():
    assert len(FILES) >= 2


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path, RECIPE)
    Path("g.yaml").write_text(GRID)
    return tmp_path


def table_of(text):
    rows = cells(text)
    return {(row[0], row[1]): dict(zip(rows[0][2:], row[2:], strict=True)) for row in rows[2:]}


def test_the_driver_runs_everything_once_and_says_what_failed(here, capsys):
    assert main(["--config", "g.yaml", "--seeds", "0", "2", "--options", "--nj 4"]) == 2
    told = capsys.readouterr()
    assert "2 of 12 experiments failed: layer bad (seed 0), layer bad (seed 2)" in told.err
    table = table_of(told.out)
    # The numbers of the stand-in, by hand: one more per stream, seed / 10 more per seed.
    pair = np.array([31.0, 31.2])
    spread = f"± {np.std(pair, ddof=1):.2f}"
    reference = table["reference", "iteration 2"]
    assert reference["phones %"] == f"31.10 {spread}" and reference["EER %"] == f"28.90 {spread}"
    assert (
        reference["PNMI"] == "0.400 ± 0.000" and reference["streams"] == "1" and reference["training s"] == "60 ± 0.0"
    )
    assert table["reference", "iteration 1"]["PNMI"] == "0.300 ± 0.000"
    two = table["layer", "1, 2"]
    assert two["phones %"] == f"32.10 {spread} (+1.00)" and two["EER %"] == f"27.90 {spread} (-1.00)"
    assert two["PNMI"] == "0.400–0.410" and two["streams"] == "2" and two["masked acc. %"] == "15.0 ± 0.0"
    assert two["commonest %"] == "5.0 ± 0.0" and two["layer"] == "0/2" and two["iteration"] == "2"
    assert table["start", "log-mel"]["speakers %"] == f"52.10 {spread} (+1.00)"
    assert table["log-mel energies", "–"]["EER %"] == "30.00" and ("layer", "bad") not in table
    assert "Spearman" not in told.out  # too few rows
    assert "27.90" in Path("exp/grid.md").read_text()
    whats = ("reference", "start", "then", "layer")
    assert varied("exp/grid.json") == {(what, seed) for what in whats for seed in "02"}
    # Once more: what is finished is only read, with other options it is not finished.
    before = Path("calls").read_text().splitlines()
    assert len(before) == 12
    assert main(["--config", "g.yaml", "--seeds", "0", "2", "--options", "--nj 4"]) == 2
    assert table_of(capsys.readouterr().out) == table
    assert Path("calls").read_text().splitlines()[12:] == ["grid_layer_bad_s0 2", "grid_layer_bad_s2 2"]
    assert main(["--config", "g.yaml", "--only", "reference"]) == 0
    assert Path("calls").read_text().splitlines()[14:] == ["grid_reference_s0 1", "grid_reference_s0 2"]
    # Another training configuration is for the recipe to look at, whose rows it may not go with.
    assert main(["--config", "g.yaml", "--only", "reference"]) == 0
    Path("conf").mkdir()
    Path("conf/train_hubert.yaml").write_text("max_epoch: 9")
    assert main(["--config", "g.yaml", "--only", "reference"]) == 0
    assert Path("calls").read_text().splitlines()[16:] == ["grid_reference_s0 1", "grid_reference_s0 2"]


def test_what_a_row_starts_from(here, capsys):
    assert main(["--config", "g.yaml", "--only", "then", "--dry_run", "true"]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert not Path("calls").exists() and {command[0] for command in commands} == {"./run.sh"}
    options = [dict(zip(command[1::2], command[2::2], strict=True)) for command in commands]
    # The reference twice, the row that is asked for, and the one that it starts from, before it.
    reference, second, start, then = options
    assert reference["--ssl_tag"] == second["--ssl_tag"] == "grid_reference_s0"
    assert "--features" not in reference and reference["--stop_iter"] == "1" and second["--start_iter"] == "2"
    assert second["--features"] == "- hf:exp/ssl_grid_reference_s0/it1/hf"
    assert start["--features"] == "logmel" and start["--levels"] == "2" and start["--stop_iter"] == "1"
    assert then["--features"] == "- hf:exp/ssl_grid_start_log-mel_s0/it1/hf" and "--from" not in then
    assert {one["--num_probe_utts"] for one in options} == {"7"}
    # Rows of the first iteration alone need no second one of the reference.
    assert main(["--config", "g.yaml", "--only", "start", "--dry_run", "true", "--expdir", "other"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 and all("--expdir other" in line and "--stop_iter 1" in line for line in told)
    row = read_grid(Path("g.yaml"), groups=["layer"])[2]
    assert (
        "- 1,2" in row.command("./run.sh")
        and "- random_projection" in row.command("./run.sh")
        and row.start == Path("exp/ssl_grid_reference_s0/it1/hf")
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "should be {what is varied"),
        ("layer: {x: {layers: 1}}", "layer: say which iteration it is about"),
        ("layer: {iteration: two, x: {layers: 1}}", "say which iteration"),
        ("layer: {iteration: 2, x: {layers: '- 1'}}", "layers takes one word, that of iteration 2"),
        ("layer: {iteration: 2, x: {start_iter: 1}}", "start_iter is set by the driver"),
        ("layer: {iteration: 2, x: {from: [layer, y]}}", "no row of iteration 1 is"),
        ("layer: {iteration: 2, x: {from: reference}}", "no row of iteration 1 is reference"),
        ("layer: {iteration: 2, 'a b': {}, 'a-b': {}, 'a,b': {}}", "have the same folder"),
        ("{reference: {layers: 1}, layer: {iteration: 2, x: {}}}", "layers has a word per iteration"),
        ("{reference: [1], layer: {iteration: 2, x: {}}}", "reference should be"),
    ],
)
def test_a_file_that_is_none(tmp_path, content, message):
    (tmp_path / "g.yaml").write_text(content)
    with pytest.raises(UserError, match=message):
        read_grid(tmp_path / "g.yaml")


def test_mistakes_of_the_driver(here, capsys):
    assert main(["--config", "g.yaml", "--only", "size", "--dry_run", "true"]) == 2
    assert "nothing is varied under 'size'; there are start, then, layer" in capsys.readouterr().err
    assert main(["--config", "g.yaml", "--only", "reference", "--test_set", "other"]) == 2
    assert "--test_set other: exp/ssl_grid_reference_s0 was scored on t" in capsys.readouterr().err
    assert main(["--config", "g.yaml", "--only", "reference", "--run", "./rum.sh"]) == 2
    assert "--run ./rum.sh: no such program here; go to the recipe's folder" in capsys.readouterr().err
    Path("run.sh").write_text("#!/usr/bin/env bash\nexit 0\n")
    assert main(["--config", "g.yaml", "--only", "reference", "--expdir", "new"]) == 2
    assert "no units were compared with phones; give --test_sets" in capsys.readouterr().err


def test_directions_of_known_rows(here):
    """Speakers rise with the bits, phones fall with them, and rise with PNMI; a row without phones is left out."""
    Path("g.yaml").write_text("k: {iteration: 1, a: {}, b: {}, c: {}, d: {}, e: {}}")
    rows = read_grid(Path("g.yaml"))
    outcomes = [
        Outcome(1, 1.0, bits, pnmi=[0.9 - bits / 10, 0.1], probes={"phone": 40 - bits, "speaker": bits, "eer": 50.0})
        for bits in (1.0, 2.0, 3.0, 4.0, 5.0)
    ]
    (line,) = directions(rows, [*outcomes, Outcome(1, 1.0, 6.0, probes={"phone": 99.0, "speaker": 0.0, "eer": 1.0})])
    assert "over the 5 rows of iteration 1" in line
    assert "bits and speakers +1.00" in line and "bits and phones -1.00" in line
    assert "the highest PNMI and phones +1.00" in line and "bits and 100 - EER –" in line
    assert f"±{np.tanh(1.96 / np.sqrt(2)):.2f}" in line
    assert directions(rows[:4], outcomes[:4]) == []


def test_a_row_of_which_little_is_known(here):
    rows = read_grid(Path("g.yaml"), groups=["start"])
    table = table_of(grid_table(rows, [Outcome(1, 9.0, 5.0), Outcome(1, 8.0, 5.0)]))
    assert list(table) == [("reference", "iteration 1"), ("start", "log-mel")]
    assert table["start", "log-mel"]["PNMI"] == "–" and "phones %" not in table["start", "log-mel"]
