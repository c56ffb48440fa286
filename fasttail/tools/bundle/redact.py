"""Redacts secrets in bytes: known ones wherever they occur, and text that looks like one.

Everything in an archive passes `clean`. Secrets shorter than `MIN_SECRET_LENGTH` characters are not searched
for, because they would match ordinary words.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from urllib.parse import quote, quote_plus, unquote, urlsplit

from fasttail.config import COMMANDS, options
from fasttail.config import loading as sources

REMOVED = "[removed]"
MIN_SECRET_LENGTH = 4

_SECRET_WORDS = (
    r"token|secret|passw(?:or)?d|pwd|passphrase|api[-_]?key|private[-_]?key|access[-_]?key|webhook"
    r"|credentials?"
)
_SECRET_NAME = re.compile(r"token|secret|pass|pwd|key|cred|auth|webhook|cookie|dsn|signature", re.IGNORECASE)
# Values of such names that are not secret and occur everywhere.
_COMMON_VALUE = re.compile(r"true|false|none|null|auto|always|never|basic|bearer|\d{1,6}", re.IGNORECASE)
# A path, but not base64, of which one in 64 begins with a slash.
_PATH_VALUE = re.compile(r"(?:/[\w.@-]{1,30})+/?")
_PUBLIC_NAME = re.compile(
    r"PATH|HOME|USER|LANG|LC_[A-Z]+|TZ|HOSTNAME|OMP_[A-Z_]+|GOMP_[A-Z_]+|MALLOC_[A-Z_]+"
    r"|PYTHON(?:UNBUFFERED|UTF8|IOENCODING|MALLOC|ASYNCIODEBUG)"
)
# Allowed in a secret's place: the marker, or the public part of a URL.
_ALLOWED_VALUE = r"\[removed\]|https?://[^\s/]+/\.\.\."
# What looks like a secret: (pattern, replacement).
_SECRET_PATTERNS: tuple[tuple[re.Pattern[bytes], bytes], ...] = (
    (re.compile(rb"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{4,}"), rb"\1 [removed]"),
    (
        re.compile(
            rb"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie):(?! *(?:bearer|basic) \[removed\])[^\r\n]+"
        ),
        rb"\1: [removed]",
    ),
    (re.compile(rb"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), rb"[removed]"),  # a JSON web token
    (re.compile(rf"(?i)(--(?:[a-z-]+-)?(?:{_SECRET_WORDS})[ =])[^\s\"']+".encode()), rb"\1[removed]"),
    (re.compile(rb"://[^\s/\"'<>]+@"), rb"://[removed]@"),
    (
        re.compile(rb"(?i)([?&](?:[a-z_-]*(?:token|secret|password|key|sig|signature|auth))=)[^\s&\"'<>]+"),
        rb"\1[removed]",
    ),
    (
        re.compile(rf"(?i)((?:{_SECRET_WORDS})[\"']?\s*[:=]\s*\")(?!{_ALLOWED_VALUE})[^\"\r\n]*(?=\")".encode()),
        rb"\1[removed]",
    ),
    (
        re.compile(rf"(?i)((?:{_SECRET_WORDS})\\?[\"']?\s*[:=]\s*\\?[\"']?)(?!{_ALLOWED_VALUE})[^\s\"',}}\\]+".encode()),
        rb"\1[removed]",
    ),
    (
        re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S),
        rb"[removed]",
    ),
)  # fmt: skip


class Redactor:
    """Learns secrets, then cleans. Learn all secrets first, because cleaned data is not cleaned again."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()

    def learn(self, secret: str | None) -> None:
        """Learn a secret in every form in which it may be written."""
        if secret is None:
            return
        secret = secret.strip()
        if len(secret) < MIN_SECRET_LENGTH:
            return
        plain = secret.encode("utf-8", "surrogateescape")
        forms = {secret, quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")}
        forms |= {quote(secret, errors="replace"), unquote(secret), json.dumps(secret)[1:-1]}
        forms |= {json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
        forms |= {base64.b64encode(plain).decode(), base64.urlsafe_b64encode(plain).decode()}
        self._known |= {
            form.encode("utf-8", "surrogateescape") for form in forms if len(form) >= MIN_SECRET_LENGTH
        }

    def learn_url(self, url: str | None) -> None:
        """Learn a URL of which only scheme and host may be shown."""
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
            self.learn(f"{unquote(user)}:{unquote(password or '')}")  # for Basic authorization, in base64
            self.learn(user)
            self.learn(password)
        if len(parts.path) > 1 or parts.query:
            self.learn(parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else ""))
            for piece in re.split(r"[/&]", f"{parts.path}&{parts.query}"):
                if len(piece) >= 8:  # shorter ones are words: "hooks", "services"
                    self.learn(piece.partition("=")[2] or piece)

    def learn_variables(self, variables: Mapping[str, str]) -> None:
        """Learn the values of variables whose names suggest a secret."""
        for name, value in variables.items():
            if not _SECRET_NAME.search(name) or name.endswith(("_FILE", "_TLS_KEY", "_PATH")):
                continue
            if "://" in value:
                self.learn_url(value)
            elif not _PATH_VALUE.fullmatch(value) and not _COMMON_VALUE.fullmatch(value):
                self.learn(value)

    def learn_arguments(self, args: Sequence[str]) -> None:
        """Learn the values of command line options whose names suggest a secret.

        An argument may also be a shell's command line, or an assignment for `env`.
        """
        args = [part for arg in args for part in (_split_shell_line(arg) if " " in arg else [arg])]
        for arg, following in pairwise((*args, "")):
            name, _, value = arg.partition("=")
            if value and re.fullmatch(r"\w+", name):
                self.learn_variables({name: value})
            elif name.startswith("-"):
                self.learn_variables({name.lstrip("-").replace("-", "_").upper(): value or following})

    def clean(self, data: bytes) -> bytes:
        """Replace known secrets, and what looks like one."""
        if self._known:
            longest_first = sorted(self._known, key=len, reverse=True)
            data = re.sub(b"|".join(map(re.escape, longest_first)), REMOVED.encode(), data)
        for pattern, replacement in _SECRET_PATTERNS:
            data = pattern.sub(replacement, data)
        return data


def _split_shell_line(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # an unterminated quotation
        return line.split()


def public_variables(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Format variables, with values only for names that are known to hold no secret."""
    shown_names = {
        sources.env_name(option)
        for settings in COMMANDS.values()
        for option in options(settings)
        if not option.value_type.secret
    }
    return [
        f"{name}={value if name in shown_names or _PUBLIC_NAME.fullmatch(name) else REMOVED}"
        for name, value in entries
    ]
