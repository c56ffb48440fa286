"""The ring, which carries events from the pipeline thread to the main thread and commands back.

    pipeline thread:   claim ─► fill the slot ─► post ─► eventfd ─► main thread: drain
                       take_commands ◄──────── wake_fd ◄─────────── push_command

The ring is full at RING_SLOTS events, or at MAX_RING_BYTES of messages, which one batch may exceed. The pipeline then waits and
stops reading; the file holds what is not read yet.

Memory order: the pipeline fills slots[head] and then stores head (release); the main thread loads head (acquire) and then reads
the slot. `tail` works the same way in the other direction. `wakeup_pending` suppresses eventfd writes while the main thread is
awake. It is cleared before the ring is read, so a batch that is posted after the read signals again.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc
from posix.unistd cimport close

from fasttail.system.atomics cimport (ft_load_acquire, ft_add_single_writer, ft_load_relaxed, ft_stack_push, ft_store_release,
    ft_exchange, ft_stack_take_all)
from fasttail.system.checks cimport ft_assert, ft_assert_thread
from fasttail.engine.rejects cimport reason_text
from fasttail.engine.buffer cimport MAX_RETAINED_BYTES, Outbox, OutboxEntry, Buffer, outbox_clear, outbox_free, buffer_clear
from fasttail.engine.topics cimport to_topic_message

import os
from collections import deque

from fasttail.engine.events import BatchEnd, BatchStart, FileOpened, StreamOpened, TopicsChanged, WorkerState
from fasttail.sources.cursor import BlockPosition

cdef enum:
    MIN_RETAINED_BYTES = 1 << 16  # a drained buffer keeps its memory up to this capacity,
    RETAINED_FACTOR = 4           # … or up to this many times the bytes it held
    MAX_RING_BYTES = 32 << 20     # bytes of messages in the ring before the pipeline waits
    MAX_RECENT_FILES = 64


cdef void _clear_buffer(Buffer* out, size_t limit) noexcept nogil:
    """Clear a drained buffer. Free what only a burst needed, or every slot would grow as large as the largest batch."""
    cdef size_t keep = max(<size_t>MIN_RETAINED_BYTES, RETAINED_FACTOR * out.size)
    buffer_clear(out, min(keep, limit))


cdef class Ring:
    """Owns the slots, the commands that were not taken yet, and the eventfd that signals events.

    Only the pipeline thread calls `claim`, `post`, `is_full`, `take_commands` and `set_file`. `held_bytes` is callable from any
    thread; the rest belongs to the main thread.
    """

    def __cinit__(self, int workers, int wake_fd, sources):
        cdef int i
        self.ready_fd = -1
        self.workers = workers
        self.wake_fd = wake_fd
        self.streams = [source.stream for source in sources]
        self.recent_files = [{} for _ in self.streams]
        self.active_topics = {}
        self.pending_removals = deque()
        self.slots = <RingSlot*>calloc(RING_SLOTS, sizeof(RingSlot))
        if self.slots == NULL:
            raise MemoryError
        for i in range(RING_SLOTS):
            self.slots[i].worker_counts = <uint64_t*>calloc(<size_t>workers, 2 * sizeof(uint64_t))
            self.slots[i].outboxes = <Outbox*>calloc(<size_t>workers, sizeof(Outbox))
            if self.slots[i].worker_counts == NULL or self.slots[i].outboxes == NULL:
                raise MemoryError
        self.ready_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __dealloc__(self):
        # Read C fields only: the garbage collector may already have replaced object fields by None.
        cdef int i, k
        cdef Command* command
        if self.slots != NULL:
            for i in range(RING_SLOTS):
                free(self.slots[i].worker_counts)
                if self.slots[i].outboxes != NULL:
                    for k in range(self.workers):
                        outbox_free(&self.slots[i].outboxes[k])
                free(self.slots[i].outboxes)
        free(self.slots)
        while self.commands != NULL:
            command = self.commands
            self.commands = command.older
            free(command)
        if self.workers > 0 and self.ready_fd >= 0:      # workers is 0 if __cinit__ never ran, and ready_fd is then not ours
            close(self.ready_fd)

    # ------------------------------------------------------------------------------------------------------ pipeline thread

    cdef bint is_full(self) noexcept nogil:
        return (self.head - ft_load_acquire(&self.tail) >= RING_SLOTS
                or self.published_bytes - ft_load_acquire(&self.drained_bytes) >= MAX_RING_BYTES)

    cdef RingSlot* claim(self) noexcept nogil:
        """Return the next free slot, cleared. The ring must not be full."""
        cdef RingSlot* slot
        cdef int k
        ft_assert_thread(&self.pipeline_thread)
        ft_assert(self.head - ft_load_acquire(&self.tail) < RING_SLOTS)
        slot = &self.slots[self.head % RING_SLOTS]
        for k in range(self.workers):
            outbox_clear(&slot.outboxes[k], MAX_RETAINED_BYTES)
        slot.message_bytes = 0
        slot.rejected = 0
        slot.reject_reason = 0
        return slot

    cdef bint has_messages(self, const RingSlot* slot) noexcept nogil:
        """Whether the slot carries messages, or losses that clients must learn of."""
        cdef int k
        for k in range(self.workers):
            if slot.outboxes[k].entries.size:
                return True
        return False

    cdef void post(self) noexcept nogil:
        """Publish slots[head], and wake the main thread if it is not awake."""
        cdef RingSlot* slot = &self.slots[self.head % RING_SLOTS]
        cdef int k
        for k in range(self.workers):
            slot.message_bytes += slot.outboxes[k].payload.size + slot.outboxes[k].entries.size
        ft_add_single_writer(&self.published_bytes, slot.message_bytes)
        ft_assert(self.head - ft_load_acquire(&self.tail) < RING_SLOTS)
        ft_store_release(&self.head, self.head + 1)
        if not ft_exchange(&self.wakeup_pending, 1):
            ft_eventfd_signal(self.ready_fd)

    cdef Command* take_commands(self) noexcept nogil:
        """Take the commands pushed since the last call, oldest first, or NULL. The caller frees them."""
        cdef Command* command = <Command*>ft_stack_take_all(<void**>&self.commands)
        cdef Command* first = NULL
        cdef Command* older
        while command != NULL:               # newest first
            older = command.older
            command.older = first
            first = command
            command = older
        return first

    cdef object set_file(self, int source, path, identity):
        """Remember a file of a source and its identity (device, inode), or None. Return its number."""
        cdef dict files = self.recent_files[source]
        self.file_number += 1
        files[self.file_number] = None if identity is None else (path, *identity)
        if len(files) > MAX_RECENT_FILES:
            del files[next(iter(files))]
        return self.file_number

    # ----------------------------------------------------------------------------------------------------------- main thread

    cdef object push_command(self, CommandKind kind, int source, topic):
        """Push a command and return its number. The pipeline answers with a TopicsChanged of this number or a greater one."""
        cdef Command* command = <Command*>malloc(sizeof(Command))
        if command == NULL:
            raise MemoryError
        ft_assert_thread(&self.main_thread)
        self.commands_sent += 1
        command.kind = kind
        command.source = source
        command.topic = <void*>topic if topic is not None else NULL
        command.number = self.commands_sent
        # Keep an added topic alive until it is removed, and a removed one until the pipeline has answered.
        if kind == ADD_TOPIC:
            self.active_topics[topic.id] = topic
        elif kind == REMOVE_TOPIC:
            self.pending_removals.append((self.commands_sent, self.active_topics.pop(topic.id)))
        ft_stack_push(<void**>&self.commands, command, <void**>&command.older)
        ft_eventfd_signal(self.wake_fd)
        return self.commands_sent

    cdef list drain(self, int max_events):
        """Return up to `max_events` events, oldest first."""
        cdef RingSlot* slot
        cdef list events = []
        cdef size_t keep
        cdef int k
        ft_assert_thread(&self.main_thread)
        try:
            os.eventfd_read(self.ready_fd)
        except BlockingIOError:
            pass
        ft_exchange(&self.wakeup_pending, 0)
        while len(events) < max_events and self.tail != ft_load_acquire(&self.head):
            ft_assert(ft_load_acquire(&self.head) - self.tail <= RING_SLOTS)
            slot = &self.slots[self.tail % RING_SLOTS]
            events.append(self._event(slot))
            keep = 0 if self.slots_to_trim else MAX_RETAINED_BYTES
            self.slots_to_trim -= self.slots_to_trim > 0
            for k in range(self.workers):            # do not keep what many topics needed for one batch
                _clear_buffer(&slot.outboxes[k].payload, keep)
                _clear_buffer(&slot.outboxes[k].entries, keep)
            ft_store_release(&self.drained_bytes, self.drained_bytes + slot.message_bytes)
            ft_store_release(&self.tail, self.tail + 1)
        if self.tail != ft_load_acquire(&self.head) and not ft_exchange(&self.wakeup_pending, 1):
            ft_eventfd_signal(self.ready_fd)         # `max_events` reached: signal again
        return events

    cdef object _event(self, RingSlot* slot):
        cdef int k
        stream = self.streams[slot.source]
        if slot.kind == EVENT_BATCH_START:
            return BatchStart(slot.number, slot.lines)
        block = BlockPosition(slot.height, slot.events) if slot.height else None
        last_line = BlockPosition(slot.last_height, slot.last_events) if slot.height else None
        if slot.kind == EVENT_TOPICS_CHANGED:
            while self.pending_removals and self.pending_removals[0][0] <= slot.number:
                self.pending_removals.popleft()
            return TopicsChanged(stream, slot.number, slot.hour, slot.end, slot.late, block, last_line)
        file = self.recent_files[slot.source].get(slot.file_number)
        if slot.kind == EVENT_FILE_OPENED:
            return FileOpened(stream, slot.number, slot.end, block, file)
        if slot.kind == EVENT_STREAM_OPENED:
            return StreamOpened(stream, slot.number, slot.end, block, file)
        # Constructed through the base class, because the named tuple's __new__ is a Python function.
        return tuple.__new__(BatchEnd, (
            stream, slot.number, slot.logged, slot.lines, slot.orders, slot.selected, slot.published, slot.failed, slot.rejected,
            (file and file[0], slot.reject_offset, reason_text(slot.stream, slot.reject_reason, slot.reject_field))
            if slot.rejected else None, (slot.ended_ns - slot.started_ns) / 1e9,
            [WorkerState(slot.worker_counts[2 * k], slot.worker_counts[2 * k + 1], True) for k in range(self.workers)]
            if slot.logged else [],
            slot.hour, slot.end - slot.bytes, slot.end, slot.late, block, last_line, file, slot.event_ns, slot.local_ns,
            self._slot_messages(slot)))

    cdef list _slot_messages(self, RingSlot* slot):
        cdef const OutboxEntry* entry
        cdef list messages = []
        cdef size_t i
        cdef int k
        for k in range(self.workers):
            for i in range(slot.outboxes[k].entries.size // sizeof(OutboxEntry)):
                entry = &(<const OutboxEntry*>slot.outboxes[k].entries.data)[i]
                ft_assert(entry.begin <= entry.end)
                ft_assert(entry.end <= slot.outboxes[k].payload.size)
                messages.append(to_topic_message(&slot.outboxes[k], entry, &slot.location))
        return messages

    cdef void trim(self) noexcept:
        """Make each slot free the memory it keeps for its next batch, as it is drained."""
        ft_assert_thread(&self.main_thread)
        self.slots_to_trim = RING_SLOTS

    cdef tuple held_bytes(self):
        """Return (bytes of messages waiting to be drained, bytes allocated by the slots)."""
        cdef uint64_t capacity = 0
        cdef int i, k
        for i in range(RING_SLOTS):
            for k in range(self.workers):
                # relaxed: the slot's owner may be growing it
                capacity += ft_load_relaxed(<uint64_t*>&self.slots[i].outboxes[k].payload.capacity)
                capacity += ft_load_relaxed(<uint64_t*>&self.slots[i].outboxes[k].entries.capacity)
        # Load in this order: what was drained had been published before, so the difference is never negative.
        cdef uint64_t drained = ft_load_acquire(&self.drained_bytes)
        return ft_load_relaxed(&self.published_bytes) - drained, capacity
