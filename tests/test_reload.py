"""SIGHUP reloads settings while the server runs; and the output of --print-config."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
from lines import event, plain
from running import command, hour_file, serve, wait_for
from serving import http, run
from test_ws import append
from websockets.sync.client import connect


@pytest.mark.fault(39)
def test_filters_change_and_no_connection_is_dropped(tmp_path: Path) -> None:
    path = hour_file(tmp_path / "data", "plain", "20260505", 17)
    path.touch()
    config = tmp_path / "fasttail.yaml"
    config.write_text("symbols_config: [{symbol: BTC}]\n")
    with (
        serve(tmp_path / "data", "--config", config) as server,
        connect(f"ws://127.0.0.1:{server.port}/ws/orderUpdate") as bot,
    ):
        bot.recv()
        oid = 0

        def coins() -> set[str]:
            nonlocal oid
            oid += 3
            append(path, plain(*(event(oid=oid + i, coin=("BTC", "ETH", "SOL")[i]) for i in range(3))))
            seen = set()
            try:
                while True:
                    message = str(bot.recv(timeout=0.3))
                    seen.add(message.split('"symbol":"')[1].split('"')[0])
            except TimeoutError:
                return seen

        def hang_up(text: str) -> None:
            server.process.send_signal(signal.SIGHUP)
            wait_for(text, lambda: server.count(text))

        assert coins() == {"BTC"}
        config.write_text(
            "symbols_config:\n- {symbol: ETH}\n- {symbol: SOL}\nmax_clients: 5\n"
            "alert_webhook: http://me:s3cret@127.0.0.1/s3cret\n"
        )
        hang_up("settings reloaded: 2 symbols")
        assert server.count("s3cret") == 0
        assert server.count("max_clients changed, still using 1000 until the next restart") == 1
        assert coins() == {"ETH", "SOL"}
        for text, told in {
            "symbols_config:\n- {symbol: BTC}\nmax_clients: none\n": "line 3: max_clients: expected",
            "symbols_config:\n- {symbol: B, min_liquidity: x}\n": "line 1: symbols_config: entry 1: ",
            "\nsymbols: []\n": "line 2: unknown setting 'symbols'",
            "symbols_config: [\n": "line 2, column 1",
        }.items():
            config.write_text(text)
            hang_up(told)
            assert coins() == {"ETH", "SOL"}
        config.unlink()
        hang_up("No such file or directory")
        assert coins() == {"ETH", "SOL"}
        config.write_text("{}")
        hang_up("settings reloaded: no filter: all orders pass")
        assert coins() == {"BTC", "ETH", "SOL"}


@pytest.mark.fault(39)
def test_token_and_origins_are_taken_at_sighup(tmp_path: Path) -> None:
    hour_file(tmp_path, "plain", "20260505", 9).touch()
    token, config = tmp_path / "token", tmp_path / "fasttail.toml"

    def put(text: str, origins: str) -> None:
        token.write_text(text)
        token.chmod(0o600)
        config.write_text(f'token_file = "{token}"\n{origins}\n')

    put("one", 'allowed_origins = ["https://one.example"]')
    with serve(tmp_path, "--config", config) as running:

        def hang_up(text: str) -> None:
            before = running.count(text)
            running.process.send_signal(signal.SIGHUP)
            wait_for(text, lambda: running.count(text) > before)

        def status(token: str, origin: str) -> int:
            async def ask() -> int:
                more = (f"Origin: https://{origin}.example", "Upgrade: websocket", "Connection: Upgrade")
                return (await http(running.port, f"/ws?token={token}", *more)).status

            return run(ask())

        # 426: everything but the handshake itself is accepted.
        assert [status("one", "one"), status("two", "one"), status("one", "two")] == [426, 401, 403]
        put("two", 'allowed_origins = ["https://two.example"]')
        hang_up("settings reloaded")
        assert [status("two", "two"), status("one", "two"), status("two", "one")] == [426, 401, 403]
        put("t w o", 'allowed_origins = ["https://one.example"]')
        hang_up("keeping the current ones: ")
        assert status("two", "two") == 426
        put("two", "")  # what is required at all changes only at the next start
        hang_up("allowed_origins changed, still using https://two.example until the next restart")
        config.write_text("")
        hang_up("token_file changed, still using")
        assert [status("two", "two"), status("", "two"), status("two", "one")] == [426, 401, 403]
        assert running.end(signal.SIGTERM) == 0
        assert not [line for line in running.log if re.search("ERROR|⏰|❌|Traceback", line)]


@pytest.mark.parametrize("ending", ["toml", "json"])
def test_where_settings_came_from(tmp_path: Path, ending: str) -> None:
    config = tmp_path / f"settings.{ending}"
    config.write_text(
        {
            "toml": 'port = 9000\nblock_size = "512K"\n'
            'symbols_config = [{symbol = "BTC", min_liquidity = 5}]\n',
            "json": '{"port": 9000, "block-size": 524288, '
            '"symbols_config": [{"symbol": "BTC", "min_liquidity": 5}]}',
        }[ending]
    )
    words = [*command("serve", tmp_path, "--config", config, "--workers", 2), "--print-config"]
    done = subprocess.run(
        words, capture_output=True, text=True, env={"FASTTAIL_MAX_CLIENTS": "7"}, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines()}
    assert rows["data_dir"] == f"{tmp_path} flag"
    assert rows["workers"] == "2 flag"
    assert rows["max_clients"] == "7 env FASTTAIL_MAX_CLIENTS"
    assert rows["port"] == f"9000 file {config}:port"
    assert rows["block_size"] == f"512K file {config}:block_size"
    assert rows["symbols_config"] == f"BTC from 5 file {config}:symbols_config"
    assert rows["inotify"] == "yes default"
    assert rows["from"] == "checkpoint default"


def test_print_config_refuses_what_serve_refuses(tmp_path: Path) -> None:
    done = subprocess.run(
        [*command("serve", tmp_path, "--port", "x"), "--print-config"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert "--port: expected a whole number" in done.stderr
