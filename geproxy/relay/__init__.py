"""Own order, half-close, idleness, limits and counting while bytes move both ways."""
