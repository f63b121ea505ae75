"""Bear, watch, replace and bury children."""
