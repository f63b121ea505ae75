"""Talk to the client in its protocol until we hold a request; answer it."""
