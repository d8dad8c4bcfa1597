"""Iterative pseudo-labelling (Speaker-IPL, arXiv 2409.10791): what happens between a clustering and a training.

Nothing here sees a true label: clusters are pruned and become the classes of the next student, some of their utterances
are held out for its validation, and the agreement of two successive clusterings says when to stop.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from espnet_ext.datadir import Trials
from espnet_ext.datadir.operations import shuffled
from espnet_ext.datadir.pairing import choose_trials
from espnet_ext.errors import UserError
from espnet_ext.metrics.clustering import nmi


def count_pieces(utt2num_samples: Mapping[str, str], piece_s: float, rate_hz: int) -> dict[str, int]:
    """How many pieces of about ``piece_s`` seconds every utterance is worth, one at least; all are one where it is 0.

    That two pieces of a recording have one speaker is known without any label.
    """
    if not piece_s:
        return dict.fromkeys(utt2num_samples, 1)
    piece = piece_s * rate_hz
    return {utt: max(1, int(int(num) / piece + 0.5)) for utt, num in utt2num_samples.items()}


def repeat_utterances(tables: Mapping[str, Mapping[str, str]], counts: Mapping[str, int]) -> dict[str, dict[str, str]]:
    """Tables of a data directory in which an utterance of count n > 1 stands n times, as ``utt~1`` to ``utt~n``.

    An epoch then draws n crops of it: a recording of 14 s counts as much as three or four of 4 s.
    """
    names = {utt: [utt] if n == 1 else [f"{utt}~{k}" for k in range(1, n + 1)] for utt, n in counts.items()}
    return {
        table: {name: value for key, value in rows.items() for name in names.get(key, [key])}
        for table, rows in tables.items()
    }


def pseudo_speakers(
    utt2cluster: Mapping[str, str], least: int = 5, counts: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Return ``{utterance: pseudo-speaker}`` without the clusters of fewer than ``least`` utterances.

    A pseudo-speaker is named ``c`` and the cluster's number, padded so that names sort as numbers do. ``counts`` says
    for how many utterances each one counts (default: 1).

    Raises:
        UserError: fewer than two clusters are left, of which no classifier can be trained.
    """
    sizes: Counter = Counter()
    for utt, cluster in utt2cluster.items():
        sizes[cluster] += 1 if counts is None else counts[utt]
    kept = {cluster for cluster, size in sizes.items() if size >= least}
    if len(kept) < 2:
        largest = ", ".join(str(size) for _, size in sizes.most_common(3))
        raise UserError(
            f"{len(kept)} of {len(sizes)} clusters have {least} utterances or more (the largest: {largest}), but a "
            "student needs two classes: ask for another number of clusters, or prune less"
        )
    width = max(map(len, kept))
    return {utt: f"c{cluster.zfill(width)}" for utt, cluster in utt2cluster.items() if cluster in kept}


def hold_out(labels: Mapping[str, str], num: int, least: int = 5, seed: int = 0) -> list[str]:
    """Choose about ``num`` utterances to validate on, sorted: two of a pseudo-speaker, drawn by ``seed``.

    Pairs make target trials possible; no pseudo-speaker is left with fewer than ``least - 2`` utterances, nor with
    fewer than two.

    Raises:
        UserError: fewer than two pseudo-speakers are large enough, so that no trial list can be made.
    """
    members: dict[str, list[str]] = {}
    for utt in shuffled(labels, seed):
        members.setdefault(labels[utt], []).append(utt)
    large = [name for name in shuffled(members, seed) if len(members[name]) >= max(4, least)]
    if len(large) < 2:
        raise UserError(
            f"{len(large)} clusters have {max(4, least)} utterances or more, too few to hold two of each out; "
            "ask for fewer clusters"
        )
    held: list[str] = []
    start = 0
    while len(held) < num and large:
        for name in large:
            if len(held) >= num:
                break
            held += members[name][start : start + 2]
        start += 2
        large = [name for name in large if len(members[name]) - start >= max(4, least)]
    return sorted(held)


def pseudo_trials(labels: Mapping[str, str], held: list[str], max_trials: int, seed: int = 0) -> Trials:
    """Pair held-out utterances; a trial is a target trial where the pseudo-speaker is the same."""
    return choose_trials({utt: labels[utt] for utt in held}, max_trials, seed).trials


def agreement(labels: Mapping[str, str], previous: Mapping[str, str]) -> float:
    """NMI, 0 to 1, of two successive labellings on the utterances that both kept (NaN where there is none)."""
    both = sorted(labels.keys() & previous.keys())
    return float(nmi([labels[utt] for utt in both], [previous[utt] for utt in both])) if both else float("nan")


def is_settled(agreements: list[float | None], tolerance: float = 0.005) -> bool:
    """Tell whether the loop may stop: from round 3 on, when the agreement changed by less than ``tolerance``.

    ``agreements[r - 1]`` is that of round r with the round before; the first has none (None).
    """
    if len(agreements) < 3:
        return False
    before, now = agreements[-2:]
    return before is not None and now is not None and abs(now - before) < tolerance


@dataclass
class Spread:
    """How utterances lie in clusters: ``clusters``, ``utterances``, and sizes of the smallest, median, largest."""

    clusters: int
    utterances: int
    sizes: tuple[int, int, int]
    #: Where sessions are known: the mean number of them in a cluster, and the share of utterances that belong to the
    #: largest session of their cluster. Clusters that follow recordings have 1 and 1.
    sessions: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, labels: Mapping[str, str], utt2session: Mapping[str, str] | None = None) -> "Spread":
        """Count ``{utterance: cluster}``; a session is a recording, a chapter or a video."""
        sizes = sorted(Counter(labels.values()).values())
        spread = cls(len(sizes), len(labels), (sizes[0], int(np.median(sizes)), sizes[-1]))
        if utt2session is not None:
            inside: dict[str, Counter] = {}
            for utt, cluster in labels.items():
                inside.setdefault(cluster, Counter())[utt2session[utt]] += 1
            spread.sessions = {
                "per_cluster": float(np.mean([len(count) for count in inside.values()])),
                "largest_share": sum(max(count.values()) for count in inside.values()) / len(labels),
            }
        return spread
