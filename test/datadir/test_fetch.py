"""Downloads are checked against a server on loopback that can break off, resume, lie and refuse."""

import hashlib
import io
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from espnet_ext.datadir.fetch import fetch, md5_of, unpack
from espnet_ext.errors import UserError

CONTENT = bytes(range(256)) * 40_000  # 10 MB, ten blocks


class _Server(ThreadingHTTPServer):
    """Serves CONTENT; ``break_after`` closes the first connection early, ``ranges`` says whether it can resume."""

    break_after, ranges, asked = None, True, None


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers.get("Range"))
        if self.path == "/missing":
            self.send_error(404)
            return
        start = 0
        if self.server.ranges and self.headers.get("Range"):
            start = int(self.headers["Range"].split("=")[1].rstrip("-"))
            if start >= len(CONTENT):
                self.send_error(416)
                return
            self.send_response(206)
        else:
            self.send_response(200)
        body = CONTENT[start:]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.break_after is not None:
            body, self.server.break_after = body[: self.server.break_after], None
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    s = _Server(("127.0.0.1", 0), _Handler)
    s.asked = []
    s.url = f"http://127.0.0.1:{s.server_port}/file"
    thread = threading.Thread(target=s.serve_forever, daemon=True)
    thread.start()
    yield s
    s.shutdown()
    s.server_close()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_continued(server, tmp_path, ranges):
    server.break_after, server.ranges = 3_000_000, ranges
    fetch(server.url, tmp_path / "a" / "file", hashlib.md5(CONTENT).hexdigest())
    assert (tmp_path / "a" / "file").read_bytes() == CONTENT
    assert server.asked[0] is None and server.asked[1].startswith("bytes=")


def test_another_call_goes_on_from_the_part(server, tmp_path):
    server.break_after = 3_000_000
    with pytest.raises(UserError, match="go on from [1-9]"):
        fetch(server.url, tmp_path / "file", tries=1)
    assert not (tmp_path / "file").exists()
    fetch(server.url, tmp_path / "file", hashlib.md5(CONTENT).hexdigest(), tries=1)
    assert int(server.asked[1][6:-1]) > 0
    fetch(server.url, tmp_path / "file")
    assert len(server.asked) == 2  # a finished file is not asked for again


def test_a_whole_part_is_only_checked(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT)
    fetch(server.url, tmp_path / "file", hashlib.md5(CONTENT).hexdigest())
    assert md5_of(tmp_path / "file") == hashlib.md5(CONTENT).hexdigest()


def test_a_wrong_sum_leaves_nothing(server, tmp_path):
    with pytest.raises(UserError, match="MD5 is .* expected 0000"):
        fetch(server.url, tmp_path / "file", "0000")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_silent_host_are_told_in_one_line(server, tmp_path):
    with pytest.raises(UserError, match="404") as caught:
        fetch(server.url.replace("file", "missing"), tmp_path / "x")
    assert "\n" not in str(caught.value) and len(server.asked) == 1  # a refusal is not tried again
    with pytest.raises(UserError, match="failed"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", tries=1)


def test_file_urls_work(tmp_path):
    (tmp_path / "here").write_bytes(CONTENT)
    fetch((tmp_path / "here").as_uri(), tmp_path / "there", md5_of(tmp_path / "here"))
    assert (tmp_path / "there").read_bytes() == CONTENT


def _tar(path, name):
    with tarfile.open(path, "w:gz") as t:
        info = tarfile.TarInfo(name)
        info.size = 3
        t.addfile(info, io.BytesIO(b"abc"))


def test_unpack_tar_and_zip_once(tmp_path):
    _tar(tmp_path / "a.tar.gz", "in/a.txt")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as z:
        z.writestr("in/b.txt", "abc")
    for name in ("a.tar.gz", "b.zip"):
        unpack(tmp_path / name, tmp_path / "out")
    assert {p.read_text() for p in (tmp_path / "out" / "in").iterdir()} == {"abc"}
    (tmp_path / "out" / "in" / "a.txt").unlink()
    unpack(tmp_path / "a.tar.gz", tmp_path / "out")
    assert not (tmp_path / "out" / "in" / "a.txt").exists()  # marked as done, so not unpacked again


def test_unpack_refuses_what_reaches_outside(tmp_path):
    _tar(tmp_path / "a.tar.gz", "../evil.txt")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as z:
        z.writestr("../evil.txt", "abc")
    for name in ("a.tar.gz", "b.zip"):
        with pytest.raises(UserError):
            unpack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "evil.txt").exists()


def test_a_truncated_archive_is_named(tmp_path):
    _tar(tmp_path / "a.tar.gz", "a.txt")
    (tmp_path / "a.tar.gz").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:40])
    with pytest.raises(UserError, match="a.tar.gz cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")
