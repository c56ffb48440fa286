"""A stand-in for the node's info server, which answers from the state of the simulated exchange."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fasttail.tools.exchange.accounts import Account
from fasttail.tools.exchange.book import Order
from fasttail.tools.exchange.chain import Exchange
from fasttail.tools.exchange.constants import SynthError
from fasttail.tools.exchange.decimals import SCALE, decimal_text, product
from fasttail.tools.exchange.markets import Market
from fasttail.tools.exchange.truth import Truth, open_orders, snapshot_parts

_MAX_BODY = 65_536
_LEVERAGE = 10


class InfoServer:
    """Answers `POST /info` on 127.0.0.1 until it is closed, each time of one height.

    port: 0 chooses a free one; `self.port` tells which.
    """

    def __init__(self, truth: Truth, port: int) -> None:
        handler = type("Handler", (_Handler,), {"truth": truth})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise SynthError(f"cannot listen on 127.0.0.1:{port}: {error.strerror}") from error
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    truth: Truth

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_POST(self) -> None:
        try:
            length = int(self.headers.get("Content-Length", "0"))
            request = json.loads(self.rfile.read(length)) if 0 < length <= _MAX_BODY else None
            if self.path != "/info" or not isinstance(request, dict):
                raise ValueError("expected a JSON object on /info")
            with self.truth.lock:
                reply = answer(self.truth.exchange, request)
            self._send(200, reply)
        except (ValueError, KeyError, TypeError) as error:
            self._send(422, f"Failed to deserialize the JSON body into the target type: {error}")
        except OSError as error:
            self._send(500, f"cannot write the snapshot: {error.strerror}")

    def _send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def answer(exchange: Exchange, request: dict[str, Any]) -> object:
    """Return the answer to an info request. Raises ValueError or KeyError for one that is not known."""
    kind = request["type"]
    if kind == "fileSnapshot":
        return _file_snapshot(exchange, request)
    if kind == "meta":
        return _meta(exchange, str(request.get("dex", "")))
    if kind == "spotMeta":
        return _spot_meta(exchange)
    if kind == "exchangeStatus":
        return {"time": exchange.time_ns // 1_000_000, "specialStatuses": None}
    if kind in ("openOrders", "frontendOpenOrders"):
        return [_open_order(order, kind) for order in open_orders(exchange, str(request["user"]).lower())]
    if kind == "clearinghouseState":
        return _clearinghouse_state(exchange, str(request["user"]).lower(), str(request.get("dex", "")))
    raise ValueError(f"unknown type {kind}")


def _file_snapshot(exchange: Exchange, request: dict[str, Any]) -> object:
    inner = request["request"]
    if inner["type"] != "l4Snapshots":
        raise ValueError(f"unknown type {inner['type']}")
    parts = snapshot_parts(
        exchange,
        users=bool(inner.get("includeUsers")),
        triggers=bool(inner.get("includeTriggerOrders")),
        height=bool(request.get("includeHeightInOutput")),
    )
    with Path(request["outPath"]).open("w", encoding="ascii") as file:
        file.writelines(parts)
    return None


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
