from typing import final

@final
class Table: ...
