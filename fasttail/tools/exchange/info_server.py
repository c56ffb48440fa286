"""A stand-in for the node's info server, which answers from the state of the simulated exchange."""

from __future__ import annotations

import json
import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fasttail.tools.exchange.accounts import Account, hex_digits
from fasttail.tools.exchange.book import Order
from fasttail.tools.exchange.chain import Exchange
from fasttail.tools.exchange.constants import SynthError
from fasttail.tools.exchange.decimals import SCALE, decimal_text, product
from fasttail.tools.exchange.markets import Market
from fasttail.tools.exchange.truth import Truth, open_orders, replacing, snapshot_parts

_MAX_BODY = 65_536
_MAX_DRAINED = 1 << 26  # of a body that is too large
_TIMEOUT_S = 60.0
_LEVERAGE = 10


class InfoServer:
    """Answers `POST /info` on 127.0.0.1 until it is closed, each time of one height.

    port: 0 chooses a free one; `self.port` tells which.
    """

    def __init__(self, truth: Truth, port: int) -> None:
        handler = type("Handler", (_Handler,), {"truth": truth})
        try:
            self._server = _Server(("127.0.0.1", port), handler)
        except OSError as error:
            raise SynthError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}") from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that left."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _TooLargeError(Exception):
    """The body of a request is too large."""


