"""The ring: between the pipeline's thread and the main thread, batches go one way and commands the other.

    pipeline's thread: claim ─► fill the slot ─► post ─► eventfd ─► main thread: drain
                       take_commands ◄──────── wake_fd ◄─────────── push_command

The ring has SLOTS places and holds MOST_POSTED bytes (and one batch): when the main thread is that far behind, it is full, the
pipeline waits, does not read on, and the file keeps what is to come.

Memory order: the pipeline fills slots[head] and then stores head (release); the main thread loads head (acquire) and then
reads the slot, and the same the other way round for tail. `signalled` keeps the eventfd quiet while the main thread is awake:
it is cleared before the ring is looked at, so a batch posted after the look signals again.
"""
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free, malloc
from posix.unistd cimport close

from fasttail.atomics cimport ft_acquire, ft_add, ft_get, ft_push, ft_release, ft_swap, ft_take
from fasttail.checks cimport ft_assert, ft_assert_thread
from fasttail.parser.rejects cimport reason_text
from fasttail.publish.buffer cimport KEEP_OUT, Box, Message, Out, box_clear, box_free, out_clear
from fasttail.publish.topics cimport message_tuple

import os
from collections import deque

from fasttail.pipeline_events import BatchEnd, BatchStart, FileOpened, TopicsChanged, WorkerState

cdef enum:
    KEEP_LEAST = 1 << 16      # bytes of messages that a box keeps at least when it has been taken,
    KEEP_TIMES = 4            # … else so many times what it had
    MOST_POSTED = 32 << 20    # bytes of messages in the ring before the pipeline waits
    MOST_PATHS = 64


