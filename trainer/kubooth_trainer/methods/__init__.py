"""Personalization methods: what is trainable, and how the result is exported."""
