"""Reading extracted speaker embeddings: a Kaldi ``embedding.scp`` whose values are ``(E,)`` or ``(crops, E)``."""

import os
from collections.abc import Iterable

import numpy as np

from espnet_ext.datadir import read_scp
from espnet_ext.errors import UserError


class EmbeddingTable:
    """Embeddings of utterances in one array.

    Args:
        utterances: ids, each once.
        vectors: ``(U, E)`` or ``(U, crops, E)``, finite, not normalised; kept as float32 ``(U, crops, E)``.
        where: what a message calls this table, usually its file.
    """

    def __init__(self, utterances: list[str], vectors: np.ndarray, where: str = "the embeddings"):
        vectors = np.asarray(vectors, dtype=np.float32)
        self.vectors = vectors[:, None] if vectors.ndim == 2 else vectors
        self.utterances = list(utterances)
        self.index = {utt: row for row, utt in enumerate(self.utterances)}
        self.where = str(where)
        if len(self.index) != len(self.vectors):
            raise UserError(f"{where}: {len(self.index)} different utterances for {len(self.vectors)} embeddings")
        sure = np.isfinite(self.vectors).all((1, 2)) & (np.abs(self.vectors).max(2) > 0).all(1)
        if not sure.all():
            utt = self.utterances[int(np.argmin(sure))]
            raise UserError(
                f"{where}: the embedding of {utt!r} has NaN, infinite or only zero values ({int((~sure).sum())} such); "
                "check its audio and the model, then extract again"
            )

    def __len__(self) -> int:
        return len(self.utterances)

    @property
    def dim(self) -> int:
        """Size E of one embedding."""
        return self.vectors.shape[2]

    def rows(self, utterances: Iterable[str]) -> np.ndarray:
        """Row numbers of utterances, int64; ``UserError`` for an utterance that is not here."""
        try:
            return np.fromiter(map(self.index.__getitem__, utterances), dtype=np.int64)
        except KeyError as error:
            raise UserError(f"{self.where}: no embedding of utterance {error}; extract it first") from None

    @classmethod
    def read(cls, *paths: str | os.PathLike, only: Iterable[str] | None = None) -> "EmbeddingTable":
        """Read one or several ``embedding.scp``; ``only`` restricts reading to these utterances, where present.

        Raises:
            UserError: a missing, empty or broken file, embeddings of different shapes, NaN; file and utterance named.
        """
        import kaldiio

        entries: dict[str, tuple[str, str]] = {}
        for path in paths:
            entries.update({utt: (entry, str(path)) for utt, entry in read_scp(path).items()})
        where = ", ".join(map(str, paths))
        for utt, (entry, path) in entries.items():
            if entry.strip().endswith("|") or entry.startswith("|"):
                raise UserError(f"{path}: {utt!r} has a command, {entry[:80]!r}; embeddings are read from files only")
        if only is not None:
            wanted = set(only)
            entries = {utt: entry for utt, entry in entries.items() if utt in wanted}
        if not entries:
            raise UserError(f"{where}: none of the utterances that are needed has an embedding here")
        vectors, files = None, {}
        try:
            for row, (utt, (entry, path)) in enumerate(entries.items()):
                try:
                    vector = np.asarray(kaldiio.load_mat(entry, fd_dict=files))
                except (OSError, ValueError, AssertionError, RuntimeError, EOFError) as error:
                    raise UserError(
                        f"{path}: the embedding of {utt!r} cannot be read from {entry} "
                        f"({type(error).__name__}); extract it again"
                    ) from None
                if vectors is None:
                    vectors = np.empty((len(entries), *vector.shape), dtype=np.float32)
                if vector.ndim not in (1, 2) or vector.shape != vectors.shape[1:]:
                    raise UserError(
                        f"{path}: the embedding of {utt!r} has shape {vector.shape}, the others {vectors.shape[1:]}; "
                        "one model and one crop setting for all, (E,) or (crops, E)"
                    )
                vectors[row] = vector
        finally:
            for file in files.values():
                file.close()
        return cls(list(entries), vectors, where)
