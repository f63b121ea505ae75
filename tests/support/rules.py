"""Rules behind a configuration, in the order in which they are asked."""

from __future__ import annotations

import json

from tests.support.proxy import Values


def with_rules(config: str, *rules: Values) -> str:
    """Add a [[rule]] for each of *rules*."""
    lines = []
    for rule in rules:
        lines.append("[[rule]]")
        # Lists look the same in JSON and in TOML too.
        lines += [f"{key} = {json.dumps(value)}" for key, value in rule.items()]
    return config + "\n".join(lines) + "\n"
