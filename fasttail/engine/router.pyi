from typing import final

@final
class Router: ...
