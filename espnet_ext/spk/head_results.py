"""Trained heads side by side: errors with intervals, parameters, learned layer weights, and the curve against data."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_ext.datadir import read_scp
from espnet_ext.errors import UserError
from espnet_ext.metrics.report import Result, markdown_table
from espnet_ext.spk.parameters import MIXES, HeadParameters, count_weights
from espnet_ext.train.checkpoint import read_reporter
from espnet_ext.zoo.tensors import load_tensors
from espnet_ext.zoo.yaml_file import load_yaml

#: What the results of a speaker recipe call their own systems; every other one is a floor.
OWN_SYSTEMS = ("raw", "asnorm", "calibrated", "qmf")


@dataclass
class TrainedHead:
    """One training and what it gave.

    ``fraction`` of the training set ``by`` utterance or speaker; ``eers``: {(set, condition): {system: Result}};
    ``mix``: share of every layer (layers,), None where one layer was chosen; ``dev_eer``: of the best epoch, per cent.
    """

    head: str
    upstream: str
    by: str
    fraction: float
    eers: dict[tuple[str, str], dict[str, Result]]
    parameters: HeadParameters
    mix: np.ndarray | None
    dev_eer: float | None
    utterances: int | None


def dev_eer(folder: str | os.PathLike) -> float | None:
    """Return the EER in per cent on the dev trials of the best epoch of a training; None where there is no record."""
    path = Path(folder) / "checkpoint.pth"
    if not path.is_file():
        return None
    epochs = read_reporter(path)["stats"].values()
    values = [stats["valid"]["eer"] for stats in epochs if "eer" in stats.get("valid", {})]
    return min(map(float, values), default=None)


def read_head(head: str, upstream: str, by: str, fraction: float, folder: str | os.PathLike) -> TrainedHead:
    """Read an experiment folder of task ``spk`` that was scored; ``UserError`` names what is missing in it."""
    folder = Path(folder)
    for name, stage in (("config.yaml", "train"), ("valid.eer.best.pth", "train"), ("results.json", "score")):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing; stage {stage} of spk.sh makes it")
    eers: dict[tuple[str, str], dict[str, Result]] = {}
    for row in json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]:
        if row["metric"] == "eer":
            where = row["where"]
            interval = row["ci"] if row["ci"] and None not in row["ci"] else None
            result = Result("eer", row["value"], interval, count=row["count"], where=where)
            eers.setdefault((where["set"], where["condition"]), {})[where["system"]] = result
    state = load_tensors(folder / "valid.eer.best.pth")
    mix = next((state[name] for name in MIXES if name in state), None)
    labels = Path(load_yaml(folder / "config.yaml").get("train_dir") or "") / "utt2spk"
    return TrainedHead(
        head,
        upstream,
        by,
        fraction,
        eers,
        count_weights(state),
        None if mix is None else mix.double().softmax(dim=0).numpy(),
        dev_eer(folder),
        len(read_scp(labels)) if labels.is_file() else None,
    )


def result_of(head: TrainedHead, where: tuple[str, str], system: str) -> Result:
    """Return the error of ``system`` on a trial list; ``UserError`` says which there are."""
    found = head.eers.get(where, {}).get(system)
    if found is None:
        there = sorted({f"{name} {condition} {one}" for (name, condition), rows in head.eers.items() for one in rows})
        raise UserError(f"{head.head}: no EER of {' '.join(where)} {system}; there are: {', '.join(there)}")
    return found


def main_table(heads: Sequence[TrainedHead], where: tuple[str, str], system: str, floors: Mapping[str, Result]) -> str:
    """Return one row per training: data, EER on dev and test trials with its interval, parameters."""
    columns = ["head", "encoder", "data", "utterances", "dev EER %", "EER %", "95 % interval", "trained", "used"]
    rows = []
    for head in heads:
        error = result_of(head, where, system)
        rows.append(
            [
                head.head,
                head.upstream,
                f"{100 * head.fraction:g} % {'of speakers' if head.by == 'speaker' else ''}".strip(),
                "" if head.utterances is None else f"{head.utterances:,}",
                "" if head.dev_eer is None else f"{head.dev_eer:.2f}",
                f"{100 * error.value:.2f}",
                _interval(error),
                f"{head.parameters.train:,}",
                f"{head.parameters.test:,}",
            ]
        )
    for name, error in floors.items():
        rows.append([name, "", "", "", "", f"{100 * error.value:.2f}", _interval(error), "", ""])
    return markdown_table(columns, [*rows, ["chance", "", "", "", "", "50.00", "", "", ""]])


def _interval(result: Result) -> str:
    return "" if result.ci is None else f"{100 * result.ci[0]:.2f} to {100 * result.ci[1]:.2f}"


def mix_table(heads: Sequence[TrainedHead]) -> str:
    """Return the share of every layer in per cent, one row per training that has a layer mix; empty without any."""
    mixed = [head for head in heads if head.mix is not None]
    if not mixed:
        return ""
    layers = max(len(head.mix) for head in mixed)
    rows = []
    for head in mixed:
        shares = [f"{100 * share:.1f}" for share in head.mix] + [""] * (layers - len(head.mix))
        rows.append([head.head, head.upstream, f"{100 * head.fraction:g} %{' spk' * (head.by == 'speaker')}", *shares])
    return markdown_table(["head", "encoder", "data", *map(str, range(layers))], rows)


def whole_data(heads: Sequence[TrainedHead], name: str) -> dict[str, TrainedHead]:
    """Return {upstream: the training of head ``name`` on all data}."""
    return {head.upstream: head for head in heads if head.head == name and head.fraction == 1}


def comparison(heads: Sequence[TrainedHead], baseline: str, where: tuple[str, str], system: str) -> list[str]:
    """Return sentences that compare every head with ``baseline``: parameters, EER on all data, and with how much less.

    Relative improvement: the mean over encoders of (EER of the baseline - EER) / EER of the baseline.
    """
    sentences = []
    reference = whole_data(heads, baseline)
    if not reference:
        raise UserError(
            f"no training of the baseline {baseline!r} on all data; add it to --system or leave --baseline out"
        )
    for name in dict.fromkeys(head.head for head in heads if head.head != baseline):
        both = {up: (head, reference[up]) for up, head in whole_data(heads, name).items() if up in reference}
        if not both:
            continue
        gains = [
            1 - result_of(head, where, system).value / max(result_of(base, where, system).value, 1e-12)
            for head, base in both.values()
        ]
        head, base = next(iter(both.values()))
        fewer = head.parameters.less_than(base.parameters)
        encoders = f"mean of {len(gains)} encoders" if len(gains) > 1 else "one encoder"
        sentences.append(
            f"{name} against {baseline}: {100 * fewer[0]:.2f} % fewer parameters as trained, {100 * fewer[1]:.2f} % as "
            f"used; EER {100 * np.mean(gains):.1f} % lower on all data ({encoders}; negative: higher)."
        )
        for by in dict.fromkeys(one.by for one in heads if one.head == name and one.fraction < 1):
            enough = _enough(heads, name, by, reference, where, system)
            said = "no part of the data" if enough is None else f"{100 * enough:g} % of the {by}s"
            sentences.append(f"{name} reaches the EER that {baseline} has on all data with {said}.")
    return sentences


def _enough(heads, name: str, by: str, reference: Mapping, where: tuple[str, str], system: str) -> float | None:
    """Return the smallest fraction from which on ``name`` is nowhere worse than the baseline on all data."""
    enough = None
    series = {head.fraction for head in heads if head.head == name and head.by == by} | {1.0}
    for fraction in sorted(series, reverse=True):
        at = [h for h in heads if h.head == name and h.fraction == fraction and (h.by == by or fraction == 1)]
        at = [head for head in at if head.upstream in reference]
        limits = [result_of(reference[head.upstream], where, system).value for head in at]
        if not at or any(result_of(h, where, system).value > limit for h, limit in zip(at, limits, strict=True)):
            break
        enough = fraction
    return enough
