"""The report writer and the DET picture."""

import json
import math

import numpy as np

from espnet_ext.metrics.det_plot import save_det_plot
from espnet_ext.metrics.detection import det_points, eer
from espnet_ext.metrics.report import Result, markdown_table, run_info, write_results_json, write_results_md


def test_table_lines_up():
    table = markdown_table(["system", "EER %"], [["raw", "1.00"], ["AS-norm", "12.00"]])
    lines = table.split("\n")
    assert len({len(line) for line in lines}) == 1
    assert lines[1] == "|---------|------:|"
    assert lines[2] == "| raw     |  1.00 |"


def test_results_json_holds_everything_and_is_strict_json(tmp_path):
    info = run_info(seed=3, config="conf/train.yaml", wall_time_s=1.5)
    where = {"set": "test", "system": "raw"}
    results = [Result("eer", 0.1, (0.05, float("nan")), "fraction", 10, where), Result("wer", math.inf)]
    write_results_json(tmp_path / "results.json", results, info)
    read = json.loads((tmp_path / "results.json").read_text(), parse_constant=lambda name: 1 / 0)
    assert read["results"][0] == {
        "metric": "eer",
        "value": 0.1,
        "ci": [0.05, None],
        "unit": "fraction",
        "count": 10,
        "where": where,
    }
    assert read["results"][1]["value"] is None
    assert {"commit", "seed", "hardware", "config", "date", "packages", "command"} <= read["run"].keys()
    assert read["run"]["wall_time_s"] == 1.5 and read["run"]["seed"] == 3
    assert read["run"]["packages"]["espnet"]


def test_results_md(tmp_path):
    write_results_md(
        tmp_path / "RESULTS.md", "Title", [("A set", "| a |"), ("", "Words.")], {"seed": 3, "config": None}
    )
    text = (tmp_path / "RESULTS.md").read_text()
    assert text.startswith("# Title\n\n## A set\n\n| a |\n\nWords.\n")
    assert "- seed: 3\n" in text and "config" not in text


def test_det_plot_of_perfect_hopeless_and_good_scores(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.random(2000) < 0.3
    panels = []
    for condition in ("all", "same_gender", "cross_session", "short"):
        curves = []
        for name, gain in (("perfect", 100), ("hopeless", 0), ("good", 4)):
            scores = rng.normal(size=2000) + gain * labels
            curves.append((name, det_points(scores, labels), eer(scores, labels)))
        panels.append((condition, curves))
    save_det_plot(tmp_path / "det.png", panels)
    assert (tmp_path / "det.png").read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [tmp_path / "det.png"]
