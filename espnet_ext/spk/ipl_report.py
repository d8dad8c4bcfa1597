"""Round by round report of iterative pseudo-labelling: error rates, agreement of labels, and a picture.

True speakers enter here and nowhere else, in columns marked oracle; nothing of this report is read back by the loop.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from espnet_ext.datadir import read_scp
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.metrics.clustering import nmi, purity
from espnet_ext.metrics.report import Result, markdown_table, write_results_json, write_results_md
from espnet_ext.spk.backend import Backend
from espnet_ext.spk.embeddings import EmbeddingTable
from espnet_ext.spk.evaluation import EvaluationSet, evaluate_set, read_floor, read_set
from espnet_ext.spk.scoring import mean_embedding

FINETUNED = "fine-tuned"


@dataclass
class Yardstick:
    """What every round is measured on: test sets ``{name: trial files}``, the unlabelled set, and how."""

    sets: dict[str, list[str]]
    train: str
    speakers: Path | None = None
    rate_hz: int = 16000
    num_bootstrap: int = 200
    seed: int = 0

    def scp(self, folder: Path, name: str) -> Path:
        """Embeddings of a set, of one round."""
        return folder / "embeddings" / name / "embedding.scp"

    def scps(self, folder: Path) -> list[Path]:
        """All embeddings that a measured round has."""
        return [self.scp(folder, name) for name in (self.train, *self.sets)]

    def read(self, name: str, folder: Path) -> EvaluationSet:
        """A test set with the embeddings of one round."""
        return read_set(name, self.scp(folder, name), self.sets[name], self.rate_hz)


@dataclass
class Round:
    """One row of the report: a start, a round, a fine-tuning or a floor."""

    name: str
    labels: dict | None = None  # labels.json: label-free
    oracle: dict[str, float] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def value(self, metric: str, where: tuple[str, str]) -> Result | None:
        """The result of a metric on (set, condition)."""
        found = (r for r in self.results if r.metric == metric and (r.where["set"], r.where["condition"]) == where)
        return next(found, None)


def find_rounds(exp: Path, tests: Yardstick) -> list[tuple[str, Path]]:
    """Name and folder of every round whose embeddings are all there: 0, 1, …, and the last one fine-tuned.

    Raises:
        UserError: not even the start has been embedded.
    """
    found = []
    while all(path.is_file() for path in tests.scps(exp / f"r{len(found)}")):
        found.append((str(len(found)), exp / f"r{len(found)}"))
    if not found:
        missing = next(path for path in tests.scps(exp / "r0") if not path.is_file())
        raise UserError(f"{missing} is missing; the stage init makes it")
    finetuned = found[-1][1] / "finetune"
    if all(path.is_file() for path in tests.scps(finetuned)):
        found.append((FINETUNED, finetuned))
    return found


def report_round(name: str, folder: Path, tests: Yardstick) -> Round:
    """Measure a round, or read ``report.json`` where that is newer than its embeddings and of the same tests."""
    path, key = folder / "report.json", {"sets": tests.sets, "bootstrap": tests.num_bootstrap, "seed": tests.seed}
    key["speakers"] = str(tests.speakers) if tests.speakers and tests.speakers.is_file() else None
    made_from = [*tests.scps(folder), *(Path(file) for files in tests.sets.values() for file in files)]
    if path.is_file() and path.stat().st_mtime >= max(file.stat().st_mtime for file in made_from):
        old = json.loads(path.read_text(encoding="utf-8"))
        if old.pop("key") == key:
            results = [Result(**(one | {"ci": one["ci"] and tuple(one["ci"])})) for one in old["results"]]
            return Round(**(old | {"results": results}))
    row = Round(name)
    if (folder / "labels.json").is_file():
        row.labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        row.oracle = oracle(folder / "pseudo_labels", tests.speakers)
    backend = Backend(mean_embedding(EmbeddingTable.read(tests.scp(folder, tests.train)).vectors))
    for one in (tests.read(name, folder) for name in tests.sets):
        for found in evaluate_set(one, backend, {}, folder, 0.05, tests.num_bootstrap, tests.seed):
            row.results += [result for result in found.results["raw"] if result.metric in ("eer", *DETECTION)]
    for result in row.results:
        result.where = {"set": result.where["set"], "condition": result.where["condition"], "round": name}
    with atomic_write(path) as file:
        json.dump(asdict(row) | {"key": key}, file, indent=1)
        file.write("\n")
    return row


DETECTION = ("min_dcf_0.01", "min_dcf_0.05")


def oracle(labels: Path, speakers: Path | None) -> dict[str, float]:
    """NMI and purity of pseudo-labels against true speakers; empty where nobody knows them."""
    if speakers is None or not speakers.is_file():
        return {}
    table, truth = read_scp(labels), read_scp(speakers)
    missing = next((utt for utt in table if utt not in truth), None)
    if missing is not None:
        raise UserError(f"{speakers}: no speaker of utterance {missing!r}; leave --speakers out, or complete the table")
    names = [truth[utt] for utt in table]
    found = list(table.values())
    return {"nmi": float(nmi(found, names)), "purity": float(purity(found, names)), "speakers": len(set(names))}


def report_floor(name: str, files: Sequence[str], exp: Path, tests: Yardstick) -> Round:
    """Measure vectors that no round made, standardised by those of utterances that are not tested, by cosine."""
    row = Round(name)
    for one in (tests.read(set_name, exp / "r0") for set_name in tests.sets):
        floors = {name: read_floor(name, list(files), [one])}
        for found in evaluate_set(one, Backend(), floors, exp / "floor", 0.05, tests.num_bootstrap, tests.seed):
            row.results += [result for result in found.results[name] if result.metric in ("eer", *DETECTION)]
    for result in row.results:
        result.where = {"set": result.where["set"], "condition": result.where["condition"], "round": name}
    return row


def lists_of(rows: Sequence[Round]) -> list[tuple[str, str]]:
    """Every (set, condition) that was measured, in order."""
    return list(dict.fromkeys((r.where["set"], r.where["condition"]) for row in rows for r in row.results))


def rounds_table(rows: Sequence[Round]) -> str:
    """Markdown table: what the loop knows, then what only an oracle knows."""
    lists = lists_of(rows)
    sessions = any(row.labels and row.labels["kept"]["sessions"] for row in rows)
    columns = ["round", "clusters", "kept %", "agreement", *(["sessions per cluster"] if sessions else [])]
    columns += ["oracle: NMI", "oracle: purity", *(f"oracle: EER %, {name}, {part}" for name, part in lists)]
    cells = []
    for row in rows:
        cell = [row.name]
        if row.labels is None:
            cell += ["–"] * (4 if sessions else 3)
        else:
            kept, every = row.labels["kept"], row.labels["all"]
            agreed = row.labels["agreement"]
            cell += [str(kept["clusters"]), f"{100 * kept['utterances'] / every['utterances']:.1f}"]
            cell += ["–" if agreed is None or math.isnan(agreed) else f"{agreed:.3f}"]
            if sessions:
                cell.append(f"{kept['sessions'].get('per_cluster', math.nan):.2f}")
        cell += [f"{row.oracle[name]:.3f}" if name in row.oracle else "–" for name in ("nmi", "purity")]
        cell += [rate(row.value("eer", where)) for where in lists]
        cells.append(cell)
    return markdown_table(columns, cells)


def rate(result: Result | None) -> str:
    """An error rate in per cent with its interval."""
    if result is None:
        return "–"
    known = result.ci is not None and not any(math.isnan(end) for end in result.ci)
    return f"{100 * result.value:.2f}" + (f" ({100 * result.ci[0]:.1f} to {100 * result.ci[1]:.1f})" if known else "")


def write_report(out: Path, rows: Sequence[Round], floors: Sequence[Round], info: dict) -> str:
    """Write ``RESULTS.md``, ``results.json`` and ``rounds.png`` into ``out``; return the table for the screen."""
    from espnet_ext.spk.ipl_plot import save_rounds_plot

    save_rounds_plot(out / "rounds.png", rows, floors)
    table = rounds_table([*floors, *rows])
    last = [row for row in rows if row.labels][-1:]
    settled = f"; it has not changed in round {last[0].name}" if last and last[0].labels["stop"] else ""
    notes = [
        "Round 0 is the start; round r trains a new student on clusters of the embeddings of round r - 1.",
        "clusters, kept: what is left after clusters with few utterances were dropped. agreement: NMI with the labels",
        f"of the round before, on utterances that both kept; the loop stops when it no longer changes{settled}.",
        "",
        "Columns marked oracle need true speakers, which no stage of the loop has read: NMI and purity of the labels",
        "that the round was trained on, and the EER of its embeddings on test speakers: cosine after taking off the",
        "mean of the unlabelled training set, intervals of 95 % over resampled speakers. Chance is 50 %.",
    ]
    sections = [("Rounds", table), ("What the columns mean", "\n".join(notes) + "\n\n![rounds](rounds.png)")]
    for name, part in lists_of(rows):
        cells = []
        for row in [*floors, *rows]:
            costs = [row.value(metric, (name, part)) for metric in DETECTION]
            found = ["–" if cost is None else f"{cost.value:.4f}" for cost in costs]
            cells.append([row.name, rate(row.value("eer", (name, part))), *found])
        sections.append((f"{name}, {part}", markdown_table(["round", "EER %", "minDCF .01", "minDCF .05"], cells)))
    write_results_md(out / "RESULTS.md", "Speakers without labels: iterative pseudo-labelling", sections, info)
    results = [result for row in [*floors, *rows] for result in row.results]
    for row in rows:
        where = {"round": row.name}
        results += [Result(f"oracle_{name}", value, where=where) for name, value in row.oracle.items()]
        if row.labels:
            kept, agreed = row.labels["kept"], row.labels["agreement"]
            results += [Result("clusters", kept["clusters"], where=where)]
            results += [Result("kept_utterances", kept["utterances"], where=where)]
            results += [Result("agreement", agreed, where=where)] if agreed is not None else []
    write_results_json(out / "results.json", results, info)
    return table
