"""Evaluation of speaker verification on any number of test sets and trial lists: scores, metrics, intervals."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from espnet_ext.datadir import Trials, read_scp, read_trials
from espnet_ext.errors import UserError
from espnet_ext.files import atomic_write
from espnet_ext.metrics.bootstrap import confidence_intervals
from espnet_ext.metrics.detection import Curve, RankedTrials, Roc, det_points
from espnet_ext.metrics.report import Result
from espnet_ext.spk.backend import Backend, PreparedUtterances
from espnet_ext.spk.embeddings import EmbeddingTable
from espnet_ext.spk.scoring import mean_embedding


@dataclass
class TrialList:
    """One trial file of a set; ``enroll`` and ``test`` ``(N,)`` are row numbers in the set's embeddings."""

    condition: str
    path: Path
    trials: Trials
    enroll: np.ndarray
    test: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """1 for target, 0 for non-target trials ``(N,)``."""
        return self.trials.labels


@dataclass
class EvaluationSet:
    """Embeddings and trial lists of one set, and what is known of its utterances; ``duration_s`` ``(U,)`` or None."""

    name: str
    table: EmbeddingTable
    lists: list[TrialList]
    utt2spk: dict[str, str]
    duration_s: np.ndarray | None

    def prepare(self, backend: Backend) -> PreparedUtterances:
        """Compute what the back end needs of every utterance, once for all lists."""
        return backend.prepare(self.table, self.duration_s)

    def speaker_numbers(self) -> np.ndarray:
        """A speaker number for every row of the table ``(U,)``.

        From ``utt2spk``; where that is missing, utterances joined by target trials are taken for one speaker.
        """
        names = [self.utt2spk.get(utt) for utt in self.table.utterances]
        if None not in names:
            return np.unique(names, return_inverse=True)[1]
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        rows = np.concatenate([trials.enroll[trials.labels == 1] for trials in self.lists])
        columns = np.concatenate([trials.test[trials.labels == 1] for trials in self.lists])
        links = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(names), len(names)))
        return connected_components(links, directed=False)[1]


@dataclass
class Evaluated:
    """One trial list after scoring: per system its results and its DET curve."""

    set_name: str
    trials: TrialList
    num_speakers: int
    num_target_speakers: int
    results: dict[str, list[Result]] = field(default_factory=dict)
    curves: dict[str, Roc] = field(default_factory=dict)


def read_set(name: str, scp: str | os.PathLike, trial_files: list[str], rate_hz: int = 16000) -> EvaluationSet:
    """Read a set: embeddings of the utterances in its trials, and the tables beside each trial file.

    The condition of a list is what follows the first dot of its file name (``trials.cross_chapter``), ``all`` without.
    ``utt2spk`` and ``utt2num_samples`` beside a trial file are used where they exist.
    """
    read, utt2spk, utt2num_samples = {}, {}, {}
    for path in map(Path, trial_files):
        condition = path.name.partition(".")[2] or "all"
        if condition in read:
            raise UserError(
                f"{path}: set {name!r} has two lists of condition {condition!r}; call one trials.<condition>"
            )
        read[condition] = (path, read_trials(path))
        for table, file in ((utt2spk, "utt2spk"), (utt2num_samples, "utt2num_samples")):
            if (path.parent / file).is_file():
                table.update(read_scp(path.parent / file))
    table = EmbeddingTable.read(scp, only={utt for _, trials in read.values() for utt in trials.utterances})
    lists = []
    for condition, (path, trials) in read.items():
        trials.check(table.index, path, str(scp))
        lists.append(TrialList(condition, path, trials, table.rows(trials.enroll), table.rows(trials.test)))
    duration_s = None
    if all(utt in utt2num_samples for utt in table.utterances):
        try:
            duration_s = np.array([int(utt2num_samples[utt]) for utt in table.utterances]) / rate_hz
        except ValueError as error:
            raise UserError(f"utt2num_samples beside the trials of {name!r} holds no whole number: {error}") from None
    return EvaluationSet(name, table, lists, utt2spk, duration_s)


