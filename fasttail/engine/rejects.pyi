from typing import NamedTuple

class Rejected(NamedTuple):
    offset: int
    at: int
    reason: str
