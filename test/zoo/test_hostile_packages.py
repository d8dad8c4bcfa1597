"""Packages that want to do more than give tensors: each refused with one line, nothing run, nothing written."""

import io
import os
import stat
import zipfile
from pathlib import Path

import pytest

from espnet_ext.errors import UserError
from espnet_ext.zoo import archive
from espnet_ext.zoo.archive import check_zip, safe_name, unpack
from espnet_ext.zoo.package import resolve
from espnet_ext.zoo.tensors import load_tensors
from espnet_ext.zoo.yaml_file import load_yaml

META = "files: {model_file: exp/a/m.pth}\nyaml_files: {train_config: exp/a/config.yaml}\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ESPNET_EXT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def weights() -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def make_zip(path: Path, extra=(), without=(), **changes) -> Path:
    contents = {"meta.yaml": META, "exp/a/config.yaml": "encoder: identity\n", "exp/a/m.pth": weights()} | changes
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, value in contents.items():
            if name not in without:
                file.writestr(name, value)
        for name, value in extra:
            file.writestr(name, value)
    return path


def refused(path: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        resolve(path)
    assert "\n" not in str(caught.value)


def test_a_plain_package_is_taken(tmp_path):
    package = resolve(make_zip(tmp_path / "good.zip"))
    assert package.config == {"encoder": "identity"} and load_tensors(package.weights).keys() == {"a"}
    assert resolve(tmp_path / "good.zip").root == package.root  # the unpacked copy is kept
    assert package.root.parent == tmp_path / "cache"


@pytest.mark.parametrize(
    "name", ["../out.txt", "/tmp/out.txt", "exp/../../out.txt", "C:\\out.txt", "a\\..\\b.txt", "~/o.txt"]
)
def test_a_path_that_leads_out_is_refused(tmp_path, name):
    refused(make_zip(tmp_path / "p.zip", extra=[(name, "x")]), "leads out")
    assert not list(tmp_path.glob("**/out.txt"))


def test_paths_in_meta_yaml_may_not_lead_out_either(tmp_path):
    (tmp_path / "secret.yaml").write_text("a: b\n")
    meta = META.replace("exp/a/config.yaml", "../../secret.yaml")
    refused(make_zip(tmp_path / "p.zip", **{"meta.yaml": meta}), "leads out")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_special_files_are_refused(tmp_path, kind):
    entry = zipfile.ZipInfo("exp/a/link.txt")
    entry.external_attr = (kind | 0o777) << 16
    refused(make_zip(tmp_path / "p.zip", extra=[(entry, "/etc/passwd")]), "link or a special file")


def test_programs_and_bare_pickles_are_refused(tmp_path):
    for name in ("run.py", "evil.pkl", "lib.so", "inner.zip", "noname"):
        refused(make_zip(tmp_path / "p.zip", extra=[(name, "x")]), "no kind of file")


def test_two_entries_of_one_name_are_refused(tmp_path):
    with pytest.warns(UserWarning):
        make_zip(tmp_path / "p.zip", extra=[("meta.yaml", "files: {}")])
    refused(tmp_path / "p.zip", "there twice")


def test_a_bomb_is_refused(tmp_path):
    refused(make_zip(tmp_path / "p.zip", extra=[("bomb.txt", b"0" * 50_000_000)]), "zip bomb")


def test_a_package_that_is_too_large_is_refused(tmp_path):
    path = make_zip(tmp_path / "p.zip", extra=[("a.npy", os.urandom(200_000))])
    with pytest.raises(UserError, match="more than 0.0 GB"):
        check_zip(path, max_bytes=100_000)
    assert len(check_zip(path, max_bytes=10_000_000)) == 4


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILES", 5)
    refused(make_zip(tmp_path / "p.zip", extra=[(f"{n}.txt", "") for n in range(5)]), "holds 8 files")


def test_an_entry_larger_than_it_says_is_refused(tmp_path):
    path = make_zip(tmp_path / "p.zip", extra=[("notes.txt", "many more bytes than ten")])
    data = bytearray(path.read_bytes())
    for magic, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # local header, table of contents: size field
        place = data.find(b"notes.txt") - (30 if magic == b"PK\x03\x04" else 0)
        if magic == b"PK\x01\x02":
            place = data.rfind(b"notes.txt") - 46
        data[place + offset : place + offset + 4] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match="notes.txt"):
        unpack(path, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_damaged_zip_is_said(tmp_path):
    path = make_zip(tmp_path / "p.zip")
    path.write_bytes(path.read_bytes()[:-40])
    refused(path, "no whole zip")
    data = bytearray(make_zip(tmp_path / "q.zip").read_bytes())
    place = data.find(b"m.pth") + 60
    data[place : place + 8] = b"\xff" * 8
    (tmp_path / "q.zip").write_bytes(data)
    refused(tmp_path / "q.zip", "damaged")


@pytest.mark.parametrize(
    "changes, without, words",
    [
        ({}, ["meta.yaml"], "no meta.yaml"),
        ({}, ["exp/a/m.pth"], "model_file .exp/a/m.pth. is missing"),
        ({}, ["exp/a/config.yaml"], "train_config .exp/a/config.yaml. is missing"),
        ({"meta.yaml": "files: {model_file: exp/a/m.pth}\nyaml_files: {}\n"}, [], "names no train_config"),
        ({"meta.yaml": "files: [1, 2]\nyaml_files: {}\n"}, [], "no table of paths"),
        ({"meta.yaml": "just text"}, [], "expected a YAML mapping"),
        ({"exp/a/config.yaml": "a: !!python/object/apply:os.system ['touch /tmp/owned']"}, [], "not plain YAML"),
        ({"exp/a/config.yaml": "frontend_conf: {path_or_url: 'http://evil/x.pt'}"}, [], "would load"),
        ({"exp/a/config.yaml": "frontend_conf: {frontend_conf: {trust_remote_code: true}}"}, [], "would load"),
    ],
)
def test_a_package_that_is_not_whole_or_not_plain_is_refused(tmp_path, changes, without, words):
    refused(make_zip(tmp_path / "p.zip", without=without, **changes), words)


def test_a_few_lines_that_stand_for_billions_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x]"] + [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60)]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="aliases"):
        load_yaml(tmp_path / "laughs.yaml")
    (tmp_path / "deep.yaml").write_text("[" * 100_000)
    with pytest.raises(UserError, match="deep.yaml"):
        load_yaml(tmp_path / "deep.yaml")
    (tmp_path / "big.yaml").write_text("a: b\n" * 3_000_000)
    with pytest.raises(UserError, match="too large"):
        load_yaml(tmp_path / "big.yaml")