cdef void _empty(Out* out, size_t most) noexcept nogil:
    """What one batch of a burst needed is not to stay: slot after slot would come to hold as much as the largest ever did."""
    cdef size_t keep = max(<size_t>KEEP_LEAST, KEEP_TIMES * out.size)
    out_clear(out, min(keep, most))


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
        self.paths = {}
        self.kept = {}
        self.leaving = deque()
        self.slots = <Slot*>calloc(SLOTS, sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError
        for i in range(SLOTS):
            self.slots[i].shares = <uint64_t*>calloc(<size_t>workers, 2 * sizeof(uint64_t))
            self.slots[i].boxes = <Box*>calloc(<size_t>workers, sizeof(Box))
            if self.slots[i].shares == NULL or self.slots[i].boxes == NULL:
                raise MemoryError
        self.ready_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __dealloc__(self):
        # C fields only: the garbage collector may have replaced every object field by None before.
        cdef int i, k
        cdef Command* command
        if self.slots != NULL:
            for i in range(SLOTS):
                free(self.slots[i].shares)
                if self.slots[i].boxes != NULL:
                    for k in range(self.workers):
                        box_free(&self.slots[i].boxes[k])
                free(self.slots[i].boxes)
        free(self.slots)
        while self.commands != NULL:
            command = self.commands
            self.commands = command.before
            free(command)
        if self.workers > 0 and self.ready_fd >= 0:      # 0: __cinit__ failed before its first line
            close(self.ready_fd)

    # ------------------------------------------------------------------------------------------------ the pipeline's thread

    cdef bint is_full(self) noexcept nogil:
        return (self.head - ft_acquire(&self.tail) >= SLOTS
                or self.posted_bytes - ft_acquire(&self.taken_bytes) >= MOST_POSTED)

    cdef Slot* claim(self) noexcept nogil:
        """The next free slot, emptied. The ring must not be full."""
        cdef Slot* slot
        cdef int k
        ft_assert_thread(&self.own_thread)
        ft_assert(self.head - ft_acquire(&self.tail) < SLOTS)
        slot = &self.slots[self.head % SLOTS]
        for k in range(self.workers):
            box_clear(&slot.boxes[k], KEEP_OUT)
        slot.file = self.file
        slot.posted = 0
        slot.rejected = 0
        slot.reject_reason = 0
        return slot

    cdef void post(self) noexcept nogil:
        """Hand slots[head] over, and wake the main thread if it is not awake."""
        cdef Slot* slot = &self.slots[self.head % SLOTS]
        cdef int k
        for k in range(self.workers):
            slot.posted += slot.boxes[k].text.size + slot.boxes[k].marks.size
        ft_add(&self.posted_bytes, slot.posted)
        ft_assert(self.head - ft_acquire(&self.tail) < SLOTS)
        ft_release(&self.head, self.head + 1)
        if not ft_swap(&self.signalled, 1):
            ft_signal(self.ready_fd)

    cdef Command* take_commands(self) noexcept nogil:
        """The commands given since the last time, oldest first, or NULL. Whoever takes them frees them."""
        cdef Command* command = <Command*>ft_take(<void**>&self.commands)
        cdef Command* first = NULL
        cdef Command* before
        while command != NULL:               # the newest comes first
            before = command.before
            command.before = first
            first = command
            command = before
        return first

    cdef object set_file(self, path, identity):
        """From now on lines come from `path`, which is the file (device, inode) `identity`, or None."""
        self.file += 1
        self.paths[self.file] = None if identity is None else (path, *identity)
        self.paths.pop(self.file - MOST_PATHS, None)

    # ------------------------------------------------------------------------------------------------------- the main thread

    cdef object push_command(self, Wish wish, topic):
        """Give a command; its number. The pipeline's answer is a TopicsChanged with this number, or a greater one."""
        cdef Command* command = <Command*>malloc(sizeof(Command))
        if command == NULL:
            raise MemoryError
        ft_assert_thread(&self.main_thread)
        self.commands_count += 1
        command.wish = wish
        command.topic = <void*>topic
        command.number = self.commands_count
        # Added ones are kept for good; removed ones until the pipeline says that it has let go.
        if wish == ADD_TOPIC:
            self.kept[topic.id] = topic
        else:
            self.leaving.append((self.commands_count, self.kept.pop(topic.id)))
        ft_push(<void**>&self.commands, command, <void**>&command.before)
        ft_signal(self.wake_fd)
        return self.commands_count

    cdef list drain(self, int most):
        """Take up to `most` notes, oldest first: BatchStart, BatchEnd, TopicsChanged and FileOpened objects."""
        cdef Slot* slot
        cdef list notes = []
        cdef size_t keep
        cdef int k
        ft_assert_thread(&self.main_thread)
        try:
            os.eventfd_read(self.ready_fd)
        except BlockingIOError:
            pass
        ft_swap(&self.signalled, 0)
        while len(notes) < most and self.tail != ft_acquire(&self.head):
            ft_assert(ft_acquire(&self.head) - self.tail <= SLOTS)
            slot = &self.slots[self.tail % SLOTS]
            notes.append(self._event(slot))
            keep = 0 if self.trims else KEEP_OUT
            self.trims -= self.trims > 0
            for k in range(self.workers):            # what many topics made of one batch is not to stay
                _empty(&slot.boxes[k].text, keep)
                _empty(&slot.boxes[k].marks, keep)
            ft_release(&self.taken_bytes, self.taken_bytes + slot.posted)
            ft_release(&self.tail, self.tail + 1)
        if self.tail != ft_acquire(&self.head) and not ft_swap(&self.signalled, 1):
            ft_signal(self.ready_fd)                 # `most` reached: come again
        return notes

    cdef object _event(self, Slot* slot):
        cdef int k
        if slot.note == NOTE_START:
            return BatchStart(slot.number, slot.lines)
        if slot.note == NOTE_TOPICS:
            while self.leaving and self.leaving[0][0] <= slot.number:
                self.leaving.popleft()
            return TopicsChanged(slot.number, slot.hour, slot.end, slot.late)
        file = self.paths.get(slot.file)
        if slot.note == NOTE_FILE:
            return FileOpened(slot.number, slot.end, file)
        # By its base class: the named tuple's own way is a call of a Python function.
        return tuple.__new__(BatchEnd, (
            slot.number, slot.logged, slot.lines, slot.orders, slot.selected, slot.published, slot.failed, slot.rejected,
            (file and file[0], slot.reject_at, reason_text(slot.reject_reason, slot.reject_field)) if slot.rejected else None,
            (slot.ended_ns - slot.started_ns) / 1e9,
            [WorkerState(slot.shares[2 * k], slot.shares[2 * k + 1], True) for k in range(self.workers)] if slot.logged else [],
            slot.hour, slot.end - slot.bytes, slot.end, slot.late, file, slot.event_ns, slot.local_ns, self._messages(slot)))

    cdef list _messages(self, Slot* slot):
        cdef const Message* message
        cdef list messages = []
        cdef size_t i
        cdef int k
        for k in range(self.workers):
            for i in range(slot.boxes[k].marks.size // sizeof(Message)):
                message = &(<const Message*>slot.boxes[k].marks.data)[i]
                ft_assert(message.begin <= message.end)
                ft_assert(message.end <= slot.boxes[k].text.size)
                messages.append(message_tuple(&slot.boxes[k], message, &slot.place))
        return messages

    cdef void trim(self) noexcept:
        """Memory is short: each slot gives back what it keeps for its next batch, as it is drained."""
        ft_assert_thread(&self.main_thread)
        self.trims = SLOTS

    cdef tuple held_bytes(self):
        """(bytes of messages that wait to be drained, bytes that the slots occupy)."""
        cdef uint64_t room = 0
        cdef int i, k
        for i in range(SLOTS):
            for k in range(self.workers):
                # relaxed: the slot's present owner may just be growing it
                room += ft_get(<uint64_t*>&self.slots[i].boxes[k].text.room)
                room += ft_get(<uint64_t*>&self.slots[i].boxes[k].marks.room)
        # in this order: what is taken was posted before, so the difference never falls below 0
        cdef uint64_t taken = ft_acquire(&self.taken_bytes)
        return ft_get(&self.posted_bytes) - taken, room
