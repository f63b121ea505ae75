"""The only place that touches gevent: streams, dialing, resolving, deadlines, threads."""
