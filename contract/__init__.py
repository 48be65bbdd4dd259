"""What both halves of Evenstream agree on: annotations, environment, ports and names.

Standard library only. The injector writes what stands here into pods; the sidecar reads it.
`settings` holds the one table of everything a user can set, `values` its parsers, `names` the fixed
names and numbers, `logs` how both write their log, `arguments` how both take flags.
"""
