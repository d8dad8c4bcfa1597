"""Choosing the pairs of a trial list from a data directory, in memory that grows with utterances, not with pairs.

The utterances are sorted so that the allowed partners of utterance ``i`` are one run of utterances after it. All
allowed pairs are then numbered by a running sum of the lengths of these runs, and choosing pairs is choosing numbers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from espnet_ext.datadir.trials import Trials
from espnet_ext.errors import UserError


@dataclass
class Pairing:
    """A chosen trial list and what is known of each trial; ``conditions`` holds a mask ``(N,)`` per name."""

    trials: Trials
    conditions: dict[str, np.ndarray]
    num_speakers: int
    num_target_speakers: int

    def subset(self, condition: str) -> Trials:
        """The trials of one condition, in their order."""
        kept = np.flatnonzero(self.conditions[condition])
        trials = self.trials
        return Trials([trials.enroll[i] for i in kept], [trials.test[i] for i in kept], trials.labels[kept])


def choose_trials(
    utt2spk: Mapping[str, str],
    max_trials: int,
    seed: int = 0,
    utt2session: Mapping[str, str] | None = None,
    spk2gender: Mapping[str, str] | None = None,
    cross_session: str = "prefer",
    same_gender: bool = False,
) -> Pairing:
    """Choose as many target as non-target trials, at most ``max_trials`` together, no pair twice.

    Target trials are spread evenly over the speakers; non-target trials are drawn from all pairs of utterances of two
    speakers. A speaker with one utterance has non-target trials only. The same arguments give the same list.

    Args:
        utt2session: recording session of every utterance (a chapter, a video); None if unknown.
        cross_session: ``true`` allows target trials across two sessions only, ``prefer`` takes a speaker's pairs within
            one session only where that speaker has a single session, ``false`` takes any pair.
        same_gender: non-target trials within one gender only; needs ``spk2gender``.

    Raises:
        UserError: no target or no non-target trial can be made; a table that is needed is missing or incomplete.
    """
    utterances = np.array(sorted(utt2spk))
    if not len(utterances):
        raise UserError("utt2spk has no utterance, so there are no trials to make")
    speaker = _numbers([utt2spk[utt] for utt in utterances])
    session = gender = None
    if utt2session is not None:
        session = _numbers(_lookup(utt2session, utterances, "utt2session"))
    elif cross_session == "true":
        raise UserError(
            "trials across sessions need the table utt2session; make it in local/data.sh, or leave that out"
        )
    if spk2gender is not None:
        gender = _numbers(_lookup(spk2gender, [utt2spk[utt] for utt in utterances], "spk2gender"))
    elif same_gender:
        raise UserError("trials within a gender need the table spk2gender; make it in local/data.sh, or leave that out")
    order = np.lexsort([speaker if session is None else session, speaker, speaker if gender is None else gender])
    utterances, speaker = utterances[order], speaker[order]
    session, gender = (None if table is None else table[order] for table in (session, gender))
    rng = np.random.default_rng(seed)

    speaker_end = _run_ends(speaker)
    target_start = _target_starts(speaker, session, cross_session, speaker_end)
    target_runs = speaker_end - target_start
    num_pairs = np.bincount(speaker, weights=target_runs).astype(np.int64)
    if not num_pairs.any():
        across = " of two sessions" if cross_session == "true" else ""
        raise UserError(f"no target trial is possible: no speaker has two utterances{across}; take more data")
    gender_end = _run_ends(gender) if same_gender else np.full(len(utterances), len(utterances))
    other_runs = gender_end - speaker_end
    num_others = int(other_runs.sum())
    if not num_others:
        raise UserError(
            "no non-target trial is possible: there is only one speaker" + (" of each gender" if same_gender else "")
        )
    wanted = min(max(max_trials // 2, 1), int(num_pairs.sum()), num_others)
    quota = _spread(wanted, num_pairs)
    targets = _decode(_draw_per_group(rng, num_pairs, quota, speaker, target_runs), target_runs, target_start)
    nontargets = _decode(rng.choice(num_others, wanted, replace=False, shuffle=False), other_runs, speaker_end)
    pairs = np.concatenate([targets, nontargets], axis=1)
    labels = np.repeat(np.array([1, 0], dtype=np.int8), [targets.shape[1], nontargets.shape[1]])
    # Neither side should be the alphabetically first one.
    swapped = rng.random(pairs.shape[1]) < 0.5
    pairs = np.where(swapped, pairs[::-1], pairs)
    kept = np.lexsort([utterances[pairs[1]], utterances[pairs[0]]])
    (first, second), labels = pairs[:, kept], labels[kept]
    conditions = {"all": np.ones(len(labels), dtype=bool)}
    if session is not None:
        conditions["cross_session"] = session[first] != session[second]
    if gender is not None:
        conditions["same_gender"] = gender[first] == gender[second]
    trials = Trials(utterances[first].tolist(), utterances[second].tolist(), labels)
    return Pairing(trials, conditions, len(num_pairs), int((quota > 0).sum()))


def _numbers(names) -> np.ndarray:
    """Number names from 0 in sorted order."""
    return np.unique(np.asarray(names), return_inverse=True)[1]


def _lookup(table: Mapping[str, str], keys, name: str) -> list[str]:
    try:
        return [table[key] for key in keys]
    except KeyError as error:
        raise UserError(f"{name} has no line for {error}; every utterance needs one, or leave the table out") from None


def _run_ends(values: np.ndarray) -> np.ndarray:
    """For every position of an array of runs of equal values, where its run ends."""
    ends = np.append(np.flatnonzero(values[1:] != values[:-1]) + 1, len(values))
    return np.repeat(ends, np.diff(ends, prepend=0))


def _target_starts(speaker, session, cross_session: str, speaker_end: np.ndarray) -> np.ndarray:
    """Where the run of target partners of every utterance begins; the run ends with the speaker."""
    anything = np.arange(1, len(speaker) + 1)
    if session is None or cross_session == "false":
        return anything
    # A session name may come back with another speaker, so a run is of equal speaker and session.
    across = _run_ends(speaker * (session.max() + 1) + session)
    if cross_session == "true":
        return across
    has_two = np.bincount(speaker, weights=speaker_end - across) > 0
    return np.where(has_two[speaker], across, anything)


def _spread(wanted: int, available: np.ndarray) -> np.ndarray:
    """Share ``wanted`` among groups as evenly as ``available`` in each of them allows."""
    low, high = 0, int(available.max())
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(available, level).sum() <= wanted else (low, level - 1)
    quota = np.minimum(available, low)
    more = np.flatnonzero(available > low)[: wanted - int(quota.sum())]
    quota[more] += 1
    return quota


def _draw_per_group(rng, available, quota, group, runs) -> np.ndarray:
    """Pair numbers, ``quota[g]`` different ones from the ``available[g]`` pairs of every group (speaker)."""
    position = np.full(len(available), len(group))
    np.minimum.at(position, group, np.arange(len(group)))
    first = np.concatenate([[0], np.cumsum(runs)])[position]
    drawn = [
        first[g] + rng.choice(int(available[g]), int(quota[g]), replace=False, shuffle=False)
        for g in np.flatnonzero(quota)
    ]
    return np.concatenate(drawn)


def _decode(numbers: np.ndarray, runs: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Turn pair numbers into the two positions ``(2, N)``."""
    before = np.concatenate([[0], np.cumsum(runs)])
    first = np.searchsorted(before, numbers, side="right") - 1
    return np.stack([first, starts[first] + numbers - before[first]])
