"""The tables, the report and the picture of a speaker-verification evaluation."""

import math
from collections.abc import Mapping
from pathlib import Path

from espnet_ext.metrics.det_plot import save_det_plot
from espnet_ext.metrics.report import markdown_table, write_results_json, write_results_md
from espnet_ext.spk.evaluation import Evaluated

NAMES = {"raw": "raw", "asnorm": "AS-norm", "calibrated": "calibrated", "qmf": "QMF fusion"}


def set_heading(one: Evaluated) -> str:
    """One line on what was scored: set, condition, trials, speakers."""
    labels = one.trials.labels
    return (
        f"{one.set_name}, {one.trials.condition}: {len(labels):,} trials "
        f"({int(labels.sum()):,} target), {one.num_speakers} speakers ({one.num_target_speakers} with target trials)"
    )


def set_table(one: Evaluated, p_target: float) -> str:
    """Markdown table of one trial list: a row per system, and chance."""
    columns = [
        "system",
        "EER %",
        "95 % interval",
        "minDCF .01",
        "minDCF .05",
        f"actDCF {p_target:g}",
        "Cllr",
        "min-Cllr",
    ]
    rows = []
    for system, results in one.results.items():
        value = {result.metric: result.value for result in results}
        interval = next(result.ci for result in results if result.metric == "eer")
        known = interval is not None and not math.isnan(interval[0])
        rows.append(
            [
                NAMES.get(system, system),
                f"{100 * value['eer']:.2f}",
                f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}" if known else "–",
                f"{value['min_dcf_0.01']:.4f}",
                f"{value['min_dcf_0.05']:.4f}",
                f"{value['act_dcf']:.4f}",
                f"{value['cllr']:.4f}",
                f"{value['min_cllr']:.4f}",
            ]
        )
    rows.append(["chance", "50.00", "", "1.0000", "1.0000", "1.0000", "1.0000", "1.0000"])
    return markdown_table(columns, rows)


def write_report(
    out: Path, title: str, evaluated: list[Evaluated], p_target: float, notes: list[str], info: Mapping
) -> str:
    """Write ``RESULTS.md``, ``results.json`` and ``det.png`` into ``out``; return the tables for the screen."""
    panels = []
    for one in evaluated:
        curves = []
        for system, points in one.curves.items():
            if system != "calibrated":  # the same curve as the score it was made from
                eer = next(result.value for result in one.results[system] if result.metric == "eer")
                curves.append((NAMES.get(system, system), points, eer))
        panels.append((f"{one.set_name}, {one.trials.condition}", curves))
    save_det_plot(out / "det.png", panels)
    tables = [(set_heading(one), set_table(one, p_target)) for one in evaluated]
    explanation = [
        "EER: where misses and false alarms are equal; the interval is 95 %, speakers resampled, not trials.",
        "minDCF and actDCF: detection cost at that prior of a target, equal costs, divided by the cost of the better",
        "constant answer; actDCF decides at the Bayes threshold, so it needs calibrated scores.",
        "Cllr: cost of the scores read as log-likelihood ratios, in bits. Raw and AS-norm scores are none: there",
        "it only shows that they need calibration. min-Cllr: what the best calibration on these very trials leaves.",
    ]
    text = "\n".join(explanation) + "\n\n" + "\n".join(f"- {note}" for note in notes) + "\n\n![DET curves](det.png)"
    write_results_md(out / "RESULTS.md", title, [*tables, ("What the columns mean", text)], info)
    results = [result for one in evaluated for results in one.results.values() for result in results]
    write_results_json(out / "results.json", results, info)
    return "\n\n".join(f"{heading}\n{table}" for heading, table in tables)
