from typing import final

@final
class Topics: ...
