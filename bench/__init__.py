"""What a call costs in Evenstream and in other proxies, side by side on this machine: `python -m bench`.

`cases` says what is measured, `peers` how each proxy is started, `measure` how one figure is taken,
`report` how figures become tables. `load/` is the Go program that is both client and servers.
"""
