"""Pod in, pod out: pure functions over plain dicts. No cluster, no clock, no files."""
