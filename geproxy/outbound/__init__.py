"""Open a way to the target, directly or through a peer."""
