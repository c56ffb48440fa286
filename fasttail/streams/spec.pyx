"""Builds the description of a stream from its table of fields.

    table of fields ─┬─► keys and schemas, by which the general path finds the values
                     ├─► conversions, by which it stores them in a row
                     ├─► columns and `to_pylist`
                     └─► pieces of the flat JSON object
"""
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memcpy

from fasttail.streams.json cimport key_table_init
from fasttail.streams.types cimport (
    AS_AMOUNT, AS_BOOL, AS_DECIMAL, AS_INT, AS_JSON, AS_NESTED, AS_SIDE, AS_TIME, AS_UINT, FIRST_FIELD, FIRST_KEY_OF_EVENT,
    FIRST_KEY_OF_LINE, FIRST_KEY_OF_NESTED, LITERAL_BYTES, MAX_FIELDS, MAX_PIECES, PUT_BOOL, PUT_INT, PUT_JSON,
    PUT_NOTHING, PUT_SIDE, PUT_STRING, PUT_TEXT, PUT_UINT, ObjectSchema, Piece, Pieces)

cdef enum:
    NUMBER_BYTES = 28            # that appending an integer may write
    WORD_BYTES = 5               # of null, true or false

cdef list _kept_texts = []       # that descriptions point to


cdef FieldSpec* add_field(StreamSpec* stream, bytes key, int conversion, int kinds, size_t span=NOT_STORED,
                          size_t value=NOT_STORED) except NULL:
    """Append a field and return it. kinds: a set of JsonKinds; span, value: offsets in the row."""
    cdef FieldSpec* field = &stream.fields[stream.fields_len]
    if stream.fields_len == MAX_FIELDS:
        raise ValueError(f"at most {MAX_FIELDS} fields")
    _kept_texts.append(key)
    field.key = key
    field.key_size = <size_t>len(key)
    field.conversion = <uint8_t>conversion
    field.kinds = <uint16_t>kinds
    field.span = <uint16_t>span
    field.value = <uint16_t>value
    field.exact = NOT_STORED
    stream.fields_len += 1
    return field


cdef int _add_piece(Pieces* pieces, bytes literal, int value_kind, size_t at, int flag, bint optional) except -1:
    """Append the literal, in several pieces if it is long, with the value after it."""
    cdef Piece* piece
    if optional and len(literal) > LITERAL_BYTES:
        raise ValueError(f"{literal!r} is too long for a field that may be left out")
    pieces.overhead += <size_t>len(literal) + (NUMBER_BYTES if value_kind in (PUT_UINT, PUT_INT) else WORD_BYTES)
    while True:
        if pieces.count == MAX_PIECES:
            raise ValueError(f"at most {MAX_PIECES} pieces")
        piece = &pieces.pieces[pieces.count]
        pieces.count += 1
        now, literal = literal[:LITERAL_BYTES], literal[LITERAL_BYTES:]
        memcpy(piece.literal, <const char*>now, <size_t>len(now))
        piece.literal_size = <uint8_t>len(now)
        piece.optional = <uint8_t>optional
        piece.at = <uint16_t>at
        if not literal:
            piece.value_kind = <uint8_t>value_kind
            piece.flag = <uint8_t>flag
            return 0


cdef int _make_flat(StreamSpec* stream) except -1:
    """Make the pieces of the flat object from the fields, in their order."""
    cdef const FieldSpec* field
    cdef bint optional
    cdef int i
    cdef bytes before = b"{"
    for i in range(stream.fields_len):
        field = &stream.fields[i]
        if field.conversion == AS_NESTED:
            continue
        optional = field.kinds & OPTIONAL and not field.null_if_absent
        if optional and before != b",":
            _add_piece(&stream.flat, before[:len(before) - 1], PUT_NOTHING, 0, 0, False)
            before = b","
        before += b'"' + field.key[:field.key_size] + b'":'
        if field.conversion == AS_SIDE:
            _add_piece(&stream.flat, before + b'"', PUT_SIDE, 0, 0, False)
            before = b'",'
        elif field.conversion == AS_BOOL:
            _add_piece(&stream.flat, before, PUT_BOOL, 0, field.flag, False)
            before = b","
        elif field.span == NOT_STORED:
            _add_piece(&stream.flat, before, PUT_UINT if field.conversion == AS_UINT else PUT_INT, field.value, 0, False)
            before = b","
        elif field.conversion in (AS_JSON, AS_UINT, AS_INT):
            _add_piece(&stream.flat, before, PUT_JSON, field.span, 0, optional)
            before = b","
        elif field.kinds & (OPTIONAL | NULLABLE):
            _add_piece(&stream.flat, before, PUT_STRING, field.span, 0, optional)
            before = b","
        else:
            _add_piece(&stream.flat, before + b'"', PUT_TEXT, field.span, 0, False)
            before = b'",'
    _add_piece(&stream.flat, before[:len(before) - 1], PUT_NOTHING, 0, 0, False)
    return 0


cdef const FieldSpec* field_named(const StreamSpec* stream, bytes key) noexcept:
    """Return the field of this key, or NULL."""
    cdef int i
    for i in range(stream.fields_len):
        if stream.fields[i].key[:stream.fields[i].key_size] == key:
            return &stream.fields[i]
    return NULL


cdef size_t _min_value_bytes(const FieldSpec* field) noexcept:
    """Return a lower bound for the length of a value that is not left out."""
    if field.conversion == AS_TIME:
        return 21
    if field.conversion == AS_SIDE or field.conversion == AS_DECIMAL or field.conversion == AS_AMOUNT:
        return 3
    if field.conversion == AS_BOOL:
        return 4
    return 1 if field.kinds & INTEGER else 2


cdef int spec_finish(StreamSpec* stream, int event_fields) except -1:
    """Derive everything else from the fields.

    The first `event_fields` are the event's own, the others those of its nested object.
    """
    cdef int nested_key = -1, i
    cdef ObjectSchema* inside = NULL
    cdef size_t smallest = 2
    names = [b"local_time", b"block_time", b"block_number", b"events"]
    for i in range(stream.fields_len):
        names.append(stream.fields[i].key[:stream.fields[i].key_size])
        if stream.fields[i].conversion == AS_NESTED:
            nested_key = FIRST_FIELD + i
            inside = &stream.nested
        if not stream.fields[i].kinds & OPTIONAL:
            smallest += stream.fields[i].key_size + 4 + _min_value_bytes(&stream.fields[i])
    stream.nested = ObjectSchema(FIRST_KEY_OF_NESTED, FIRST_FIELD + event_fields, FIRST_FIELD + stream.fields_len, -1, NULL)
    # The text of a pair is found by its place.
    stream.event = ObjectSchema(FIRST_KEY_OF_EVENT, FIRST_FIELD + stream.pair, FIRST_FIELD + event_fields, nested_key, inside)
    stream.line = ObjectSchema(FIRST_KEY_OF_LINE, 0, FIRST_FIELD + (0 if stream.pair else event_fields), nested_key, inside)
    _kept_texts.extend(names)
    key_table_init(&stream.keys, tuple(names))
    # A comma less in each object; the key of a pair's text is not written.
    stream.min_event_bytes = (smallest - 2 - (stream.fields[0].key_size + 3 if stream.pair else 0)) // 32 * 32
    return _make_flat(stream)
