"""What a run is: schema, loading, errors.

Decisions:

- PyYAML reads and writes configurations, with the scalars of YAML 1.2 and a reader of its nodes. ruamel.yaml would need
  the same reader: it has no line for the first of two duplicate keys, turns a key such as `1e-6` into a number, reads
  `1_000` as a number and `2020-01-01` as a date, and writes `1e-06`, which readers of YAML 1.1 take for text.
"""
