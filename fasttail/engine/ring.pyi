from typing import final

@final
class Ring: ...
