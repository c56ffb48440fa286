from typing import final

@final
class RowTable: ...
