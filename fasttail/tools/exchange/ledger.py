"""What happens beside the books: funding, transfers, staking, and actions that come from HyperEVM."""

from __future__ import annotations

import random

from fasttail.tools.exchange.accounts import Account, Maker, hex_digits
from fasttail.tools.exchange.book import Order
from fasttail.tools.exchange.constants import NS
from fasttail.tools.exchange.decimals import SCALE, decimal_text, product
from fasttail.tools.exchange.engine import Engine
from fasttail.tools.exchange.events import NO_HASH

_HOUR_NS = 3600 * NS


class Ledger:
    """Reports misc events and the actions of HyperEVM contracts.

    funding_deltas: least number of entries in the hourly `Funding` event; users that never trade make up for
                    what the real positions lack.
    time_ns:        when the block before the first one was.
    """

    def __init__(
        self, engine: Engine, accounts: list[Account], makers: list[Maker], seed: int, funding_deltas: int,
        time_ns: int,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._accounts = accounts
        self._makers = makers
        self._rng = random.Random(f"{seed}:ledger")
        self._funding_deltas = funding_deltas
        self._hour = time_ns // _HOUR_NS
        self._nonce = 2_153_200

    def act(self) -> None:
        """Report what is due in this block."""
        hour = self._engine.events.time_ns // _HOUR_NS
        if hour != self._hour:
            self._hour = hour
            self._hourly()
        rng = self._rng
        if rng.random() < 0.25:
            self._ledger_update()
        if rng.random() < 0.03:
            self._staking()
        if rng.random() < 0.2:
            self._contract_action()

    def _misc(self, kind: str, payload: str, tx_hash: str) -> None:
        events = self._engine.events
        events.add("miscEvents", f'{events.head}","hash":"{tx_hash}","inner":{{"{kind}":{payload}}}}}')

    def _tx_hash(self) -> str:
        return f"0x{self._engine.events.tx_digits()}"

    # -- once an hour

    def _hourly(self) -> None:
        events = self._engine.events
        if "miscEvents" not in events.wanted:
            return
        deltas = [
            self._delta(
                account.address,
                maker.market.name,
                account.positions[maker.market.name].szi,
                maker.market.fair,
            )
            for maker in self._makers
            if maker.market.is_perp
            for account in (maker.account,)
            if account.positions.get(maker.market.name) is not None
        ]
        deltas = list(dict.fromkeys(deltas))
        rng = random.Random(f"{self._hour}:funding")  # its own, since a run without this stream draws nothing
        while len(deltas) < self._funding_deltas:
            deltas.append(
                self._delta(f"0x{hex_digits(rng, 40)}", "BTC", rng.randrange(1, 10**9), 68_000 * SCALE)
            )
        self._misc("Funding", f'{{"deltas":[{",".join(deltas)}]}}', NO_HASH)
        rewards = ",".join(f'["{account.address}","{_amount(rng)}"]' for account in self._accounts[:20])
        self._misc("ValidatorRewards", f'{{"validator_to_reward":[{rewards}]}}', NO_HASH)
        self._misc(
            "GossipPriorityAuctionRestart",
            f'{{"slot_id":{self._hour % 5},"previous_winner":{{"Ip":"192.0.2.{self._hour % 250}"}},'
            f'"end_gas":"{_amount(rng)}"}}',
            NO_HASH,
        )

    @staticmethod
    def _delta(user: str, coin: str, szi: int, px: int) -> str:
        rate = (sum(coin.encode()) % 41 - 10) * 125  # scaled by 10^8
        amount = -product(product(abs(szi), px), rate) if szi > 0 else product(product(abs(szi), px), rate)
        return (
            f'{{"user":"{user}","coin":"{coin}","funding_amount":"{decimal_text(amount // 100 * 100)}",'
            f'"szi":"{decimal_text(szi)}","funding_rate":"{decimal_text(rate)}"}}'
        )

    # -- now and then

    def _ledger_update(self) -> None:
        rng = self._rng
        user, other = (rng.choice(self._accounts).address for _ in range(2))
        amount, nonce = _amount(rng), self._engine.events.time_ms
        users, delta = rng.choice((
            ((user,), f'"type":"deposit","usdc":"{amount}"'),
            ((user,), f'"type":"withdraw","usdc":"{amount}","nonce":{nonce},"fee":"1.0"'),
            ((user, other), f'"type":"internalTransfer","usdc":"{amount}","user":"{user}",'
                            f'"destination":"{other}","fee":"0.0"'),
            ((user,), f'"type":"accountClassTransfer","usdc":"{amount}","toPerp":{_boolean(rng)}'),
            ((user, other), f'"type":"spotTransfer","token":"HYPE","amount":"{amount}",'
                            f'"usdcValue":"{amount}","user":"{user}","destination":"{other}","fee":"0.0","nativeTokenFee":"0.0",'
                            f'"nonce":{nonce},"feeToken":""'),
            ((user, other), f'"type":"send","user":"{user}","destination":"{other}","sourceDex":"spot",'
                            f'"destinationDex":"spot","token":"USDC","amount":"{amount}","usdcValue":"{amount}",'
                            f'"fee":"0.0","nativeTokenFee":"0.00002","nonce":{nonce},"feeToken":""'),
            ((user,), f'"type":"vaultDeposit","vault":"{other}","usdc":"{amount}"'),
            ((user,), f'"type":"rewardsClaim","amount":"{amount}","token":"USDC"'),
        ))  # fmt: skip
        names = ",".join(f'"{name}"' for name in users)
        self._misc("LedgerUpdate", f'{{"users":[{names}],"delta":{{{delta}}}}}', self._tx_hash())

    def _staking(self) -> None:
        rng = self._rng
        user, validator = (rng.choice(self._accounts).address for _ in range(2))
        kind, payload = rng.choice((
            ("CDeposit", f'"user":"{user}","amount":"{_amount(rng)}"'),
            ("CWithdrawal", f'"user":"{user}","amount":"{_amount(rng)}",'
                            f'"is_finalized":{_boolean(rng)}'),
            ("Delegation", f'"user":"{user}","validator":"{validator}","amount":"{_amount(rng)}",'
                           f'"is_undelegate":{_boolean(rng)}'),
        ))  # fmt: skip
        self._misc(kind, f"{{{payload}}}", self._tx_hash())

    def _contract_action(self) -> None:
        """Report an action of a contract: a transfer, or an order that is placed too."""
        rng = self._rng
        self._nonce += rng.randrange(1, 5)
        account = rng.choice(self._accounts)
        roll = rng.random()
        if roll < 0.3:
            maker = rng.choice(self._makers)
            account, action = maker.account, self._contract_order(maker)
        elif roll < 0.6:
            action = (
                f'"type":"SystemSendAssetAction","destination":"0x{hex_digits(rng, 40)}",'
                f'"fromSubAccount":null,"sourceDexOrSpot":0,'
                f'"destinationDexOrSpot":{rng.choice(("0", "null"))},"token":0,'
                f'"wei":{rng.randrange(1, 10**9)}'
            )
        elif roll < 0.9:
            action = (
                f'"type":"SystemSpotSendAction","destination":"0x{hex_digits(rng, 40)}",'
                f'"token":{rng.randrange(400)},"wei":{rng.randrange(1, 10**12)}'
            )
        else:
            action = f'"type":"SystemUsdClassTransferAction","ntl":{rng.randrange(1, 10**10)},"toPerp":true'
        self._engine.events.add(
            "writerActions",
            f'{{"user":"{account.address}","nonce":{self._nonce},"evm_tx_hash":"0x{hex_digits(rng, 64)}",'
            f'"action":{{{action}}}}}',
        )

    def _contract_order(self, maker: Maker) -> str:
        """Place an Ioc order at the touch, and return the action that asked for it."""
        engine, market = self._engine, maker.market
        px = market.ladder(not maker.is_bid).best() or market.fair
        sz = market.sizes[0]
        order = Order(maker, engine.next_oid(), px, sz, engine.events.time_ms, '"Ioc"', "null")
        if market.state == "open":
            engine.execute(order, no_match="iocCancelRejected")
        else:
            engine.reject(order, "rejected")
        return (
            f'"type":"order","orders":[{{"a":{market.asset},"b":{"true" if maker.is_bid else "false"},'
            f'"p":"{_short(px)}","s":"{_short(sz)}","r":false,"t":{{"limit":{{"tif":"Ioc"}}}}}}],"grouping":"na"'
        )


def _amount(rng: random.Random) -> str:
    return decimal_text(rng.randrange(10**6, 10**11) // 100 * 100)


def _boolean(rng: random.Random) -> str:
    return rng.choice(("true", "false"))


def _short(value: int) -> str:
    """Return a decimal as actions carry it, without a trailing `.0`."""
    return decimal_text(value).removesuffix(".0")
