"""Hugging Face: fetching a model by its tag, and publishing a package."""

import errno
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from espnet_ext.errors import UserError
from espnet_ext.zoo.archive import MAX_BYTES, safe_name, sha256, unpack
from espnet_ext.zoo.card import model_card
from espnet_ext.zoo.package import read_package
from espnet_ext.zoo.yaml_file import load_yaml


def download(tag: str, max_bytes: int = MAX_BYTES) -> Path:
    """Fetch ``organisation/name[@revision]`` into huggingface_hub's cache; gives a package folder, or its one zip.

    Only what ``meta.yaml`` names is fetched. What is in the cache is used without asking where the Hub is out of reach.
    Errors: ``UserError`` for a tag that does not exist, a repository that holds no package or one beyond ``max_bytes``.
    """
    import huggingface_hub as hub
    from huggingface_hub import errors

    repo, _, revision = tag.partition("@")
    where = {"repo_id": repo, "revision": revision or None}
    try:
        sizes = {file.rfilename: file.size or 0 for file in hub.HfApi().model_info(
            repo, revision=revision or None, files_metadata=True).siblings or []}  # fmt: skip
        names = _package_files(tag, hub, where, sizes)
        total = sum(sizes.get(name, 0) for name in names)
        if total > max_bytes:
            raise UserError(f"{tag}: refused, {total / 1e9:.1f} GB, more than {max_bytes / 1e9:.1f} GB")
        paths = [Path(hub.hf_hub_download(filename=name, **where)) for name in names]
    except (errors.HFValidationError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UserError(f"{tag}: no such model on Hugging Face (or it is private: run `hf auth login`)") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _cached(tag, hub, where, error)
    return paths[0].parent if names[0] == "meta.yaml" else paths[0]


def _package_files(tag: str, hub, where: dict, sizes: dict[str, int]) -> list[str]:
    """What to fetch: ``meta.yaml`` and what it names, or the one zip of the repository."""
    if "meta.yaml" in sizes:
        meta = load_yaml(hub.hf_hub_download(filename="meta.yaml", **where))
        tables = [meta.get(key) for key in ("files", "yaml_files")]
        named = [name for table in tables if isinstance(table, dict) for name in table.values()]
        named = [safe_name(str(name), tag) for name in named]
        beside = {str(Path(name).parent) for name in named} - {"."}
        statistics = [name for name in sizes if str(Path(name).parent) in beside and name.endswith((".npz", ".npy"))]
        missing = [name for name in named if name not in sizes]
        if missing:
            raise UserError(f"{tag}: refused, {missing[0]} is missing from the repository")
        return ["meta.yaml", *dict.fromkeys([*named, *statistics])]
    zips = [name for name in sizes if name.endswith(".zip")]
    if len(zips) != 1:
        raise UserError(f"{tag}: holds neither meta.yaml nor one .zip, so it is no ESPnet model package")
    return zips


def _cached(tag: str, hub, where: dict, error: Exception) -> Path:
    """The cached copy of a model when the Hub cannot be reached."""
    try:
        folder = Path(hub.snapshot_download(local_files_only=True, **where))
    except (OSError, ValueError):
        folder = None
    if folder is not None and (folder / "meta.yaml").is_file():
        return folder
    zips = list(folder.glob("*.zip")) if folder is not None else []
    if len(zips) == 1:
        return zips[0]
    reason = " ".join(str(error).split())[:200]
    raise UserError(f"{tag}: Hugging Face cannot be reached and there is no cached copy ({reason})") from error


@dataclass(frozen=True)
class Upload:
    """What is, or would be, sent."""

    repo: str
    sizes: dict[str, int]  # bytes by name
    card: str


def publish(
    package: str | Path, repo: str, license_name: str = "", private: bool = False, dry_run: bool = True
) -> Upload:
    """Send a packed zip, unpacked, with a model card as README.md, to ``organisation/name`` (made if it is not there).

    Errors: ``UserError`` for a zip that would be refused on loading, or when the Hub refuses (no token, no rights).
    """
    if not Path(package).is_file():
        raise UserError(f"{package}: no such package; make it with the stage pack")
    if repo.count("/") != 1:
        raise UserError(f"--repo {repo}: give organisation/name")
    beside = Path(tempfile.mkdtemp(prefix="espnet_ext_upload."))
    try:
        folder = unpack(package, beside / "package")
        opened = read_package(folder, str(package))
        results = folder / "RESULTS.md"
        text = results.read_text(encoding="utf-8") if results.is_file() else ""
        card = model_card(repo, opened.config, text, license_name, opened.sha256)
        (folder / "README.md").write_text(card, encoding="utf-8")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        upload = Upload(repo, {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}, card)
        if not dry_run:
            _send(folder, repo, private, sha256(package))
        return upload
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _send(folder: Path, repo: str, private: bool, digest: str) -> None:
    import huggingface_hub as hub
    from huggingface_hub import errors

    api = hub.HfApi()
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(folder_path=str(folder), repo_id=repo, commit_message=f"Package with SHA-256 {digest}")
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{repo}: the Hub refused ({reason}); log in with `hf auth login`, or try --dry_run true"
        ) from error


def listing(upload: Upload) -> Iterable[str]:
    """Lines that show what is sent."""
    yield f"repository {upload.repo}"
    for name, size in upload.sizes.items():
        yield f"{size:>14,d}  {name}"
    yield f"{sum(upload.sizes.values()):>14,d}  bytes in {len(upload.sizes)} files"