class Touch:
    """Unpickling this would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_weights_with_code_are_refused_and_not_run(tmp_path):
    import pickle

    import torch

    torch.save({"a": torch.zeros(1), "b": Touch(tmp_path / "owned")}, tmp_path / "new.pth")
    torch.save({"b": Touch(tmp_path / "owned")}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Touch(tmp_path / "owned")))
    for name, words in (("new", "would run code"), ("old", "would run code"), ("bare", "refused")):
        with pytest.raises(UserError, match=words) as caught:
            load_tensors(tmp_path / f"{name}.pth")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


def test_weights_that_are_none_are_said(tmp_path):
    import torch

    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "cut.pth").write_bytes(weights()[:-200])
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("text", "empty", "cut", "list", "missing"):
        with pytest.raises(UserError, match=f"{name}.pth"):
            load_tensors(tmp_path / f"{name}.pth")


def test_a_whole_checkpoint_gives_its_model(tmp_path):
    import torch

    torch.save({"model": {"a": torch.ones(2)}, "optimizers": [{}], "reporter": {}}, tmp_path / "checkpoint.pth")
    assert load_tensors(tmp_path / "checkpoint.pth")["a"].tolist() == [1, 1]


def test_names_that_stay_inside_are_taken():
    for name in ("meta.yaml", "exp/a b/ü.pth", "exp/..hidden/x.pth"):
        assert safe_name(name, "here") == name


def test_what_is_no_model_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "config.yaml").write_text("encoder: identity\n")
    for path, words in (
        (tmp_path / "empty", "config.yaml: no such file"),
        (tmp_path / "a.txt", "is no model"),
        (tmp_path / "nowhere", "no such model"),
        (tmp_path / "exp", "train the model first"),
        (tmp_path / "missing.zip", "no such model"),
    ):
        refused(path, words)
