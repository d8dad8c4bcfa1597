"""A fixed list of utterances whose embeddings' rank is measured, read in batches of like length."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from espnet_ext.audio.io import read_audio
from espnet_ext.datadir import DataDir
from espnet_ext.errors import UserError

RATE_HZ = 16000
_READERS = 4
log = logging.getLogger(__name__)


class RankList:
    """Utterances in a fixed order, each at most ``max_s`` long (its beginning), or whole (None).

    Args:
        data: where they are. name: what results call the list.
        utterances: which ones, in C order here whatever their order there; None: all.
        num_utterances: at most so many, evenly spread over the list.
        min_samples: what the encoder needs for a frame; shorter ones are refused by name, or left out.
        skip_broken: leave out what is too short or cannot be read, and list it in ``broken``, instead of an error. All
            are read once for that, so that the list is the same for every encoder.
    """

    def __init__(
        self,
        data: DataDir,
        name: str,
        utterances: Sequence[str] | None = None,
        num_utterances: int = 10_000,
        max_s: float | None = 20.0,
        min_samples: int = 400,
        skip_broken: bool = False,
    ):
        self.data, self.name, self.skip_broken = data, name, skip_broken
        self.min_samples = min_samples
        self.broken: dict[str, str] = {}
        known = set(data.utterances)
        chosen = sorted(set(data.utterances if utterances is None else utterances))
        unknown = [utt for utt in chosen if utt not in known]
        if unknown:
            raise UserError(f"{data.path}: no utterance {unknown[0]!r} ({len(unknown)} of the list are not there)")
        if len(chosen) > num_utterances:
            chosen = [chosen[place] for place in np.linspace(0, len(chosen) - 1, num_utterances).round().astype(int)]
        self.lengths: dict[str, int] = {}
        for utt in chosen:
            try:
                self.lengths[utt] = data.num_samples(utt, RATE_HZ)
            except UserError as error:
                self.leave_out(utt, error)
        self.num_cut = 0 if max_s is None else self._cut(max_s)
        for utt in list(self.lengths) if skip_broken else ():
            self._read(utt)
        if len(self.lengths) < 2:
            raise UserError(f"{data.path}: {len(self.lengths)} utterance(s); a rank needs at least 2, better 1000")

    def _cut(self, max_s: float) -> int:
        """Shorten what is longer, and return how many those are."""
        most = round(max_s * RATE_HZ)
        longer = [utt for utt, length in self.lengths.items() if length > most]
        if longer:
            log.warning("%s: %d utterances are cut to %g s (max_s)", self.name, len(longer), max_s)
        self.lengths |= dict.fromkeys(longer, most)
        return len(longer)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def seconds(self) -> float:
        """Audio that is encoded."""
        return sum(self.lengths.values()) / RATE_HZ

    @property
    def checksum(self) -> str:
        """SHA-256 (16 digits) of the utterances and their lengths: ranks compare where it is the same."""
        text = "".join(f"{utt} {length}\n" for utt, length in self.lengths.items())
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def stamp(self) -> str:
        """Sixteen digits that change whenever the list, or by its size or time a file of it, does."""
        digest = hashlib.sha256(self.checksum.encode())
        self.data.stamp(digest, self.lengths)
        return digest.hexdigest()[:16]

    def write(self, path: Path) -> None:
        """Write the list, an id per line."""
        from espnet_ext.files import atomic_write

        with atomic_write(path) as file:
            file.writelines(f"{utt}\n" for utt in self.lengths)

    def batches(self, batch_s: float = 30.0) -> Iterator[tuple[list[str], torch.Tensor, torch.Tensor]]:
        """Yield (ids, wav float32 (B, samples) padded by zeros, lengths (B,)), longest first.

        A batch has ``batch_s`` seconds at most, padding included, or one utterance; the next one is read meanwhile.
        """
        plan = self._plan(round(batch_s * RATE_HZ))
        with ThreadPoolExecutor(_READERS) as readers:
            ahead = {utt: readers.submit(self._read, utt) for utt in plan[0]}
            for following in [*plan[1:], []]:
                reading, ahead = ahead, {utt: readers.submit(self._read, utt) for utt in following}
                wavs = {utt: wav for utt, future in reading.items() if (wav := future.result()) is not None}
                if not wavs:
                    continue
                lengths = torch.tensor([len(wav) for wav in wavs.values()])
                batch = torch.zeros(len(wavs), int(lengths.max()))
                for row, wav in zip(batch, wavs.values(), strict=True):
                    row[: len(wav)] = torch.from_numpy(wav)
                yield list(wavs), batch, lengths
        if len(self.lengths) < 2:
            raise UserError(f"{self.data.path}: {len(self.broken)} broken utterances leave {len(self.lengths)}")

    def _plan(self, most: int) -> list[list[str]]:
        plan: list[list[str]] = []
        longest = 0
        for utt in sorted(self.lengths, key=lambda utt: (-self.lengths[utt], utt)):
            if plan and (len(plan[-1]) + 1) * longest <= most:
                plan[-1].append(utt)
            else:
                plan.append([utt])
                longest = self.lengths[utt]
        return plan

    def _read(self, utt: str) -> np.ndarray | None:
        entry, start_s, end_s = self.data.source(utt)
        length = self.lengths[utt]
        start_s = start_s or 0.0
        stop_s = start_s + length / RATE_HZ
        end_s = stop_s if end_s is None or end_s == -1 else min(end_s, stop_s)
        try:
            wav = read_audio(entry, RATE_HZ, start_s, end_s, self.data.allow_commands)
            if len(wav) < self.min_samples:
                raise UserError(f"{len(wav)} samples are shorter than one frame of the encoder ({self.min_samples})")
        except UserError as error:
            self.leave_out(utt, error)
            return None
        return wav

    def leave_out(self, utt: str, error: UserError) -> None:
        """Drop an utterance for ``error``, which ends the command where broken ones may not be."""
        if not self.skip_broken:
            raise UserError(f"{self.data.path}: utterance {utt}: {error}; leave such out with --skip_broken true")
        log.warning("left out: utterance %s: %s", utt, error)
        self.broken[utt] = str(error)
        self.lengths.pop(utt, None)


def read_ids(path: str | Path) -> list[str]:
    """Return the first word of every line of a list (or of a Kaldi table)."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: no list of utterances ({error})") from None
    return [line.split()[0] for line in lines if line.strip()]
