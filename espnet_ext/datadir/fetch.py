"""Downloading a corpus: an archive arrives whole and checked, or the next call goes on from where this one stopped."""

import hashlib
import http.client
import logging
import os
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from espnet_ext.errors import UserError

PathLike = str | Path
_BLOCK_BYTES = 1 << 20


def md5_of(path: PathLike) -> str:
    """MD5 of a file as 32 hexadecimal digits, read in blocks of 1 MiB."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as f:
        while block := f.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def fetch(url: str, path: PathLike, md5: str | None = None, tries: int = 3) -> Path:
    """Download ``url`` to ``path``; returns ``path``, at once when the file is there already.

    What has arrived lies in ``path + ".part"`` and is continued (HTTP ranges) by another try or another call. The file
    gets its name only when its length and its MD5 are right.

    Errors: ``UserError`` when the address does not answer, when the file is incomplete after ``tries``, or when the MD5
    differs (the part is then removed, since continuing it would not help).
    """
    path = Path(path)
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    for left in reversed(range(tries)):
        try:
            _continue(url, part)
            break
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if left == 0 or refused:
                raise UserError(
                    f"download of {url} failed: {error}; give the same command again to go on from "
                    f"{part.stat().st_size if part.exists() else 0} bytes, or fetch it by hand to {path}"
                ) from None
            time.sleep(1)
    if md5 is not None and (got := md5_of(part)) != md5:
        part.unlink()
        raise UserError(
            f"{url}: MD5 is {got}, expected {md5}; the broken download was removed, give the same command again"
        )
    os.replace(part, path)
    return path


def _continue(url: str, part: Path) -> None:
    """Append to ``part`` what is missing of ``url``."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if have and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # every byte is here already; the caller checks the sum
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if resumed else 0)
        done, told = (have if resumed else 0), time.monotonic()
        with open(part, "ab" if resumed else "wb") as f:
            while block := response.read(_BLOCK_BYTES):
                f.write(block)
                done += len(block)
                if time.monotonic() - told > 10:
                    told = time.monotonic()
                    logging.info("%s: %d of %s MB", part.stem, done >> 20, "?" if total is None else total >> 20)
    if total is not None and done < total:
        raise ConnectionError(f"{done} of {total} bytes came")


def unpack(archive: PathLike, folder: PathLike) -> None:
    """Unpack a tar or zip archive into ``folder``, over what is there; a second call returns at once.

    Members that would land outside ``folder`` are refused. ``folder/.<archive name>.done`` marks a whole unpacking.

    Errors: ``UserError`` for a broken archive or one that reaches outside.
    """
    archive, folder = Path(archive), Path(folder)
    mark = folder / f".{archive.name}.done"
    if mark.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as z:
                for name in z.namelist():
                    if not (folder / name).resolve().is_relative_to(folder.resolve()):
                        raise UserError(f"{archive}: the member {name} reaches outside {folder}; use another source")
                z.extractall(folder)
        else:
            with tarfile.open(archive) as t:
                t.extractall(folder, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise UserError(f"{archive} cannot be unpacked ({error}); remove it and give the same command again") from None
    mark.touch()
