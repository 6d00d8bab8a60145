"""The configuration of a run: schema, loading, validation, errors.

Decisions:

- PyYAML reads and writes configurations, with YAML 1.2 scalars and a custom reader of its nodes. ruamel.yaml would need
  the same reader: it has no line for the first of two duplicate keys, turns a key such as `1e-6` into a number, reads
  `1_000` as a number and `2020-01-01` as a date, and writes `1e-06`, which YAML 1.1 readers take for text.
"""
