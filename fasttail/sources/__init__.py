"""Follows the node's files: which file (`layout`, `follower`), when (`watcher`) and its bytes (`reader`).

Nothing here knows what a line means. Policy is plain Python, mechanism is Cython.
"""
