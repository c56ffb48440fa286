"""The cost of subscriptions on `/ws`, and its limits for each client and for all together.

A cost follows from the request alone, never from a measurement, so a client can calculate it. A unit is about
1 KB of memory, or a hundred-thousandth of the work that the server accepts by default:

    a subscription                        1      its own state, whoever shares its topic
    the topic of `orderUpdates`           4      one look-up per order, for any number of users
    the topic of any other type           9
      each 16 entries of its lists        1      coins, users, statuses
      each user of `users`                4   }
      else each coin of `coins`          20   }  at most ALL_ORDERS_COST: what its messages may hold
      else, all orders      ALL_ORDERS_COST   }

Equal subscriptions share a topic, whose cost the server counts once. Each client is charged in full, because
the other subscribers may leave. The old channels are free.
"""

from __future__ import annotations

from collections import Counter

from fasttail.publish.subscriptions import BROADCASTS, Subscription

SUBSCRIPTION_COST = 1
ALL_ORDERS_COST = 1000
_USER_COST = 4
_ORDERS_TOPIC_COST = 9
_ENTRIES_PER_UNIT = 16
_COIN_COST = 20


def topic_cost(subscription: Subscription) -> int:
    """Return the cost of a subscription's topic, in units."""
    if subscription.type in BROADCASTS:
        return 0
    if subscription.type == "orderUpdates":
        return _USER_COST
    users, coins, statuses = (subscription.users or (), subscription.coins or (), subscription.statuses or ())
    entries = len(users) + len(coins) + len(statuses)
    selected = _USER_COST * len(users) or _COIN_COST * len(coins) or ALL_ORDERS_COST
    return _ORDERS_TOPIC_COST + -(-entries // _ENTRIES_PER_UNIT) + min(selected, ALL_ORDERS_COST)


class BudgetExceeded(Exception):
    """A subscription does not fit; the text says why."""


class Account:
    """The units that one client's subscriptions cost."""

    def __init__(self) -> None:
        self.used = 0


class Budget:
    """The units in use, and their limits.

    limit: for all clients together. client_limit: for each client. refused: rejections, counted by the
    caller.
    """

    def __init__(self, limit: int, client_limit: int) -> None:
        self.limit = limit
        self.client_limit = client_limit
        self.used = 0
        self.refused = 0
        self._subscribers: Counter[str] = Counter()  # by the subscription's key

    def charge(self, account: Account, subscription: Subscription) -> None:
        """Count a client's new subscription. If it does not fit, count nothing and raise BudgetExceeded."""
        topic = topic_cost(subscription)
        cost = SUBSCRIPTION_COST + topic
        added = cost if subscription.key not in self._subscribers else SUBSCRIPTION_COST
        for needed, free, owner in (
            (cost, self.client_limit - account.used, f"the {self.client_limit:,} of one client"),
            (added, self.limit - self.used, f"the {self.limit:,} of all clients"),
        ):
            if needed > free:
                raise BudgetExceeded(
                    f"it costs {needed:,} units, but only {max(0, free):,} of {owner} are left"
                )
        self._subscribers[subscription.key] += 1
        account.used += cost
        self.used += added

    def refund(self, account: Account, subscription: Subscription) -> None:
        """Return the units of a subscription that `charge` counted."""
        topic = topic_cost(subscription)
        account.used -= SUBSCRIPTION_COST + topic
        self.used -= SUBSCRIPTION_COST
        self._subscribers[subscription.key] -= 1
        if not self._subscribers[subscription.key]:
            del self._subscribers[subscription.key]
            self.used -= topic
