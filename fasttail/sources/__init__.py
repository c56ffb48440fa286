"""Following the node's files: which file (`layout`, `follower`), when (`inotify`) and its bytes (`blocks`).

Knows nothing of what a line means. Policy is plain Python, mechanism is Cython.
"""
