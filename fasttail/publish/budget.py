"""What the subscriptions on /ws cost, and how much of it the server takes on, from all clients and each.

A cost is a number of units that follows from the request alone, never from a measurement, so that a client
can work it out beforehand. A unit is about a kilobyte of memory, or a hundred-thousandth of the work that
the server takes on by default:

    a subscription                        1      what is kept for it, whoever shares its topic
    the topic of `orderUpdates`           4      one look-up for each order, however many users are asked for
    the topic of `orders`                 9
      each 16 entries of its lists        1      coins, users, statuses
      each user of `users`                4   }
      else each coin of `coins`          20   }  at most ALL_ORDERS_COST: what its messages may hold
      else, all orders      ALL_ORDERS_COST   }

Equal subscriptions share a topic, whose cost the server counts once. For the share of a client each of its
subscriptions counts in full, since the others may leave. The old channels cost nothing: there is always room
for them.
"""

from __future__ import annotations

from collections import Counter

from fasttail.publish.subscriptions import Subscription

SUBSCRIPTION_COST = 1
ALL_ORDERS_COST = 1000
_USER_COST = 4
_ORDERS_TOPIC_COST = 9
_ENTRIES_PER_UNIT = 16
_COIN_COST = 20


def topic_cost(subscription: Subscription) -> int:
    """Units that the topic of a subscription costs, besides the subscription itself."""
    if subscription.type == "status":
        return 0
    if subscription.type == "orderUpdates":
        return _USER_COST
    users, coins, statuses = (subscription.users or (), subscription.coins or (), subscription.statuses or ())
    entries = len(users) + len(coins) + len(statuses)
    selected = _USER_COST * len(users) or _COIN_COST * len(coins) or ALL_ORDERS_COST
    return _ORDERS_TOPIC_COST + -(-entries // _ENTRIES_PER_UNIT) + min(selected, ALL_ORDERS_COST)


class BudgetExceeded(Exception):
    """A subscription for which there is no room; the text says why."""


class Account:
    """What one client's subscriptions cost."""

    def __init__(self) -> None:
        self.used = 0


class Budget:
    """limit: units of all clients together. client_limit: units of one client. refused: how many
    subscriptions were turned away, counted by who does so.
    """

    def __init__(self, limit: int, client_limit: int) -> None:
        self.limit = limit
        self.client_limit = client_limit
        self.used = 0
        self.refused = 0
        self._subscribers: Counter[str] = Counter()  # by topic

    def charge(self, account: Account, subscription: Subscription) -> None:
        """Count a new subscription of a client. Raises BudgetExceeded, and counts nothing then."""
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
        """One that `charge` has counted has ended."""
        topic = topic_cost(subscription)
        account.used -= SUBSCRIPTION_COST + topic
        self.used -= SUBSCRIPTION_COST
        self._subscribers[subscription.key] -= 1
        if not self._subscribers[subscription.key]:
            del self._subscribers[subscription.key]
            self.used -= topic
