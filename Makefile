# make run    serve on 127.0.0.1:1080 with etc/geproxy.conf
# make test   every promise, proven; as root on Debian the real peers are installed first
# make lint   ruff and mypy --strict
# make bench  geproxy beside its peers: see benchmarks/README.md; bench-quick, bench-streams
# make bench-against BASE=CHECKOUT   whether this checkout costs more user time than that one
# make attack [BASE=CHECKOUT]        how others fare beside floods, here and there
#
# make install [DESTDIR=…] [prefix=/usr]   program, configuration, manual, service; uninstall

PYTHON ?= python3
PEERS = curl nginx-light openssl iproute2 util-linux mandoc procps shadowsocks-libev \
    dante-client tnftp vsftpd v2ray bind9-dnsutils dnsmasq-base python3-socks strace
RUNNING_TESTS = .venv/bin/python -m pytest

# Where things go. With DESTDIR, all of it goes below that folder, and no installed file knows.
prefix = /usr/local
sysconfdir = /etc
localstatedir = /var
runstatedir = /run
DESTDIR =

.PHONY: run test unit lint peers clean install install-program install-files uninstall
.PHONY: bench bench-quick bench-streams bench-against attack

run: .venv/.installed
	bin/geproxy -f etc/geproxy.conf

test: .venv/.tests peers
	$(RUNNING_TESTS)

unit: .venv/.tests
	$(RUNNING_TESTS) -m "not slow" --ignore=tests/live --ignore=tests/interop --ignore=tests/test_install.py

lint: .venv/.tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: .venv/.installed
	.venv/bin/python -m benchmarks

bench-quick: .venv/.installed
	.venv/bin/python -m benchmarks --quick

bench-streams: .venv/.installed
	.venv/bin/python -m benchmarks --streams

bench-against: .venv/.installed
	@test -n "$(BASE)" || { echo "bench-against: give BASE=CHECKOUT" >&2; exit 1; }
	.venv/bin/python -m benchmarks --against "$(BASE)"

attack: .venv/.installed
	.venv/bin/python -m benchmarks --attack $(if $(BASE),--base "$(BASE)")

.venv: .venv/.installed

.venv/.installed: setup.py
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet -e .
	touch $@

.venv/.tests: .venv/.installed
	.venv/bin/python -m pip install --quiet -e '.[test]'
	touch $@

# As root on Debian: what is missing of the real peers that the live tests talk to. A policy file
# keeps dpkg from starting their services for the moment of the installation.
peers:
	@sh tests/support/install_peers.sh $(PEERS)

# The program in a folder of its own, with the packages that it needs: Debian 12 has most of them
# too old, its own interpreter must not be installed into (PEP 668), and a venv would hold the path
# where it was made, which under DESTDIR is the wrong one. pip comes from a venv that is thrown away.
programdir = $(prefix)/lib/geproxy
target = $(DESTDIR)$(programdir)
mandir = $(DESTDIR)$(prefix)/share/man
docdir = $(DESTDIR)$(prefix)/share/doc/geproxy
unitdir = $(DESTDIR)$(prefix)/lib/systemd/system
sysusersdir = $(DESTDIR)$(prefix)/lib/sysusers.d
confdir = $(DESTDIR)$(sysconfdir)

install: install-program install-files
	@test -n "$(DESTDIR)" || sh bin/after-install $(prefix) $(sysconfdir)

install-program:
	@umask 022; set -e; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	mkdir "$$work/source"; cp -R setup.py pyproject.toml README.md geproxy "$$work/source"; \
	$(PYTHON) -m venv "$$work/pip"; \
	rm -rf "$(target).new" "$(target).old"; install -d -m 755 "$(target).new"; \
	"$$work/pip/bin/python" -m pip install --quiet --no-compile \
	    --target "$(target).new" "$$work/source"; \
	cd "$(target).new"; rm -rf bin include share geproxy-*.dist-info/direct_url.json; cd - >/dev/null; \
	$(PYTHON) -m compileall -qq -s "$(target).new" -p "$(programdir)" "$(target).new"; \
	test ! -e "$(target)" || mv "$(target)" "$(target).old"; \
	mv "$(target).new" "$(target)"; rm -rf "$(target).old"; \
	set -- $$($(PYTHON) -c 'import sys; print(sys.executable, "%d.%d" % sys.version_info[:2])'); \
	sed -e "s|@PYTHON@|$$1|" -e "s|@VERSION@|$$2|g" bin/geproxy.in >"$$work/geproxy"; \
	install -d -m 755 $(DESTDIR)$(prefix)/bin; \
	install -m 755 "$$work/geproxy" $(DESTDIR)$(prefix)/bin/geproxy

# Files name each other as a Debian package would have them; here the paths become the chosen ones.
PATHS = sed -e 's|/usr/bin/geproxy|$(prefix)/bin/geproxy|g' -e 's|/etc/|$(sysconfdir)/|g' \
    -e 's|/var/log/|$(localstatedir)/log/|g' -e 's|/run/geproxy|$(runstatedir)/geproxy|g'
# The service's own configuration: workers under an account of theirs, and a pidfile.
SERVICE = -e 's|^user = ""     |user = "geproxy"|' \
    -e 's|^pidfile = ""                |pidfile = "/run/geproxy/geproxy.pid"  |'

install-files:
	@umask 022; set -e; \
	install -d -m 755 $(mandir)/man5 $(mandir)/man8 $(docdir)/examples $(unitdir) $(sysusersdir) \
	    $(confdir)/geproxy $(confdir)/init.d $(confdir)/default $(confdir)/logrotate.d; \
	install -d -m 750 $(DESTDIR)$(localstatedir)/log/geproxy; \
	install -m 644 man/geproxy.8 $(mandir)/man8; \
	install -m 644 man/geproxy.conf.5 $(mandir)/man5; \
	install -m 644 README.md CHANGES.md $(docdir); \
	install -m 644 etc/geproxy.conf etc/examples/*.conf $(docdir)/examples; \
	install -m 644 etc/sysusers.d/geproxy.conf $(sysusersdir); \
	$(PATHS) etc/systemd/geproxy.service >$(unitdir)/geproxy.service; \
	$(PATHS) etc/init.d/geproxy >$(confdir)/init.d/geproxy; \
	chmod 755 $(confdir)/init.d/geproxy; \
	test -e $(confdir)/default/geproxy || \
	    $(PATHS) etc/default/geproxy >$(confdir)/default/geproxy; \
	test -e $(confdir)/logrotate.d/geproxy || \
	    $(PATHS) etc/logrotate.d/geproxy >$(confdir)/logrotate.d/geproxy; \
	test -e $(confdir)/geproxy/geproxy.conf || { umask 027; \
	    sed $(SERVICE) etc/geproxy.conf | $(PATHS) >$(confdir)/geproxy/geproxy.conf; }

# What the administrator may have written stays: the configuration, users, keys and logs.
uninstall:
	rm -rf $(target) $(target).new $(target).old $(docdir)
	rm -f $(DESTDIR)$(prefix)/bin/geproxy $(mandir)/man8/geproxy.8 $(mandir)/man5/geproxy.conf.5
	rm -f $(unitdir)/geproxy.service $(sysusersdir)/geproxy.conf
	rm -f $(confdir)/init.d/geproxy $(confdir)/logrotate.d/geproxy
	@echo "kept: $(confdir)/geproxy $(confdir)/default/geproxy $(DESTDIR)$(localstatedir)/log/geproxy"

clean:
	rm -rf .venv build dist *.egg-info
