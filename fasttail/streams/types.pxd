"""Defines the parser's types: the parts of a line, the rows made of them, and a worker's chunk.

Offsets of a `TextSpan` count from the first byte of the event (of the line, in an `Envelope`). An offset of 0 means null or
absent, since byte 0 is always the opening brace.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fasttail.streams.intern cimport InternTable


# One number per key of the schema. The keys of one object lie between its *_LO (included) and *_HI (excluded).
cdef enum Field:
    ENVELOPE_LO = 0
    F_LOCAL_TIME = 0
    F_BLOCK_TIME
    F_BLOCK_NUMBER
    F_EVENTS
    ENVELOPE_HI
    EVENT_LO = 4
    F_TIME = 4
    F_USER
    F_HASH
    F_BUILDER
    F_STATUS
    F_ORDER
    EVENT_HI
    ORDER_LO = 10
    F_COIN = 10
    F_SIDE
    F_LIMIT_PX
    F_SZ
    F_OID
    F_TIMESTAMP
    F_TRIGGER_CONDITION
    F_IS_TRIGGER
    F_TRIGGER_PX
    F_CHILDREN
    F_IS_POSITION_TPSL
    F_REDUCE_ONLY
    F_ORDER_TYPE
    F_ORIG_SZ
    F_TIF
    F_CLOID
    ORDER_HI
    FIRST_KEY_OF_LINE = ORDER_HI  # these three are not keys but slots of Chunk.next_key, for the first key of an object
    FIRST_KEY_OF_EVENT
    FIRST_KEY_OF_ORDER
    KEY_HINTS
    MISPREDICTED_KEYS = KEY_HINTS  # slot that counts wrong predictions, modulo 256
    F_NONE = 255


cdef enum JsonKind:
    K_ABSENT = 0
    K_NULL
    K_FALSE
    K_TRUE
    K_INT          # no fraction, no exponent
    K_FLOAT
    K_STRING
    K_ESCAPED_STRING  # a string with at least one backslash
    K_ARRAY
    K_OBJECT


# Why a line was rejected.
cdef enum RejectReason:
    R_OK = 0
    R_JSON         # not one JSON value
    R_UTF8         # a string is not UTF-8
    R_DEPTH        # nested deeper than 1,024
    R_NUMBER       # a number beyond float64
    R_NOT_OBJECT   # valid JSON, but not an object
    R_MISSING      # a required key is missing
    R_TYPE         # a value whose type is not the schema's
    R_DECIMAL      # text that is not a decimal number
    R_TIME         # text that is not a time
    R_SIDE         # neither "A" nor "B"
    R_RANGE        # an integer outside its column's range
    R_LENGTH       # 4 GiB or longer


cdef struct ParseError:
    const char* position  # where it was detected
    uint8_t reason
    uint8_t field        # Field, or F_NONE


cdef struct JsonValue:   # a value found in an object
    const char* text     # first byte; for a string, the one after the quote
    size_t size
    uint8_t kind


cdef struct TextSpan:
    uint32_t offset
    uint32_t size


cdef enum:
    NO_ENVELOPE = 0xFFFFFFFF
    ESCAPED = 8          # flag: some text of this row contains a backslash: decode it before comparing
    NO_CODE = 0          # coin or word: not (yet) in the table


# What begins every row, whatever its stream. Code that handles rows of any stream knows nothing else of them.
cdef struct RowHead:
    uint64_t offset      # of the event's first byte from the start of the data
    uint32_t size        # the event's length in bytes
    uint32_t envelope    # index into the batch's envelopes, or NO_ENVELOPE
    int64_t time_ns      # the event's time, ns since 1970
    TextSpan coin_text
    TextSpan user
    uint16_t coin        # code in the batch's coin names
    uint8_t side         # ord("A") or ord("B")
    uint8_t flags        # ESCAPED, and the stream's own
    uint8_t codes[4]     # of words that the stream has lists of; the first is the one that filters select by


# The block that a streaming or by_block line belongs to.
cdef struct Envelope:
    uint64_t offset      # of the line's first byte from the start of the data
    uint64_t block_number
    int64_t block_time_ns
    int64_t local_time_ns
    TextSpan block_time
    TextSpan local_time


cdef struct Reject:
    uint64_t line_offset   # of the line's first byte from the start of the data
    uint64_t error_offset  # where the error was detected
    uint8_t reason
    uint8_t field


cdef enum:
    # Readable bytes that the template path needs from an event's first byte on.
    FAST_MARGIN = 2048


cdef struct StreamSpec


# One worker's part of a batch. The pool owns all arrays; during the parallel region only the chunk's worker touches them.
cdef struct Chunk:
    # set before the region
    const char* data             # start of the whole data, from which offsets count
    const char* begin            # first byte of the chunk; begin == end: an empty chunk
    const char* pos              # next byte to parse; advances
    const char* scanned_newline  # newline found by the last search ahead, so that each byte is searched only once
    const char* end              # end of the chunk: a line's end, or the next worker's first event (`ends_inside_line`)
    const char* limit            # end of the whole data
    const char* readable         # end of readable memory (>= limit: a reader's memory extends beyond the data)
    bint starts_inside_line      # begins at an event within a line
    bint ends_inside_line        # the next chunk begins at an event within a line
    bint first_line_done         # the rest of the line that began in another chunk has been parsed
    const StreamSpec* stream
    char* rows                   # stream.row_bytes bytes each
    size_t rows_cap
    size_t rows_len
    Envelope* envelopes
    size_t envelopes_cap
    size_t envelopes_len
    uint32_t envelope_base   # index of envelopes[0] in the whole array
    Reject* rejects
    size_t rejects_cap
    size_t rejects_len
    InternTable* coins       # read-only during the region, unless `single_worker`
    bint single_worker       # no other worker runs, so new coins get their code at once
    # results
    uint32_t* uncoded_rows   # rows whose coin is not in `coins` yet, up to uncoded_cap
    size_t uncoded_cap
    size_t uncoded_len        # greater than uncoded_cap: there are more than listed
    bint rejects_full         # stopped at `pos` because `rejects` is full: empty it and continue
    bint needs_recut          # a shared line was not what the cut assumed: cut again at newlines only
    bint stopped_at_boundary  # reached `end` exactly, inside a line
    bint bound_exceeded       # an array's bound did not hold: a bug
    uint64_t lines
    uint64_t nul_bytes
    uint64_t started_ns
    uint64_t ended_ns
    # the last time texts this worker parsed: up to the second (19 characters), and whole
    char cached_second_text[32]
    int64_t cached_second_ns
    char cached_time_text[32]
    int64_t cached_time_ns
    uint32_t cached_time_size
    int indexed_lines_left   # lines still to parse by structural index; negative: lines still to parse without it
    uint8_t next_key[32]     # the general path's prediction of the key after each of KEY_HINTS


ctypedef void (*chunk_function)(Chunk* c) noexcept nogil


cdef struct StreamSpec:      # what the pool needs to know about a stream
    chunk_function parse     # parses one chunk into rows; runs in the parallel region
    chunk_function finish    # runs after the region, chunk by chunk in one thread: assigns codes to new coins
    size_t row_bytes
    size_t price, quantity   # offsets in a row of the two float64 whose product is its notional
    size_t word              # offset in a row of the text of codes[0]
    const InternTable* words  # texts that have a code there
    size_t min_event_bytes   # no valid event is shorter, which bounds the rows
    size_t min_envelope_bytes  # the same for envelopes
    const char* event_separator  # text between two events of a line; cannot occur within a string
    size_t separator_size
    size_t event_start_skip  # from the separator's first byte to that of the next event
