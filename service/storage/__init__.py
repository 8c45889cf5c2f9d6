"""Where things live: Redis, learngene files, computed files."""
