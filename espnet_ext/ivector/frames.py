"""From a data directory to features: which utterances, in which order, and what is wrong with the broken ones."""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator

import numpy as np

from espnet_ext.datadir import DataDir
from espnet_ext.errors import UserError
from espnet_ext.ivector.features import FeatureConfig

log = logging.getLogger(__name__)


def fingerprint(data: DataDir, *settings: object) -> str:
    """Sixteen hexadecimal digits that stand for the settings and for every utterance with its file's version."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    data.stamp(digest)
    return digest.hexdigest()[:16]


def lengths_s(data: DataDir, rate_hz: int, longest: int = 0) -> dict[str, float]:
    """Seconds of every utterance, in C order of the ids; of the ``longest`` so many only, where that is above 0."""
    lengths = {}
    for utt in data.utterances:
        try:
            lengths[utt] = data.num_samples(utt, rate_hz) / rate_hz
        except UserError:
            lengths[utt] = 0.0  # what is wrong with it is said when it is read
    if not lengths:
        raise UserError(f"{data.path}: there are no utterances; run the stage that makes it")
    if 0 < longest < len(lengths):
        kept = sorted(lengths, key=lambda utt: (-lengths[utt], utt))[:longest]
        lengths = {utt: lengths[utt] for utt in sorted(kept)}
    return lengths


def read_features(
    data: DataDir, utterances: Iterable[str], features: FeatureConfig, skip_broken: bool, broken: dict[str, str]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (utterance, features (T, F)) of those that can be used; the others go to ``broken`` with the reason.

    Errors: ``UserError`` that names the first broken utterance, unless ``skip_broken``.
    """
    for utt in utterances:
        try:
            x = features(data.audio(utt, features.rate_hz), utt)
        except UserError as error:
            if not skip_broken:
                raise UserError(
                    f"{data.path}: utterance {utt}: {error}; leave such out with --skip_broken true"
                ) from None
            log.warning("left out: utterance %s: %s", utt, error)
            broken[utt] = " ".join(str(error).split())
            continue
        yield utt, x


def pack_table(table: dict[str, str]) -> np.ndarray:
    """A table of text as an array (rows, 2) that ``.npz`` keeps."""
    return np.array(list(table.items()), dtype=np.str_).reshape(-1, 2)


def unpack_table(packed: np.ndarray) -> dict[str, str]:
    """The table of ``pack_table``."""
    return dict(packed.tolist())
