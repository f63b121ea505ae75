"""The commands that do one thing and leave; none of them loads gevent."""
