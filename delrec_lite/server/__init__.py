"""The HTTP API and its page: one model worker, a bounded queue, nothing that needs torch."""
