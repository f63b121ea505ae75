# make run    serve on 127.0.0.1:1080 with etc/geproxy.conf
# make test   every promise, proven; as root on Debian the real peers are installed first
# make lint   ruff and mypy --strict

PYTHON ?= python3
PEERS = curl nginx-light openssl iproute2 util-linux mandoc procps shadowsocks-libev
RUNNING_TESTS = .venv/bin/python -m pytest

.PHONY: run test unit lint peers clean

run: .venv/.installed
	bin/geproxy -f etc/geproxy.conf

test: .venv/.tests peers
	$(RUNNING_TESTS)

unit: .venv/.tests
	$(RUNNING_TESTS) --ignore=tests/live

lint: .venv/.tests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

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

clean:
	rm -rf .venv build dist *.egg-info
