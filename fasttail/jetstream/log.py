"""A JetStream stream as an ordered log: created with stated limits, appended to by compare-and-set, read.

A client of NATS is used for one session only. When its connection is lost, it is closed and nothing of it is
used again: what was on its way may or may not have been stored, which the next session learns from it.
"""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import (
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError

from fasttail.jetstream.entry import HEADER, Entry, EntryError
from fasttail.monitoring.rate_limit import RateLimit
from fasttail.sources.cursor import BlockPosition
from fasttail.system.tasks import cancel_tasks

EXPECTED_HEADER = "Nats-Expected-Last-Sequence"
EXPECTED_ID_HEADER = "Nats-Expected-Last-Msg-Id"
ID_HEADER = "Nats-Msg-Id"
MAX_UNANSWERED = 64
"""Entries of a stream without replicas that are on their way."""
HEADROOM_BYTES = 4096
"""Of a message's limit that is left for headers, which the client does not count."""
MIN_BODY_BYTES = 512
CONFLICTS = {10070, 10071}
"""Wrong last message, or wrong last sequence."""
_HINTS = {
    10047: " (lower nats_max_bytes, or raise the server's max_file_store)",
    10059: " (nobody has published yet)",
}
REPEAT_S = 60.0
"""Until a failure that has not changed is logged again."""
TIMEOUT_S = 5.0
CLOSE_TIMEOUT_S = 1.0
PING_S = 5
MAX_FOREIGN_MESSAGES = 100
MAX_PENDING_BYTES = 64 << 20
"""Of messages that were not read yet. The server waits at 32 MB; beyond this, reading begins anew."""
MAX_TAKEN = 64
"""Of messages that were taken from the client, which counts them as read."""
PROBE_S = 5.0
"""After which a reader that gets nothing asks where the stream ends."""

log = logging.getLogger(__name__)


class LogError(Exception):
    """Why a stream cannot be used now; another session may succeed."""


class LogConfigError(Exception):
    """A stream that exists with other settings, or that holds something else."""


class ConflictError(LogError):
    """Someone else has appended an entry there."""


@dataclass
class SessionStats:
    """What all sessions with a stream have done together."""

    state: str = "connecting"
    entries: int = 0
    bytes: int = 0
    events: int = 0
    gaps: int = 0
    failures: int = 0
    error: str = ""

    def __post_init__(self) -> None:
        self._logged = ""  # the failure that was logged last
        self._limit = RateLimit(REPEAT_S)

    def note_failure(self, stream: str, error: str, *, refused: bool = False) -> None:
        """Note why a session has ended. Log it, but once a minute if it ends all sessions soon.

        refused: only the operator can help
        """
        self.failures += 1
        if error != self._logged:
            self._limit.reset()
        if error != self.error and self._limit.ready():
            self._logged = error
            if refused:
                log.error("nats: stream %s is not published: %s", stream, error)
            else:
                log.warning("nats: stream %s: %s; trying again", stream, error)
        self.state, self.error = "refused" if refused else "connecting", error


@dataclass(frozen=True)
class ServerOptions:
    """The NATS servers, of one cluster. prefix: of the streams' subjects, such as `hl.mainnet`"""

    urls: tuple[str, ...]
    prefix: str
    credentials: Path | None = None
    ca: Path | None = None

    def subject(self, stream: str) -> str:
        """Return the subject of a node's stream, such as `hl.mainnet.orders`."""
        return f"{self.prefix}.{stream}"

    def name(self, stream: str) -> str:
        """Return the name of its JetStream stream, such as `HL_MAINNET_ORDERS`."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.subject(stream)).replace(".", "_").upper()


@dataclass(frozen=True)
class Limits:
    """What a JetStream stream keeps, and on how many servers."""

    max_age_s: float
    max_bytes: int
    replicas: int = 1


def share_bytes(total: int, streams: Sequence[str]) -> dict[str, int]:
    """Divide bytes among streams: four fifths to the orders, the rest in equal parts to the others."""
    others = [stream for stream in streams if stream != "orders"]
    if len(others) == len(streams):
        return {stream: total // len(streams) for stream in streams}
    shares = {stream: total // 5 // len(others) for stream in others}
    return {"orders": total - sum(shares.values()), **shares}


class Log:
    """One session with a stream. Made by `open_log`."""

    def __init__(self, client: Client, options: ServerOptions, stream: str, lost: asyncio.Event) -> None:
        self._client = client
        self.name = options.name(stream)
        self._subject = options.subject(stream)
        self._jetstream = client.jetstream(timeout=TIMEOUT_S)
        self._lost = lost
        self._answers: dict[str, asyncio.Future[int]] = {}
        self._inbox = client.new_inbox()
        self._count = 0
        self.max_unanswered = 1  # entries on their way

    @property
    def max_body(self) -> int:
        """Bytes of a body that the server accepts."""
        return self._client.max_payload - HEADROOM_BYTES

    async def create(self, limits: Limits) -> None:
        """Create the stream if there is none. Raises LogConfigError, LogError."""
        if self.max_body < MIN_BODY_BYTES:
            raise LogConfigError(
                f"the server's max_payload of {self._client.max_payload} bytes is too small: raise it to "
                f"{HEADROOM_BYTES + MIN_BODY_BYTES} or more"
            )
        wanted = StreamConfig(
            name=self.name,
            subjects=[self._subject],
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.OLD,
            max_age=limits.max_age_s,
            max_bytes=limits.max_bytes,
            num_replicas=limits.replicas,
        )
        self.max_unanswered = MAX_UNANSWERED if limits.replicas == 1 else 1
        with _errors():
            try:
                found = (await self._jetstream.stream_info(self.name)).config
            except NotFoundError:
                await self._jetstream.add_stream(wanted)
                log.info("nats: created stream %s of subject %s", self.name, self._subject)
                return
        names = ("subjects", "storage", "retention", "discard", "max_age", "max_bytes", "num_replicas")
        for name in names:
            has, expected = getattr(found, name), getattr(wanted, name)
            if has != expected:
                raise LogConfigError(
                    f"stream {self.name} exists with {name} {_show(has)}, not {_show(expected)}: "
                    "change the settings, or edit or delete the stream"
                )
        for name in ("max_msgs", "max_msgs_per_subject", "max_msg_size"):
            if (limit := getattr(found, name) or -1) > 0:
                raise LogConfigError(
                    f"stream {self.name} exists with {name} {limit}, not without this limit: "
                    "edit or delete the stream"
                )

    async def last(self) -> tuple[int, Entry | None]:
        """Return the sequence of the last message, and the last entry, None if there is none.

        Raises LogError, LogConfigError if others publish to the stream.
        """
        with _errors():
            state = (await self._jetstream.stream_info(self.name)).state
            at = state.last_seq
            while at >= max(1, state.first_seq) and state.messages:
                if state.last_seq - at >= MAX_FOREIGN_MESSAGES:
                    raise LogConfigError(
                        f"the last {MAX_FOREIGN_MESSAGES} messages of {self.name} are no entries of fasttail"
                    )
                entry = await self._entry_at(at)
                if entry is not None:
                    return state.last_seq, entry
                at -= 1
            return state.last_seq, None

    async def first_after(self, position: BlockPosition | None) -> int:
        """Return the sequence of the first entry that ends after a position; None: of the first one kept.

        Returns that of the next entry if there is none. Raises LogError.
        """
        with _errors():
            state = (await self._jetstream.stream_info(self.name)).state
            low, high = max(1, state.first_seq), state.last_seq + 1
            while position is not None and low < high:
                middle = (low + high) // 2
                at, entry = middle, await self._entry_at(middle)
                while entry is None and at > low:
                    at -= 1
                    entry = await self._entry_at(at)
                if entry is not None and entry.last > position:
                    high = at
                else:  # or no entry from `low` to the middle: removed just now, or foreign messages
                    low = middle + 1
            return low

    async def _entry_at(self, sequence: int) -> Entry | None:
        """Return the entry with a sequence, None if there is none."""
        try:
            message = await self._jetstream.get_msg(self.name, sequence)
            return Entry.from_headers(message.headers)
        except (NotFoundError, EntryError):
            return None

    async def listen(self) -> None:
        """Begin to receive the answers to `append`."""
        with _errors():
            await self._client.subscribe(f"{self._inbox}.*", cb=self._on_answer)

    async def append(
        self,
        entry: Entry,
        body: bytes,
        after: int,
        previous: Entry | None,
        answer: asyncio.Future[int] | None,
    ) -> None:
        """Send an entry that must follow sequence `after`. Raises LogError.

        previous: the entry sent before it in this session. If another node's entry has taken its place, this
            one must not follow that, which the server checks by the message ID. With replicas it must have
            been answered instead: a replica that finds another ID than expected counts the messages
            differently after a restart (2.9), or takes no more of them (2.15).
        answer: gets the entry's own sequence, or LogError; None: JetStream does not answer
        """
        headers = {EXPECTED_HEADER: str(after), HEADER: entry.to_header()}
        if self.max_unanswered > 1:
            headers[ID_HEADER] = _id_of(entry)
            if previous is not None:
                headers[EXPECTED_ID_HEADER] = _id_of(previous)
        reply = ""
        if answer is not None:
            self._count += 1
            token = str(self._count)
            self._answers[token] = answer
            reply = f"{self._inbox}.{token}"
        with _errors():
            await self._client.publish(self._subject, body, reply=reply, headers=headers)

    async def holds(self, entry: Entry, sequence: int) -> bool:
        """Return whether an entry is stored. Raises ConflictError if another one is there, LogError."""
        with _errors():
            try:
                message = await self._jetstream.get_msg(self.name, sequence)
            except NotFoundError:
                return False
        if (message.headers or {}).get(HEADER) != entry.to_header():
            raise ConflictError("another node has appended meanwhile")
        return True

    async def until_lost(self) -> None:
        """Wait until the connection is lost. Raises LogError."""
        await self._lost.wait()
        raise LogError("the connection was lost")

    async def read(
        self, first: int, *, headers_only: bool = False
    ) -> AsyncGenerator[tuple[int, Entry | EntryError, bytes], None]:
        """Yield the entries from a sequence on, and wait for more. Raises LogError."""
        config = ConsumerConfig(
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=first, headers_only=headers_only
        )
        # Not `next_msg`, which makes a task and a timer for each message.
        messages: asyncio.Queue[Msg | None] = asyncio.Queue(MAX_TAKEN)
        with _errors():
            subscription = await self._jetstream.subscribe(
                self._subject, stream=self.name, ordered_consumer=True, config=config, cb=messages.put,
                pending_bytes_limit=MAX_PENDING_BYTES,
            )  # fmt: skip
        waking = asyncio.create_task(self._wake(messages))
        try:
            expected, begun, overdue, quiet_since = first, False, False, time.monotonic()
            while True:
                message = await messages.get()
                if message is None:
                    if self._lost.is_set():
                        raise LogError("the connection was lost")
                    if time.monotonic() - quiet_since > PROBE_S:
                        ahead = await self._messages_from(expected)
                        if ahead < 0 or (ahead > 0 and overdue):
                            raise LogError(f"message {expected} does not come")
                        overdue, quiet_since = ahead > 0, time.monotonic()
                    continue
                with _errors():
                    sequence = message.metadata.sequence.stream
                # The first one may be later if the oldest have just been removed. Whatever else is out of
                # turn, the client has lost messages, or the stream is another one.
                if sequence < expected or (begun and sequence != expected):
                    raise LogError(f"message {sequence} came in the place of {expected}")
                expected, begun, overdue, quiet_since = sequence + 1, True, False, time.monotonic()
                try:
                    entry: Entry | EntryError = Entry.from_headers(message.headers)
                except EntryError as error:
                    entry = error
                yield sequence, entry, message.data
        finally:
            await cancel_tasks([waking])
            with suppress(NatsError, TimeoutError, OSError):
                await asyncio.wait_for(subscription.unsubscribe(), 1.0)

    async def _wake(self, messages: asyncio.Queue[Msg | None]) -> None:
        """Put None where nothing comes, each second, and when the connection is lost."""
        while not self._lost.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._lost.wait(), 1.0)
            if messages.empty():
                messages.put_nowait(None)
        await messages.put(None)

    async def _messages_from(self, sequence: int) -> int:
        """Return how many messages there are from a sequence on; less than 0 if the stream ends before it."""
        with _errors():
            last = (await self._jetstream.stream_info(self.name)).state.last_seq
        return last + 1 - sequence

    async def _on_answer(self, message: Msg) -> None:
        answer = self._answers.pop(message.subject.rpartition(".")[2], None)
        if answer is None or answer.done():
            return
        try:
            data: dict[str, Any] = orjson.loads(message.data)
            error = data.get("error")
            if error is None:
                answer.set_result(int(data["seq"]))
                return
            failure = LogError(f"JetStream refused an entry: {error.get('description', error)}")
            if error.get("err_code") in CONFLICTS:
                failure = ConflictError(str(error.get("description")))
        except (ValueError, KeyError, TypeError, AttributeError):  # such as the empty answer of a 503
            failure = LogError(f"JetStream did not take an entry: {dict(message.headers or {})}")
        answer.set_exception(failure)


def _id_of(entry: Entry) -> str:
    return f"{entry.last.height}-{entry.last.events}-{entry.node}-{entry.written_ms}"


@contextmanager
def _errors(problems: Sequence[str] = ()) -> Iterator[None]:
    """Turn the client's errors into LogError. problems: what the client has reported meanwhile"""
    try:
        yield
    except APIError as error:
        if not error.description:  # a bare 503
            raise LogError("no JetStream answers: it may not be enabled on the server") from error
        raise LogError(
            f"JetStream answers: {error.description}{_HINTS.get(error.err_code or 0, '')}"
        ) from error
    except TimeoutError as error:
        raise LogError(next(iter(problems), f"no answer within {TIMEOUT_S:g} s")) from error
    except (NatsError, OSError, ValueError, asyncio.InvalidStateError) as error:
        text = str(error) or type(error).__name__
        raise LogError(next((each for each in problems if each not in text), text)) from error


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(getattr(value, "value", value))


@asynccontextmanager
async def open_log(options: ServerOptions, stream: str) -> AsyncIterator[Log]:
    """Connect, for one session with a node's stream. Raises LogError if there is no server, or it refuses."""
    lost = asyncio.Event()
    problems: list[str] = []

    async def on_lost() -> None:
        lost.set()

    async def on_error(error: Exception) -> None:
        problems.append(str(error) or type(error).__name__)

    more: dict[str, Any] = {**_login(options.urls)}
    if options.credentials is not None:
        _check_credentials(options.credentials)
        more["user_credentials"] = str(options.credentials)
    if any(url.startswith("tls://") for url in options.urls):
        more["tls"] = _tls_context(options.ca)
    client = Client()
    try:
        with _errors(problems):
            try:
                await client.connect(
                    list(options.urls),
                    name="fasttail",
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    connect_timeout=int(TIMEOUT_S),
                    ping_interval=PING_S,
                    max_outstanding_pings=2,
                    pending_size=0,  # what waits is bounded by those who append
                    disconnected_cb=on_lost,
                    closed_cb=on_lost,
                    error_cb=on_error,
                    **more,
                )
            except (NatsError, TimeoutError, OSError):
                raise
            except Exception as error:  # the client does not expect every kind of file or answer
                raise LogError(f"cannot connect: {type(error).__name__}: {error}") from error
        yield Log(client, options, stream, lost)
    finally:
        with suppress(Exception):
            await asyncio.wait_for(client.close(), CLOSE_TIMEOUT_S)
        _abort(client)


def _abort(client: Client) -> None:
    """Close the socket of a client, which `close` leaves open if it could not send what waits."""
    writer = getattr(getattr(client, "_transport", None), "_io_writer", None)
    if writer is not None:
        writer.transport.abort()


def _login(urls: Sequence[str]) -> dict[str, str]:
    """Return the user and the password that all URLs have, decoded, which the client does not do."""
    logins = {(parts.username, parts.password) for parts in map(urlsplit, urls)}
    user, password = logins.pop()
    if logins or user is None or password is None:
        return {}
    return {"user": unquote(user), "password": unquote(password)}


def _check_credentials(path: Path) -> None:
    """Check that a file has both parts, for which the client looks without end. Raises LogError."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise LogError(f"cannot read {path}: {error}") from None
    if "BEGIN NATS USER JWT" not in text or "BEGIN USER NKEY SEED" not in text:
        raise LogError(f"{path} is no credentials file of a NATS user")


@cache
def _tls_context(ca: Path | None) -> ssl.SSLContext:
    """Raises LogError."""
    try:
        return ssl.create_default_context(cafile=ca and str(ca))
    except OSError as error:  # ssl.SSLError is one
        raise LogError(f"cannot read certificates from {ca}: {error.strerror or error}") from None
