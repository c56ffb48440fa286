"""Defines the settings of every command, from which options, variables and file keys are derived.

A field of these classes is a setting, and its class determines which commands have it. `loading.load` fills
them in. Direct construction does not validate values: `ServeSettings(data_dir=Path("data"), port=0)`.
"""

# ruff: noqa: RUF009 (the fields' defaults are made by _option, which returns dataclasses.field)

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fasttail.config import value_types as types
from fasttail.config.value_types import Network, SymbolFilter, ValueType
from fasttail.sources.layout import Layout
from fasttail.system.cores import default_workers


class ConfigError(Exception):
    """An error in the user's settings. One line names the setting, where it was given and
    what was expected.
    """


@dataclass(frozen=True)
class Option:
    """A setting: `name` in a file, FASTTAIL_NAME in the environment, --name with hyphens as an option."""

    name: str
    dest: str
    value_type: ValueType
    help: str
    positional: bool = False
    file_only: bool = False
    debugging: bool = False
    short: str = ""  # the letter of an option with one dash


def _option(
    value_type: ValueType,
    help: str,
    *,
    default: Any = dataclasses.MISSING,
    factory: Callable[[], Any] | None = None,
    name: str = "",
    positional: bool = False,
    file_only: bool = False,
    debugging: bool = False,
    short: str = "",
) -> Any:
    """Declare a field as a setting. Without `default` and `factory` it is required."""
    metadata = {"option": Option(name, "", value_type, help, positional, file_only, debugging, short)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options(settings: type[Settings]) -> list[Option]:
    """Return the settings of a command in the order of their declaration."""
    return [
        dataclasses.replace(option, name=option.name or field.name, dest=field.name)
        for field in dataclasses.fields(settings)
        if (option := field.metadata.get("option")) is not None
    ]


_FOLDER = types.path("a folder", "DATA_DIR")
_LAYOUTS = get_args(Layout)
_SUBJECT = r"[A-Za-z0-9_-]{1,32}(\.[A-Za-z0-9_-]{1,32}){0,3}"


STREAMS = ("orders", "fills")
"""The node's streams that can be parsed and served: those of `streams.registry`, which is compiled."""


def _parsed_stream(word: str) -> str:
    if word not in STREAMS:
        raise ValueError
    return word


def _host_name() -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:64] or "node"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that all commands have.

    sources: where the value of each setting comes from.
    notices: one line for each given value that has no effect.
    """

    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    notices: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    config: Path | None = _option(
        types.path("a file", "FILE"), "file of settings: .toml, .yaml, .yml or .json", default=None
    )

    def check(self) -> None:
        """Raise ConfigError if settings that are valid individually contradict each other."""

    def ineffective_settings(self) -> list[str]:
        """Return one line for each given setting that has no effect without another one."""
        return []


@dataclass(frozen=True, kw_only=True)
class _ParsingSettings(Settings):
    """Settings of the commands that parse the node's lines."""

    workers: int = _option(
        types.integer(1, 256),
        "parser threads (default: usable cores - 1, at least 1)",
        factory=default_workers,
    )
    block_size: int = _option(types.size(high=1 << 30), "bytes read at a time", default=1 << 20)
    max_line: int = _option(
        types.size(low=1 << 10, high=1 << 32),
        "maximum line length; longer lines are skipped and counted",
        default=64 << 20,
    )


@dataclass(frozen=True, kw_only=True)
class _FollowingSettings(_ParsingSettings):
    """Settings of the commands that follow a node's folder."""

    data_dir: Path = _option(_FOLDER, "the node's data folder, such as ~/hl/data", positional=True)
    layout: Literal["auto"] | Layout = _option(
        types.choice("auto", *_LAYOUTS),
        "which of the node's layouts to follow; auto: the one that is being written",
        default="auto",
    )
    start: Literal["end", "hour", "oldest", "checkpoint"] = _option(
        types.choice("end", "hour", "oldest"), "where to start reading", default="end", name="from"
    )
    grace_s: float = _option(
        types.number(metavar="S"), "seconds for which the previous hour's file is still watched", default=5.0
    )
    rescan_s: float = _option(
        types.number(0.01, "S"), "seconds between two scans of the folders", default=1.0
    )
    inotify: bool = _option(types.boolean(), "use inotify instead of polling", default=True)


