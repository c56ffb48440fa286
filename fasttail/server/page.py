"""The page's files: compressed once at the start, and served with what lets a browser keep them.

The page is open to everybody, because it holds no data: it asks for the token, and gets all figures on /ws.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

from fasttail.server.http import HttpResponse

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True)
class PageFile:
    """One file. etag: of its content, which both forms of it share, as a weak one may."""

    content: bytes
    compressed: bytes
    etag: str
    type: str

    def response(self, headers: Mapping[str, str]) -> HttpResponse:
        """Return the response to a GET with these headers."""
        shared = {
            **SECURITY_HEADERS,
            "ETag": self.etag,
            "Cache-Control": "no-cache",
            "Vary": "Accept-Encoding",
        }
        if _names(headers.get("If-None-Match", ""), self.etag):
            return HttpResponse(304, b"", shared)
        shared["Content-Type"] = self.type
        if _names(headers.get("Accept-Encoding", ""), "gzip"):
            return HttpResponse(200, self.compressed, {**shared, "Content-Encoding": "gzip"})
        return HttpResponse(200, self.content, shared)


def _names(header: str, name: str) -> bool:
    """Return whether a header's list has a name, or `*`, that is not ruled out by a weight of 0."""
    for each in header.split(","):
        found, _, weight = each.partition(";")
        if found.strip() in (name, "*"):
            return re.fullmatch(r"\s*q\s*=\s*0(\.0*)?\s*", weight) is None
    return False


def load_page() -> dict[str, PageFile]:
    """Return the page's files by their paths: `/` and `/page/…`. Raises OSError."""
    files: dict[str, PageFile] = {}
    _load(resources.files("fasttail") / "page", "/page/", files)
    files["/"] = files.pop("/page/index.html")
    return files


def _load(folder: Traversable, path: str, files: dict[str, PageFile]) -> None:
    for each in folder.iterdir():
        if each.is_dir():
            _load(each, f"{path}{each.name}/", files)
        elif (suffix := each.name[each.name.rfind(".") :]) in TYPES:
            content = each.read_bytes()
            etag = f'W/"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
            files[path + each.name] = PageFile(
                content, gzip.compress(content, 9, mtime=0), etag, TYPES[suffix]
            )
