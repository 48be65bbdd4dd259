"""Applications, sidecars, backends, an API server and the network between them, in one process and in virtual time.

A seed makes a `plan`: a scene and a list of acts, each with its time. `world` plays it. While it plays, `audit`
looks into the engines and `judge` at each call that ends; afterwards `closing` looks at what is left. What does
not hold is a `Violation`, and `shrink` finds fewer and simpler acts that still bring it about. `run` does this
for many seeds, and is what `make sim` starts.

Everything here but `sidecar` (the shell around an engine) knows the engine from outside only: bytes on a
connection. The real discovery source runs as well, against an API server in memory.
"""
