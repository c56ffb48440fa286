"""Settings: their sources, what is accepted, and the texts of errors."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fasttail.config import (
    COMMANDS,
    ConfigError,
    DemoSettings,
    ParseSettings,
    ServeSettings,
    Settings,
    SymbolFilter,
    SynthSettings,
    TailSettings,
    options,
    schema,
)
from fasttail.config import loading as sources
from fasttail.streams import registry
from fasttail.system.cgroup import cpu_limit, memory_limit
from fasttail.system.cores import default_workers, usable_cores

S = TypeVar("S", bound=Settings)


def load(settings: type[S], given: dict[str, Any], environ: dict[str, str] | None = None) -> S:
    return sources.load(settings, given, environ or {})


def serve(environ: dict[str, str] | None = None, **given: Any) -> ServeSettings:
    return load(ServeSettings, {"data_dir": "/data", **given}, environ)


def from_file(tmp_path: Path, text: str, name: str = "f.toml", **given: Any) -> ServeSettings:
    (tmp_path / name).write_text(text)
    return serve(config=str(tmp_path / name), **given)


# Sources of a value


def test_a_webhook_is_a_url_of_which_only_the_host_is_shown(tmp_path: Path) -> None:
    url = "https://me:s3cret@hooks.example.com:8443/s3cret?token=s3cret#s3cret"
    settings = serve({"FASTTAIL_ALERT_WEBHOOK": url})
    assert settings.alert_webhook == url
    shown = sources.format_settings(settings)
    assert "https://hooks.example.com:8443/..." in shown
    assert "s3cret" not in shown
    for wrong in (
        "s3cret", "ftp://host/s3cret", "http:///s3cret", "http://host:s3cret/", "http://host/ s3cret",
        "http://[s3cret/", "http://host/s3cret\n", "http://é/s3cret",
    ):  # fmt: skip
        for settings_of in (
            partial(serve, {"FASTTAIL_ALERT_WEBHOOK": wrong}),
            partial(serve, alert_webhook=wrong),
            partial(from_file, tmp_path, f"alert_webhook = {json.dumps(wrong)}"),
        ):
            with pytest.raises(ConfigError, match="expected a URL like") as caught:
                settings_of()
            assert "s3cret" not in str(caught.value)


def test_defaults() -> None:
    settings = serve()
    assert (settings.host, settings.port, settings.layout, settings.start) == (
        "127.0.0.1",
        8000,
        "auto",
        "checkpoint",
    )
    assert (settings.block_size, settings.max_line, settings.max_message) == (1 << 20, 64 << 20, 256 << 10)
    assert (settings.client_queue, settings.max_clients) == (1 << 20, 1000)
    assert (settings.batch_interval_ms, settings.min_batch_us, settings.grace_s) == (500, 500, 5.0)
    assert (settings.batch_timeout_s, settings.stale_after_s, settings.inotify) == (30.0, 60.0, True)
    assert (settings.symbols_config, settings.memory_limit_mb) == ((), None)
    assert settings.workers == default_workers()
    assert settings.sources["port"] == "default"


def test_built_directly_it_is_the_same() -> None:
    assert ServeSettings(data_dir=Path("/data")) == serve()
    assert ParseSettings(files=("a",)) == sources.load(ParseSettings, {}, {}, files=("a",))
    assert DemoSettings() == load(DemoSettings, {})


@pytest.mark.parametrize("settings", COMMANDS.values())
def test_every_setting_has_each_of_its_forms(settings: type[Settings], tmp_path: Path) -> None:
    """The default that the help shows can be typed, set in the environment and written in a file."""
    required = {
        option.dest: "nats://x" if option.dest == "nats_url" else "/x"
        for option in options(settings)
        if option.positional
    }
    default = load(settings, required)
    for option in options(settings):
        shown = sources.describe_default(settings, option)
        if not shown or option.value_type.is_switch:
            continue
        environ = {sources.env_name(option): shown}
        (tmp_path / "f.json").write_text(
            f'{{"{option.name}": {shown if shown.isdigit() else repr(shown)}}}'.replace("'", '"')
        )
        assert load(settings, required | {option.dest: shown}) == default
        assert load(settings, required, environ) == default
        if option.name not in {"grace_s", "rescan_s", "debug_leak", "debug_stall", "rejected"}:
            in_file = load(settings, required | {"config": str(tmp_path / "f.json")})
            assert dataclasses.replace(in_file, config=None) == default
            assert in_file.sources[option.name] == f"file {tmp_path}/f.json:{option.name}"


def test_precedence(tmp_path: Path) -> None:
    file = tmp_path / "f.toml"
    file.write_text("port = 1\n")
    everywhere = {"FASTTAIL_PORT": "2", "FASTTAIL_CONFIG": str(file)}
    assert serve(everywhere, port="3").port == 3
    assert serve(everywhere, port="3").sources["port"] == "flag"
    assert serve(everywhere).port == 2
    assert serve(everywhere).sources["port"] == "env FASTTAIL_PORT"
    assert serve({"FASTTAIL_CONFIG": str(file)}).port == 1
    assert serve({"FASTTAIL_CONFIG": str(file)}).sources["port"] == f"file {file}:port"
    assert serve({"FASTTAIL_CONFIG": str(file), "FASTTAIL_PORT": ""}).port == 1, "empty is not set"
    other = tmp_path / "other.toml"
    other.write_text("port = 4\n")
    assert serve({"FASTTAIL_CONFIG": str(file)}, config=str(other)).port == 4


def test_from_is_a_setting_although_no_name_in_python(tmp_path: Path) -> None:
    assert serve({"FASTTAIL_FROM": "oldest"}).start == "oldest"
    assert from_file(tmp_path, 'from = "hour"').start == "hour"
    assert serve(start="hour").sources["from"] == "flag"


def test_the_folder_may_come_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of")
    assert load(TailSettings, {}, {"FASTTAIL_DATA_DIR": "~/hl/data"}).data_dir == Path("/home/of/hl/data")
    (tmp_path / "f.toml").write_text('data_dir = "/from/file"')
    assert load(TailSettings, {"config": str(tmp_path / "f.toml")}).data_dir == Path("/from/file")
    with pytest.raises(ConfigError, match="no DATA_DIR given"):
        load(TailSettings, {})


def test_one_file_for_all_commands(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text('port = 1\ncoin = ["BTC", "@107"]\nrate = "max"\nblock-size = "1K"')
    given = {"config": str(tmp_path / "f.toml"), "data_dir": "/x", "directory": "/x"}
    assert load(ServeSettings, given).port == 1
    assert load(TailSettings, given).coin == ("BTC", "@107")
    assert load(SynthSettings, given).rate is None
    assert load(ParseSettings, given).block_size == 1024


# Accepted values


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("512K", 512 << 10), ("64m", 64 << 20), ("1GiB", 1 << 30), ("2MB", 2 << 20)]
)
def test_sizes(text: str, size: int) -> None:
    assert serve(block_size=text).block_size == size


@pytest.mark.parametrize("text", ["1", "true", "Yes", "ON"])
def test_switches(text: str, tmp_path: Path) -> None:
    assert serve({"FASTTAIL_INOTIFY": text}).inotify
    assert not serve({"FASTTAIL_INOTIFY": text}, inotify=False).inotify
    assert not serve({"FASTTAIL_INOTIFY": "no"}).inotify
    assert not from_file(tmp_path, "inotify = false").inotify


def test_filters() -> None:
    address = "0x" + "aB" * 20
    settings = load(
        TailSettings,
        {"data_dir": "/x", "coin": "BTC, ETH,,BTC", "side": "A", "user": address, "status": "open"},
    )
    assert (settings.coin, settings.side, settings.user) == (("BTC", "ETH"), "A", address.lower())
    assert settings.status == ("open",)
    assert settings.min_notional is None
    assert load(TailSettings, {"data_dir": "/x", "coin": "", "min_notional": "1e4"}).min_notional == 10_000


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"port": "80x"}, "--port: expected a whole number from 0 to 65535, got '80x'"),
        ({"port": "65536"}, "--port: expected a whole number from 0 to 65535"),
        ({"workers": "0"}, "--workers: expected a whole number from 1 to 256"),
        ({"block_size": "12Q"}, '--block-size: expected a size in bytes or like "512K", "64M", got \'12Q\''),
        ({"block_size": "0"}, "--block-size: expected a size"),
        ({"max_message": "1K"}, "--max-message: expected a size of at least 64K"),
        ({"grace_s": "-1"}, "--grace-s: expected a number of at least 0"),
        ({"grace_s": "nan"}, "--grace-s: expected a number of at least 0"),
        ({"stale_after_s": "inf"}, "--stale-after-s: expected a number"),
        ({"start": "begin"}, "--from: expected one of end, hour, oldest, checkpoint, got 'begin'"),
        ({"data_dir": ""}, "DATA_DIR: expected a folder, got ''"),
        ({"data_dir": "a\0b"}, "DATA_DIR: expected a folder"),
        ({"host": " "}, "--host: expected a host name or an address"),
        ({"log_level": "x" * 500}, "got '" + "x" * 79 + "..."),
        ({"client_queue": "64K", "max_message": "128K"}, "client_queue (64K) must hold at least one"),
    ],
)  # fmt: skip
def test_errors_of_options(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        serve(**given)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_streams_that_can_be_chosen_are_those_that_can_be_parsed() -> None:
    assert schema.STREAMS == registry.STREAMS


def test_errors_of_the_environment() -> None:
    with pytest.raises(ConfigError) as caught:
        serve({"FASTTAIL_INOTIFY": "perhaps"})
    assert str(caught.value) == "environment variable FASTTAIL_INOTIFY: expected true or false, got 'perhaps'"


@pytest.mark.parametrize(("rate", "value"), [("max", None), ("0.5", 0.5), ("300000", 300_000.0)])
def test_rates(rate: str, value: float | None) -> None:
    assert load(SynthSettings, {"directory": "/x", "rate": rate}).rate == value


@pytest.mark.parametrize("rate", ["0", "-1", "maximum", "inf", ""])
def test_wrong_rates(rate: str) -> None:
    with pytest.raises(ConfigError, match='expected a number above 0, or "max"'):
        load(SynthSettings, {"directory": "/x", "rate": rate})


# Files

SYMBOLS = (SymbolFilter("BTC", 10_000.0), SymbolFilter("xyz:GOLD", 0.5))
OLD_FILE = """\
symbols_config:
  - symbol: BTC
    min_liquidity: 10000
    price_deviation: 0.05
  - {"symbol": "xyz:GOLD", "min_liquidity": 0.5, "price_deviation": 0.1}
