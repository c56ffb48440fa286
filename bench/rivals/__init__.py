"""What people would use instead of fasttail: how each is started, what it reads, and what it delivered."""
