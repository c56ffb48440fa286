"""`fasttail bundle`: collects what a bug report needs in one archive, without secrets.

sources (a thread each, a time limit) ──► redact ──► archive: the parts, and missing.txt
"""
