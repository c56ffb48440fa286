from typing_extensions import Buffer

from fasttail.parser.columns import Batch

def parse(data: Buffer, workers: int = 1) -> Batch: ...
