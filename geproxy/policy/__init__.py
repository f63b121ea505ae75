"""Answer yes or no, and by which way, for a user, a target and an address."""
