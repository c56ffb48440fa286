"""What people would use instead of fasttail: how each is started, what it is given, what came of it."""
