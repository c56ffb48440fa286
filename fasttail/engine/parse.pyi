from typing_extensions import Buffer

from fasttail.engine.columns import Batch

def parse(data: Buffer, workers: int = 1, stream: str | None = None) -> Batch: ...
