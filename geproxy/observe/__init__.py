"""Count, log and show. Never decides anything."""
