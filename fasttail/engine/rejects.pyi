from typing import NamedTuple

class Rejected(NamedTuple):
    offset: int
    at: int
    reason: str

def reason_text(reason: int, field: int) -> str: ...
