"""Hugging Face without a network: what is fetched and sent is seen by a stand-in for its client."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from tiny_model import make_model, voice

from espnet_ext.bin import upload as upload_command
from espnet_ext.errors import UserError
from espnet_ext.inference.spk import SpeakerEmbedder
from espnet_ext.zoo.pack import pack
from espnet_ext.zoo.package import read_experiment, resolve


class Hub:
    """Repositories as folders, a cache as a folder, and a list of what was asked for."""

    def __init__(self, folder: Path):
        self.remote, self.cache, self.fetched, self.sent = folder / "remote", folder / "cache", [], {}
        self.online = True

    def _repo(self, repo_id: str) -> Path:
        if not self.online:
            raise ConnectionError("no network")
        if not (self.remote / repo_id).is_dir():
            response = SimpleNamespace(status_code=404, headers={}, request=None, url="")
            raise errors.RepositoryNotFoundError("404", response=response)
        return self.remote / repo_id

    def model_info(self, repo_id, revision=None, files_metadata=False):
        root = self._repo(repo_id)
        files = [path for path in root.rglob("*") if path.is_file()]
        names = [SimpleNamespace(rfilename=str(path.relative_to(root)), size=path.stat().st_size) for path in files]
        return SimpleNamespace(siblings=names)

    def hf_hub_download(self, repo_id, filename, revision=None):
        target = self.cache / repo_id / filename
        if not target.exists():
            self.fetched.append(filename)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self._repo(repo_id) / filename, target)
        return str(target)

    def snapshot_download(self, repo_id, revision=None, local_files_only=False):
        assert local_files_only
        if not (self.cache / repo_id).is_dir():
            raise errors.LocalEntryNotFoundError("nothing cached")
        return str(self.cache / repo_id)

    def create_repo(self, repo_id, private=False, exist_ok=False):
        if not self.online:
            raise ConnectionError("no network")

    def upload_folder(self, folder_path, repo_id, commit_message):
        root = Path(folder_path)
        self.sent = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    stand_in = Hub(tmp_path / "hub")
    monkeypatch.setenv("ESPNET_EXT_CACHE", str(tmp_path / "unpacked"))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: stand_in)
    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(stand_in, name))
    return stand_in


@pytest.fixture
def packed(tmp_path):
    exp = make_model(tmp_path / "spk_tiny")
    return pack(read_experiment(exp), tmp_path / "p.zip", "spk_tiny").path


def test_what_is_sent_comes_back_by_its_tag(hub, packed, tmp_path):
    assert upload_command.main(["--package", str(packed), "--repo", "me/tiny"]) == 0
    assert {"README.md", "meta.yaml", "exp/spk_tiny/config.yaml", "exp/spk_tiny/valid.eer.best.pth"} == hub.sent.keys()
    for name, data in {**hub.sent, "exp/spk_tiny/images/loss.png": b"not needed"}.items():
        path = hub.remote / "me/tiny" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    vector = SpeakerEmbedder.from_pretrained("me/tiny")(voice(1.0))
    assert np.array_equal(vector, SpeakerEmbedder.from_pretrained(packed)(voice(1.0)))
    assert "exp/spk_tiny/images/loss.png" not in hub.fetched and "README.md" not in hub.fetched
    fetched = list(hub.fetched)
    hub.online = False  # and now from the cache
    assert np.array_equal(SpeakerEmbedder.from_pretrained("me/tiny")(voice(1.0)), vector)
    assert hub.fetched == fetched


def test_a_repository_with_one_zip_is_taken(hub, packed):
    (hub.remote / "me/zipped").mkdir(parents=True)
    shutil.copy(packed, hub.remote / "me/zipped/model.zip")
    assert resolve("me/zipped").weights.name == "valid.eer.best.pth"
    hub.online = False
    assert resolve("me/zipped@main").weights.name == "valid.eer.best.pth"


def test_what_the_hub_does_not_have_is_said(hub, monkeypatch):
    (hub.remote / "me/other").mkdir(parents=True)
    (hub.remote / "me/other/model.bin").write_bytes(b"x")
    (hub.remote / "me/evil").mkdir()
    (hub.remote / "me/evil/meta.yaml").write_text("files: {model_file: ../../x.pth}\nyaml_files: {}\n")
    (hub.remote / "me/gap").mkdir()
    (hub.remote / "me/gap/meta.yaml").write_text("files: {model_file: x.pth}\nyaml_files: {train_config: c.yaml}\n")
    for tag, words in (
        ("me/nothing", "no such model on Hugging Face"),
        ("me/other", "neither meta.yaml nor one .zip"),
        ("me/evil", "leads out"),
        ("me/gap", "x.pth is missing"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            resolve(tag)
        assert "\n" not in str(caught.value)
    hub.online = False
    with pytest.raises(UserError, match="no cached copy"):
        resolve("me/nothing")


def test_a_repository_that_is_too_large_is_refused(hub, packed):
    from espnet_ext.zoo.hub import download

    (hub.remote / "me/zipped").mkdir(parents=True)
    shutil.copy(packed, hub.remote / "me/zipped/model.zip")
    with pytest.raises(UserError, match="refused"):
        download("me/zipped", max_bytes=1000)
    assert not hub.fetched


def test_a_hub_that_refuses_is_said(hub, packed, capsys):
    hub.online = False
    assert upload_command.main(["--package", str(packed), "--repo", "me/tiny"]) == 2
    assert "the Hub refused (no network)" in capsys.readouterr().err
