from typing import final

@final
class StreamTopics: ...
