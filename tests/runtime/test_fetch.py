"""imgcls_jax.runtime.fetch against a server of the test's own, which breaks off, forgets ranges, and lies."""

import hashlib
import http.server
import threading
import urllib.request
from email.utils import formatdate

import pytest

from imgcls_jax.runtime import fetch
from imgcls_jax.runtime.fetch import fetch as fetch_file

CONTENT = bytes(range(256)) * 40
OTHER = CONTENT[::-1]
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class Server(http.server.ThreadingHTTPServer):
    """Serves one content, in ways that a test sets.

    Attributes:
      content, etag, date: what is served, and how its version is called.
      cuts: after how many bytes each of the next answers breaks off.
      ranges: whether ranges are known.
      announced: added to the Content-Length.
      statuses: of the next answers.
      asked: (Range, If-Range) of each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag, self.date = CONTENT, '"one"', ""
        self.cuts, self.statuses, self.asked = [], [], []
        self.ranges, self.announced, self.location = True, 0, ""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/file.bin"

    def handle_error(self, request, client_address):
        """A client that goes is no error here."""


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        """Says nothing."""

    def do_GET(self):
        server = self.server
        server.asked.append((self.headers.get("Range"), self.headers.get("If-Range")))
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", server.url)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if server.location or server.statuses:
            self.send_response(server.statuses.pop(0) if server.statuses else 302)
            self.send_header("Location", server.location)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start, condition = 0, self.headers.get("If-Range")
        if server.ranges and self.headers.get("Range") and condition in (None, server.etag, server.date):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        if start:
            end = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
        for name, value in (("ETag", server.etag), ("Last-Modified", server.date)):
            if value:
                self.send_header(name, value)
        body = server.content[start:]
        self.send_header("Content-Length", str(len(body) + server.announced))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as own:
        thread = threading.Thread(target=own.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield own
        own.shutdown()
        thread.join()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file(server, tmp_path):
    path = tmp_path / "a/b/file.bin"
    fetch_file(server.url, path, size=len(CONTENT), checksum=SHA256)
    assert path.read_bytes() == CONTENT and names(path.parent) == ["file.bin"]
    fetch_file(server.url, path, size=len(CONTENT), checksum=MD5.upper().replace("MD5", "md5"))
    fetch_file(server.url, path)
    assert server.asked == [(None, None)]  # what is there is not fetched again
    path.write_bytes(OTHER)
    fetch_file(server.url, path, size=len(CONTENT), checksum=SHA256)  # but what is there is another file
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [0, len(CONTENT)])
@pytest.mark.parametrize("version", ['"one"', "date"])
def test_a_broken_connection_goes_on(server, tmp_path, size, version):
    if version == "date":
        server.etag, server.date = 'W/"weak"', formatdate(0, usegmt=True)
        version = server.date
    server.cuts = [100, 0, 300]
    fetch_file(server.url, tmp_path / "file.bin", size=size, wait=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and names(tmp_path) == ["file.bin"]
    assert server.asked == [
        (None, None),
        ("bytes=100-", version),
        ("bytes=100-", version),
        ("bytes=400-", version),
    ]


def test_a_file_that_has_moved_goes_on_too(server, tmp_path):
    server.cuts = [100]
    fetch_file(server.url.replace("file.bin", "moved"), tmp_path / "file.bin", wait=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.asked == [(None, None)] * 2 + [("bytes=100-", '"one"')] * 2  # there and here


def test_another_start_goes_on(server, tmp_path):
    server.cuts = [5000] + [0] * fetch.ATTEMPTS
    with pytest.raises(
        OSError, match=r"broke after 5,000 of 10,240 .* 5 times in a row; .* from the 5,000 bytes"
    ):
        fetch_file(server.url, tmp_path / "file.bin", size=len(CONTENT), checksum=MD5, wait=0)
    assert names(tmp_path) == ["file.bin.part", "file.bin.part.tag"]
    server.cuts, server.asked = [], []
    fetch_file(server.url, tmp_path / "file.bin", size=len(CONTENT), checksum=MD5, wait=0)
    assert server.asked == [("bytes=5000-", '"one"')] and (tmp_path / "file.bin").read_bytes() == CONTENT


def test_a_file_that_changes_meanwhile_begins_anew(server, tmp_path):
    server.cuts = [5000, 0, 0, 0, 0]
    with pytest.raises(OSError, match="in a row"):
        fetch_file(server.url, tmp_path / "file.bin", wait=0)
    server.content, server.etag, server.cuts = OTHER, '"two"', []
    fetch_file(server.url, tmp_path / "file.bin", wait=0)
    assert (tmp_path / "file.bin").read_bytes() == OTHER


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.ranges, server.cuts = False, [5000, 4000]
    fetch_file(server.url, tmp_path / "file.bin", size=len(CONTENT), wait=0)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT and len(server.asked) == 3
    server.cuts = [5000, 4000] * 9  # it never gets further: that ends
    with pytest.raises(OSError, match="times in a row"):
        fetch_file(server.url, tmp_path / "other.bin", size=len(CONTENT), wait=0)


def test_without_a_version_only_a_checksum_allows_to_go_on(server, tmp_path):
    server.etag = ""
    server.cuts = [5000]
    fetch_file(server.url, tmp_path / "a", size=len(CONTENT), wait=0)
    server.cuts = [5000]
    fetch_file(server.url, tmp_path / "b", size=len(CONTENT), checksum=MD5, wait=0)
    assert [asked for asked, _ in server.asked] == [None, None, None, "bytes=5000-"]
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == CONTENT


def test_a_part_that_is_whole_or_too_long(server, tmp_path):
    path = tmp_path / "file.bin"
    path.with_name("file.bin.part").write_bytes(CONTENT)
    fetch_file(server.url, path, size=len(CONTENT), checksum=MD5)
    assert path.read_bytes() == CONTENT and not server.asked
    path.unlink()
    path.with_name("file.bin.part").write_bytes(CONTENT + b"more")
    fetch_file(server.url, path, size=len(CONTENT), checksum=MD5)
    path.unlink()
    path.with_name("file.bin.part").write_bytes(CONTENT)
    fetch_file(
        server.url, path, checksum=MD5, wait=0
    )  # of unknown size: the server says that there is no more
    assert path.read_bytes() == CONTENT and [asked for asked, _ in server.asked] == [
        None,
        "bytes=10240-",
        None,
    ]


@pytest.mark.parametrize(
    ("content", "announced", "size", "checksum", "message"),
    [
        (
            OTHER,
            0,
            len(CONTENT),
            SHA256,
            f"is not what was published: expected 10,240 bytes, {SHA256}; got 10,240 by",
        ),
        (OTHER, 0, 0, MD5, f"is not what was published: expected {MD5}; got"),
        (CONTENT[1:], 0, len(CONTENT), MD5, "has 10,239 bytes, and 10,240 were published"),
        (CONTENT, 7, len(CONTENT), MD5, "has 10,247 bytes, and 10,240 were published"),
        (b"<html>log in</html>", 0, len(CONTENT), "", "has 19 bytes, and 10,240 were published"),
    ],
)
def test_what_was_not_published_is_refused_and_removed(
    server, tmp_path, content, announced, size, checksum, message
):
    server.content, server.announced = content, announced
    with pytest.raises(ValueError, match=message):
        fetch_file(server.url, tmp_path / "file.bin", size=size, checksum=checksum, wait=0)
    assert names(tmp_path) == []


def test_a_connection_that_brings_more_than_published(server, tmp_path, monkeypatch):
    # Without a length the end of the connection ends the file.
    monkeypatch.setattr(Handler, "send_header", lambda own, name, value: None)
    with pytest.raises(ValueError, match="sends more than the 9,000 bytes published"):
        fetch_file(server.url, tmp_path / "file.bin", size=9000)
    monkeypatch.setattr(fetch, "MAX_BYTES", 9000)
    with pytest.raises(ValueError, match="sends more than the 9,000 bytes that any data set has"):
        fetch_file(server.url, tmp_path / "file.bin")
    assert names(tmp_path) == []
    monkeypatch.setattr(fetch, "MAX_BYTES", len(CONTENT))
    fetch_file(server.url, tmp_path / "file.bin", checksum=MD5)
    assert (tmp_path / "file.bin").read_bytes() == CONTENT


def test_what_the_server_refuses(server, tmp_path):
    server.statuses = [503, 429]
    fetch_file(server.url, tmp_path / "file.bin", wait=0)
    assert len(server.asked) == 3  # it was over in a moment
    server.statuses = [404]
    with pytest.raises(OSError, match="file.bin: the server says 404 Not Found"):
        fetch_file(server.url, tmp_path / "other.bin", wait=0)
    assert len(server.asked) == 4
    for location in ("ftp://127.0.0.1/file", "file:///etc/passwd", "data:,x"):
        server.location = location
        with pytest.raises(OSError, match="the server says 302|neither https nor http"):
            fetch_file(server.url, tmp_path / "other.bin", wait=0)
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/file"):
        with pytest.raises(ValueError, match="only https and http are fetched"):
            fetch_file(url, tmp_path / "other.bin", wait=0)
    assert names(tmp_path) == ["file.bin"]


def test_nobody_answers_and_no_room(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: fetch.shutil._ntuple_diskusage(1, 1, 99))
    with pytest.raises(OSError, match="10,240 bytes are to come, and the disk has room for 99"):
        fetch_file(server.url, tmp_path / "file.bin")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/file"
    with pytest.raises(OSError, match=r"no answer \(.*refused.*\), 5 times in a row"):
        fetch_file(url, tmp_path / "file.bin", wait=0)


def test_a_link_in_the_way_is_not_followed(server, tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "file.bin.part").symlink_to(tmp_path / "precious")
    fetch_file(server.url, tmp_path / "file.bin", size=len(CONTENT), wait=0)
    assert (tmp_path / "precious").read_text() == "mine" and (tmp_path / "file.bin").read_bytes() == CONTENT


def test_no_step_leads_from_https_to_http():
    """Not on the way either: https, http, https would look sound at its end."""
    handler = fetch._Redirects()
    https = urllib.request.Request("https://a.org/x")
    with pytest.raises(fetch._Unsafe, match="leads to http://b.org/x, which anybody on the way could change"):
        handler.redirect_request(https, None, 302, "Found", {}, "http://b.org/x")
    assert handler.redirect_request(https, None, 302, "Found", {}, "https://b.org/x").type == "https"
