"""Nested parts of a training set, for curves of error against the amount of data."""

import os

from espnet_ext.datadir.directory import DataDir, spk2utt_of
from espnet_ext.datadir.operations import shuffled, subset
from espnet_ext.errors import UserError

BY = ("utterance", "speaker")


def nested_fraction(utt2spk: dict[str, str], fraction: float, by: str = "utterance", seed: int = 0) -> list[str]:
    """Return the utterances of a part that holds every smaller part of the same ``seed``.

    ``utterance``: about ``fraction`` of everybody's utterances, at least one of each speaker, round(fraction N) in all.
    ``speaker``: all utterances of round(fraction S) speakers, at least two.

    Errors: ``UserError`` for a fraction outside (0, 1], and where one utterance per speaker is more than the fraction.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"a fraction of {fraction:g}: should be above 0 and at most 1, for example 0.2")
    if by not in BY:
        raise UserError(f"a fraction by {by!r}: should be by {' or '.join(BY)}")
    spk2utt = spk2utt_of(utt2spk)
    if by == "speaker":
        kept = shuffled(spk2utt, seed)[: max(2, round(fraction * len(spk2utt)))]
        return [utt for speaker in kept for utt in spk2utt[speaker]]
    wanted = round(fraction * len(utt2spk))
    if wanted < len(spk2utt):
        raise UserError(
            f"a fraction of {fraction:g} is {wanted} of {len(utt2spk)} utterances, fewer than the {len(spk2utt)} "
            "speakers, who all stay; take a larger fraction, or one by speaker"
        )
    # The k-th of a speaker's n utterances stands at (k + 1/2) / n, the first one before everything: whoever reads this
    # order up to any point has the same share of every speaker.
    place = {utt: number for number, utt in enumerate(shuffled(utt2spk, seed))}
    order = []
    for utts in spk2utt.values():
        mixed = shuffled(utts, seed)
        order += [((k + 0.5) / len(mixed) if k else 0.0, place[utt], utt) for k, utt in enumerate(mixed)]
    return [utt for _, _, utt in sorted(order)[:wanted]]


def take_fraction(
    source: str | os.PathLike, path: str | os.PathLike, fraction: float, by: str = "utterance", seed: int = 0
) -> DataDir:
    """Write the part of a data directory that ``nested_fraction`` chooses as a new data directory."""
    try:
        chosen = nested_fraction(DataDir(source).utt2spk, fraction, by, seed)
    except UserError as error:
        raise UserError(f"{source}: {error}") from None
    return subset(source, path, utterances=chosen)
