"""The command: tables of embeddings in, utt2cluster out; the same command twice, killed, and given nonsense."""

import json

import kaldiio
import numpy as np
import pytest

from espnet_ext.bin import cluster as command
from espnet_ext.datadir import read_scp
from espnet_ext.metrics.clustering import nmi

K = 6


def write(folder, vectors, prefix="utt"):
    with kaldiio.WriteHelper(f"ark,scp:{folder}/embedding.ark,{folder}/embedding.scp") as writer:
        for number, vector in enumerate(vectors):
            writer(f"{prefix}{number:03d}", vector.astype(np.float32))
    return str(folder / "embedding.scp")


def vectors(seed=0, count=120):
    rng = np.random.default_rng(seed)
    # A large common mean: without subtraction all directions look alike.
    return np.random.default_rng(9).normal(size=(K, 8))[np.arange(count) % K] + 0.05 * rng.normal(size=(count, 8)) + 30


@pytest.fixture
def embeddings(tmp_path):
    folder = tmp_path / "with a blank"
    folder.mkdir()
    return write(folder, vectors())


def run(capsys, *words):
    code = command.main([str(word) for word in words])
    return code, capsys.readouterr()


def test_tables_in_tables_out(tmp_path, embeddings, capsys):
    out = tmp_path / "clusters"
    words = ["--embeddings", embeddings, "--out", out, "--num_clusters", K, "--restarts", 5]
    code, said = run(capsys, *words)
    assert code == 0 and "6 clusters of 120 utterances, 20 to 20 in one (median 20)" in said.out
    table = read_scp(out / "utt2cluster")
    assert list(table) == [f"utt{number:03d}" for number in range(120)]
    assert nmi(list(table.values()), np.arange(120) % K) == pytest.approx(1)
    assert np.load(out / "centroids.npy").shape == (K, 8)
    report = json.loads((out / "cluster.json").read_text())
    assert report["num_clusters"] == K and report["settings"]["method"] == "kmeans" and report["settings"]["seed"] == 0
    assert report["sizes"] == " ".join(["20"] * K) and len(report["settings"]["input"]) == 64 and report["seconds"] > 0
    assert not [path for path in out.iterdir() if path.name.startswith(".")]

    # The same command again does nothing, another one does, and what was killed before the report is made again.
    stamp = (out / "utt2cluster").stat().st_mtime_ns
    run(capsys, *words)
    assert (out / "utt2cluster").stat().st_mtime_ns == stamp
    run(capsys, *words, "--seed", 1)
    assert (out / "utt2cluster").stat().st_mtime_ns != stamp
    (out / "cluster.json").unlink()
    assert run(capsys, *words)[0] == 0 and read_scp(out / "utt2cluster") == table


def test_new_utterances_get_the_clusters_of_an_earlier_run(tmp_path, embeddings, capsys):
    new = tmp_path / "new"
    new.mkdir()
    scp = write(new, vectors(seed=5, count=30), "new")
    cases = [("kmeans", ["--restarts", 5]), ("kmeans_ahc", ["--num_kmeans", 30]), ("kmeans", ["--whiten", 5])]
    for method, more in cases:
        out = tmp_path / f"{method}{len(more[0])}"
        words = ["--embeddings", embeddings, "--out", out, "--method", method, "--num_clusters", K, *more]
        assert run(capsys, *words)[0] == 0
        code, said = run(capsys, "--embeddings", scp, "--out", tmp_path / "assigned", "--assign", out)
        assert code == 0 and "30 utterances in the clusters of" in said.out
        both = read_scp(tmp_path / "assigned" / "utt2cluster") | read_scp(out / "utt2cluster")
        order = [*range(30), *range(120)]
        assert nmi([both[utt] for utt in sorted(both)], np.array(order) % K) > 0.9
        if method == "kmeans_ahc":
            assert nmi([both[utt] for utt in sorted(both)], np.array(order) % K) == pytest.approx(1)


def test_crops_and_several_tables(tmp_path, capsys):
    scps = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        crops = vectors(seed=ord(name))[:, None].repeat(3, axis=1)
        scps.append(write(tmp_path / name, crops, name))
    code, said = run(capsys, "--embeddings", *scps, "--out", tmp_path / "out", "--num_clusters", K, "--restarts", 5)
    assert code == 0 and len(read_scp(tmp_path / "out" / "utt2cluster")) == 240


def test_hdbscan_leaves_noise_out(tmp_path, capsys):
    (tmp_path / "e").mkdir()
    scattered = 30 + 9 * np.random.default_rng(3).normal(size=(10, 8))
    scp = write(tmp_path / "e", np.concatenate([vectors(), scattered]))
    code, said = run(capsys, "--embeddings", scp, "--out", tmp_path / "out", "--method", "hdbscan", "--min_size", 8)
    assert code == 0 and "6 clusters" in said.out
    assert json.loads((tmp_path / "out" / "cluster.json").read_text())["in_no_cluster"] >= 8
    assert len(read_scp(tmp_path / "out" / "utt2cluster")) <= 122


@pytest.mark.parametrize(("words", "message"), [
    (["--num_clusters", 121], "120 utterances cannot make 121 clusters; ask for fewer"),
    (["--num_clusters", 0], "--num_clusters must be 1 or more"),
    ([], "--method kmeans needs --num_clusters"),
    (["--method", "hdbscan", "--num_clusters", 3], "--method hdbscan finds its own"),
    (["--method", "kmeans_ahc", "--num_clusters", 3], "needs --num_kmeans"),
    (["--method", "kmeans_ahc", "--num_clusters", 30, "--num_kmeans", 20], "20 k-means centroids cannot become 30"),
    (["--num_clusters", 3, "--whiten", 9], "9 directions of 8-d embeddings"),
    (["--num_clusters", 3, "--device", "tpu"], "device 'tpu' is not known"),
    (["--assign", "nowhere"], "nowhere: no finished clustering"),
])  # fmt: skip
def test_mistakes_are_one_line_and_nothing_is_written(tmp_path, embeddings, capsys, words, message):
    out = tmp_path / "out"
    code, said = run(capsys, "--embeddings", embeddings, "--out", out, *words)
    assert code == 2 and said.err.count("\n") == 1 and message in said.err
    assert not out.exists() or not list(out.iterdir())


def test_one_cluster_is_a_clustering(tmp_path, embeddings, capsys):
    assert run(capsys, "--embeddings", embeddings, "--out", tmp_path / "out", "--num_clusters", 1)[0] == 0
    assert set(read_scp(tmp_path / "out" / "utt2cluster").values()) == {"0"}


def test_embeddings_that_are_all_the_same(tmp_path, capsys):
    (tmp_path / "e").mkdir()
    scp = write(tmp_path / "e", np.ones((9, 4)))
    code, said = run(capsys, "--embeddings", scp, "--out", tmp_path / "out", "--num_clusters", 2)
    assert code == 2 and "'utt000' equals the mean of all (9 such)" in said.err and said.err.count("\n") == 1
    (tmp_path / "one").mkdir()
    scp = write(tmp_path / "one", np.ones((1, 4)))
    code, said = run(capsys, "--embeddings", scp, "--out", tmp_path / "out", "--num_clusters", 1)
    assert code == 2 and "one utterance less its own mean" in said.err
    broken = np.ones((9, 4))
    broken[3, 1] = np.nan
    scp = write(tmp_path / "e", broken)
    code, said = run(capsys, "--embeddings", scp, "--out", tmp_path / "out", "--num_clusters", 2)
    assert code == 2 and "'utt003' has NaN" in said.err
