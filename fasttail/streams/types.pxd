"""Defines the parser's types: the parts of a line, the rows made of them, and a worker's chunk.

Offsets of a `TextSpan` count from the first byte of the event (of the line, in an `Envelope`). An offset of 0 means null or
absent, since byte 0 is always the opening bracket. The size then tells which, in fields that keep them apart: 1 for null, 0 for
absent.
"""
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from fasttail.streams.intern cimport InternTable


cdef enum:
    MAX_KEYS = 32        # of a stream, with those of the envelope
    KEY_SLOTS = 128


# The keys of the envelope have the same codes in every stream. Those of the stream's own fields follow.
cdef enum Field:
    F_LOCAL_TIME = 0
    F_BLOCK_TIME
    F_BLOCK_NUMBER
    F_EVENTS
    FIRST_FIELD
    # These are not keys but slots of Chunk.next_key.
    FIRST_KEY_OF_LINE = MAX_KEYS  # for the first key of an object
    FIRST_KEY_OF_EVENT
    FIRST_KEY_OF_NESTED
    MISPREDICTED_KEYS    # counts wrong predictions, modulo 256
    KEY_HINTS
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
    R_TIME         # not a time
    R_SIDE         # neither "A" nor "B"
    R_RANGE        # an integer outside its column's range
    R_LENGTH       # 4 GiB or longer
    R_PAIR         # not a pair of a text and an object


cdef struct ParseError:
    const char* position  # where it was detected
    uint8_t reason
    uint8_t field        # Field, or F_NONE


cdef struct JsonValue:   # a value found in an object
    const char* text     # first byte; for a string, the one after the quote
    size_t size
    uint8_t kind


cdef struct Key:             # a key of at most 16 bytes, padded with zeros
    uint64_t head
    uint64_t tail
    size_t size


cdef struct KeyTable:
    Key entries[MAX_KEYS]                # a perfect hash table: each key of at most 16 bytes has its own slot
    uint64_t factor
    uint8_t slot_to_key[KEY_SLOTS]       # the only key that may be in the slot
    const char* long_keys[MAX_KEYS]      # the longer ones are compared one by one; NULL: a short key
    size_t long_sizes[MAX_KEYS]
    int count


cdef struct ObjectSchema:    # the keys wanted of an object
    int first_key_hint       # index in `next_key` of the predicted first key
    int lo
    int hi
    int nested_key           # key whose object is read in the same pass, with `nested`; -1: none
    const ObjectSchema* nested


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
    uint64_t events_before  # of its block, in the lines before it; set by `ReplayedBlocks`,
    bint dropped            # … and whether it was read before
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
    uint8_t next_key[KEY_HINTS]  # the general path's prediction of the key after each key and each hint


ctypedef void (*chunk_function)(Chunk* c) noexcept nogil


# How a field's value is converted.
cdef enum Conversion:
    AS_TEXT                  # kept as text
    AS_JSON                  # kept as JSON text, whatever its kind
    AS_WORD                  # text; its code in `words` is kept, too
    AS_COIN                  # text; its code in the batch's coin names is kept, too
    AS_SIDE                  # "A" or "B"
    AS_DECIMAL               # decimal text and its float64
    AS_AMOUNT                # the same, and its exact value in units of 10**-8
    AS_TIME                  # text time; in ns
    AS_TIME_MS               # integer, ms since 1970; in ns in the head, too
    AS_UINT                  # 0 to 2**64-1
    AS_INT                   # -2**63 to 2**63-1
    AS_BOOL                  # a flag of the row
    AS_NESTED                # the object that holds the fields after the event's own


# One field of a stream: the only place where it is written down.
cdef struct FieldSpec:
    const char* key
    size_t key_size
    uint8_t conversion
    uint8_t flag             # of AS_BOOL: it is true; of AS_JSON: there is a value
    bint null_if_absent      # shown as null where it is absent; else left out
    uint16_t kinds           # JsonKinds that are accepted, one bit each
    uint16_t span            # offset in the row of its TextSpan, or NOT_STORED
    uint16_t value           # offset in the row of its number or code, or NOT_STORED
    uint16_t exact           # offset in the row of its Amount, for AS_AMOUNT
    const InternTable* words


cdef struct Amount:
    int64_t units            # of 10**-8
    uint8_t exact            # 1: `units` is the value; 0: it cannot be or the field is null or absent


cdef enum:
    NOT_STORED = 0xFFFF
    MAX_FIELDS = MAX_KEYS - FIRST_FIELD
    MAX_PIECES = 64
    LITERAL_BYTES = 32


# What is appended for a piece after its literal.
cdef enum PieceValue:
    PUT_NOTHING
    PUT_TEXT                 # a span that is never null or absent
    PUT_STRING               # a span in quotes, or null
    PUT_JSON                 # a span, or null
    PUT_UINT
    PUT_INT
    PUT_SIDE
    PUT_BOOL


cdef struct Piece:           # of an event's flat form: a literal and a value after it
    char literal[LITERAL_BYTES]
    uint8_t literal_size
    uint8_t value_kind
    uint8_t flag             # of PUT_BOOL
    uint8_t optional         # 1: nothing at all is appended if the span is of an absent value
    uint16_t at              # offset of the value in the row


cdef struct Pieces:
    Piece pieces[MAX_PIECES]
    int count
    size_t overhead          # bytes that may be needed besides those of the event


cdef struct StreamSpec:      # all that code for any stream knows about one
    const char* name
    FieldSpec fields[MAX_FIELDS]  # codes count from FIRST_FIELD
    int fields_len
    bint pair                # an event is `[text, object]`, its text the first field; else an object
    size_t pair_object       # offset in a row of the TextSpan of a pair's object
    int marker               # code of the key that an event has and an envelope has not
    KeyTable keys
    ObjectSchema line        # the outer object of a line: an envelope, or an event of the plain layout
    ObjectSchema event
    ObjectSchema nested
    Pieces flat              # the flat object of `--format json`, without the envelope's keys
    chunk_function parse     # parses one chunk into rows; runs in the parallel region
    size_t row_bytes
    size_t price, quantity   # offsets in a row of the two float64 whose product is its notional
    size_t word              # offset in a row of the text of codes[0]
    size_t event_number      # offset in a row of its event's number in the line (uint32), from 1; 0: the rows are counted
    const InternTable* words  # texts that have a code there
    size_t min_event_bytes   # no valid event is shorter, which bounds the rows
    const char* event_separator  # text between two events of a line; cannot occur within a string. NULL: none is known
    size_t separator_size
    size_t event_start_skip  # from the separator's first byte to that of the next event


cdef enum:
    MIN_ENVELOPE_BYTES = 96  # the shortest valid one has 100 bytes
