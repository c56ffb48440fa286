"""The parser's vocabulary: what a line is made of, and the rows that come out. No code here.

Offsets of a `TextSpan` count from the first byte of the event (of the line, in an `Envelope`); an offset of 0 means null or
absent, since byte 0 is always the opening brace.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fasttail.streams.intern cimport InternTable


# One number per key of the schema. The ranges between the *_LO and *_HI marks are the keys of one object.
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
    FIRST_KEY_OF_LINE = ORDER_HI  # not keys: places for "the first key of …" beside them
    FIRST_KEY_OF_EVENT
    FIRST_KEY_OF_ORDER
    KEY_HINTS
    MISPREDICTED_KEYS = KEY_HINTS  # nor is this: how many guesses were wrong, modulo 256
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
    R_NOT_OBJECT   # valid JSON, but no object
    R_MISSING      # a key that must be there is not
    R_TYPE         # a value of another type than the schema's
    R_DECIMAL      # text that is no decimal number
    R_TIME         # text that is no time
    R_SIDE         # neither "A" nor "B"
    R_RANGE        # an integer outside its column's range
    R_LENGTH       # longer than 4 GiB


cdef struct ParseError:
    const char* position  # where it was noticed
    uint8_t reason
    uint8_t field        # Field, or F_NONE


cdef struct JsonValue:   # a value found in an object
    const char* text     # first byte; of a string: after the quote
    size_t size
    uint8_t kind


cdef struct TextSpan:
    uint32_t offset
    uint32_t size


cdef enum:
    NO_ENVELOPE = 0xFFFFFFFF
    IS_TRIGGER = 1
    IS_POSITION_TPSL = 2
    REDUCE_ONLY = 4
    ESCAPED = 8          # some text of this row has a backslash: decode before comparing
    NO_CODE = 0          # coin/status/orderType/tif: not (yet) in the table; tif: or null


# One order status: 192 bytes, three cache lines. A batch is an array of these, read by columns with a stride.
cdef struct Row:
    uint64_t offset      # the event's first byte, counted from the start of the data
    uint32_t size        # the event's length in bytes
    uint32_t envelope    # index into the batch's envelopes, or NO_ENVELOPE
    uint64_t oid
    int64_t timestamp    # ms since 1970
    int64_t time_ns      # `time`, ns since 1970
    double limitPx
    double sz
    double origSz
    uint16_t coin        # code in the batch's coin names
    uint8_t status       # code in STATUSES
    uint8_t side         # ord("A") or ord("B")
    uint8_t orderType    # code in ORDER_TYPES
    uint8_t tif          # code in TIFS; NO_CODE: null or unknown (see `tif_text`)
    uint8_t flags
    uint8_t padding
    TextSpan time
    TextSpan user
    TextSpan hash
    TextSpan builder
    TextSpan status_text
    TextSpan coin_text
    TextSpan limitPx_text
    TextSpan sz_text
    TextSpan triggerCondition
    TextSpan triggerPx_text
    TextSpan children
    TextSpan orderType_text
    TextSpan origSz_text
    TextSpan tif_text
    TextSpan cloid


# The block a streaming or by_block line belongs to.
cdef struct Envelope:
    uint64_t offset      # the line's first byte, counted from the start of the data
    uint64_t block_number
    int64_t block_time_ns
    int64_t local_time_ns
    TextSpan block_time
    TextSpan local_time


cdef struct Reject:
    uint64_t line_offset   # the line's first byte
    uint64_t error_offset  # where the fault was noticed
    uint8_t reason
    uint8_t field


cdef enum:
    # Readable bytes that the fast path wants in front of it before it starts an event.
    FAST_MARGIN = 2048


# One worker's share of a batch. The pool owns all arrays; during the parallel region only its worker touches it.
cdef struct Chunk:
    # set before the region
    const char* data             # start of the whole data: offsets count from here
    const char* begin            # the share's first byte; begin == end: an empty share
    const char* pos              # next byte to parse; moves
    const char* scanned_newline  # the last one that was looked for ahead; so each byte is looked at once for it
    const char* end              # end of the share: a line's end, or the next worker's first event (`ends_inside_line`)
    const char* limit            # end of the whole data
    const char* readable         # bytes before this may be read (>= limit: a reader's memory goes on behind the data)
    bint starts_inside_line      # begins at an event within a line
    bint ends_inside_line        # the next share begins at an event within a line
    bint first_line_done         # the rest of the line that began in another share is done
    void* rows                   # of the stream's row type
    size_t rows_cap
    size_t rows_len
    Envelope* envelopes
    size_t envelopes_cap
    size_t envelopes_len
    uint32_t envelope_base   # index of envelopes[0] in the whole array
    Reject* rejects
    size_t rejects_cap
    size_t rejects_len
    InternTable* coins       # read only during the region, unless `single_worker`
    bint single_worker       # no other worker: new coins get their code as they come
    # results
    uint32_t* uncoded_rows   # rows whose coin is not in `coins` yet, as far as there is room
    size_t uncoded_cap
    size_t uncoded_len        # beyond uncoded_cap: there are more
    bint rejects_full         # stopped at `pos` because `rejects` is full: empty it and go on
    bint needs_recut          # a line shared between workers was not what the cut assumed: cut again at newlines only
    bint stopped_at_boundary  # reached `end` exactly, inside a line
    bint bound_exceeded       # an array's bound did not hold: a bug
    uint64_t lines
    uint64_t nul_bytes
    uint64_t started_ns
    uint64_t ended_ns
    # the worker's memory of the last texts of times: up to the second (19 characters), and whole
    char cached_second_text[32]
    int64_t cached_second_ns
    char cached_time_text[32]
    int64_t cached_time_ns
    uint32_t cached_time_size
    int indexed_lines_left   # so many lines are to go by their outline; negative: so many are not
    uint8_t next_key[32]     # of KEY_HINTS: the general path's memory of which key came after which


ctypedef void (*chunk_function)(Chunk* c) noexcept nogil


cdef struct StreamSpec:      # what the pool has to know of one of the node's streams
    chunk_function parse     # one share -> rows; runs in the parallel region
    chunk_function finish    # after it, chunk by chunk, in one thread: numbers for new coins
    size_t row_bytes
    size_t min_event_bytes   # no valid event, and no valid envelope, is shorter: these bound the arrays
    size_t min_envelope_bytes
    const char* event_separator  # where one event ends and the next begins inside a line; cannot stand within a string
    size_t separator_size
    size_t event_start_skip  # from the mark's first byte to the next event's
