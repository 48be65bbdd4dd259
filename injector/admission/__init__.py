"""Pod in, JSON patch out: pure functions over plain dicts, shared by the webhook and the command line.

`decision` says whether a pod gets the sidecar and with which patch, `refusals` why one does not,
`containers` what is added, `workloads` where a manifest keeps its pod templates. What belongs here: what
an injected pod looks like. Sockets, files, clocks and the Kubernetes API do not.
"""