def read_cohort(
    scp: str | os.PathLike, utt2spk: str | os.PathLike | None = None
) -> tuple[EmbeddingTable, list[str] | None]:
    """Read training embeddings and, where ``utt2spk`` is given, the speaker of each of them."""
    table = EmbeddingTable.read(scp)
    if utt2spk is None:
        return table, None
    known = read_scp(utt2spk)
    unknown = [utt for utt in table.utterances if utt not in known]
    if unknown:
        raise UserError(f"{utt2spk}: no speaker for {unknown[0]!r} of {scp} ({len(unknown)} such utterances)")
    return table, [known[utt] for utt in table.utterances]


def read_floor(name: str, files: list[str], sets: list[EvaluationSet]) -> EmbeddingTable:
    """Read the vectors of a floor system for every utterance of the test sets.

    Vectors of other utterances in the files (development) standardise every dimension. Plain statistics such as
    MFCC means need that: without it their largest dimensions decide alone.
    """
    table = EmbeddingTable.read(*files)
    for trials in (trials for one in sets for trials in one.lists):
        trials.trials.check(table.index, trials.path, f"the {name} vectors, {table.where}")
    tested = {utt for one in sets for utt in one.table.utterances}
    others = table.vectors[[utt not in tested for utt in table.utterances]]
    kept = [utt for utt in table.utterances if utt in tested]
    vectors = table.vectors[table.rows(kept)]
    if len(others) > 1:
        mean, deviation = others.mean((0, 1)), others.std((0, 1))
        vectors = (vectors - mean) / np.where(deviation > 0, deviation, 1)
    return EmbeddingTable(kept, vectors, table.where)


def check_disjoint(evaluated: EvaluationSet, table: EmbeddingTable, what: str) -> None:
    """Raise ``UserError`` where the cohort or development utterances are among those that are tested."""
    shared = evaluated.table.index.keys() & table.index.keys()
    if shared:
        raise UserError(
            f"{len(shared)} utterances of the {what} embeddings ({table.where}) are in the trials of set "
            f"{evaluated.name!r}, for example {min(shared)!r}; take the {what} from other speakers"
        )


def learn_backend(
    sets: Sequence[EvaluationSet],
    dev: EvaluationSet | None,
    cohort: Sequence[str] | None,
    subtract_mean: bool = True,
    top_n: int = 300,
    distance: bool = False,
    p_target: float = 0.05,
) -> tuple[Backend, list[str]]:
    """Learn mean and cohort from training embeddings and the calibrations from development trials.

    Args:
        sets: what will be tested; nothing is learned from it, it is only checked to be kept apart.
        dev: development set with one trial list; None gives no calibration.
        cohort: embedding.scp and optionally utt2spk of training speakers; None gives no AS-norm, and the mean of
            ``dev``.

    Returns:
        The back end, and sentences for the report on what it was learned from.
    """
    notes = []
    if cohort:
        table, speakers = read_cohort(*cohort)
        for one in [*sets, dev] if dev else sets:
            check_disjoint(one, table, "cohort")
        backend = Backend.from_training(table, speakers, subtract_mean, top_n, distance)
        kind = "utterances" if speakers is None else "speaker means"
        size = len(backend.cohort)
        notes.append(f"AS-norm: each utterance's top {min(top_n, size)} of {size} {kind} of {table.where}.")
    else:
        backend = Backend(mean_embedding(dev.table.vectors) if dev and subtract_mean else None, None, top_n, distance)
    if dev:
        for one in sets:
            check_disjoint(one, dev.table, "development")
        if any(one.duration_s is None for one in [*sets, dev]):
            # One fusion serves all sets, so it uses what is known of all of them.
            for one in [*sets, dev]:
                one.duration_s = None
        (trials,) = dev.lists
        try:
            backend.fit(dev.prepare(backend), trials.enroll, trials.test, trials.labels, p_target)
        except UserError as error:
            raise UserError(f"{trials.path}: {error}") from None
        base = {"raw": "raw", "asnorm": "AS-norm"}[backend.default]
        why = " (it separates the development trials best)" if cohort else ""
        notes.append(
            f"Calibrated: the {base} score{why}, prior {p_target:g}, fitted on {len(trials.labels):,} development "
            f"trials of {len(np.unique(dev.speaker_numbers()))} speakers. QMF fusion adds "
            f"{', '.join(backend.calibrations['qmf'].names[1:])}."
        )
    return backend, notes


