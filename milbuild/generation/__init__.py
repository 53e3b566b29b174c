"""What a package writes: a session of calls, and the text that comes of it."""
