"""Selection -> bytes ready to send or to write."""
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fasttail.parser.table cimport Table
from fasttail.parser.types cimport Row


cdef struct Out:             # bytes under construction; owned by whoever made it, freed with out_free
    char* data
    size_t size
    size_t room
    bint failed              # memory ran out: the content is not whole

cdef enum MessageKind:
    DATA                     # text to send
    LEFT_OUT                 # none: orders beyond the topic's quota
    TOO_LONG                 # none: an order that fits into no message

# One message of a topic, or its loss. The text of a box is cut up by these.
cdef struct Message:
    uint32_t topic
    uint8_t kind
    uint32_t orders
    size_t begin             # [begin, end) of the box's text
    size_t end
    uint64_t seq
    uint64_t line            # where the last of its orders stands: offset of the line in its file,
    uint32_t events          # … and how many of the line's events are done with behind it


cdef struct Box:             # messages of a batch: one worker's
    Out text
    Out marks                # array of Message


cdef int room_for(Out* out, size_t more) noexcept nogil
cdef int out_clear(Out* out, size_t keep) noexcept nogil
cdef int out_free(Out* out) noexcept nogil

cdef int put_int(Out* out, uint64_t value) noexcept nogil
cdef int encode_raw(Out* out, const Row* row, const char* data) noexcept nogil
cdef int encode_json(Out* out, const Row* row, Table table, const char* data) noexcept nogil
cdef int encode_ws(Out* out, const Row* row, const char* data) noexcept nogil
cdef int frame_header(char* p, size_t n) noexcept nogil
cdef int add_message(Box* box, const Message* message) noexcept nogil

cdef size_t encode_updates(Table table, const char* data, const uint32_t* rows, size_t n, int64_t now_ns, size_t most, uint32_t topic,
                           Box* box, uint64_t* oversize) noexcept nogil
cdef size_t encode_pieces(Table table, const char* data, const uint32_t* rows, size_t n, size_t most, uint32_t topic,
                          Box* box, uint64_t* oversize) noexcept nogil