class _Handler(BaseHTTPRequestHandler):
    truth: Truth
    timeout = _TIMEOUT_S

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        status, reply = 200, None
        try:
            reply = self._reply(self._request())
        except _TooLargeError as error:
            status, reply = 413, str(error)
        except SynthError as error:
            status, reply = 500, str(error)
        except (ValueError, KeyError, TypeError) as error:
            status, reply = 422, f"Failed to deserialize the JSON body into the target type: {error}"
        self._send(status, reply)

    def _request(self) -> dict[str, Any]:
        length = int(self.headers.get("Content-Length", "0"))
        if length > _MAX_BODY:
            self._drain(length)
            raise _TooLargeError(f"a body has at most {_MAX_BODY} bytes, not {length}")
        try:
            request = json.loads(self.rfile.read(max(length, 0)))
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if self.path != "/info" or not isinstance(request, dict):
            raise ValueError("expected a JSON object on /info")
        return request

    def _drain(self, length: int) -> None:
        """Read a body, so that the client, which sends before it reads, gets its reply. A huge one is cut."""
        left = min(length, _MAX_DRAINED)
        while left > 0 and (data := self.rfile.read(min(left, _MAX_BODY))):
            left -= len(data)

    def _reply(self, request: dict[str, Any]) -> object:
        """Return the answer, or write a snapshot: not under the lock, on which the run waits."""
        path = _out_path(request) if request["type"] == "fileSnapshot" else None
        with self.truth.lock:
            reply = answer(self.truth.exchange, request)
        if path is None:
            return reply
        with replacing(path) as file:
            file.write(str(reply).encode("ascii"))
        return None

    def _send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def answer(exchange: Exchange, request: dict[str, Any]) -> object:
    """Return the answer to an info request, or the text of the snapshot that it asks for.

    Raises ValueError, KeyError or TypeError for a request that is not known.
    """
    kind, dex = request["type"], str(request.get("dex") or "")
    if kind == "fileSnapshot":
        return _snapshot_text(exchange, request)
    if kind == "perpDexs":
        return _perp_dexs(exchange)
    if kind == "meta":
        return _meta(exchange, dex)
    if kind == "spotMeta":
        return _spot_meta(exchange)
    if kind == "exchangeStatus":
        return {"time": exchange.time_ns // 1_000_000, "specialStatuses": None}
    if kind in ("openOrders", "frontendOpenOrders"):
        orders = open_orders(exchange, str(request["user"]).lower())
        return [_open_order(order, kind) for order in orders if order.maker.market.dex == dex]
    if kind == "clearinghouseState":
        return _clearinghouse_state(exchange, str(request["user"]).lower(), dex)
    raise ValueError(f"unknown type {kind}")


def _out_path(request: dict[str, Any]) -> Path:
    path = Path(request["outPath"])
    if not path.is_absolute():
        raise ValueError(f"outPath must be absolute, not {path}")
    return path


def _snapshot_text(exchange: Exchange, request: dict[str, Any]) -> str:
    inner = request["request"]
    if inner["type"] != "l4Snapshots":
        raise ValueError(f"unknown type {inner['type']}")
    return "".join(snapshot_parts(
        exchange,
        users=bool(inner.get("includeUsers")),
        triggers=bool(inner.get("includeTriggerOrders")),
        height=bool(request.get("includeHeightInOutput")),
    ))  # fmt: skip


def _perp_dexs(exchange: Exchange) -> object:
    by_dex: dict[str, list[str]] = {}
    for market in exchange.markets:
        if market.dex:
            by_dex.setdefault(market.dex, []).append(market.name)
    return [None] + [
        {
            "name": dex, "fullName": dex, "deployer": f"0x{hex_digits(random.Random(dex), 40)}",
            "oracleUpdater": None, "feeRecipient": None,
            "assetToStreamingOiCap": [[coin, "10000000.0"] for coin in coins], "assetToFundingMultiplier": [],
        }
        for dex, coins in by_dex.items()
    ]  # fmt: skip


def _meta(exchange: Exchange, dex: str) -> object:
    listed = [market for market in exchange.markets if market.is_perp and market.dex == dex]
    return {
        "universe": [
            {
                "name": market.name,
                "szDecimals": market.size_decimals,
                "maxLeverage": _LEVERAGE,
                "marginTableId": 10,
            }
            for market in listed
        ],
        "marginTables": [],
        "collateralToken": 0,
    }


def _spot_meta(exchange: Exchange) -> object:
    pairs = [market for market in exchange.markets if market.kind == "spot"]
    tokens = [_token("USDC", 8, 0)] + [
        _token(market.fee_token, market.size_decimals, index + 1) for index, market in enumerate(pairs)
    ]
    universe = [
        {
            "name": market.name, "tokens": [index + 1, 0], "isCanonical": "/" in market.name,
            "index": int(market.name[1:]) if market.name[0] == "@" else 0,
        }
        for index, market in enumerate(pairs)
    ]  # fmt: skip
    return {"tokens": tokens, "universe": universe}


def _token(name: str, size_decimals: int, index: int) -> dict[str, Any]:
    return {
        "name": name, "szDecimals": size_decimals, "weiDecimals": 8, "index": index,
        "tokenId": f"0x{index:032x}",
        "isCanonical": index < 2, "evmContract": None, "fullName": None,
    }  # fmt: skip


def _open_order(order: Order, kind: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "coin": order.maker.market.name, "side": order.maker.side, "limitPx": decimal_text(order.px),
        "sz": decimal_text(order.sz), "oid": order.oid, "timestamp": order.timestamp,
        "origSz": decimal_text(order.orig),
    }  # fmt: skip
    if kind == "frontendOpenOrders":
        shown |= json.loads(f"{{{order.terms.rstrip(',')}}}") | {"tif": json.loads(order.tif)}
    if order.cloid != "null":
        shown["cloid"] = json.loads(order.cloid)
    return shown


def _clearinghouse_state(exchange: Exchange, user: str, dex: str) -> object:
    account = next((one for one in exchange.accounts if one.address == user), Account(user))
    positions = []
    notional = 0
    for market in exchange.markets:
        if market.is_perp and market.dex == dex and market.name in account.positions:
            shown, value = _position(account, market)
            if shown is not None:
                positions.append({"type": "oneWay", "position": shown})
                notional += value
    summary = {
        "accountValue": decimal_text(notional + 10_000 * SCALE), "totalNtlPos": decimal_text(notional),
        "totalRawUsd": decimal_text(10_000 * SCALE), "totalMarginUsed": decimal_text(notional // _LEVERAGE),
    }  # fmt: skip
    return {
        "marginSummary": summary, "crossMarginSummary": summary, "crossMaintenanceMarginUsed": "0.0",
        "withdrawable": decimal_text(10_000 * SCALE), "assetPositions": positions,
        "time": exchange.time_ns // 1_000_000,
    }  # fmt: skip


def _position(account: Account, market: Market) -> tuple[dict[str, Any] | None, int]:
    position = account.positions[market.name]
    if position.szi == 0:
        return None, 0
    value = product(abs(position.szi), market.fair)
    gain = product(position.szi, market.fair - position.entry)
    return {
        "coin": market.name, "szi": decimal_text(position.szi), "entryPx": decimal_text(position.entry),
        "leverage": {"type": "cross", "value": _LEVERAGE}, "positionValue": decimal_text(value),
        "unrealizedPnl": decimal_text(gain // 100 * 100), "returnOnEquity": "0.0", "liquidationPx": None,
        "marginUsed": decimal_text(value // _LEVERAGE), "maxLeverage": _LEVERAGE,
        "cumFunding": {"allTime": "0.0", "sinceOpen": "0.0", "sinceChange": "0.0"},
    }, value  # fmt: skip
