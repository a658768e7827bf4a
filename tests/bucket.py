"""A server of Google Cloud Storage's JSON API on this machine, whose moods a test can choose.

As much of the API as gcsfs and TensorStore use: objects in pages, uploads in one request or in
several, parts of an object, and generations with their preconditions, on which TensorStore's
commits stand. (What PyPI offers, gcp-storage-emulator, numbers generations by the clock and ignores
preconditions: under load, checkpoints fail on it.) It knows `gs://bucket`; in `gs://closed` nobody
may do a thing. And it has a login: who asks without the token that it gave is refused.
"""

import itertools
import json
import threading
from collections.abc import Callable
from http import HTTPStatus, server
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

TOKEN = "ya29.the-token-that-nobody-may-see"
_PAGE = 7
"""Objects in an answer to a listing: few, so that tests turn pages."""


class Stored(NamedTuple):
    data: bytes
    generation: int


class Bucket(server.ThreadingHTTPServer):
    """The server, running while it is entered."""

    daemon_threads = True

    def __init__(self, folder: Path):
        """Writes the login's file, of a service account, into the folder."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.objects: dict[str, Stored] = {}
        self.uploads: dict[str, bytes] = {}
        """Of those in several requests, what came so far."""
        self.generations = itertools.count(1_700_000_000_000_000)
        self.lock = threading.Lock()
        self.refuses: Callable[[str, str], bool] = lambda method, path: False
        """Whether a request (its method, its path) is refused."""
        self.asked: list[tuple[str, str]] = []
        self.strangers: list[str] = []
        """Paths that were asked for without the token."""
        self.put: list[str] = []
        """Names of objects, as they were put."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self.secrets = [TOKEN.encode(), key.splitlines()[1]]
        self.login = folder / "key.json"
        account = {
            "type": "service_account",
            "client_email": "somebody@somewhere",
            "private_key": key.decode(),
            "token_uri": f"{self.url}/token",
        }
        self.login.write_text(json.dumps(account))

    def environment(self) -> dict[str, str]:
        """Returns the variables with which gcsfs and TensorStore come here, and log in."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.login),
            # TensorStore would ask Google itself for a service account's token.
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": TOKEN,
        }

    def __enter__(self) -> "Bucket":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *why: Any) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: gcsfs asks two questions at once, and hangs up on the slower answer."""


class _Handler(server.BaseHTTPRequestHandler):
    server: Bucket  # type: ignore
    protocol_version = "HTTP/1.1"
    # An answer in one packet: in two, the second waits for the first one's receipt.
    wbufsize, disable_nagle_algorithm = -1, True

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        # Read to its end before any answer: the connection goes on to the next request.
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.query = dict(parse_qsl(url.query))
        self.server.asked.append((self.command, url.path))
        if url.path == "/token":
            self._say({"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.server.strangers.append(url.path)
            self._fail(401, "who is that?")
        elif "/b/closed" in url.path or self.server.refuses(self.command, url.path):
            self._fail(403, "somebody lacks a permission")
        else:
            _, _, rest = url.path.partition("/b/")
            bucket, _, name = rest.partition("/o")
            if bucket != "bucket":
                self._fail(404, "no such bucket")
            else:
                with self.server.lock:
                    self._do(unquote(name.removeprefix("/")), body)

    do_POST = do_DELETE = do_GET

    def _do(self, name: str, body: bytes) -> None:
        if self.command == "POST":
            self._upload(body)
        elif not name:
            self._list()
        elif name not in self.server.objects:
            self._fail(404, "no such object")
        elif not self._allowed(name):
            self._fail(304 if "ifGenerationNotMatch" in self.query else 412, "another generation")
        elif self.command == "DELETE":
            del self.server.objects[name]
            self._send(204, b"")
        elif self.query.get("alt") == "media":
            self._download(self.server.objects[name])
        else:
            self._say(self._about(name))

    def _allowed(self, name: str) -> bool:
        there = self.server.objects.get(name)
        now = str(there.generation if there else 0)
        same = self.query.get("ifGenerationMatch", now) == now
        return same and self.query.get("ifGenerationNotMatch") != now

    def _about(self, name: str) -> dict[str, Any]:
        there = self.server.objects[name]
        return {
            "kind": "storage#object",
            "bucket": "bucket",
            "name": name,
            "generation": str(there.generation),
            "size": str(len(there.data)),
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def _upload(self, body: bytes) -> None:
        name = self.query.get("name", "")
        if self.query["uploadType"] == "resumable":
            identity = self.query.get("upload_id")
            if identity is None:
                identity = str(next(self.server.generations))
                self.server.uploads[identity] = b""
                path = f"{self.server.url}{self.path}&upload_id={identity}"
                self._send(200, b"", {"Location": path})
                return
            body = self.server.uploads[identity] = self.server.uploads[identity] + body
            if len(body) < int(self.headers["Content-Range"].split("/")[1]):
                self._send(308, b"", {"Range": f"bytes=0-{len(body) - 1}"})
                return
        elif self.query["uploadType"] == "multipart":
            boundary = self.headers["Content-Type"].split('boundary="')[1].rstrip('"').encode()
            _, about, rest = body.split(b"--" + boundary, 2)
            name = json.loads(about.split(b"\n\n", 1)[1])["name"]
            body = rest.split(b"\n\n", 1)[1].removesuffix(b"\n--" + boundary + b"--")
        if not self._allowed(name):
            self._fail(412, "another generation")
            return
        self.server.objects[name] = Stored(body, next(self.server.generations))
        self.server.put.append(name)
        self._say(self._about(name))

    def _download(self, there: Stored) -> None:
        asked = self.headers.get("Range")
        headers = {"x-goog-generation": str(there.generation)}
        if asked is None:
            self._send(200, there.data, headers)
            return
        start, end = asked.removeprefix("bytes=").split("-")
        part = there.data[int(start) : int(end) + 1 if end else None]
        headers["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(there.data)}"
        self._send(206, part, headers)

    def _list(self) -> None:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter")
        low, high = self.query.get("startOffset", ""), self.query.get("endOffset")
        found: dict[str, bool] = {}
        for name in sorted(self.server.objects):
            if name.startswith(prefix) and name >= low and (high is None or name < high):
                head, cut, _ = name[len(prefix) :].partition(delimiter or "\0")
                found[prefix + head + cut] = bool(cut)
        names = [name for name in found if name > self.query.get("pageToken", "")]
        page = names[: min(_PAGE, int(self.query.get("maxResults", _PAGE)))]
        said: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [self._about(name) for name in page if not found[name]],
            "prefixes": [name for name in page if found[name]],
        }
        if len(names) > len(page):
            said["nextPageToken"] = page[-1]
        self._say(said)

    def _say(self, said: dict[str, Any]) -> None:
        self._send(200, json.dumps(said).encode(), {"Content-Type": "application/json"})

    def _fail(self, code: int, message: str) -> None:
        said = {"error": {"code": code, "message": message}}
        self._send(code, b"" if code == 304 else json.dumps(said).encode())

    def _send(self, code: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code, HTTPStatus(code).phrase)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if code not in (204, 304):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