"""
JSON = '{"symbols_config": [{"symbol": "BTC", "min_liquidity": 10000, "price_deviation": 0.05},'
JSON += ' {"symbol": "xyz:GOLD", "min_liquidity": 0.5}]}'
TOML = '[[symbols_config]]\nsymbol = "BTC"\nmin_liquidity = 10000\nprice_deviation = 0.05\n'
TOML += '[[symbols_config]]\nsymbol = "xyz:GOLD"\nmin_liquidity = 0.5\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("f.yaml", OLD_FILE),
        ("f.YML", OLD_FILE),
        ("f.json", JSON),
        ("f.yaml", JSON),
        ("f.toml", TOML),
        ("f.json", "\ufeff" + JSON),
    ],
)
def test_symbols_of_the_old_service(name: str, text: str, tmp_path: Path) -> None:
    settings = from_file(tmp_path, text, name)
    assert settings.symbols_config == SYMBOLS
    assert settings.sources["symbols_config"] == f"file {tmp_path / name}:symbols_config"


@pytest.mark.parametrize("text", ["symbols_config: []", "symbols_config:", "", "# nothing"])
def test_no_symbols_is_no_filter(text: str, tmp_path: Path) -> None:
    assert from_file(tmp_path, text, "f.yaml").symbols_config == ()


def test_symbols_listed_twice(tmp_path: Path) -> None:
    entry = '{"symbol": "BTC", "min_liquidity": %d}'
    same = f'{{"symbols_config": [{entry % 1}, {entry % 1}]}}'
    assert from_file(tmp_path, same, "f.json").symbols_config == (SymbolFilter("BTC", 1.0),)
    with pytest.raises(
        ConfigError, match="entry 2: BTC is listed twice, with different values of min_liquidity"
    ):
        from_file(tmp_path, f'{{"symbols_config": [{entry % 1}, {entry % 2}]}}', "f.json")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("f.toml", "prot = 1", "f.toml, line 1: unknown setting 'prot' (did you mean 'port'?)"),
        ("f.toml", "xyzzy = 1\nprot = 1", "f.toml, line 1: unknown settings 'xyzzy', 'prot'"),
        ("f.toml", 'config = "g.toml"', "unknown setting 'config'"),
        ("f.toml", 'port = "80"', "f.toml, line 1: port: expected a whole number from 0 to 65535, got '80'"),
        ("f.toml", "port = true", "port: expected a whole number from 0 to 65535, got true"),
        ("f.toml", "port = 8.5", "port: expected a whole number from 0 to 65535, got 8.5"),
        ("f.toml", "grace_s = nan", "grace_s: expected a number of at least 0, got nan"),
        ("f.toml", "inotify = 1", "inotify: expected true or false, got 1"),
        ("f.toml", "block_size = 1.5", "block_size: expected a size"),
        ("f.toml", "data_dir = 7", ""),  # given on the command line: not checked
        ("f.toml", "coin = 7", ""),  # a setting of another command
        ("f.toml", "port = ", "f.toml: not valid TOML: Invalid value"),
        ("f.json", "{", "f.json: not valid JSON: Expecting property name"),
        ("f.json", "[" * 100_000, "f.json: not valid JSON"),
        ("f.yaml", "a: [", "f.yaml: not valid YAML: expected the node content"),
        ("f.yaml", "- port", "f.yaml: expected settings by name"),
        ("f.yaml", "1: 2", "f.yaml: expected settings by name"),
        ("f.yaml", "!!python/object/apply:os.getcwd []", "f.yaml: not valid YAML: could not determine"),
        ("f.yaml", "log_level: off", "log_level: expected one of debug, info, warning, error, got false"),
        ("f.yaml", "port:", "port: expected a whole number from 0 to 65535, got None"),
        ("f.ini", "port = 1", "f.ini: expected a file that ends in .toml, .yaml, .yml or .json"),
        ("f.yaml", "symbols_config: BTC", 'symbols_config: expected a list of entries like {"symbol": "BTC"'),
        ("f.yaml", "symbols_config: [BTC]", "symbols_config: entry 1: expected an entry like"),
        ("f.yaml", "symbols_config: [{symbol: NO}]", 'entry 1: "symbol": expected a coin\'s name, got False'),
        ("f.yaml", "symbols_config: [{symbol: A,min_liquidity: '1'}]", '"min_liquidity": expected a number'),
        ("f.yaml", "symbols_config: [{symbol: A,min_liquidity: -1}]", '"min_liquidity": expected a number'),
        ("f.yaml", "symbols_config: [{symbol: A,min_liquidity: .inf}]", '"min_liquidity": expected a number'),
    ],
)  # fmt: skip
def test_errors_of_files(name: str, text: str, expected: str, tmp_path: Path) -> None:
    if not expected:
        from_file(tmp_path, text, name)
        return
    with pytest.raises(ConfigError) as caught:
        from_file(tmp_path, text, name)
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml: No such file or directory"):
        serve(config=str(tmp_path / "gone.toml"))
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.toml: Is a directory"):
        serve(config=str(tmp_path / "folder.toml"))
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.toml: not UTF-8 at byte 2"):
        serve(config=str(tmp_path / "latin.toml"))


def test_yaml_is_imported_only_for_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert from_file(tmp_path, "port = 1").port == 1
    with pytest.raises(ImportError):
        from_file(tmp_path, "port: 1", "f.yaml")


# Cores and control groups


def control_groups(root: Path, own: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": own, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


def test_no_control_groups(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path) is None
    assert memory_limit(tmp_path) is None
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


def test_version_2_the_tightest_group_counts(tmp_path: Path) -> None:
    root = control_groups(
        tmp_path,
        "0::/a/b",
        {
            "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            "sys/fs/cgroup/a/cpu.max": "150000 100000",
            "sys/fs/cgroup/a/b/memory.max": "max",
            "sys/fs/cgroup/a/memory.max": "536870912",
            "sys/fs/cgroup/memory.max": "1073741824",
        },
    )
    assert cpu_limit(root) == 1.5
    assert memory_limit(root) == 512 << 20
    assert usable_cores(root) == 1
    assert default_workers(root) == 1


def test_version_1_in_a_container(tmp_path: Path) -> None:
    """With cgroup v1, the path is the host's, but the mount shows the container's own group."""
    root = control_groups(
        tmp_path,
        "5:cpu,cpuacct:/docker/1234\n4:memory:/docker/1234",
        {
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "104857600",
        },
    )
    assert cpu_limit(root) == 0.5
    assert memory_limit(root) == 100 << 20
    assert usable_cores(root) == 1


def test_version_1_without_limits(tmp_path: Path) -> None:
    root = control_groups(
        tmp_path,
        "5:cpu:/\n4:memory:/",
        {
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert cpu_limit(root) is None
    assert memory_limit(root) is None


def test_affinity_counts() -> None:
    mask = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mask)})
    try:
        assert usable_cores() == default_workers() == 1
    finally:
        os.sched_setaffinity(0, mask)


@pytest.mark.parametrize(
    "text", ["alert_webhook: https://h.example/s3cret: x", 'alert_webhook: "https://h.example/s3cret']
)
def test_what_a_broken_file_says_is_not_quoted(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"not valid YAML: .* \(at line [12], column \d+\)") as caught:
        from_file(tmp_path, text, "f.yaml")
    assert "s3cret" not in str(caught.value)


# What would be lost silently


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("f.yaml", "port: 1\nhost: x\nport: 1\n", "'port' is given twice, first in line 1 (at line 3"),
        ("f.yaml", "symbols_config: [{symbol: A, symbol: B}]", "the key 'symbol' is given twice"),
        ("f.json", '{"port": 1, "port": 1}', "the key 'port' is given twice"),
        ("f.json", '{"symbols_config": [{"symbol": "A", "symbol": "B"}]}', "the key 'symbol' is given twice"),
        ("f.toml", "port = 1\nport = 1\n", "Cannot overwrite a value"),
        ("f.toml", "block-size = 1\nblock_size = 2\n", "block_size is given twice, with a hyphen"),
        ("f.yaml", "block-size: 1\nblock_size: 2\n", "block_size is given twice, with a hyphen"),
        ("f.yaml", "<<: {port: 1}\n", "merge keys (<<) are not supported"),
        ("f.yaml", "port: 0123\n", "0123 is not a plain number"),
        ("f.yaml", "grace_s: 1:30\n", "1:30 is not a plain number"),
        ("f.yaml", "grace_s: 1:30.5\n", "1:30.5 is not a plain number"),
        ("f.yaml", "Port: 1\n", "unknown setting 'Port' (did you mean 'port'?)"),
        ("f.toml", "[serve]\nport = 1\n", "unknown setting 'serve'"),
        ("f.yaml", "symbols_config: [{symbol: A, min_liquidty: 1}]", "unknown key 'min_liquidty' (did you"),
        ("f.yaml", "symbols_config: [{symbol: A, Min-Liquidity: 1}]", "unknown key 'Min-Liquidity' (did you"),
        ("f.yaml", "symbols_config: [{symbol: ' A'}]", "expected a coin's name, got ' A'"),
        ("f.yaml", "allowed_origins: ','", "allowed_origins: expected origins"),
        ("f.yaml", "port: 1e3", "port: expected a whole number"),
    ],
)  # fmt: skip
def test_nothing_in_a_file_is_lost_in_silence(name: str, text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        from_file(tmp_path, text, name)
    assert expected in str(caught.value)


def test_a_file_of_aliases_is_shown_in_a_bounded_way(tmp_path: Path) -> None:
    text = "host: &a0 [x, x]\n" + "".join(
        f"k{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)
    )
    with pytest.raises(ConfigError, match="unknown settings"):
        from_file(tmp_path, text, "f.yaml")
    nested = "port: " + "".join(f"[&b{n} " for n in range(20)) + "1" + "]" * 20
    with pytest.raises(ConfigError, match="port: expected a whole number"):
        from_file(tmp_path, nested, "f.yaml")


LINKS = {
    "FASTTAIL_PORT": "tcp://10.96.0.17:8000",
    "FASTTAIL_SERVICE_HOST": "10.96.0.17",
    "FASTTAIL_SERVICE_PORT": "8000",
    "FASTTAIL_SERVICE_PORT_HTTP": "8000",
    "FASTTAIL_PORT_8000_TCP": "tcp://10.96.0.17:8000",
    "FASTTAIL_PORT_8000_TCP_ADDR": "10.96.0.17",
    "FASTTAIL_PORT_8000_TCP_PORT": "8000",
    "FASTTAIL_PORT_8000_TCP_PROTO": "tcp",
    "FASTTAIL_WS_SERVICE_HOST": "10.96.0.18",
    "FASTTAIL_WS_PORT": "udp://[fd00::1]:8000",
    "FASTTAIL_1_PORT": "tcp://172.17.0.5:8000",
    "FASTTAIL_NAME": "/web/fasttail",
    "FASTTAIL_ENV_PATH": "/usr/bin",
}


def test_a_service_called_fasttail_sets_nothing(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text("port = 9000\n")
    settings = serve(LINKS, config=str(tmp_path / "f.toml"))
    assert (settings.port, settings.sources["port"]) == (9000, f"file {tmp_path}/f.toml:port")
    assert settings.notices == (
        "environment variable FASTTAIL_PORT is ignored: tcp://10.96.0.17:8000 is a service's address, "
        "not a setting",
    )
    assert serve(LINKS, port="1").port == 1
    assert serve(LINKS).port == 8000


@pytest.mark.parametrize(
    ("environ", "given", "notice"),
    [
        ({"FASTTAIL_PROT": "1"}, {}, "FASTTAIL_PROT is not known (did you mean FASTTAIL_PORT?)"),
        ({"fasttail_port": "1"}, {}, "fasttail_port is not known (did you mean FASTTAIL_PORT?)"),
        ({"FASTTAIL_XYZZY": "1"}, {}, "FASTTAIL_XYZZY is not known"),
        ({"FASTTAIL_TOKEN_FILE": ""}, {}, "FASTTAIL_TOKEN_FILE is empty and ignored"),
        ({"FASTTAIL_FROM": "checkpoint"}, {}, "from = checkpoint has no effect without state_dir"),
        ({"FASTTAIL_TRUSTED_PROXIES": "::1"}, {"max_clients_per_ip": "0"}, "trusted_proxies has no effect"),
    ],
)
def test_what_has_no_effect_is_said(environ: dict[str, str], given: dict[str, str], notice: str) -> None:
    (said,) = serve(environ, **given).notices
    assert notice in said
    assert not serve({"FASTTAIL_TOKEN": "x", "FASTTAIL_ISA": "sse2", "FASTTAIL_COIN": "BTC"}).notices


def test_other_variables_are_those_of_the_docs() -> None:
    text = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text()
    named = set(re.findall(r"FASTTAIL_[A-Z_]+[A-Z]", text.partition("## Other variables")[2]))
    assert named == sources.NON_SETTING_VARIABLES


def test_relative_paths_begin_at_the_base(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text('state_dir = "state"\n')
    given = {"data_dir": "data", "config": "f.toml", "token_file": "/t"}
    settings = sources.load(ServeSettings, given, {}, base=str(tmp_path))
    assert (settings.data_dir, settings.state_dir) == (tmp_path / "data", tmp_path / "state")
    assert settings.token_file == Path("/t")
    with pytest.raises(ConfigError, match="data_dir: data: the current folder"):
        sources.load(ServeSettings, {"data_dir": "data"}, {}, base="")
