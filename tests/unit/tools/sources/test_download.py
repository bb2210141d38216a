"""Downloads: resumed, checked, and errors of one line. The server runs in this process."""

import contextlib
import hashlib
import http.server
import threading

import pytest
import requests

from fustal.exceptions import InputError
from fustal.tools.sources import download

DATA = bytes(range(256)) * 8000  # 2 MB
KEPT = 2 * 512 * 1024  # whole pieces that arrive before the server closes the connection
SHA = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
WARNING = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<span class="uc-name-size"><a href="/open?id=x">I3D.zip</a> (3.7G)</span> is too large for Google to scan for viruses.
</body></html>"""


class Server(http.server.ThreadingHTTPServer):
    """Serves `data` at any path but /absent; the first `breaks` connections are closed after `upto` bytes.

    `requested` and `sent` hold, for each request, the requested range and the bytes of the answer.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = DATA
        self.ranges = True
        self.length = True
        self.breaks = 0
        self.upto = 1_200_000
        self.requested = []
        self.sent = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A closed connection is no error."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, part = self.server, self.headers.get("Range")
        if self.path == "/absent":
            return self.send_error(404)
        server.requested.append(part)
        first = int(part.removeprefix("bytes=").split("-")[0]) if part and server.ranges else 0
        body = server.data[first:]
        if not body:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(server.data)}")
            return self.end_headers()
        self.send_response(206 if part and server.ranges else 200)
        if part and server.ranges:
            self.send_header("Content-Range", f"bytes {first}-{len(server.data) - 1}/{len(server.data)}")
        if server.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        probe = "requests" in self.headers["User-Agent"]  # it reads the size and closes the connection
        if server.breaks and not probe:
            server.breaks -= 1
            body = body[: server.upto]
        server.sent.append(len(body))
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no proxy to the internet."""
    monkeypatch.setattr(download, "cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


def partial(cache):
    """The beginnings of files that are kept."""
    return [path for path in (cache / "partial").iterdir() if path.suffix != ".lock"]


def refused(*arguments):
    """The line in which a download is refused."""
    with pytest.raises(InputError) as error:
        download.download(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_file_is_downloaded_once_and_its_size_printed_before(server, cache, capsys):
    url = f"{server.url}/data.zip"
    assert download.download(url, "data.zip", SHA) == cache / "data.zip"
    assert (cache / "data.zip").read_bytes() == DATA
    assert capsys.readouterr().err.splitlines()[0] == f"data.zip: 2.05MB, from {url}"
    count = len(server.requested)
    download.download(url, "data.zip", SHA)
    assert len(server.requested) == count
    assert not partial(cache)


def test_an_interrupted_download_is_resumed(server, cache, capsys):
    server.breaks = 1
    url = f"{server.url}/data.zip"
    line = refused(url, "data.zip", SHA)
    assert "1.05MB are kept and the same command continues from there" in line
    assert "--continue" not in line
    assert not (cache / "data.zip").exists()
    (kept,) = partial(cache)
    assert kept.read_bytes() == DATA[:KEPT]

    server.requested.clear()
    server.sent.clear()
    capsys.readouterr()
    download.download(url, "data.zip", SHA)
    assert (cache / "data.zip").read_bytes() == DATA
    assert server.requested[-1] == f"bytes={KEPT}-"
    assert server.sent[-1] == len(DATA) - KEPT
    assert "2.05MB, 1.05MB of it are here, from" in capsys.readouterr().err
    assert not partial(cache)


def test_progress_starts_from_the_partial_file(server, cache, monkeypatch):
    shown = []

    class Bar(download.tqdm):
        def __init__(self, **options):
            super().__init__(disable=False, **options)

        def update(self, n=1):
            shown.append((self.n, self.n + n, self.total))
            return super().update(n)

    monkeypatch.setattr(download, "tqdm", Bar)
    server.breaks = 1
    refused(f"{server.url}/data.zip", "data.zip", SHA)
    shown.clear()
    download.download(f"{server.url}/data.zip", "data.zip", SHA)
    assert shown[0][0] == KEPT
    assert shown[-1][1:] == (len(DATA), len(DATA))


def test_a_stopped_download_is_resumed(server, cache, monkeypatch):
    class Stopped(download.tqdm):
        def update(self, n=1):
            raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(download, "tqdm", Stopped)
        with pytest.raises(KeyboardInterrupt):
            download.download(f"{server.url}/data.zip", "data.zip", SHA)
    assert not (cache / "data.zip").exists()
    assert partial(cache)[0].read_bytes() == DATA[: KEPT // 2]
    download.download(f"{server.url}/data.zip", "data.zip", SHA)
    assert server.requested[-1] == f"bytes={KEPT // 2}-"
    assert (cache / "data.zip").read_bytes() == DATA


def test_without_resumption_the_whole_file_is_requested_again(server, cache):
    server.ranges, server.breaks = False, 1
    refused(f"{server.url}/data.zip", "data.zip", SHA)
    assert len(partial(cache)) == 1
    download.download(f"{server.url}/data.zip", "data.zip", SHA)
    assert (cache / "data.zip").read_bytes() == DATA
    assert not partial(cache)


def test_a_beginning_that_is_as_long_as_the_file_is_not_trusted(server, cache, capsys):
    (cache / "partial").mkdir(parents=True)
    (cache / "partial" / "data.zip12345678.part").write_bytes(b"x" * len(DATA))
    download.download(f"{server.url}/data.zip", "data.zip", SHA)
    assert (cache / "data.zip").read_bytes() == DATA
    assert "data.zip: 2.05MB, from" in capsys.readouterr().err


def test_a_size_that_the_server_does_not_send_is_unknown(server, cache, capsys):
    server.length = False
    server.ranges = False
    download.download(f"{server.url}/data.zip", "data.zip", SHA)
    assert "data.zip: of unknown size, from" in capsys.readouterr().err


def test_a_wrong_checksum_leaves_nothing(server, cache):
    line = refused(f"{server.url}/data.zip", "data.zip", "md5:" + 32 * "0")
    assert f"its md5 is {hashlib.md5(DATA).hexdigest()}, not 000" in line
    assert not (cache / "data.zip").exists()
    assert not partial(cache)


def test_a_broken_file_in_the_cache_is_downloaded_again(server, cache):
    cache.mkdir()
    (cache / "data.zip").write_bytes(b"broken")
    download.download(f"{server.url}/data.zip", "data.zip", SHA)
    assert (cache / "data.zip").read_bytes() == DATA


def test_a_broken_file_in_the_cache_stays_when_there_is_no_other(server, cache):
    cache.mkdir()
    (cache / "data.zip").write_bytes(b"broken")
    refused(f"{server.url}/absent", "data.zip", SHA)
    assert (cache / "data.zip").read_bytes() == b"broken"


def test_an_absent_file_is_an_error(server, cache):
    line = refused(f"{server.url}/absent", "data.zip", SHA)
    assert line.startswith(f"{server.url}/absent: cannot be downloaded: 404 Client Error")
    assert line.endswith("; try again, or download it by hand and give --from")
    assert not (cache / "data.zip").exists()
    assert not partial(cache)


def test_without_network_the_partial_file_is_kept(server, cache):
    server.breaks = 1
    refused(f"{server.url}/data.zip", "data.zip", SHA)
    server.shutdown()
    server.server_close()
    line = refused(f"{server.url}/data.zip", "data.zip", SHA)
    assert "Max retries" not in line
    assert "Connection refused; 1" in line
    assert "1.05MB are kept" in line
    assert len(partial(cache)) == 1


def test_a_file_without_a_published_checksum_is_taken_as_it_is(server, cache):
    assert download.download(f"{server.url}/data.zip", "data.zip").read_bytes() == DATA


@pytest.mark.parametrize(
    ("page", "text"), [(WARNING, "about 3.7GB"), ("<html>Quota exceeded</html>", "of unknown size")]
)
def test_google_drive_names_a_rounded_size_or_none(monkeypatch, page, text):
    requested = []

    def get(url, **options):
        requested.append(url)
        answer = requests.Response()
        answer.status_code, answer._content = 200, page.encode()
        answer.headers["Content-Type"] = "text/html; charset=utf-8"
        return answer

    monkeypatch.setattr(requests, "get", get)
    assert download._probe("https://drive.google.com/file/d/abc/view", 1000) == (None, text, True)
    assert requested == ["https://drive.google.com/uc?id=abc"]