@dataclass(frozen=True, kw_only=True)
class _FilterSettings(Settings):
    """Filters of the commands that print orders. An unset filter passes everything."""

    coin: tuple[str, ...] = _option(
        types.comma_list("coins' names", "COIN,..."), "only these coins", default=()
    )
    side: Literal["A", "B"] | None = _option(
        types.choice("A", "B"), "only asks (A) or only bids (B)", default=None
    )
    status: tuple[str, ...] = _option(
        types.comma_list("statuses", "STATUS,..."), "only these statuses, such as open,filled", default=()
    )
    user: str | None = _option(
        types.address(),
        "only orders of this address",
        default=None,
    )
    min_notional: float | None = _option(
        types.number(metavar="USD"),
        "only orders whose limit price x original size is at least this",
        default=None,
    )


@dataclass(frozen=True, kw_only=True)
class _NatsSettings(Settings):
    """Settings of the commands that use NATS JetStream."""

    streams: tuple[str, ...] = _option(
        types.comma_list("streams", "STREAM,...", _parsed_stream),
        "which of the node's streams to relay",
        default=STREAMS,
    )
    nats_prefix: str = _option(
        types.text("words of letters, digits, _ and -, with dots between them", "WORDS", _SUBJECT),
        "what the subjects in NATS begin with; orders are in hl.mainnet.orders",
        default="hl.mainnet",
    )
    nats_credentials: Path | None = _option(
        types.path("a file", "FILE"), "credentials file of a NATS user (.creds)", default=None
    )
    nats_ca: Path | None = _option(
        types.path("a file", "FILE"),
        "certificates of the authorities that sign those of the NATS servers, as PEM (default: the system's)",
        default=None,
    )
    relay_keep: int = _option(
        types.size(low=1 << 20, high=1 << 50),
        "bytes of hour files that a relay keeps; the hour being written is never deleted",
        default=50 << 30,
    )

    def check(self) -> None:
        for name, path in (("nats_credentials", self.nats_credentials), ("nats_ca", self.nats_ca)):
            if path is not None and not path.is_file():
                raise ConfigError(f"{name}: {path} is no file")