def evaluate_set(
    one: EvaluationSet,
    backend: Backend,
    floors: dict[str, EmbeddingTable],
    out: Path,
    p_target: float = 0.05,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> list[Evaluated]:
    """Score every trial list of a set with every system, write the scores, and measure them.

    ``scores/<set>/<system>[.<condition>]`` under ``out`` holds ``utt1 utt2 score``; floors are scored by cosine
    as systems of their own name.
    """
    prepared = one.prepare(backend)
    plain = {name: Backend().prepare(table) for name, table in floors.items()}
    speakers = one.speaker_numbers()
    evaluated = []
    for trials in one.lists:
        columns = backend.scores(prepared, trials.enroll, trials.test)
        for name, table in floors.items():
            sides = table.rows(trials.trials.enroll), table.rows(trials.trials.test)
            columns[name] = plain[name].raw(*sides)
        sides = speakers[trials.enroll], speakers[trials.test]
        is_target = trials.labels == 1
        found = Evaluated(one.name, trials, len(np.union1d(*sides)), len(np.unique(sides[0][is_target])))
        for system, scores in columns.items():
            suffix = "" if trials.condition == "all" else f".{trials.condition}"
            file = system.replace(" ", "_").replace("/", "_") + suffix
            write_scores(out / "scores" / one.name / file, trials.trials, scores)
            where = {"set": one.name, "condition": trials.condition, "system": system}
            try:
                found.results[system] = measure(scores, trials.labels, *sides, p_target, num_bootstrap, seed, where)
            except UserError as error:
                raise UserError(f"{trials.path}: {error}") from None
            found.curves[system] = det_points(scores, trials.labels)
        evaluated.append(found)
    return evaluated


def write_scores(path: str | os.PathLike, trials: Trials, scores: np.ndarray) -> None:
    """Write ``utt1 utt2 score`` per trial with six decimals, whole or not at all."""
    with atomic_write(path) as file:
        rows = zip(trials.enroll, trials.test, scores.tolist(), strict=True)
        file.write("".join([f"{enroll} {test} {score:.6f}\n" for enroll, test, score in rows]))


def measure(
    scores: np.ndarray,
    labels: np.ndarray,
    speaker_a: np.ndarray,
    speaker_b: np.ndarray,
    p_target: float = 0.05,
    num_bootstrap: int = 1000,
    seed: int = 0,
    where: dict[str, str] | None = None,
) -> list[Result]:
    """All metrics of one trial list, with 95 % intervals over resampled speakers (none if ``num_bootstrap`` is 0)."""
    metrics = {
        "eer": Curve.eer,
        "min_dcf_0.01": lambda curve: curve.min_dcf(0.01),
        "min_dcf_0.05": lambda curve: curve.min_dcf(0.05),
        "act_dcf": lambda curve: curve.act_dcf(p_target),
        "cllr": Curve.cllr,
    }
    ranked = RankedTrials(scores, labels)
    intervals = {}
    if num_bootstrap:
        intervals = confidence_intervals(ranked, speaker_a, speaker_b, metrics, num_bootstrap, seed=seed)
    curve = ranked.curve()
    values = {name: metric(curve) for name, metric in metrics.items()} | {"min_cllr": curve.min_cllr()}
    units = {"eer": "fraction", "cllr": "bit", "min_cllr": "bit"}
    return [
        Result(name, value, intervals.get(name), units.get(name, ""), len(scores), where or {})
        for name, value in values.items()
    ]
