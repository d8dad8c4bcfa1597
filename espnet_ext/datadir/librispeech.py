"""LibriSpeech (openslr.org/12, /31) in its official layout: download, list, and tables of a data directory.

Files are ``part/reader/chapter/reader-chapter-number.flac``, beside ``reader-chapter.trans.txt``. A chapter is a
recording session: a reader records it in one sitting, with one microphone in one room.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from espnet_ext.datadir.fetch import fetch, unpack
from espnet_ext.errors import UserError

URL = "https://www.openslr.org/resources"
# Official archives: number of the resource, and MD5 from the md5sum.txt beside them.
ARCHIVES = {
    "dev-clean": ("12", "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": ("12", "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": ("12", "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": ("12", "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-5": ("31", "5df7d4e78065366204ca6845bb08f490"),
    "train-clean-100": ("12", "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": ("12", "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": ("12", "d1a0fd59409feb2c614ce4d30c387708"),
}

Found = dict[str, dict[str, dict[str, Path]]]


def download(parts: Sequence[str], url: str, folder: Path) -> Path:
    """Get and unpack the archives of ``parts``; returns the folder LibriSpeech/."""
    for part in parts:
        if part not in ARCHIVES:
            raise UserError(f"--parts: no archive named {part}; choose from {' '.join(ARCHIVES)}")
        resource, md5 = ARCHIVES[part]
        logging.info("%s: download and unpack to %s", part, folder)
        unpack(fetch(f"{url}/{resource}/{part}.tar.gz", folder / f"{part}.tar.gz", md5), folder)
    return folder / "LibriSpeech"


def read_genders(corpus: Path) -> dict[str, str]:
    """SPEAKERS.TXT (`id | sex | part | minutes | name`, comments after `;`) -> {reader: "f" or "m"}."""
    path = corpus / "SPEAKERS.TXT"
    if not path.is_file():
        raise UserError(f"{path} is missing: --corpus must be the folder LibriSpeech/ of the official archives")
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip() and line[0] != ";"]
    return {fields[0].strip(): fields[1].strip().lower() for fields in (line.split("|") for line in lines)}


def scan(corpus: Path, parts: Iterable[str]) -> Found:
    """Return ``{part: {reader: {utterance: path}}}``; nothing is opened."""
    found = {}
    for part in parts:
        readers: dict[str, dict[str, Path]] = defaultdict(dict)
        for path in sorted((corpus / part).glob("*/*/*.flac")):
            readers[path.parts[-3]][path.stem] = path
        if not readers:
            raise UserError(f"{corpus / part} holds no reader/chapter/*.flac; --parts names the parts to use")
        found[part] = dict(readers)
    return found


def tables_of(speakers: Iterable[tuple[str, str]], found: Found, genders: dict[str, str]) -> dict[str, dict]:
    """Return the tables (wav.scp, utt2spk, utt2session, spk2gender, text) of whole utterances of (part, reader) pairs.

    ``text`` holds those that have a transcript.
    """
    tables: dict[str, dict] = {name: {} for name in ("wav.scp", "utt2spk", "utt2session", "spk2gender", "text")}
    for part, reader in speakers:
        files = found[part][reader]
        tables["spk2gender"][reader] = genders[reader]
        tables["wav.scp"].update(files)
        tables["utt2spk"].update(dict.fromkeys(files, reader))
        tables["utt2session"].update({utt: utt.rpartition("-")[0] for utt in files})
        chapters = {path.parent for path in files.values()}
        for transcript in (path for chapter in chapters for path in chapter.glob("*.trans.txt")):
            lines = (line.partition(" ") for line in transcript.read_text(encoding="utf-8").splitlines())
            tables["text"].update({utt: words for utt, _, words in lines if utt in files})
    return tables