@dataclass(frozen=True, kw_only=True)
class ServeSettings(_NatsSettings, _FollowingSettings):
    """Settings of `fasttail serve`."""

    start: Literal["end", "hour", "oldest", "checkpoint"] = _option(
        types.choice("end", "hour", "oldest", "checkpoint"),
        "where to start reading: at the end of the newest file, at its start, at the start of the oldest, "
        "or at the checkpoint (at the end if there is none)",
        default="checkpoint",
        name="from",
    )
    state_dir: Path | None = _option(
        types.path("a folder", "DIR"),
        "folder of the checkpoint, from which reading resumes after a stop or a crash "
        "(default: no checkpoint)",
        default=None,
    )
    replayed_blocks: Literal["drop", "deliver"] = _option(
        types.choice("drop", "deliver"),
        "what to do with the events of blocks that a restarted node writes again",
        default="drop",
    )
    host: str = _option(
        types.text("a host name or an address", "HOST"), "address to listen on", default="127.0.0.1"
    )
    port: int = _option(types.integer(0, 65535), "port to listen on; 0: any free one", default=8000)
    streams: tuple[str, ...] = _option(
        types.comma_list("streams", "STREAM,...", _parsed_stream),
        "which of the node's streams to serve; all but orders are read only while there are subscriptions",
        default=STREAMS,
    )
    log_level: Literal["debug", "info", "warning", "error"] = _option(
        types.choice("debug", "info", "warning", "error"), "minimum log level", default="info"
    )
    log_format: Literal["text", "json"] = _option(
        types.choice("text", "json"),
        "lines of the log as text, or as an object each, with what is in them as fields",
        default="text",
    )
    log_batches: Literal["second", "all", "summary"] = _option(
        types.choice("second", "all", "summary"),
        "log one batch per second, all of them, or one summary line per second",
        default="second",
    )
    max_message: int = _option(
        types.size(low=64 << 10, high=64 << 20), "maximum size of a WebSocket message sent", default=256 << 10
    )
    client_queue: int = _option(
        types.size(low=64 << 10, high=1 << 30),
        "bytes queued for one client before it is served from the files, or closed",
        default=1 << 20,
    )
    queues_total: int = _option(
        types.size(low=1 << 20, high=1 << 40),
        "bytes queued for all clients together before those with the longest queues get no more",
        default=256 << 20,
    )
    max_clients: int = _option(
        types.integer(1, 100_000), "maximum number of concurrent clients", default=1000
    )
    max_subscriptions: int = _option(
        types.integer(1, 100_000), "maximum number of subscriptions per connection", default=1000
    )
    subscription_budget: int = _option(
        types.integer(1, 100_000_000),
        "cost limit of all subscriptions on /ws together, in units",
        default=100_000,
    )
    subscription_budget_per_client: int = _option(
        types.integer(1, 100_000_000),
        "cost limit of the subscriptions of one connection, in units",
        default=10_000,
    )
    max_replays: int = _option(
        types.integer(1, 64),
        "maximum number of concurrent replays from the files, for subscriptions that are behind",
        default=4,
    )
    max_behind_s: float = _option(
        types.number(1.0, "S"),
        "seconds that a subscription may lag before it skips to the newest order, with a gap",
        default=3600.0,
    )
    max_clients_per_ip: int = _option(
        types.integer(0, 100_000),
        "maximum number of concurrent clients per address; 0: unlimited",
        default=100,
    )
    trusted_proxies: tuple[Network, ...] = _option(
        types.networks(), "proxies whose X-Forwarded-For names the client's address", default=()
    )
    max_messages_per_minute: int = _option(
        types.integer(0, 1_000_000),
        "messages per minute accepted from a client before it is closed; 0: unlimited",
        default=2000,
    )
    idle_timeout_s: float = _option(
        types.number(metavar="S"),
        "seconds after which an idle client without subscriptions is closed; 0: never",
        default=300.0,
    )
    ping_interval_s: float = _option(
        types.number(1.0, "S"),
        "seconds without data sent to a client after which it is pinged",
        default=20.0,
    )
    token_file: Path | None = _option(
        types.path("a file", "FILE"), "file with the token that clients must send", default=None
    )
    allowed_origins: tuple[str, ...] = _option(
        types.origins(), "only web pages of these origins may connect (default: all)", default=()
    )
    tls_cert: Path | None = _option(
        types.path("a file", "FILE"), "TLS certificate with its chain, as PEM", default=None
    )
    tls_key: Path | None = _option(
        types.path("a file", "FILE"), "private key of the certificate", default=None
    )
    compression: bool = _option(
        types.boolean(), "offer compression to clients (permessage-deflate)", default=False
    )
    page: Literal["on", "off"] = _option(
        types.choice("on", "off"), "serve a page of live figures at /", default="on"
    )
    batch_interval_ms: int = _option(
        types.integer(1, 60_000), "milliseconds between two messages of orderBatch", default=500
    )
    min_batch_us: int = _option(
        types.integer(0, 1_000_000),
        "minimum microseconds between two batches, so that lines accumulate",
        default=500,
    )
    batch_timeout_s: float = _option(
        types.number(0.1, "S"), "seconds after which a batch counts as hung", default=30.0
    )
    stale_after_s: float = _option(
        types.number(0.1, "S"), "seconds without new data after which /health answers 503", default=60.0
    )
    stall_after_s: float = _option(
        types.number(1.0, "S"),
        "seconds without progress after which /health/live answers 503, and the process restarts in place",
        default=30.0,
    )
    memory_limit_mb: float | None = _option(
        types.number(metavar="MB"),
        "shed, then restart in place past this much memory (1 MB = 1024 x 1024 bytes); 0: never "
        "(default: 80 % of the container's limit)",
        default=None,
    )
    memory_window_s: float = _option(
        types.number(1.0, "S"), "seconds over which memory must grow linearly for an alert", default=600.0
    )
    memory_warmup_s: float = _option(
        types.number(metavar="S"), "seconds after the start that are ignored", default=120.0
    )
    max_restarts_per_hour: int = _option(
        types.integer(0, 1000),
        "maximum number of restarts in place per hour, after which there are only alerts; 0: none",
        default=6,
    )
    alert_webhook: str | None = _option(types.url(), "URL to which alerts are posted, as JSON", default=None)
    nats_url: tuple[str, ...] = _option(
        types.nats_urls(),
        "publish the streams to NATS JetStream, at these servers of one cluster",
        default=(),
    )
    from_nats: tuple[str, ...] = _option(
        types.nats_urls(),
        "take the streams from NATS JetStream, and write them to the data folder, as `relay` does",
        default=(),
    )
    nats_node: str = _option(
        types.text("letters, digits, _, - and ., at most 64", "NAME", r"[A-Za-z0-9_.-]{1,64}"),
        "name of this node in what it publishes (default: the host's name)",
        factory=_host_name,
    )
    nats_max_age_s: float = _option(
        types.number(60.0, "S"), "seconds for which the streams in NATS keep lines", default=21600.0
    )
    nats_max_bytes: int = _option(
        types.size(low=1 << 20, high=1 << 50), "bytes that all streams in NATS keep", default=50 << 30
    )
    nats_replicas: int = _option(
        types.integer(1, 5), "servers of a NATS cluster that keep the streams", default=1
    )
    nats_linger_ms: float = _option(
        types.number(metavar="MS", high=1000.0),
        "minimum milliseconds between two entries of a stream",
        default=5.0,
    )
    takeover_ms: float = _option(
        types.number(100.0, "MS"),
        "milliseconds without another node's lines after which this node publishes",
        default=1000.0,
    )
    symbols_config: tuple[SymbolFilter, ...] = _option(
        types.symbols(), "coins to broadcast, with their minimum price x size", default=(), file_only=True
    )
    debug_leak: float = _option(
        types.number(metavar="MB_PER_S"), "leak this much memory a second", default=0.0, debugging=True
    )
    debug_leak_c: float = _option(
        types.number(metavar="MB_PER_S"), "the same with malloc, in C", default=0.0, debugging=True
    )
    debug_stall: float = _option(
        types.number(metavar="S"), "let one batch hang for this long", default=0.0, debugging=True
    )

    def check(self) -> None:
        super().check()
        if self.client_queue < self.max_message:
            raise ConfigError(
                f"client_queue ({types.show_size(self.client_queue)}) must hold at least one message "
                f"(max_message is {types.show_size(self.max_message)})"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise ConfigError(f"{given} is given but {missing} is not: TLS needs both")
        if "orders" not in self.streams:
            raise ConfigError('streams must contain "orders"')
        if self.nats_url and self.from_nats:
            raise ConfigError("nats_url and from_nats contradict each other: a relay does not publish")

    def ineffective_settings(self) -> list[str]:
        found = []
        if (
            self.sources.get("from", "default") != "default"
            and self.start == "checkpoint"
            and not self.state_dir
        ):
            found.append("from = checkpoint has no effect without state_dir: reading begins at the end")
        if self.trusted_proxies and not self.max_clients_per_ip:
            found.append(
                "trusted_proxies has no effect on max_clients_per_ip, which is 0: "
                "the number of clients is unlimited"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class TailSettings(_FilterSettings, _FollowingSettings):
    """Settings of `fasttail tail`."""

    start: Literal["end", "hour", "oldest"] = _option(
        types.choice("end", "hour", "oldest"),
        "where to start reading: at the end of the newest file, at its start, or at the start of the oldest",
        default="end",
        name="from",
    )
    follow: bool = _option(
        types.boolean(), "keep following when the end of the data is reached", default=True
    )
    stream: Literal["orders", "fills"] = _option(
        types.choice(*STREAMS), "the stream to follow", default="orders"
    )
    format: Literal["json", "raw"] = _option(
        types.choice("json", "raw"), "one flat JSON object per event, or the node's own line", default="json"
    )


@dataclass(frozen=True, kw_only=True)
class RelaySettings(_NatsSettings):
    """Settings of `fasttail relay`."""

    nats_url: tuple[str, ...] = _option(
        types.nats_urls(), "the NATS servers, of one cluster", positional=True
    )
    directory: Path = _option(
        types.path("a folder", "DIR"), "where to write the node's folder", positional=True
    )
    log_level: Literal["debug", "info", "warning", "error"] = _option(
        types.choice("debug", "info", "warning", "error"), "minimum log level", default="info"
    )

    def check(self) -> None:
        super().check()
        if not self.nats_url:
            raise ConfigError("nats_url is empty")


@dataclass(frozen=True, kw_only=True)
class ParseSettings(_FilterSettings, _ParsingSettings):
    """Settings of `fasttail parse`."""

    files: tuple[str, ...] = dataclasses.field(default=())
    stream: Literal["orders", "fills"] | None = _option(
        types.choice(*STREAMS),
        "the stream that the files hold (default: by the first one's folder, else by its first event)",
        default=None,
    )
    format: Literal["json", "raw", "none"] = _option(
        types.choice("json", "raw", "none"),
        "one flat JSON object per event, the node's own line, or nothing",
        default="json",
    )
    stats: bool = _option(
        types.boolean(), "print statistics as one line of JSON on standard error at the end", default=False
    )


@dataclass(frozen=True, kw_only=True)
class SynthSettings(Settings):
    """Settings of `fasttail synth`."""

    directory: Path = _option(
        types.path("a folder", "DIR"), "where to create the node's folder", positional=True
    )
    rate: float | None = _option(
        types.rate(), "order statuses a second; with --lines, max if not given", default=23_500.0
    )
    lines: int | None = _option(types.integer(0), "stop after this many order statuses", default=None)
    seconds: float | None = _option(types.number(metavar="S"), "stop after this time", default=None)
    layout: Layout = _option(types.choice(*_LAYOUTS), "the node's layout to write", default="streaming")
    seed: int = _option(types.integer(0), "the same seed gives the same orders", default=1)
    hour_seconds: float | None = _option(
        types.number(0.1, "S"), "length of an hour, to see file rotation sooner", default=None
    )
    torn: bool = _option(
        types.boolean(), "write in blocks that cut lines anywhere, as a buffering node does", default=False
    )
    streams: tuple[str, ...] = _option(
        types.comma_list("streams' names", "STREAM,..."),
        "what to write: orders, fills, nodeTrades, bookDiffs, twapStatuses, miscEvents, oracleUpdates, "
        "writerActions, or all",
        default=("orders",),
    )
    resting: int = _option(types.integer(0, 10_000_000), "orders in the books at the start", default=20_000)
    rejected: float = _option(
        types.number(metavar="SHARE"), "share of the orders that are rejected, at most 0.9", default=0.6055
    )
    first_height: int = _option(types.integer(1), "number of the first block", default=1_019_927_126)
    funding_deltas: int = _option(
        types.integer(0, 10_000_000), "least number of entries in an hourly Funding line", default=0
    )
    long_sides: bool = _option(
        types.boolean(), "write Bid and Ask instead of B and A in book diffs", default=False
    )
    second_node: Path | None = _option(
        types.path("a folder", "DIR"), "folder of a second node of the same chain", default=None
    )
    fault: tuple[str, ...] = _option(
        types.comma_list("faults", "NAME@TIME"),
        "what goes wrong in the node, so many seconds after its start",
        default=(),
    )
    truth: Path | None = _option(
        types.path("a folder", "DIR"), "folder for the true books and trades at the end", default=None
    )
    info_port: int | None = _option(
        types.integer(0, 65535),
        "port of a stand-in for the node's info server; 0: any free one",
        default=None,
    )
    prepare: Path | None = _option(
        types.path("a file", "FILE"), "write the blocks to this file, for --replay", default=None
    )
    replay: Path | None = _option(
        types.path("a file", "FILE"), "write the blocks of this file instead of new ones", default=None
    )


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """Settings of `fasttail demo`."""

    seconds: float | None = _option(types.number(metavar="S"), "stop after this time", default=None)
    rate: float | None = _option(types.rate(), "lines a second", default=5000.0)
    host: str = _option(
        types.text("a host name or an address", "HOST"), "address to listen on", default="127.0.0.1"
    )
    port: int = _option(types.integer(0, 65535), "port to listen on; 0: any free one", default=0)
    workers: int = _option(
        types.integer(1, 256),
        "parser threads (default: usable cores - 1, at least 1)",
        factory=default_workers,
    )
    layout: Layout = _option(types.choice(*_LAYOUTS), "the node's layout to write", default="streaming")
    seed: int = _option(types.integer(0), "the same seed gives the same orders", default=1)
    hour_seconds: float | None = _option(
        types.number(0.1, "S"), "length of an hour, to see file rotation sooner", default=None
    )


@dataclass(frozen=True, kw_only=True)
class _InspectionSettings(Settings):
    """Settings of the commands that inspect a server from outside. FASTTAIL_TOKEN may hold its token."""

    container: str | None = _option(
        types.text("a container's name or id", "NAME", "[A-Za-z0-9][A-Za-z0-9_.-]*"),
        "container to inspect, with the docker command",
        default=None,
    )
    log: str | None = _option(
        types.text("a file, or - for standard input", "FILE"),
        "the server's log; - for standard input",
        default=None,
    )
    url: str | None = _option(
        types.base_url(),
        "URL of the server, such as http://127.0.0.1:8000 (default: the container's port)",
        default=None,
    )
    pid: int | None = _option(
        types.integer(1, 1 << 22), "the server's process, on this machine", default=None
    )
    token_file: Path | None = _option(
        types.path("a file", "FILE"), "file with the server's token", default=None
    )


@dataclass(frozen=True, kw_only=True)
class VerifySettings(_InspectionSettings):
    """Settings of `fasttail verify`."""

    minutes: float = _option(
        types.number(metavar="N"), "minutes to watch; 0: check what is there and exit", default=5.0
    )
    since: str | None = _option(
        types.text("a time like 90s, 15m or 1h", "TIME", "[0-9]+[smh]"),
        "read the container's log from this long ago (default: from now on)",
        default=None,
    )
    json: bool = _option(types.boolean(), "print the result as JSON", default=False)


@dataclass(frozen=True, kw_only=True)
class BundleSettings(_InspectionSettings):
    """Settings of `fasttail bundle`. Its `config` is also the server's."""

    output: Path | None = _option(
        types.path("a file", "FILE"),
        "the archive (default: fasttail-bundle-TIME.tar.gz in the current folder)",
        default=None,
        short="o",
    )
    data_dir: Path | None = _option(
        _FOLDER, "the node's data folder, to list its newest hours (default: the container's)", default=None
    )
    log_mb: int = _option(types.integer(1, 256), "MB to include from the end of the log", default=8)


COMMANDS: dict[str, type[Settings]] = {
    "serve": ServeSettings,
    "tail": TailSettings,
    "relay": RelaySettings,
    "parse": ParseSettings,
    "synth": SynthSettings,
    "demo": DemoSettings,
    "verify": VerifySettings,
    "bundle": BundleSettings,
}
