"""What pyarrow's client speaks of GCS's JSON API, beside the XML that obstore speaks, over the same objects."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote

Answer = tuple[int, bytes, dict[str, str]]

_OBJECT = re.compile(r"(?:upload/|download/)?storage/v1/b/([^/]+)/o(?:/([^/]+?))?(?:/rewriteTo/b/([^/]+)/o/([^/]+))?")
_BUCKET = re.compile(r"storage/v1/b/([^/]+)")
_SENT = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)")


def speaks_json(path: str) -> bool:
    """Whether a path, without its first slash and as it was sent, is one of the JSON API's."""
    return path.startswith(("storage/v1/", "upload/storage/v1/", "download/storage/v1/"))


class JsonApi:
    """The API over a mapping of paths (bucket and key) to contents."""

    def __init__(self, objects: MutableMapping[str, bytes]) -> None:
        self._objects = objects
        self._uploads: dict[str, tuple[str, bytearray]] = {}

    def answer(self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any, endpoint: str) -> Answer:
        """What to say to a request."""
        bucket = _BUCKET.fullmatch(path)
        if bucket is not None:
            return _said({"kind": "storage#bucket", "id": bucket[1], "name": bucket[1], "location": "US"})
        found = _OBJECT.fullmatch(path)
        if found is None:
            return 501, f"not known here: {method} {path}".encode(), {}
        name, key = found[1], unquote(found[2] or query.get("name", ""))
        if path.startswith("upload/"):
            return self._upload(method, f"{name}/{key}", query, body, headers, endpoint)
        if found[4]:
            return self._copy(f"{name}/{key}", f"{found[3]}/{unquote(found[4])}")
        if not found[2]:
            return self._list(name, query)
        if f"{name}/{key}" not in self._objects:
            return 404, b'{"error": {"code": 404, "message": "No such object"}}', {}
        if method == "DELETE":
            del self._objects[f"{name}/{key}"]
            return 204, b"", {}
        if query.get("alt") == "media":
            return self._media(self._objects[f"{name}/{key}"], headers.get("Range", ""))
        return _said(self._metadata(f"{name}/{key}"))

    def _upload(
        self, method: str, path: str, query: dict[str, str], body: bytes, headers: Any, endpoint: str
    ) -> Answer:
        kind, upload = query.get("uploadType"), query.get("upload_id", "")
        if kind == "resumable" and not upload:
            upload = f"json-{len(self._uploads)}"
            self._uploads[upload] = (path, bytearray())
            bucket = path.partition("/")[0]
            where = f"{endpoint}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={upload}"
            return 200, b"", {"Location": where}
        if kind == "resumable":
            path, content = self._uploads[upload]
            sent = _SENT.fullmatch(headers.get("Content-Range", ""))
            at, whole = (sent[1], sent[2]) if sent else (None, str(len(content) + len(body)))
            content[int(at) if at else len(content) :] = body
            if whole == "*" or int(whole) > len(content):
                return 308, b"", {"Range": f"bytes=0-{len(content) - 1}"} if content else {}
            self._objects[path] = bytes(content)
        elif kind == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', headers["Content-Type"])
            parts = body.split(b"--" + (boundary[1] if boundary else "").encode())
            told = json.loads(parts[1].partition(b"\r\n\r\n")[2] or b"{}")
            path = path if not path.endswith("/") or "name" not in told else f"{path}{told['name']}"
            self._objects[path] = parts[2].partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
        else:
            self._objects[path] = body
        return _said(self._metadata(path))

    def _copy(self, source: str, target: str) -> Answer:
        if source not in self._objects:
            return 404, b"{}", {}
        self._objects[target] = self._objects[source]
        size = str(len(self._objects[target]))
        done = {"done": True, "objectSize": size, "totalBytesRewritten": size, "resource": self._metadata(target)}
        return _said({"kind": "storage#rewriteResponse", **done})

    def _list(self, bucket: str, query: dict[str, str]) -> Answer:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        keys = sorted(path.partition("/")[2] for path in self._objects if path.startswith(f"{bucket}/{prefix}"))
        folders, items = set(), []
        for key in keys:
            inside = key[len(prefix) :]
            if delimiter and delimiter in inside:
                folders.add(f"{prefix}{inside.partition(delimiter)[0]}{delimiter}")
            else:
                items.append(self._metadata(f"{bucket}/{key}"))
        return _said({"kind": "storage#objects", "items": items, "prefixes": sorted(folders)})

    def _media(self, content: bytes, wanted: str) -> Answer:
        headers = {"x-goog-generation": "1", "x-goog-stored-content-length": str(len(content))}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted)
        if found is None:
            return 200, content, headers
        first, last = int(found[1]), int(found[2]) + 1 if found[2] else len(content)
        if first >= len(content):
            return 416, b"", headers
        part = content[first:last]
        return 206, part, headers | {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"}

    def _metadata(self, path: str) -> dict[str, Any]:
        bucket, _, key = path.partition("/")
        content, date = self._objects[path], "2023-01-02T00:00:00.000Z"
        digest = base64.b64encode(hashlib.md5(content).digest()).decode()
        return {
            "kind": "storage#object", "id": f"{path}/1", "name": key, "bucket": bucket, "size": str(len(content)),
            "generation": "1", "metageneration": "1", "md5Hash": digest, "timeCreated": date, "updated": date,
            "contentType": "application/octet-stream", "storageClass": "STANDARD",
        }  # fmt: skip


def _said(value: Any) -> Answer:
    return 200, json.dumps(value).encode(), {"Content-Type": "application/json"}
