"""The settings of every command: one table, from which options, environment variables and file keys are made.

A field of these classes is a setting; its place in a class says which commands have it. `sources.load`
fills them in. Built directly, they take values as they are: `ServeSettings(data_dir=Path("data"), port=0)`.
"""

# ruff: noqa: RUF009 (the fields' defaults are made by _option, which returns dataclasses.field)

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fasttail.config import values as kinds
from fasttail.config.values import Kind, Network, SymbolFilter
from fasttail.cores import default_workers
from fasttail.tail.layout import Layout


class ConfigError(Exception):
    """A setting that the user has to mend; one line says which, where it was given and what was expected."""


@dataclass(frozen=True)
class Option:
    """How a setting is given: `name` in a file, upper case in the environment, as an option with dashes."""

    name: str
    dest: str
    kind: Kind
    help: str
    positional: bool = False
    file_only: bool = False
    debugging: bool = False
    short: str = ""  # a letter, as an option with one dash


def _option(
    kind: Kind,
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
    """A field that is a setting; without default and factory it has to be given."""
    metadata = {"option": Option(name, "", kind, help, positional, file_only, debugging, short)}
    if factory is not None:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options(settings: type[Settings]) -> list[Option]:
    """The settings of a command, in the order of the table."""
    return [
        dataclasses.replace(option, name=option.name or field.name, dest=field.name)
        for field in dataclasses.fields(settings)
        if (option := field.metadata.get("option")) is not None
    ]


_FOLDER = kinds.path("a folder", "DATA_DIR")
_LAYOUTS = get_args(Layout)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What all commands have. `sources` says for each setting where its value comes from; `notices` what was
    given and has no effect, a line each.
    """

    sources: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    notices: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    config: Path | None = _option(
        kinds.path("a file", "FILE"), "file of settings: .toml, .yaml, .yml or .json", default=None
    )

    def check(self) -> None:
        """Raises ConfigError where settings, each good by itself, do not go together."""

    def without_effect(self) -> list[str]:
        """What was given but does nothing without another setting, a line each."""
        return []


@dataclass(frozen=True, kw_only=True)
class _Reading(Settings):
    """Of the commands that read the node's lines."""

    workers: int = _option(
        kinds.whole(1, 256),
        "threads that parse (default: usable cores - 1, at least 1)",
        factory=default_workers,
    )
    block_size: int = _option(kinds.size(high=1 << 30), "bytes read at a time", default=1 << 20)
    max_line: int = _option(
        kinds.size(low=1 << 10, high=1 << 32),
        "longest line; a longer one is skipped and counted",
        default=64 << 20,
    )


@dataclass(frozen=True, kw_only=True)
class _Following(_Reading):
    """Of the commands that follow a node's folder."""

    data_dir: Path = _option(_FOLDER, "the node's data folder, such as ~/hl/data", positional=True)
    layout: Literal["auto"] | Layout = _option(
        kinds.choice("auto", *_LAYOUTS),
        "which of the node's layouts to follow; auto: the one that is being written",
        default="auto",
    )
    start: Literal["end", "hour", "oldest", "checkpoint"] = _option(
        kinds.choice("end", "hour", "oldest"), "where to begin", default="end", name="from"
    )
    grace_s: float = _option(
        kinds.number(metavar="S"), "seconds that a former hour's file is still looked after", default=5.0
    )
    rescan_s: float = _option(
        kinds.number(0.01, "S"), "seconds between two looks at the folders", default=1.0
    )
    inotify: bool = _option(
        kinds.boolean(), "hear of new data from the kernel instead of polling", default=True
    )


@dataclass(frozen=True, kw_only=True)
class _Filtering(Settings):
    """Of the commands that print orders: which. Not given, a filter passes everything."""

    coin: tuple[str, ...] = _option(kinds.words("coins' names", "COIN,..."), "only these coins", default=())
    side: Literal["A", "B"] | None = _option(
        kinds.choice("A", "B"), "only asks (A) or only bids (B)", default=None
    )
    status: tuple[str, ...] = _option(
        kinds.words("statuses", "STATUS,..."), "only these statuses, such as open,filled", default=()
    )
    user: str | None = _option(
        kinds.address(),
        "only orders of this address",
        default=None,
    )
    min_notional: float | None = _option(
        kinds.number(metavar="USD"),
        "only orders whose limit price x original size is at least this",
        default=None,
    )


@dataclass(frozen=True, kw_only=True)
class ServeSettings(_Following):
    """fasttail serve."""

    start: Literal["end", "hour", "oldest", "checkpoint"] = _option(
        kinds.choice("end", "hour", "oldest", "checkpoint"),
        "where to begin: at the end of the newest file, at its start, at the start of the oldest, or where "
        "the last run was (where state_dir does not say, as end)",
        default="checkpoint",
        name="from",
    )
    state_dir: Path | None = _option(
        kinds.path("a folder", "DIR"),
        "keep the checkpoint there: where to go on after a stop or a crash (default: none is kept)",
        default=None,
    )
    host: str = _option(
        kinds.text("a host name or an address", "HOST"), "address to listen on", default="127.0.0.1"
    )
    port: int = _option(kinds.whole(0, 65535), "port to listen on; 0: any free one", default=8000)
    log_level: Literal["debug", "info", "warning", "error"] = _option(
        kinds.choice("debug", "info", "warning", "error"), "least level that is logged", default="info"
    )
    log_format: Literal["text", "json"] = _option(
        kinds.choice("text", "json"),
        "lines of the log as text, or as an object each, with what is in them as fields",
        default="text",
    )
    log_batches: Literal["second", "all", "summary"] = _option(
        kinds.choice("second", "all", "summary"),
        "log one batch a second, all of them, or one line a second that sums them up",
        default="second",
    )
    max_message: int = _option(
        kinds.size(low=64 << 10, high=64 << 20), "longest WebSocket message sent", default=256 << 10
    )
    client_queue: int = _option(
        kinds.size(low=64 << 10, high=1 << 30),
        "bytes that may wait for one client before it is given the rest from the files, or is closed",
        default=1 << 20,
    )
    queues_total: int = _option(
        kinds.size(low=1 << 20, high=1 << 40),
        "bytes that may wait for all clients together before those with the most are given no more",
        default=256 << 20,
    )
    max_clients: int = _option(kinds.whole(1, 100_000), "clients at the same time", default=1000)
    max_subscriptions: int = _option(kinds.whole(1, 100_000), "subscriptions of one connection", default=1000)
    subscription_budget: int = _option(
        kinds.whole(1, 100_000_000), "units that all subscriptions on /ws may cost together", default=100_000
    )
    subscription_budget_per_client: int = _option(
        kinds.whole(1, 100_000_000), "units that the subscriptions of one connection may cost", default=10_000
    )
    max_replays: int = _option(
        kinds.whole(1, 64),
        "readings of the files at the same time, for subscriptions that are behind",
        default=4,
    )
    max_behind_s: float = _option(
        kinds.number(1.0, "S"),
        "seconds that a subscription may be behind before it goes on at the newest order, with a gap",
        default=3600.0,
    )
    max_clients_per_ip: int = _option(
        kinds.whole(0, 100_000), "clients at the same time from one address; 0: any number", default=100
    )
    trusted_proxies: tuple[Network, ...] = _option(
        kinds.networks(), "proxies whose X-Forwarded-For names the client's address", default=()
    )
    max_messages_per_minute: int = _option(
        kinds.whole(0, 1_000_000),
        "messages a minute taken from a client before it is closed; 0: any number",
        default=2000,
    )
    idle_timeout_s: float = _option(
        kinds.number(metavar="S"),
        "seconds after which a client that has subscribed to nothing and says nothing is closed; 0: never",
        default=300.0,
    )
    ping_interval_s: float = _option(
        kinds.number(1.0, "S"),
        "seconds after which a client to whom nothing was sent gets a ping",
        default=20.0,
    )
    token_file: Path | None = _option(
        kinds.path("a file", "FILE"), "file with the token that clients have to bring", default=None
    )
    allowed_origins: tuple[str, ...] = _option(
        kinds.origins(), "only web pages of these origins may connect (default: all)", default=()
    )
    tls_cert: Path | None = _option(
        kinds.path("a file", "FILE"), "certificate, with what leads to its root, for TLS", default=None
    )
    tls_key: Path | None = _option(kinds.path("a file", "FILE"), "the certificate's key", default=None)
    compression: bool = _option(
        kinds.boolean(), "offer clients to compress what is sent (permessage-deflate)", default=False
    )
    batch_interval_ms: int = _option(
        kinds.whole(1, 60_000), "milliseconds between two messages of orderBatch", default=500
    )
    min_batch_us: int = _option(
        kinds.whole(0, 1_000_000),
        "least microseconds from batch to batch, so that batches gather",
        default=500,
    )
    batch_timeout_s: float = _option(
        kinds.number(0.1, "S"), "seconds after which a batch counts as hanging", default=30.0
    )
    stale_after_s: float = _option(
        kinds.number(0.1, "S"), "seconds without new data after which /health answers 503", default=60.0
    )
    stall_after_s: float = _option(
        kinds.number(1.0, "S"),
        "seconds without progress after which /health/live answers 503, and the process restarts in place",
        default=30.0,
    )
    memory_limit_mb: float | None = _option(
        kinds.number(metavar="MB"),
        "shed, then restart in place past this much memory (1 MB = 1024 x 1024 bytes); 0: never "
        "(default: 80 % of the container's limit)",
        default=None,
    )
    memory_window_s: float = _option(
        kinds.number(1.0, "S"), "seconds over which memory must grow linearly for an alert", default=600.0
    )
    memory_warmup_s: float = _option(
        kinds.number(metavar="S"), "seconds after the start that are not judged", default=120.0
    )
    max_restarts_per_hour: int = _option(
        kinds.whole(0, 1000),
        "restarts in place in an hour, after which there are only alerts; 0: none",
        default=6,
    )
    alert_webhook: str | None = _option(kinds.url(), "URL to which alerts are posted, as JSON", default=None)
    symbols_config: tuple[SymbolFilter, ...] = _option(
        kinds.symbols(), "coins to broadcast, with their least price x size", default=(), file_only=True
    )
    debug_leak: float = _option(
        kinds.number(metavar="MB_PER_S"), "leak this much memory a second", default=0.0, debugging=True
    )
    debug_leak_c: float = _option(
        kinds.number(metavar="MB_PER_S"), "the same by malloc, in C", default=0.0, debugging=True
    )
    debug_stall: float = _option(
        kinds.number(metavar="S"), "let one batch hang for this long", default=0.0, debugging=True
    )

    def check(self) -> None:
        if self.client_queue < self.max_message:
            raise ConfigError(
                f"client_queue ({kinds.show_size(self.client_queue)}) must hold at least one message "
                f"(max_message is {kinds.show_size(self.max_message)})"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            given, missing = ("tls_cert", "tls_key") if self.tls_cert else ("tls_key", "tls_cert")
            raise ConfigError(f"{given} is given but {missing} is not: TLS needs both")

    def without_effect(self) -> list[str]:
        found = []
        if (
            self.sources.get("from", "default") != "default"
            and self.start == "checkpoint"
            and not self.state_dir
        ):
            found.append("from = checkpoint has no effect without state_dir: reading begins at the end")
        if self.trusted_proxies and not self.max_clients_per_ip:
            found.append(
                "trusted_proxies has no effect on max_clients_per_ip, which is 0: any number may connect"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class TailSettings(_Filtering, _Following):
    """fasttail tail."""

    start: Literal["end", "hour", "oldest"] = _option(
        kinds.choice("end", "hour", "oldest"),
        "where to begin: at the end of the newest file, at its start, or at the start of the oldest",
        default="end",
        name="from",
    )
    follow: bool = _option(kinds.boolean(), "go on when the end of the data is reached", default=True)
    format: Literal["json", "raw"] = _option(
        kinds.choice("json", "raw"), "one flat object an order, or the node's own line", default="json"
    )


@dataclass(frozen=True, kw_only=True)
class ParseSettings(_Filtering, _Reading):
    """fasttail parse."""

    files: tuple[str, ...] = dataclasses.field(default=())
    format: Literal["json", "raw", "none"] = _option(
        kinds.choice("json", "raw", "none"),
        "one flat object an order, the node's own line, or nothing",
        default="json",
    )
    stats: bool = _option(kinds.boolean(), "end with one line of JSON on standard error", default=False)


@dataclass(frozen=True, kw_only=True)
class SynthSettings(Settings):
    """fasttail synth."""

    directory: Path = _option(
        kinds.path("a folder", "DIR"), "where to make the node's folder", positional=True
    )
    rate: float | None = _option(
        kinds.rate(), "lines a second; with --lines, max if not given", default=23_500.0
    )
    lines: int | None = _option(kinds.whole(0), "end after this many lines", default=None)
    seconds: float | None = _option(kinds.number(metavar="S"), "end after this time", default=None)
    layout: Layout = _option(kinds.choice(*_LAYOUTS), "the node's layout to write", default="streaming")
    seed: int = _option(kinds.whole(0), "the same seed gives the same orders", default=1)
    hour_seconds: float | None = _option(
        kinds.number(0.1, "S"), "length of an hour, to see the file change sooner", default=None
    )
    torn: bool = _option(
        kinds.boolean(), "write in blocks that cut lines anywhere, as a buffering node does", default=False
    )


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """fasttail demo."""

    seconds: float | None = _option(kinds.number(metavar="S"), "end after this time", default=None)
    rate: float | None = _option(kinds.rate(), "lines a second", default=5000.0)
    host: str = _option(
        kinds.text("a host name or an address", "HOST"), "address to listen on", default="127.0.0.1"
    )
    port: int = _option(kinds.whole(0, 65535), "port to listen on; 0: any free one", default=0)
    workers: int = _option(
        kinds.whole(1, 256),
        "threads that parse (default: usable cores - 1, at least 1)",
        factory=default_workers,
    )
    layout: Layout = _option(kinds.choice(*_LAYOUTS), "the node's layout to write", default="streaming")
    seed: int = _option(kinds.whole(0), "the same seed gives the same orders", default=1)
    hour_seconds: float | None = _option(
        kinds.number(0.1, "S"), "length of an hour, to see the file change sooner", default=None
    )


@dataclass(frozen=True, kw_only=True)
class _Looking(Settings):
    """Of the commands that look at a server from outside. Its token may also stand in FASTTAIL_TOKEN."""

    container: str | None = _option(
        kinds.text("a container's name or id", "NAME", "[A-Za-z0-9][A-Za-z0-9_.-]*"),
        "container to look at, by the docker command",
        default=None,
    )
    log: str | None = _option(
        kinds.text("a file, or - for standard input", "FILE"),
        "the server's log; - for standard input",
        default=None,
    )
    url: str | None = _option(
        kinds.base_url(),
        "where the server answers, such as http://127.0.0.1:8000 (default: the container's port)",
        default=None,
    )
    pid: int | None = _option(kinds.whole(1, 1 << 22), "the server's process, on this machine", default=None)
    token_file: Path | None = _option(
        kinds.path("a file", "FILE"), "file with the server's token", default=None
    )


@dataclass(frozen=True, kw_only=True)
class VerifySettings(_Looking):
    """fasttail verify."""

    minutes: float = _option(
        kinds.number(metavar="N"), "how long to watch; 0: judge what there is at once", default=5.0
    )
    since: str | None = _option(
        kinds.text("a time like 90s, 15m or 1h", "TIME", "[0-9]+[smh]"),
        "take the container's log from so long ago (default: from now on)",
        default=None,
    )
    json: bool = _option(kinds.boolean(), "print the result as JSON", default=False)


@dataclass(frozen=True, kw_only=True)
class BundleSettings(_Looking):
    """fasttail bundle. Its `config` is the server's too."""

    output: Path | None = _option(
        kinds.path("a file", "FILE"),
        "the archive (default: fasttail-bundle-TIME.tar.gz in the current folder)",
        default=None,
        short="o",
    )
    data_dir: Path | None = _option(
        _FOLDER, "the node's data folder, to list its newest hours (default: the container's)", default=None
    )
    log_mb: int = _option(kinds.whole(1, 256), "MB of the log's end that are taken", default=8)


COMMANDS: dict[str, type[Settings]] = {
    "serve": ServeSettings,
    "tail": TailSettings,
    "parse": ParseSettings,
    "synth": SynthSettings,
    "demo": DemoSettings,
    "verify": VerifySettings,
    "bundle": BundleSettings,
}
