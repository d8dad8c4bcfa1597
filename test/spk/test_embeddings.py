"""Reading embedding.scp, and what is said about one that cannot be used."""

import kaldiio
import numpy as np
import pytest

from espnet_ext.errors import UserError
from espnet_ext.spk.embeddings import EmbeddingTable


def save(folder, vectors):
    folder.mkdir(parents=True, exist_ok=True)
    kaldiio.save_ark(str(folder / "embedding.ark"), vectors, scp=str(folder / "embedding.scp"))
    return folder / "embedding.scp"


def test_reads_vectors_and_crops_from_several_files(tmp_path):
    rng = np.random.default_rng(0)
    vectors = {f"utt{k}": rng.normal(size=8).astype(np.float32) for k in range(6)}
    first = save(tmp_path / "a folder", dict(list(vectors.items())[:3]))
    second = save(tmp_path / "ü", dict(list(vectors.items())[3:]))
    table = EmbeddingTable.read(first, second)
    assert table.vectors.shape == (6, 1, 8) and table.dim == 8
    for utt, vector in vectors.items():
        np.testing.assert_array_equal(table.vectors[table.rows([utt])[0], 0], vector)
    assert EmbeddingTable.read(first, second, only={"utt4", "absent"}).utterances == ["utt4"]
    crops = {utt: np.stack([vector, vector]) for utt, vector in vectors.items()}
    assert EmbeddingTable.read(save(tmp_path / "crops", crops)).vectors.shape == (6, 2, 8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_named(tmp_path, bad):
    vectors = {"a": np.ones(4, np.float32), "b": np.array([1, bad, 0, 0], np.float32)}
    scp = save(tmp_path, vectors)
    with pytest.raises(UserError, match="'b' has NaN") as error:
        EmbeddingTable.read(scp)
    assert str(scp) in str(error.value) and "\n" not in str(error.value)


def test_files_that_cannot_be_read(tmp_path):
    scp = save(tmp_path, {"a": np.ones(4, np.float32), "b": np.ones(4, np.float32)})
    with pytest.raises(UserError, match="does not exist"):
        EmbeddingTable.read(tmp_path / "none.scp")
    with pytest.raises(UserError, match="none of the utterances"):
        EmbeddingTable.read(scp, only={"c"})
    with pytest.raises(UserError, match="no embedding of utterance 'c'"):
        EmbeddingTable.read(scp).rows(["a", "c"])
    ark = tmp_path / "embedding.ark"
    ark.write_bytes(ark.read_bytes()[:-6])
    with pytest.raises(UserError, match="'b' cannot be read"):
        EmbeddingTable.read(scp)
    ark.unlink()
    with pytest.raises(UserError, match="'a' cannot be read"):
        EmbeddingTable.read(scp)
    scp.write_text("a rm -rf x |\n")
    with pytest.raises(UserError, match="command"):
        EmbeddingTable.read(scp)


def test_shapes_and_zeros(tmp_path):
    with pytest.raises(UserError, match=r"'b' has shape \(5,\)"):
        EmbeddingTable.read(save(tmp_path / "1", {"a": np.ones(4, np.float32), "b": np.ones(5, np.float32)}))
    with pytest.raises(UserError, match="only zero"):
        EmbeddingTable.read(save(tmp_path / "2", {"a": np.zeros(4, np.float32)}))
