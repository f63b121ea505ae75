"""geproxy: a prefork proxy server of gevent workers.

The path of one connection, as the folders tell it:

    process/ ─▶ session ─▶ inbound/   who are you, what do you want?
                           policy/    may you, and by which way?
                           outbound/  open that way
                           relay/     move bytes until both sides are done

Under it all: net/ (gevent), wire/ (bytes), crypto/ (keys). Beside it: config/, observe/.
"""

VERSION = "0.1.0"
