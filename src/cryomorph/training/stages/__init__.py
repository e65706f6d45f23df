"""The stages that recipes are made of, one per file; each takes a session and leaves its results in it."""
