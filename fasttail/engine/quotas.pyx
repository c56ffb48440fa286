"""Shares the byte limit of a batch's messages among the topics.

If a batch might exceed its limit, the bytes of each job are bounded first. All clients then get equal shares, and what a client
does not need goes to the others. What a client needs beyond its share is taken from its own largest topics, so it can cause
gaps only for itself. A topic with several clients counts as a client of its own.
"""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport qsort

from fasttail.system.atomics cimport ft_load_relaxed
from fasttail.engine.topics cimport Topic


cdef int _by_group(const void* a, const void* b) noexcept nogil:
    """Order jobs by group, and by size within a group."""
    cdef const Job* x = <const Job*>a
    cdef const Job* y = <const Job*>b
    if x.group != y.group:
        return 1 if x.group > y.group else -1
    return (x.bytes > y.bytes) - (x.bytes < y.bytes)


cdef int _by_bytes(const void* a, const void* b) noexcept nogil:
    cdef const QuotaGroup* x = <const QuotaGroup*>a
    cdef const QuotaGroup* y = <const QuotaGroup*>b
    return (x.bytes > y.bytes) - (x.bytes < y.bytes)


cdef bint assign_quotas(Job* jobs, uint32_t count, QuotaGroup* groups, size_t batch_limit) noexcept nogil:
    """Set quotas for jobs with known bytes if together they exceed `batch_limit`. Return whether they do. Sorts the jobs."""
    cdef size_t total = 0, left, share, group_left
    cdef uint32_t i, k, groups_len = 0
    cdef QuotaGroup* group
    for i in range(count):
        total += jobs[i].bytes
    if total <= batch_limit:
        return False
    for i in range(count):
        jobs[i].group = ft_load_relaxed(&(<Topic>jobs[i].topic).quota_group)  # relaxed: the main thread may change it
        if jobs[i].group == 0:
            jobs[i].group = (<uint64_t>1 << 32) + (<Topic>jobs[i].topic).id
    qsort(jobs, count, sizeof(Job), _by_group)
    for i in range(count):
        if i == 0 or jobs[i].group != jobs[i - 1].group:
            groups[groups_len].first = i
            groups[groups_len].bytes = 0
            groups[groups_len].count = 0
            groups_len += 1
        groups[groups_len - 1].bytes += jobs[i].bytes
        groups[groups_len - 1].count += 1
    qsort(groups, groups_len, sizeof(QuotaGroup), _by_bytes)
    left = batch_limit
    for i in range(groups_len):
        group = &groups[i]
        share = left // (groups_len - i)
        left -= min(share, group.bytes)
        if group.bytes <= share:
            continue
        group_left = share
        for k in range(group.count):
            share = group_left // (group.count - k)
            group_left -= min(share, jobs[group.first + k].bytes)
            if jobs[group.first + k].bytes > share:
                jobs[group.first + k].quota = share
    return True
