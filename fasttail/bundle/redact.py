"""Takes secrets out of bytes: those that are known, wherever they stand, and what looks like one.

Everything that goes into an archive passes `clean`. A secret of fewer than `LEAST` characters is not looked
for: it would be found in words that are none.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from urllib.parse import quote, quote_plus, unquote, urlsplit

from fasttail.config import COMMANDS, options, sources

REMOVED = "[removed]"
LEAST = 4

_NAMES = (
    r"token|secret|passw(?:or)?d|pwd|passphrase|api[-_]?key|private[-_]?key|access[-_]?key|webhook|credentials?"
)
_SECRET_NAME = re.compile(r"token|secret|pass|pwd|key|cred|auth|webhook|cookie|dsn|signature", re.IGNORECASE)
# Values of such names that are none, and that stand everywhere.
_WORD = re.compile(r"true|false|none|null|auto|always|never|basic|bearer|\d{1,6}", re.IGNORECASE)
# A path, and no base64, of which one in 64 begins with a slash.
_FILE = re.compile(r"(?:/[\w.@-]{1,30})+/?")
_PUBLIC_NAME = re.compile(
    r"PATH|HOME|USER|LANG|LC_[A-Z]+|TZ|HOSTNAME|OMP_[A-Z_]+|GOMP_[A-Z_]+|MALLOC_[A-Z_]+"
    r"|PYTHON(?:UNBUFFERED|UTF8|IOENCODING|MALLOC|ASYNCIODEBUG)"
)
# What stands in a secret's place, or may be shown of one.
_SHOWN = r"\[removed\]|https?://[^\s/]+/\.\.\."
# What looks like a secret: (pattern, what is left of it).
_LOOKS: tuple[tuple[re.Pattern[bytes], bytes], ...] = (
    (re.compile(rb"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{4,}"), rb"\1 [removed]"),
    (
        re.compile(
            rb"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie):(?! *(?:bearer|basic) \[removed\])[^\r\n]+"
        ),
        rb"\1: [removed]",
    ),
    (re.compile(rb"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), rb"[removed]"),  # a JSON web token
    (re.compile(rf"(?i)(--(?:[a-z-]+-)?(?:{_NAMES})[ =])[^\s\"']+".encode()), rb"\1[removed]"),
    (re.compile(rb"://[^\s/\"'<>]+@"), rb"://[removed]@"),
    (
        re.compile(rb"(?i)([?&](?:[a-z_-]*(?:token|secret|password|key|sig|signature|auth))=)[^\s&\"'<>]+"),
        rb"\1[removed]",
    ),
    (
        re.compile(rf"(?i)((?:{_NAMES})[\"']?\s*[:=]\s*\")(?!{_SHOWN})[^\"\r\n]*(?=\")".encode()),
        rb"\1[removed]",
    ),
    (
        re.compile(rf"(?i)((?:{_NAMES})\\?[\"']?\s*[:=]\s*\\?[\"']?)(?!{_SHOWN})[^\s\"',}}\\]+".encode()),
        rb"\1[removed]",
    ),
    (
        re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
        rb"[removed]",
    ),
)  # fmt: skip


class Redactor:
    """Learns secrets, then cleans. Learn all of them first: what was cleaned before stays as it is."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def learn(self, secret: str | None) -> None:
        """A secret, in every form in which it might be written."""
        if secret is None:
            return
        secret = secret.strip()
        if len(secret) < LEAST:
            return
        plain = secret.encode("utf-8", "surrogateescape")
        forms = {secret, quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")}
        forms |= {quote(secret, errors="replace"), unquote(secret), json.dumps(secret)[1:-1]}
        forms |= {json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
        forms |= {base64.b64encode(plain).decode(), base64.urlsafe_b64encode(plain).decode()}
        self._known |= {form.encode("utf-8", "surrogateescape") for form in forms if len(form) >= LEAST}

    def learn_url(self, url: str | None) -> None:
        """A URL of which only scheme and host may be shown."""
        if not url:
            return
        try:
            parts = urlsplit(url.strip())
            user, password = parts.username, parts.password
        except ValueError:
            self.learn(url)
            return
        if user is not None:
            self.learn(parts.netloc.rpartition("@")[0])
            self.learn(f"{unquote(user)}:{unquote(password or '')}")  # Basic authorization, in base64
            self.learn(user)
            self.learn(password)
        if len(parts.path) > 1 or parts.query:
            self.learn(parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else ""))
            for piece in re.split(r"[/&]", f"{parts.path}&{parts.query}"):
                if len(piece) >= 8:  # shorter ones are words: "hooks", "services"
                    self.learn(piece.partition("=")[2] or piece)

    def learn_variables(self, variables: Mapping[str, str]) -> None:
        """The values of an environment whose names say that they are secret."""
        for name, value in variables.items():
            if not _SECRET_NAME.search(name) or name.endswith(("_FILE", "_TLS_KEY", "_PATH")):
                continue
            if "://" in value:
                self.learn_url(value)
            elif not _FILE.fullmatch(value) and not _WORD.fullmatch(value):
                self.learn(value)

    def learn_words(self, words: Sequence[str]) -> None:
        """The values of a command line's options whose names say that they are secret.

        A word may be a shell's line, or an assignment for `env`.
        """
        words = [part for word in words for part in (_split(word) if " " in word else [word])]
        for word, behind in pairwise((*words, "")):
            name, _, value = word.partition("=")
            if value and re.fullmatch(r"\w+", name):
                self.learn_variables({name: value})
            elif name.startswith("-"):
                self.learn_variables({name.lstrip("-").replace("-", "_").upper(): value or behind})

    def clean(self, data: bytes) -> bytes:
        """Without what is known, and without what looks like a secret."""
        if self._known:
            longest_first = sorted(self._known, key=len, reverse=True)
            data = re.sub(b"|".join(map(re.escape, longest_first)), REMOVED.encode(), data)
        for pattern, left in _LOOKS:
            data = pattern.sub(left, data)
        return data


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quotation without an end
        return line.split()


def public_variables(entries: Iterable[tuple[str, str]]) -> list[str]:
    """An environment to be shown: values only of names that are known to hold no secret."""
    ours = {
        sources.variable(option)
        for settings in COMMANDS.values()
        for option in options(settings)
        if not option.kind.secret
    }
    return [
        f"{name}={value if name in ours or _PUBLIC_NAME.fullmatch(name) else REMOVED}"
        for name, value in entries
    ]
