"""The ring: between the pipeline's thread and the main thread, batches go one way and commands the other.

    pipeline's thread: claim ─► fill the slot ─► post ─► eventfd ─► main thread: drain
                       take_commands ◄──────── wake_fd ◄─────────── push_command

The ring has RING_SLOTS places and holds MAX_RING_BYTES bytes (and one batch): when the main thread is that far behind, it is
full, the pipeline waits, does not read on, and the file keeps what is to come.

Memory order: the pipeline fills slots[head] and then stores head (release); the main thread loads head (acquire) and then
reads the slot, and the same the other way round for tail. `wakeup_pending` keeps the eventfd quiet while the main thread is
awake:
it is cleared before the ring is looked at, so a batch posted after the look signals again.
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

from fasttail.engine.events import BatchEnd, BatchStart, FileOpened, TopicsChanged, WorkerState

cdef enum:
    MIN_RETAINED_BYTES = 1 << 16  # bytes of messages that a box keeps at least when it has been taken,
    RETAINED_FACTOR = 4           # … else so many times what it had
    MAX_RING_BYTES = 32 << 20     # bytes of messages in the ring before the pipeline waits
    MAX_RECENT_FILES = 64


cdef void _clear_buffer(Buffer* out, size_t limit) noexcept nogil:
    """What one batch of a burst needed is not to stay: slot after slot would come to hold as much as the largest ever did."""
    cdef size_t keep = max(<size_t>MIN_RETAINED_BYTES, RETAINED_FACTOR * out.size)
    buffer_clear(out, min(keep, limit))


cdef class Ring:
    """Owns the slots, the commands that were not taken yet, and the eventfd that tells of notes.

    `claim`, `post`, `is_full`, `take_commands` and `set_file` are the pipeline's thread's; the rest is the main thread's, and
    `held_bytes` anybody's.
    """

    def __cinit__(self, int workers, int wake_fd):
        cdef int i
        self.ready_fd = -1
        self.workers = workers
        self.wake_fd = wake_fd
        self.recent_files = {}
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
        # C fields only: the garbage collector may have replaced every object field by None before.
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
        if self.workers > 0 and self.ready_fd >= 0:      # 0: __cinit__ failed before its first line
            close(self.ready_fd)

    # ------------------------------------------------------------------------------------------------ the pipeline's thread

    cdef bint is_full(self) noexcept nogil:
        return (self.head - ft_load_acquire(&self.tail) >= RING_SLOTS
                or self.published_bytes - ft_load_acquire(&self.drained_bytes) >= MAX_RING_BYTES)

    cdef RingSlot* claim(self) noexcept nogil:
        """The next free slot, emptied. The ring must not be full."""
        cdef RingSlot* slot
        cdef int k
        ft_assert_thread(&self.pipeline_thread)
        ft_assert(self.head - ft_load_acquire(&self.tail) < RING_SLOTS)
        slot = &self.slots[self.head % RING_SLOTS]
        for k in range(self.workers):
            outbox_clear(&slot.outboxes[k], MAX_RETAINED_BYTES)
        slot.file_number = self.file_number
        slot.message_bytes = 0
        slot.rejected = 0
        slot.reject_reason = 0
        return slot

    cdef void post(self) noexcept nogil:
        """Hand slots[head] over, and wake the main thread if it is not awake."""
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
        """The commands given since the last time, oldest first, or NULL. Whoever takes them frees them."""
        cdef Command* command = <Command*>ft_stack_take_all(<void**>&self.commands)
        cdef Command* first = NULL
        cdef Command* older
        while command != NULL:               # the newest comes first
            older = command.older
            command.older = first
            first = command
            command = older
        return first

    cdef object set_file(self, path, identity):
        """From now on lines come from `path`, which is the file (device, inode) `identity`, or None."""
        self.file_number += 1
        self.recent_files[self.file_number] = None if identity is None else (path, *identity)
        self.recent_files.pop(self.file_number - MAX_RECENT_FILES, None)

    # ------------------------------------------------------------------------------------------------------- the main thread

    cdef object push_command(self, CommandKind kind, topic):
        """Give a command; its number. The pipeline's answer is a TopicsChanged with this number, or a greater one."""
        cdef Command* command = <Command*>malloc(sizeof(Command))
        if command == NULL:
            raise MemoryError
        ft_assert_thread(&self.main_thread)
        self.commands_sent += 1
        command.kind = kind
        command.topic = <void*>topic
        command.number = self.commands_sent
        # Added ones are kept for good; removed ones until the pipeline says that it has let go.
        if kind == ADD_TOPIC:
            self.active_topics[topic.id] = topic
        else:
            self.pending_removals.append((self.commands_sent, self.active_topics.pop(topic.id)))
        ft_stack_push(<void**>&self.commands, command, <void**>&command.older)
        ft_eventfd_signal(self.wake_fd)
        return self.commands_sent

    cdef list drain(self, int max_events):
        """Take up to `max_events` notes, oldest first: BatchStart, BatchEnd, TopicsChanged and FileOpened objects."""
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
            for k in range(self.workers):            # what many topics made of one batch is not to stay
                _clear_buffer(&slot.outboxes[k].payload, keep)
                _clear_buffer(&slot.outboxes[k].entries, keep)
            ft_store_release(&self.drained_bytes, self.drained_bytes + slot.message_bytes)
            ft_store_release(&self.tail, self.tail + 1)
        if self.tail != ft_load_acquire(&self.head) and not ft_exchange(&self.wakeup_pending, 1):
            ft_eventfd_signal(self.ready_fd)         # `max_events` reached: come again
        return events

    cdef object _event(self, RingSlot* slot):
        cdef int k
        if slot.kind == EVENT_BATCH_START:
            return BatchStart(slot.number, slot.lines)
        if slot.kind == EVENT_TOPICS_CHANGED:
            while self.pending_removals and self.pending_removals[0][0] <= slot.number:
                self.pending_removals.popleft()
            return TopicsChanged(slot.number, slot.hour, slot.end, slot.late)
        file = self.recent_files.get(slot.file_number)
        if slot.kind == EVENT_FILE_OPENED:
            return FileOpened(slot.number, slot.end, file)
        # By its base class: the named tuple's own way is a call of a Python function.
        return tuple.__new__(BatchEnd, (
            slot.number, slot.logged, slot.lines, slot.orders, slot.selected, slot.published, slot.failed, slot.rejected,
            (file and file[0], slot.reject_offset, reason_text(slot.reject_reason, slot.reject_field)) if slot.rejected
            else None, (slot.ended_ns - slot.started_ns) / 1e9,
            [WorkerState(slot.worker_counts[2 * k], slot.worker_counts[2 * k + 1], True) for k in range(self.workers)]
            if slot.logged else [],
            slot.hour, slot.end - slot.bytes, slot.end, slot.late, file, slot.event_ns, slot.local_ns,
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
        """Memory is short: each slot gives back what it keeps for its next batch, as it is drained."""
        ft_assert_thread(&self.main_thread)
        self.slots_to_trim = RING_SLOTS

    cdef tuple held_bytes(self):
        """(bytes of messages that wait to be drained, bytes that the slots occupy)."""
        cdef uint64_t capacity = 0
        cdef int i, k
        for i in range(RING_SLOTS):
            for k in range(self.workers):
                # relaxed: the slot's present owner may just be growing it
                capacity += ft_load_relaxed(<uint64_t*>&self.slots[i].outboxes[k].payload.capacity)
                capacity += ft_load_relaxed(<uint64_t*>&self.slots[i].outboxes[k].entries.capacity)
        # in this order: what is taken was posted before, so the difference never falls below 0
        cdef uint64_t drained = ft_load_acquire(&self.drained_bytes)
        return ft_load_relaxed(&self.published_bytes) - drained, capacity
