"""Object stores on this machine and in memory, with faults on request: Google's kind and Amazon's.

`Store` stands in for Google Cloud Storage. It speaks what gcsfs, TensorStore and google-cloud-storage ask
for, of the JSON API that https://cloud.google.com/storage/docs/json_api describes, and keeps its promises: a
write is whole, the next read sees it, and a precondition (ifGenerationMatch) is compared and written at once.
`S3Store` is moto's server, with the same attributes.

  python tests/object_store.py gs 9111    # then export what it prints
"""

import itertools
import json
import logging
import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

BUCKET = "bucket-one"
OBJECT = re.compile(r"(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)(?:/rewriteTo/b/([^/]+)/o/([^/]+))?")


class Store(ThreadingHTTPServer):
    """The server. `objects` is {name: (generation, bytes)}; `fault(method, path)` returns a status."""

    address = f"gs://{BUCKET}"
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.objects, self.generations, self.lock = {}, itertools.count(1), threading.Lock()
        self.clear()
        threading.Thread(target=self.serve_forever, daemon=True, kwargs={"poll_interval": 0.02}).start()

    def clear(self):
        """Removes all objects and faults."""
        self.objects.clear()
        self.fault, self.bucket, self.uploads = lambda method, path: None, BUCKET, {}

    def remove(self, name):
        """Removes an object."""
        del self.objects[name]

    @property
    def environment(self):
        """What gcsfs, TensorStore and google-cloud-storage read to find it."""
        url = f"http://127.0.0.1:{self.server_port}"
        return {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else it looks for credentials at each request
            "EPATH_USE_TF": "false",
        }

    def put(self, name, content, match=None):
        """Writes an object; returns its generation, or None where the precondition does not hold."""
        with self.lock:
            if match is not None and self.objects.get(name, (0,))[0] != int(match):
                return None
            self.objects[name] = (next(self.generations), content)
            return self.objects[name][0]

    def handle_error(self, request, client_address):
        """Nothing: a client that was killed is no error here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm, wbufsize = "HTTP/1.1", True, -1

    def log_message(self, *_):
        pass

    def _answer(self, status, content=b"", **headers):
        if isinstance(content, dict):
            content, headers = json.dumps(content).encode(), {"Content-Type": "application/json"} | headers
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _fail(self, status):
        self._answer(status, {"error": {"code": status, "message": f"told to fail with {status}"}})

    def _fields(self, name):
        generation, content = self.server.objects[name]
        own = f"{self.server.environment['STORAGE_EMULATOR_HOST']}/download/storage/v1/b/{BUCKET}/o/"
        return {
            "kind": "storage#object", "id": f"{BUCKET}/{name}/{generation}", "name": name, "bucket": BUCKET,
            "generation": str(generation), "metageneration": "1", "size": str(len(content)),
            "timeCreated": "2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z", "mediaLink": own,
        }  # fmt: skip

    def _handle(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status = self.server.fault(self.command, self.path)
        if status == "drop":
            self.close_connection = True
        elif status:
            self._fail(status)
        elif self.path.startswith("/batch"):
            self._batch(body)
        else:
            self._one(self.command, self.path, body)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _one(self, method, path, body):
        parts = urlsplit(path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        found = OBJECT.fullmatch(parts.path)
        if f"/b/{self.server.bucket}" not in parts.path:
            self._fail(404)
        elif parts.path.startswith("/upload/"):
            self._upload(method, query, body)
        elif found and found[3]:
            generation, content = self.server.objects[unquote(found[2])]
            self.server.put(unquote(found[4]), content)
            self._answer(200, {"done": True, "resource": self._fields(unquote(found[4]))})
        elif found:
            self._object(method, unquote(found[2]), query)
        elif parts.path.endswith("/o"):
            self._list(query)
        else:
            self._answer(200, {"kind": "storage#bucket", "name": BUCKET, "id": BUCKET})

    def _object(self, method, name, query):
        generation, content = self.server.objects.get(name, (None, b""))
        match, other = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
        if method == "DELETE":
            with self.server.lock:
                self.server.objects.pop(name, None)
            return self._answer(204 if generation else 404)
        if generation is None:
            return self._fail(404)
        if match is not None and int(match) != generation:
            return self._fail(412)
        if other is not None and int(other) == generation:
            return self._answer(304)
        if query.get("alt") != "media" and not self.path.startswith("/download"):
            return self._answer(200, self._fields(name))
        headers = {"x_goog_generation": generation, "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not wanted:
            return self._answer(200, content, **headers)
        start = int(wanted[1]) if wanted[1] else max(0, len(content) - int(wanted[2]))
        stop = min(len(content), int(wanted[2]) + 1) if wanted[1] and wanted[2] else len(content)
        if start >= stop:
            return self._fail(416)
        told = f"bytes {start}-{stop - 1}/{len(content)}"
        return self._answer(206, content[start:stop], Content_Range=told, **headers)

    def _upload(self, method, query, body):
        kind, name = query.get("uploadType"), query.get("name")
        if "upload_id" in query:  # the parts of a resumable one
            kept = self.server.uploads[query["upload_id"]]
            kept[1].extend(body)
            if (self.headers.get("Content-Range") or "").endswith("/*"):
                return self._answer(308, Range=f"bytes=0-{len(kept[1]) - 1}")
            name, body = kept[0], bytes(kept[1])
        elif kind == "resumable":
            number = str(next(self.server.generations))
            self.server.uploads[number] = (json.loads(body)["name"], bytearray())
            place = f"{self.server.environment['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/{BUCKET}/o"
            return self._answer(200, Location=f"{place}?uploadType=resumable&upload_id={number}")
        elif kind == "multipart":
            mark = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            first, second = body.split(b"--" + mark, 3)[1:3]
            name = json.loads(first.split(b"\n\n" if b"\r\n\r\n" not in first else b"\r\n\r\n", 1)[1])["name"]
            gap = b"\r\n\r\n" if b"\r\n\r\n" in second.split(b"\n\n", 1)[0] else b"\n\n"
            body = second.split(gap, 1)[1]
            body = body[: -len(gap) // 2]
        if self.server.put(name, body, query.get("ifGenerationMatch")) is None:
            return self._fail(412)
        return self._answer(200, self._fields(name))

    def _list(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        names, folders = [], set()
        with self.server.lock:
            every = sorted(self.server.objects)
        for name in every:
            if not name.startswith(prefix) or name < query.get("startOffset", ""):
                continue
            if "endOffset" in query and name >= query["endOffset"]:
                continue
            inside, mark, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if mark:
                folders.add(prefix + inside + mark)
            else:
                names.append(name)
        with self.server.lock:
            items = [self._fields(name) for name in names if name in self.server.objects]
        self._answer(200, {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)})

    def _batch(self, body):
        """Deletes the objects that the parts of a batch name."""
        paths = re.findall(rb"DELETE (?:https?://[^/ ]+)?(/storage\S+) HTTP", body)
        with self.server.lock:
            for path in paths:
                self.server.objects.pop(unquote(OBJECT.match(urlsplit(path.decode()).path)[2]), None)
        answer = b"\r\nHTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n\r\n"
        head = b"--own\r\nContent-Type: application/http\r\nContent-ID: <response-%d>\r\n"
        content = b"".join(head % (n + 1) + answer for n in range(len(paths))) + b"--own--\r\n"
        self._answer(200, content, Content_Type="multipart/mixed; boundary=own")


class S3Store:
    """moto's server. `objects` is {name: (ETag, bytes)}, a copy; `fault(method, path)` returns a status."""

    address = f"s3://{BUCKET}"

    def __init__(self, port=0):
        from moto.s3.models import s3_backends
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # which reports each request
        self._answer = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", port, self._handle, threaded=True)
        self._kept = s3_backends["123456789012"]["aws"]
        self._kept.create_bucket(BUCKET, "us-east-1")
        self.clear()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def clear(self):
        """Removes all objects and faults."""
        self._keys.clear()
        self.fault, self.bucket = lambda method, path: None, BUCKET

    @property
    def environment(self):
        """What s3fs, TensorStore and botocore read to find it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._server.port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
            "EPATH_USE_TF": "false",
        }

    @property
    def _keys(self):
        return self._kept.buckets[BUCKET].keys

    @property
    def objects(self):
        return {name: (key.etag, key.value) for name, key in list(self._keys.items())}

    def put(self, name, content):
        """Writes an object."""
        self._kept.put_object(BUCKET, name, content)

    def remove(self, name):
        """Removes an object."""
        del self._keys[name]

    def _handle(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        status = self.fault(method, path)
        code = "AccessDenied" if status == 403 else "SlowDown"
        if not path.startswith(f"/{self.bucket}"):
            status, code = 404, "NoSuchBucket"
        if status == "drop":
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        if not status:
            return self._answer(environ, start_response)
        start_response(f"{status if status != 'drop' else 500} Told", [("Content-Type", "application/xml")])
        return [b"" if method == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode()]


KINDS = {"gs": Store, "s3": S3Store}

if __name__ == "__main__":
    store = KINDS[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps(store.environment), flush=True)
    while True:
        time.sleep(1)
