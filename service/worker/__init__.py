"""The worker: a supervisor that takes jobs from the queue, and an engine process that trains. Only the engine imports torch."""
