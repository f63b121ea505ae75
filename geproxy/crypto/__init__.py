"""Turn keys and passwords into proofs, without a socket or a clock."""
